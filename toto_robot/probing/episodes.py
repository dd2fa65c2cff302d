"""Read robot episodes for probes: the frames to encode, and the targets that a probe predicts.

A folder contains one file per episode, `*.safetensors` or `*.npz`, directly or in its subfolder
`episodes`. An episode has t steps. Its images are in one of three forms:

    tokens    uint16 [t c n], n token ids of one encoder for each of c cameras
    frames    uint8 [t c h w 3], images of c cameras
    videos    files in the same folder, <stem>.mp4, or <stem>_<camera>.mp4 for each camera, each
              with t frames

The other arrays are optional. Each can be the target:

    labels    [t d] or [t-1 d], d numbers of the expert's action    target=action
    state     [t s], s numbers, such as poses of objects            target=state
    proprio   [t p], p numbers, such as joint positions             target=state without `state`
    success   [t], or one number per episode, integers              target=label

Demonstration stores (`policies.demonstrations.store`) have this format. The folder may also be a
LeRobot data set, of which all cameras are used. Its target is the column `action`,
`observation.state` or `next.success`, or any column that is selected with `array=`. Episodes that
cannot be read are reported and left out.

The array `<array>_names` can hold the names of the columns of an array. A target with one number
per episode can also be in the metadata entry `episode`, as JSON. Demonstration stores have
`success` and `seed` there.
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
VIEWS = {"tokens": 3, "frames": 5}  # number of dimensions of each array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demonstrations:
    """The data of a probe. Each of the r rows is a frame with its target.

    Attributes:
        paths: file of each episode. In a LeRobot data set, it is a name that stands for the
            episode, and not a file.
        rows: list with one array for each episode: the indices of the frames to encode. They do not
            depend on the target.
        counts: list with one number for each episode: how many of its frames in `rows` have a
            target. Only these frames are among the r rows. An episode may have one more frame than
            actions. Then its last frame has no target.
        view: form of the images: `tokens`, `frames`, `videos` or `lerobot`.
        array: name of the array or column that is the target.
        target: k target values of each row, float64 [r k]. Classes are one-hot.
        names: name of each of the k columns of the target.
        dropped: names of columns that are left out. They are constant, so they have no score.
        proprio: p numbers of proprioception for each row, float64 [r p]. None if an episode
            has none, or if proprioception is the target.
        episode: number of the episode of each row, from 0, shape [r]. Episodes with the same seed
            show the same scene, so they have the same number.
        is_label: True if the target is a class.
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
    kind: Kind | None,
    array: str | None,
    columns: Sequence[str] | None,
    stride: int,
    episodes: int | None,
) -> Demonstrations:
    """Read the targets of all episodes, and select the frames to encode. Images are not read.

    Args:
        folder: folder of the episodes.
        kind: kind of target: `action`, `state` or `label`. None: there is no target, and only the
            images of an episode must be readable.
        array: name of the array or column that is the target. None uses the default of this kind,
            which the docstring of the module lists.
        columns: beginnings of column names. Only columns whose names begin with one of them are
            kept. None keeps all columns.
        stride: number k that selects every k-th frame. The first selected frame differs between
            episodes.
        episodes: number of episodes to use. They are evenly spaced in the list of all episodes.
            None uses all episodes.

    Raises:
        FileNotFoundError: there are no episodes in `folder`.
        ValueError: no episode can be read, the episodes differ in their form, or the target cannot
            be used (for example, it is constant, or ``columns`` selects none of its columns).
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


def _readable(
    paths: Sequence[Path], kind: Kind | None, array: str | None
) -> tuple[str, list[Path]]:
    """Return the name of the target, and the episodes that can be read. Report the others.

    Raises:
        ValueError: no episode is readable.
    """
    good, reasons, name = list[Path](), list[ValueError](), "" if kind is None else array
    for path in tqdm(paths, desc="check", unit="episode", leave=False):
        try:
            if name is None and kind is not None:
                there = open_episode(path)
                usual = next((one for one in ARRAYS[kind] if one in there), ARRAYS[kind][-1])
            else:
                usual = name or ""
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
    """The data of one episode.

    `rows` has the indices of the frames to encode. The last of these frames may have no target.
    """

    view: str
    rows: Array
    target: Array
    proprio: Array | None
    scene: str


def _read_episode(
    path: Path, kind: Kind | None, name: str, number: int, stride: int, lerobot: bool
) -> _Episode:
    if lerobot:
        arrays = lerobot_episodes.arrays_of(path, name)
        view, length = "lerobot", len(arrays[name])
    else:
        arrays = open_episode(path)
        view, length = _view(path, arrays)
    if kind is None and not lerobot:
        arrays = {name: np.zeros((length, 0))}
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
    """Read the images of an episode of t steps and c cameras.

    Returns:
        Tokens uint16 [t c n] if the view is `tokens`. Otherwise images, uint8 [t c h w 3]. If the
        cameras of a LeRobot data set differ in image size, one array [t h w 3] for each camera.

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
    """Raise ValueError if a demonstration store has tokens of another tokenizer than `encoder`."""
    path = folder / "store.json"
    if not path.is_file():
        return
    made_by = read_json(path).get("tokenizer_hash")
    ours = weights_hash(encoder.tokenizer)
    if made_by is not None and made_by != ours:
        raise ValueError(
            f"{folder} was recorded with another tokenizer (hash {made_by[:12]}, this encoder's "
            f"{ours[:12]}), so its tokens cannot be used; record again, or use the encoder of the "
            "recording (CHANGELOG.md says where the weights of earlier versions are)"
        )


def _columns(
    kind: Kind | None, name: str, target: Array, names: list[str]
) -> tuple[Array, list[str], list[str]]:
    """Return the columns of the target that vary, their names, and names of constant columns."""
    if kind is None:
        return target, names, []
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
    """Return the arrays of an episode file, and the numbers in its metadata, by name.

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
    """Return the form of an episode's images (tokens, frames or videos), and the number of steps.

    Raises:
        ValueError: the episode has no images, their shape or dtype is wrong, or a video is damaged.
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

    If two episodes match, the longer name wins. For example, `pick_place_front.mp4` belongs to
    `pick_place.npz` and not to `pick.npz`.
    """
    whole = path.with_suffix(".mp4")
    if whole.is_file():
        return [whole]
    return _cameras_of(path.parent, path.parent.stat().st_mtime_ns).get(path.stem, [])


@lru_cache(maxsize=8)
def _cameras_of(folder: Path, changed_ns: int) -> dict[str, list[Path]]:
    """Return the videos in a folder for each episode name, one video for each camera."""
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
            # If only this episode has a camera `place_front` beside `front`, then the video belongs
            # to an episode `pick_place`, whose file is not in this folder.
            ends = {"_".join(name.split("_")[begin:]) for begin in range(1, name.count("_") + 1)}
            if name not in others and not ends.isdisjoint(cameras):
                del cameras[name]
    several = {stem: [cameras[name] for name in sorted(cameras)] for stem, cameras in found.items()}
    return several | whole


def _require_same_cameras(paths: Sequence[Path]) -> None:
    """Raise ValueError if an episode has videos of other cameras than the first episode."""
    cameras = [[video.stem.removeprefix(path.stem) for video in _videos(path)] for path in paths]
    for path, found in zip(paths, cameras, strict=True):
        if found != cameras[0]:
            raise ValueError(
                f"{path} has videos of the cameras {[name[1:] for name in found]}, and {paths[0]} "
                f"of {[name[1:] for name in cameras[0]]}"
            )


def _count_frames(videos: Sequence[Path]) -> int:
    """Check the frame times of an episode's videos, and return the number of frames per video.

    Raises:
        ValueError: a video cannot be read, a frame is missing or duplicated, or the number or the
            times of the frames differ between cameras. The message names the video.
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
