"""LeRobot data sets of others as they are: their own cameras, state and actions, in their units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from envs.interface import OWN, CameraSpec, Interface
from toto_robot.data.lerobot import LeRobotFolder

from . import layout

_IMAGES = "observation.images."


@dataclass(frozen=True, kw_only=True, slots=True)
class LerobotLayout:
    """Name what is used of a data set.

    Attributes:
        cameras: names of the columns of images, with or without `observation.images.` in front;
            empty: all.
        state: names of the columns that are proprioception, one beside the other.
        action: name of the column that is learned.
    """

    kind: ClassVar[str] = "lerobot"
    cameras: tuple[str, ...]
    state: tuple[str, ...]
    action: str

    def camera_keys(self, files: LeRobotFolder) -> dict[str, str]:
        """Return the column of images of each camera, by the camera's name.

        Raises:
            ValueError: there is no such column.
        """
        there = {key.removeprefix(_IMAGES): key for key in (*files.cameras, *files.image_columns)}
        names = [name.removeprefix(_IMAGES) for name in self.cameras] or list(there)
        if unknown := [name for name in names if name not in there]:
            raise ValueError(
                f"{files.folder} has no camera {', '.join(unknown)}; it has "
                f"{', '.join(there) or 'none'}"
            )
        return {name: there[name] for name in names}

    def interface(self, files: LeRobotFolder) -> Interface:
        """Return what the numbers mean, as far as the data set says; images are as large as found.

        Raises:
            ValueError: a column is missing or holds no numbers, or no episode can be read.
        """
        keys = self.camera_keys(files)
        sizes = _sizes(files, keys)
        action = files.element_names(self.action)
        return Interface(
            arm=str(files.info.get("robot_type") or "unknown"),
            cameras=tuple(
                CameraSpec(name=name, height=height, width=width)
                for name, (height, width) in sizes.items()
            ),
            proprio=_unlike([name for one in self.state for name in files.element_names(one)]),
            action_kind=OWN,
            action=action,
            action_scale=(1.0,) * len(action),
            rate_hz=files.rate_hz,
        )


STANDARD = LerobotLayout(cameras=(), state=(layout.STATE,), action=layout.ACTION)


def _unlike(names: list[str]) -> tuple[str, ...]:
    """Return names of which no two are alike: columns of state may name their elements alike."""
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{name}[{index}]" for index, name in enumerate(names))


def _sizes(files: LeRobotFolder, keys: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return height and width of each camera's images in the first episode that can be read."""
    reasons: list[str] = []
    episodes = files.episodes([key for key in keys.values() if key in files.cameras])
    for row in episodes:
        try:
            times_s = np.asarray(files.values(row, ("timestamp",))["timestamp"])[:1]
            images = {name: files.images(row, key, times_s, episodes) for name, key in keys.items()}
        except ValueError as error:
            reasons.append(str(error))
            continue
        return {name: image.shape[1:3] for name, image in images.items()}
    raise ValueError(f"{files.folder}: no episode can be read: {(reasons or ['it has none'])[0]}")


def numbers(values: Mapping[str, Any], columns: tuple[str, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return columns of an episode side by side, float32 [t k]."""
    parts = [np.asarray(values[name]) for name in columns]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1).astype(np.float32)
