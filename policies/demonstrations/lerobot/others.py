"""Choose columns of other projects' LeRobot data sets; actions keep the units of the data set."""

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
    """The names of the columns that a policy learns from, in a LeRobot data set of another project.

    Attributes:
        cameras: names of the image columns, with or without the prefix `observation.images.`.
            Empty: all image columns.
        state: names of the columns that, concatenated, are the proprioception.
        action: name of the column with the actions to learn, or names of several columns, which are
            concatenated.
    """

    kind: ClassVar[str] = "lerobot"
    cameras: tuple[str, ...]
    state: tuple[str, ...]
    action: str | tuple[str, ...]

    @property
    def actions(self) -> tuple[str, ...]:
        """Return the names of the columns that contain the actions to learn."""
        return (self.action,) if isinstance(self.action, str) else self.action

    def camera_keys(self, files: LeRobotFolder) -> dict[str, str]:
        """Return the name of the image column of each camera, by camera name.

        Raises:
            ValueError: a camera of `cameras` is not in the data set.
        """
        found = {key.removeprefix(_IMAGES): key for key in (*files.cameras, *files.image_columns)}
        names = [name.removeprefix(_IMAGES) for name in self.cameras] or list(found)
        if unknown := [name for name in names if name not in found]:
            raise ValueError(
                f"{files.folder} has no camera {', '.join(unknown)}; it has "
                f"{', '.join(found) or 'none'}"
            )
        return {name: found[name] for name in names}

    def interface(self, files: LeRobotFolder) -> Interface:
        """Return an action and observation spec, with names from the description of the data set.

        The image sizes are those of the first episode that can be read.

        Raises:
            ValueError: a column is missing or is not numeric, or no episode can be read.
        """
        keys = self.camera_keys(files)
        sizes = _sizes(files, keys)
        action = _unique([name for one in self.actions for name in files.element_names(one)])
        return Interface(
            arm=str(files.info.get("robot_type") or "unknown"),
            cameras=tuple(
                CameraSpec(name=name, height=height, width=width)
                for name, (height, width) in sizes.items()
            ),
            proprio=_unique([name for one in self.state for name in files.element_names(one)]),
            action_kind=OWN,
            action=action,
            action_scale=(1.0,) * len(action),
            rate_hz=files.rate_hz,
        )


STANDARD = LerobotLayout(cameras=(), state=(layout.STATE,), action=layout.ACTION)


def _unique(names: list[str]) -> tuple[str, ...]:
    """Return the names; if a name occurs twice, append to each name its index in the list.

    Two state columns can use the same names for their elements.
    """
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{name}[{index}]" for index, name in enumerate(names))


def _sizes(files: LeRobotFolder, keys: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return the size of the images of each camera: (height, width) in pixels, by camera name.

    The images of the first episode that can be read are measured.
    """
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
    """Return some columns of an episode, concatenated to one float32 array [t k].

    t is the number of steps, and k the total number of elements of these columns.
    """
    parts = [np.asarray(values[name]) for name in columns]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1).astype(np.float32)
