"""Read episodes of demonstrations for probes: targets, and the frames to encode.

A folder contains one file per episode, `*.safetensors` or `*.npz`, directly or in its subfolder
`episodes`. Demonstration stores (`policies.demonstrations.store`) have this format:

    tokens    uint16 [t c n], frames of c cameras as the token ids of one encoder; or
    frames    uint8 [t c h w 3], the frames themselves; or, in the same folder, videos
              <stem>.mp4, or <stem>_<camera>.mp4 for each camera, of t frames
    labels    [t a] or [t-1 a], actions of the expert           target=action
    state     [t s], for example poses of objects               target=state
    proprio   [t p], joints                                     target=state, without a `state`
    success   [t] or one per episode, integers                  target=label

The folder may also be a LeRobot data set, with all its cameras. Its target is `action`,
`observation.state` or `next.success`, or any column with `array=`. Unreadable episodes are reported
and left out.

`<array>_names` can hold names of an array's columns. A scalar can also be in the JSON of the
metadata entry `episode`, where the store has `success` and `seed`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tqdm import tqdm

from ..checkpoint import weights_hash
from ..data.arrays import read_npz
from ..data.lerobot import read_json
from ..data.walk import require_regular, walk
from ..encoders.encoder import Encoder
from . import lerobot_episodes

__all__ = ["Demonstrations", "check_tokenizer", "read_demonstrations", "read_frames"]

Array = NDArray[Any]
Kind = Literal["action", "state", "label"]
ARRAYS: dict[Kind, tuple[str, ...]] = {
    "action": ("labels",),
    "state": ("state", "proprio"),
    "label": ("success",),
}
_SUFFIXES = (".safetensors", ".npz")
VIEWS = {"tokens": 3, "frames": 5}  # number of dimensions of each


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demonstrations:
    """The data of a probe: the rows are the frames in use.

    Attributes:
        paths: files of the episodes; for a LeRobot data set, one name in the folder per episode.
        rows: for each episode, the indices of the frames to encode, independent of the target.
        counts: for each episode, how many of its first rows have a target: an episode may have one
            more frame than actions.
        view: form of the images: `tokens`, `frames`, `videos` or `lerobot`.
        array: name of the target's array.
        target: float64 [r k]; one-hot for labels.
        names: names of the target's columns.
        dropped: names of constant columns, which cannot be scored.
        proprio: float64 [r p]; None if there is none, or if it is the target.
        episode: [r] number of each row's episode, from 0; episodes with the same seed show the same
            scene and count as one.
        is_label: true if the columns are classes.
    """

    paths: list[Path]
    rows: list[Array]
    counts: list[int]
    view: str
    array: str
    target: Array
    names: list[str]
    dropped: list[str]
    proprio: Array | None
    episode: Array
    is_label: bool


def read_demonstrations(
    folder: Path,
    kind: Kind,
    array: str | None,
    columns: Sequence[str] | None,
    stride: int,
    episodes: int | None,
) -> Demonstrations:
    """Read targets and the indices of frames; the frames stay on the disk.

    Args:
        folder: folder of the episodes.
        kind: kind of target.
        array: name of the target's array; None: the usual one of this kind, see the module.
        columns: keep only columns whose names begin with one of these; None: all.
        stride: number k; every k-th frame is used. Episodes start at different frames.
        episodes: number of episodes to use, spread evenly; None: all.

    Raises:
        FileNotFoundError: there are no episodes in `folder`.
        ValueError: an episode is damaged or lacks an array; the message names the file and its
            content.
    """
    lerobot = lerobot_episodes.is_lerobot(folder)
    paths = lerobot_episodes.episode_paths(folder) if lerobot else _episode_files(folder)
    if episodes is not None:
        chosen = np.linspace(0, len(paths) - 1, min(episodes, len(paths)))
        paths = [paths[i] for i in np.unique(chosen.astype(int))]
    if lerobot:
        name = array or lerobot_episodes.usual_column(folder, kind)
        paths = lerobot_episodes.readable(paths, name)
        first = lerobot_episodes.arrays_of(paths[0], name)
    else:
        name, paths = _readable(paths, kind, array)
        first = open_episode(paths[0])
    read = [
        _read_episode(path, kind, name, number, stride, lerobot)
        for number, path in enumerate(tqdm(paths, desc="read", unit="episode", leave=False))
    ]
    if len({one.target.shape[1] for one in read}) > 1 or len({one.view for one in read}) > 1:
        raise ValueError(
            f"the episodes in {folder} differ in the shape of {name}, or in tokens and frames"
        )
    if read[0].view == "videos":
        _require_same_cameras(paths)
    if not any(len(one.target) for one in read):
        raise ValueError(f"stride={stride} leaves no frame of the episodes in {folder}")
    target = np.concatenate([one.target for one in read])
    names = [f"{name}[{i}]" for i in range(target.shape[1])]
    if (named := first.get(f"{name}_names")) is not None:
        names = [str(one) for one in named]
    if len(names) != target.shape[1]:
        raise ValueError(f"{paths[0]}: {len(names)} {name}_names for {target.shape[1]} columns")
    if columns is not None:
        kept = [i for i, one in enumerate(names) if one.startswith(tuple(columns))]
        if not kept:
            raise ValueError(f"no column of {name} begins with any of {list(columns)}: {names}")
        target, names = target[:, kept], [names[i] for i in kept]
    target, names, dropped = _columns(kind, name, target, names)
    joints = [one.proprio for one in read if one.proprio is not None]
    scenes = [scene for one in read for scene in [one.scene] * len(one.target)]
    return Demonstrations(
        paths=paths,
        rows=[one.rows for one in read],
        counts=[len(one.target) for one in read],
        view=read[0].view,
        array=name,
        target=target,
        names=names,
        dropped=dropped,
        proprio=np.concatenate(joints).astype(np.float64) if len(joints) == len(read) else None,
        episode=np.unique(scenes, return_inverse=True)[1],
        is_label=kind == "label",
    )


def _readable(paths: Sequence[Path], kind: Kind, array: str | None) -> tuple[str, list[Path]]:
    """Return the target's name and the readable episodes; report and leave out the others.

    Raises:
        ValueError: no episode is readable.
    """
    good, reasons, name = list[Path](), list[ValueError](), array
    for path in tqdm(paths, desc="check", unit="episode", leave=False):
        try:
            if name is None:
                there = open_episode(path)
                usual = next((one for one in ARRAYS[kind] if one in there), ARRAYS[kind][-1])
            else:
                usual = name
            one = _read_episode(path, kind, usual, 0, 1, lerobot=False)
            if one.view == "videos":
                read_frames(path, one.view)
        except ValueError as error:
            reasons.append(error)
            tqdm.write(f"left out: {path.name}: {error}")
            continue
        name = usual
        good.append(path)
    if name is None or not good:
        raise ValueError(f"no episode of {paths[0].parent} can be read: {reasons[0]}")
    return name, good


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Episode:
    """The data of one episode: `rows` are indices of frames, of which the first have a target."""

    view: str
    rows: Array
    target: Array
    proprio: Array | None
    scene: str


def _read_episode(
    path: Path, kind: Kind, name: str, number: int, stride: int, lerobot: bool
) -> _Episode:
    if lerobot:
        arrays = lerobot_episodes.arrays_of(path, name)
        view, length = "lerobot", len(arrays[name])
    else:
        arrays = open_episode(path)
        view, length = _view(path, arrays)
    if name not in arrays:
        raise ValueError(
            f"{path} has no {name!r} for target={kind}; it has {sorted(arrays)} "
            "(choose one by array=)"
        )
    target = arrays[name]
    if target.ndim == 0:
        target = np.full(length, target)
    proprio = arrays["proprio"] if "proprio" in arrays and name != "proprio" else None
    for what, values in ((name, target), ("proprio", proprio)):
        if values is not None and len(values) not in (length, length - 1):
            raise ValueError(f"{path}: {length} {view} but {len(values)} {what}")
    rows = np.arange(number % min(stride, length), length, stride)
    used = rows[rows < min(len(target), length if proprio is None else len(proprio))]
    return _Episode(
        view=view,
        rows=rows,
        target=target[used].reshape(len(used), -1),
        proprio=None if proprio is None else proprio[used],
        scene=str(arrays.get("seed", path.stem)),
    )


def read_frames(path: Path, view: str) -> Array | list[Array]:
    """Return an episode's tokens [t c n], or its images, uint8 [t c h w 3].

    If the cameras of a LeRobot data set differ in size, return a list of [t h w 3] per camera.

    Raises:
        ValueError: a video cannot be read, or the videos differ in length or size.
    """
    if view == "lerobot":
        images = lerobot_episodes.frames_of(path)
        return np.stack(images, axis=1) if len({one.shape for one in images}) == 1 else [*images]
    if view != "videos":
        return open_episode(path)[view]
    from ..data.video import read_frames as read_video

    cameras = [read_video(video) for video in _videos(path)]
    if len({one.shape for one in cameras}) > 1:
        raise ValueError(f"{path}: its videos differ: {[one.shape for one in cameras]}")
    return np.stack(cameras, axis=1)


def check_tokenizer(folder: Path, encoder: Encoder) -> None:
    """Raise ValueError if the store's header names another tokenizer than the encoder's."""
    path = folder / "store.json"
    if not path.is_file():
        return
    made_by = read_json(path).get("tokenizer_hash")
    ours = weights_hash(encoder.tokenizer)
    if made_by is not None and made_by != ours:
        raise ValueError(
            f"{folder} was recorded with another tokenizer (hash {made_by[:12]}, this encoder's "
            f"{ours[:12]}), so its tokens cannot be used; sweep the encoder of the recording"
        )


def _columns(
    kind: Kind, name: str, target: Array, names: list[str]
) -> tuple[Array, list[str], list[str]]:
    """Return the target's columns, their names, and the names of constant columns."""
    if kind == "label":
        if target.shape[1] != 1 or target.dtype.kind not in "iub":
            raise ValueError(
                f"target=label: {name} must be one integer per frame or episode, got "
                f"{target.dtype} with {target.shape[1]} columns"
            )
        classes, index = np.unique(target[:, 0], return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"target=label: {name} is {classes[0]} everywhere: nothing to predict")
        return np.identity(len(classes))[index], [f"{name}={one}" for one in classes], []
    if target.dtype.kind not in "fiu" or not np.isfinite(target).all():
        raise ValueError(f"target={kind}: {name} must be finite numbers")
    target = target.astype(np.float64)
    changes = target.std(0) > 1e-6 * np.maximum(1, np.abs(target).max(0))
    if not changes.any():
        raise ValueError(f"target={kind}: {name} is constant: nothing to predict")
    return (
        target[:, changes],
        [one for one, moves in zip(names, changes, strict=True) if moves],
        [one for one, moves in zip(names, changes, strict=True) if not moves],
    )


def _episode_files(folder: Path) -> list[Path]:
    for place in (folder / "episodes", folder):
        found = walk(place, _SUFFIXES, deep=False) if place.is_dir() else []
        if found:
            return found
    raise FileNotFoundError(f"no episodes (*.safetensors, *.npz) in {folder} or its episodes/")


def open_episode(path: Path) -> dict[str, Array]:
    """Return an episode's arrays, and the scalars of its metadata.

    Raises:
        ValueError: the file is damaged.
    """
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    require_regular(path)
    try:
        with safe_open(path, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts = json.loads((opened.metadata() or {}).get("episode", "{}"))
            if not isinstance(facts, dict):
                raise ValueError("the metadata entry `episode` is not an object")
            scalars = {k: np.asarray(v) for k, v in facts.items() if isinstance(v, (bool, int))}
            return scalars | arrays
    except Exception as error:  # a damaged archive can raise anything, MemoryError too
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error


def _view(path: Path, arrays: dict[str, Array]) -> tuple[str, int]:
    """Return the form of an episode's images (tokens, frames or videos) and their number.

    Raises:
        ValueError: it has none of them, or their shape is wrong.
    """
    for view, ndim in VIEWS.items():
        if view in arrays:
            found = arrays[view]
            if found.ndim != ndim or found.dtype.kind != "u" or 0 in found.shape:
                raise ValueError(
                    f"{path}: {view} must be unsigned with {ndim} dimensions and a camera, got "
                    f"{found.dtype} {found.shape}"
                )
            return view, len(found)
    if videos := _videos(path):
        return "videos", _count_frames(videos)
    raise ValueError(
        f"{path} has neither tokens nor frames, and there is no {path.stem}.mp4 or "
        f"{path.stem}_<camera>.mp4 beside it; it has {sorted(arrays)}"
    )


def _videos(path: Path) -> list[Path]:
    """Return the videos of an episode: `<stem>.mp4`, or `<stem>_<camera>.mp4` for each camera.

    With `pick.npz` and `pick_place.npz`, `pick_place_front.mp4` belongs to the latter.
    """
    whole = path.with_suffix(".mp4")
    if whole.is_file():
        return [whole]
    return _cameras_of(path.parent, path.parent.stat().st_mtime_ns).get(path.stem, [])


@lru_cache(maxsize=8)
def _cameras_of(folder: Path, changed_ns: int) -> dict[str, list[Path]]:
    """Return the videos of each episode's cameras in a folder, by the episode's name."""
    del changed_ns  # part of the cache key
    names = {path.stem for path in walk(folder, _SUFFIXES, deep=False)}
    found: dict[str, dict[str, Path]] = {}
    whole: dict[str, list[Path]] = {}
    for video in walk(folder, (".mp4",), deep=False):
        if video.stem in names:
            whole[video.stem] = [video]
            continue
        parts = video.stem.split("_")
        stems = ("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
        if (stem := next((one for one in stems if one in names), None)) is not None:
            found.setdefault(stem, {})[video.stem.removeprefix(f"{stem}_")] = video
    for stem, cameras in found.items():
        others = {name for one, other in found.items() if one != stem for name in other}
        for name in sorted(cameras):
            # `place_front` beside `front`, only in this episode: a video of an episode
            # `pick_place` whose own file is not in this folder
            ends = {"_".join(name.split("_")[begin:]) for begin in range(1, name.count("_") + 1)}
            if name not in others and not ends.isdisjoint(cameras):
                del cameras[name]
    several = {stem: [cameras[name] for name in sorted(cameras)] for stem, cameras in found.items()}
    return several | whole


def _require_same_cameras(paths: Sequence[Path]) -> None:
    """Raise ValueError if the videos of an episode are of other cameras than the first one's."""
    cameras = [[video.stem.removeprefix(path.stem) for video in _videos(path)] for path in paths]
    for path, found in zip(paths, cameras, strict=True):
        if found != cameras[0]:
            raise ValueError(
                f"{path} has videos of the cameras {[name[1:] for name in found]}, and {paths[0]} "
                f"of {[name[1:] for name in cameras[0]]}"
            )


def _count_frames(videos: Sequence[Path]) -> int:
    """Return the number of frames of videos, after checking that frames and rows correspond.

    Raises:
        ValueError: a video cannot be read, a frame is missing or duplicated, or the frame times
            differ between cameras; the message names the video and the gap.
    """
    from ..data.video import frame_times

    first_s = np.zeros(0)
    for path in videos:
        times_s = frame_times(path)
        gaps_s = np.diff(times_s)
        usual_s = float(np.median(gaps_s)) if len(gaps_s) else 0.0
        odd = (gaps_s > 1.5 * usual_s + 0.001) | (gaps_s < usual_s / 1.5 - 0.001)
        if len(odd := np.flatnonzero(odd)):
            what = "is missing" if gaps_s[odd[0]] > usual_s else "is duplicated"
            raise ValueError(
                f"{path}: a frame {what}: number {odd[0] + 1} comes {gaps_s[odd[0]]:.3f} s "
                f"after the one before, others {usual_s:.3f} s"
            )
        if path == videos[0]:
            first_s = times_s
        elif len(times_s) != len(first_s):
            raise ValueError(f"{path}: {len(times_s)} frames, {videos[0]} has {len(first_s)}")
        elif (away_s := np.abs(times_s - first_s).max(initial=0)) > 0.5 * usual_s + 0.001:
            raise ValueError(
                f"{path}: frame times differ by up to {away_s:.3f} s from {videos[0].name}"
            )
    return len(first_s)
