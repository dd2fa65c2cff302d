"""Read demonstrations of Minari (Farama Foundation), for environments of other packages.

Minari is the format of the data sets of D4RL, for example of Franka Kitchen and of Adroit. The
environment of the data set must be installed, because it defines the meaning of observations and
actions (see `policies.gymnasium_env`). If the observations contain no images, the environment also
renders them (see `policies.demonstrations.minari_replay`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.data.images import decode_image
from toto_robot.wrappers.images import ImageEntry, read_entry

from ..gymnasium_env import AdaptedEnv, GymnasiumEnv, leaves
from .lerobot.demonstration import Demonstration
from .lerobot.layout import Column
from .minari_files import MinariFolder, RecordedEpisode, Tree
from .minari_replay import redraw, row


@dataclass(frozen=True, kw_only=True, slots=True)
class MinariDemonstrations:
    """A local data set of Minari.

    Attributes:
        path: folder of the data set, such as `~/.minari/datasets/D4RL/kitchen/complete-v2`.
        images: path of recorded images in the observations, such as `pixels`, that the environment
            has only as the image of `render()`. None: the only images there; if there are none,
            they are rendered again.
        tolerance: largest difference of an observation of the rendered episode from the recorded
            one. The difference of a number above 1 is relative to it.
        task: the task in words; None: the id of the environment.
    """

    kind: ClassVar[str] = "minari"
    path: Path
    images: str | None
    tolerance: float
    task: str | None

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"layout.tolerance must not be negative, got {self.tolerance}")

    def columns(self, kept: Mapping[str, Any]) -> tuple[Column, ...]:
        """Return the additional columns of an episode: an empty tuple."""
        del kept
        return ()

    def unexpected(self) -> dict[str, str]:
        """Return the episodes that `metadata.json` counts, but that do not exist, with a reason."""
        folder = MinariFolder(self.path)
        return {name: f"{folder.folder} lacks {name}" for name in folder.missing()}

    def names(self) -> list[str]:
        """Return the names of the episodes in the order of their numbers.

        Raises:
            FileNotFoundError: there is no data set, or it has no episodes.
            ValueError: a file is damaged.
        """
        return MinariFolder(self.path).names()

    def demonstrations(
        self, names: list[str], config: GymnasiumEnv | None
    ) -> Iterator[Demonstration | ValueError]:
        """Read the episodes with these names.

        Args:
            names: names of the episodes.
            config: the environment in which they were recorded.

        Yields:
            For each name, the episode. If it cannot be used, an error instead, which says why.

        Raises:
            ValueError: there is no environment, or its spaces are not those of the data set.
        """
        folder = MinariFolder(self.path)
        spec = folder.env_spec()
        if config is None:
            raise ValueError(_no_env(spec))
        env = AdaptedEnv(config, with_images=True, privileged=False)
        try:
            if spec is not None and spec["id"] != env.interface.arm:
                tqdm.write(f"note: recorded in {spec['id']}, but used for env.id={config.id}")
            tqdm.write(env.describe(), end="")
            images = self._check(env, folder)
            for one in folder.read(names):
                if not isinstance(one, ValueError):
                    try:
                        one = _demonstration(self, env, one, images)
                    except ValueError as error:
                        one = error
                yield one
        finally:
            env.close()

    def summary(self, made: list[dict[str, Any]]) -> list[str]:
        """Return what to print about the converted episodes, given the `facts` of each."""
        num_cut = sum(facts["cut"] for facts in made)
        lines = [f"{num_cut} actions were beyond the limits and were clipped"] if num_cut else []
        for way, words in (("states", "setting its states"), ("actions", "executing its actions")):
            away = [facts["difference"] for facts in made if facts["images"] == way]
            if away:
                lines.append(
                    f"images rendered again by {words}: {len(away)} of {len(made)} episodes; an "
                    f"observation differs from the recorded one by at most {max(away):.2g}"
                )
        return lines

    def _check(self, env: AdaptedEnv, folder: MinariFolder) -> str | None:
        """Check that the data set has the actions and the observations of the environment.

        Returns:
            The path of the recorded images that are those of `render()`; None: there are none.

        Raises:
            ValueError: they differ, or it is unknown which recorded images to use.
        """
        inner, images = env.env, self.images
        for name in ("action", "observation"):
            space: Any = getattr(inner, f"{name}_space")
            found = folder.space(name)
            ours = {_words(path): tuple(one.shape or ()) for path, one in leaves(space)}
            if name == "observation" and env.is_rendered:
                like = [key for key, one in found.items() if key not in ours and _is_image(one)]
                if images is None and len(like) > 1:
                    raise ValueError(
                        f"{self.path} has several images: {', '.join(like)}; choose those of "
                        "render() by layout.images="
                    )
                images = images or (like[0] if like else None)
                if images is not None and images not in found:
                    raise ValueError(
                        f"layout.images={images}: {self.path} has {', '.join(found) or 'no names'}"
                    )
                if [*ours] == [""] and len(rest := {*found} - {images}) == 1:
                    found = {"": found[rest.pop()]}
            lines = [
                f"{key or name}: {'missing' if key not in found else found[key][0]} != {shape}"
                for key, shape in ours.items()
                if key not in found or found[key][0] != shape
            ]
            if lines:
                raise ValueError(
                    f"the {name}s in {self.path} do not fit {env.interface.arm} (shapes there != "
                    "in the environment); set the env.id and the env.kwargs of its recording:\n  "
                    + "\n  ".join(lines)
                )
        return images


def _demonstration(
    layout: MinariDemonstrations, env: AdaptedEnv, episode: RecordedEpisode, images: str | None
) -> Demonstration:
    """Convert an episode.

    Args:
        layout: settings of the data set.
        env: the environment.
        episode: the recorded episode.
        images: path of the recorded images that are those of `render()`; None: there are none.

    Raises:
        ValueError: an array has a wrong form or values that are not finite, or the images cannot be
            rendered again.
    """
    steps, space = len(episode.actions), env.env.action_space
    if steps < 1 or episode.actions.shape[1:] != space.shape:
        raise ValueError(
            f"actions must be [t {' '.join(map(str, space.shape or ()))}] with t >= 1, got "
            f"{list(episode.actions.shape)}"
        )
    _require_frames(episode.observations, steps + 1)
    recorded = episode.observations
    if images is not None and not isinstance(
        env.env.observation_space, (spaces.Dict, spaces.Tuple)
    ):
        (name,) = {*recorded} - {images}  # a wrapper added the images beside the observation
        episode = replace(episode, observations=recorded[name])
    scaled = np.stack([env.scaled(action) for action in episode.actions])
    proprio = np.stack(
        [env.proprio_of(row(episode.observations, step)) for step in range(steps + 1)]
    )
    for name, numbers in (("actions", scaled), ("observations", proprio)):
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} must be finite")
    actions = np.zeros((steps + 1, scaled.shape[1]), np.float32)
    actions[:-1] = np.clip(scaled, -1.0, 1.0)
    facts: dict[str, Any] = {"images": "recorded", "difference": None}
    frames: dict[str, NDArray[np.uint8]] = {}
    if env.is_rendered and images is None:
        made = redraw(env, episode, layout.tolerance)
        frames[env.images[0].camera] = made.frames
        facts = {"images": made.way, "difference": made.difference}
    else:
        for entry in env.images:
            path = entry.path if images is None else tuple(images.split("/"))
            frames[entry.camera] = _frames(read_entry(recorded, path), entry, _words(path))
    return Demonstration(
        interface=env.interface,
        images=frames,
        proprio=proprio,
        actions=actions,
        labelled=np.arange(steps + 1) < steps,
        task=layout.task or env.interface.arm,
        facts={
            "complete": True,
            "success": _success(episode.others.get("infos")),
            "seed": episode.seed,
            "cut": int((np.abs(scaled) > 1 + 1e-6).any(axis=1).sum()),
            **facts,
        },
    )


def _frames(recorded: Any, entry: ImageEntry, name: str) -> NDArray[np.uint8]:
    """Return recorded images of a camera, uint8 RGB [t h w 3].

    Args:
        recorded: the array; of JPEG files, if it is not of images.
        entry: description of the image in the observation space.
        name: path of the image, for messages.

    Raises:
        ValueError: an image is damaged, or has another shape than in the observation space.
    """
    if recorded.ndim <= 2 and recorded.shape[1:] != entry.shape:
        is_flat = recorded.ndim == 2 and recorded.shape[1] == int(np.prod(entry.shape))
        if is_flat:  # a table has the pixels of an image in one row
            recorded = recorded.reshape(-1, *entry.shape)
        else:
            decoded = np.stack([decode_image(bytes(one)) for one in recorded])
            recorded = decoded[..., 0] if len(entry.shape) == 2 else decoded
    if recorded.shape[1:] != entry.shape:
        height, width = (entry.shape[-2:] if entry.layout == "chw" else entry.shape)[:2]
        raise ValueError(
            f"images {name!r} have the shape {list(recorded.shape[1:])}, those of the environment "
            f"{list(entry.shape)} ({height} x {width}): set their size in env.kwargs"
        )
    return np.ascontiguousarray(entry.frames(recorded))


def _success(infos: Any) -> bool | None:
    """Return whether an episode was successful at any step; None: it is unknown."""
    for key in ("success", "is_success"):
        if isinstance(infos, dict) and key in infos:
            return bool(np.asarray(infos[key]).any())
    return None


def _require_frames(tree: Tree, frames: int, name: str = "observations") -> None:
    """Check that every array of the observations has a row for each frame.

    Raises:
        ValueError: an array has another number of rows.
    """
    if isinstance(tree, (dict, tuple)):
        for key, one in tree.items() if isinstance(tree, dict) else enumerate(tree):
            _require_frames(one, frames, f"{name}/{key}")
    elif np.ndim(tree) == 0 or len(tree) != frames:
        rows = 0 if np.ndim(tree) == 0 else len(tree)
        raise ValueError(f"{frames - 1} actions need {frames} rows of {name}, got {rows}")


def _is_image(found: tuple[tuple[int, ...], str]) -> bool:
    """Return whether an entry of a space, given by shape and dtype, is an image."""
    shape, dtype = found
    return dtype == "uint8" and len(shape) == 3 and shape[-1] == 3


def _words(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _no_env(spec: dict[str, Any] | None) -> str:
    """Return the error message for a missing environment, with the settings to add."""
    if spec is None:
        return (
            "layout=minari needs the environment of the data set, which its metadata.json does not "
            "name: env=gymnasium env.id=module:Id-v0"
        )
    module = str(spec.get("entry_point") or "").partition(":")[0].partition(".")[0]
    name = (
        spec["id"] if module in ("", "gymnasium") or ":" in spec["id"] else f"{module}:{spec['id']}"
    )
    kwargs = dict(spec.get("kwargs") or {})
    if spec.get("max_episode_steps"):
        kwargs["max_episode_steps"] = spec["max_episode_steps"]
    words = ", ".join(f"{key}: {json.dumps(value)}" for key, value in kwargs.items())
    return (
        "layout=minari needs the environment of the data set: add "
        f"env=gymnasium env.id={name} 'env.kwargs={{{words}}}'"
    )
