"""Read demonstrations of robomimic (Mandlekar et al., arXiv 2108.03298) from one HDF5 file.

    data/demo_<n>/obs/<camera>_image      uint8 [t h w 3], t frames
    data/demo_<n>/obs/robot0_joint_pos    [t 7], joint positions, rad
    data/demo_<n>/obs/robot0_gripper_qpos [t 2], positions of the two fingers, m
    data/demo_<n>/actions                 [t a], last element: gripper, -1 open, 1 closed
    data                                  attribute env_args, JSON: env_name, and control_freq in
                                          env_kwargs
    mask/<name>                           names of the demonstrations of a subset

The actions in these files are mostly Cartesian steps of the end effector. The arms of this project
execute joint increments, which `policies.demonstrations.joint_paths` computes. With
`path.actions=own` the actions in the file are used instead. In both cases the column `source` of
the result contains the actions in the file. The low-dimensional data sets of robomimic contain no
images; render them with robomimic's `dataset_states_to_obs.py`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .hdf5 import member, open_hdf5, to_text
from .joint_paths import JointPath
from .lerobot.layout import Column

_IMAGES = ("_image", "_rgb")  # suffixes in robomimic's files, and in LIBERO's files
_SOURCE = "source"


@dataclass(frozen=True, kw_only=True, slots=True)
class RobomimicDemonstrations:
    """The demonstrations in one HDF5 file of robomimic.

    Attributes:
        path: the HDF5 file.
        cameras: names of the cameras to use, for example `agentview` for the images
            `agentview_image` or `agentview_rgb`. Empty: all cameras of the first demonstration.
        mask: name of a subset of demonstrations in the group `mask/`; None: all demonstrations.
        task: the task in words; None: the `env_name` in the file.
    """

    kind: ClassVar[str] = "robomimic"
    path: Path
    cameras: tuple[str, ...]
    mask: str | None
    task: str | None

    def columns(self, kept: Mapping[str, Any]) -> tuple[Column, ...]:
        """Return the additional columns of an episode: `source`, the actions in the file."""
        width = kept[_SOURCE].shape[1]
        names = tuple(f"action{index}" for index in range(width))
        return (Column(name=_SOURCE, dtype="float32", names=names),)

    def unexpected(self) -> dict[str, str]:
        """Return the members of `data/` that are not episodes: the reason, by name of member."""
        with self._open() as file:
            others = sorted(set(file["data"]) - set(_names(file)))
        return {name: f"{self.path}: data/{name}: its name is not demo_<number>" for name in others}

    def names(self) -> list[str]:
        """Return the names of the demonstrations in the order of their numbers.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not HDF5, is not arranged as robomimic's files are, or does not
                contain the mask.
        """
        with self._open() as file:
            found = _names(file)
            if self.mask is None:
                return found
            masks = sorted(file["mask"]) if "mask" in file else []
            if self.mask not in masks:
                raise ValueError(f"{self.path} has no mask {self.mask!r}; it has {masks}")
            chosen = {to_text(name) for name in file[f"mask/{self.mask}"][()]}
            return [name for name in found if name in chosen]

    def read(self, names: list[str]) -> Iterator[JointPath | ValueError]:
        """Read the demonstrations with these names.

        Yields:
            For each name, the episode. If the episode cannot be read, an error instead, which names
            the demonstration and says why.
        """
        cameras = self.cameras
        with self._open() as file:
            about = _about(file)
            for name in names:
                place = f"{self.path}: data/{name}"
                try:
                    group = file[f"data/{name}"]
                    if group.file.filename != file.filename:
                        raise ValueError(
                            f"{place} is a link to another file; such links are not followed"
                        )
                    observed = member(group, "obs", place, is_group=True)
                    found = cameras or _cameras(observed)
                    one = self._path(group, observed, found, about, place)
                except (ValueError, KeyError, OSError, MemoryError, TypeError) as error:
                    text = str(error)
                    yield ValueError(text if place in text else f"{place}: {text}")
                    continue
                cameras = found
                yield one

    def _path(
        self, group: Any, observed: Any, cameras: tuple[str, ...], about: Any, place: str
    ) -> JointPath:
        if not cameras:
            raise ValueError(_no_images(observed))
        fingers = np.asarray(member(observed, "robot0_gripper_qpos", place))
        actions = np.asarray(member(group, "actions", place), np.float32)
        if fingers.ndim != 2 or actions.ndim != 2 or 0 in actions.shape:
            raise ValueError(
                f"gripper_qpos {fingers.shape} and actions {actions.shape} must be [t k]"
            )
        return JointPath(
            images={name: np.asarray(_image(observed, name, place)) for name in cameras},
            joints_rad=np.asarray(member(observed, "robot0_joint_pos", place), np.float64),
            width_m=np.abs(fingers).sum(axis=1),  # the position of one finger is negative
            commands=-actions[:, -1].astype(np.float64),
            columns={_SOURCE: actions},
            task=self.task or str(about.get("env_name", "")),
            facts={"complete": True, "success": None, "rate_hz": _rate_hz(about)},
            own=actions,
        )

    def _open(self) -> Any:
        file = open_hdf5(self.path, "robomimic")
        import h5py  # after the function that says how to install it

        if not isinstance(file.get("data"), h5py.Group):
            found = sorted(file)
            file.close()
            raise ValueError(
                f"{self.path} is not a robomimic file: it has {found}, but no group 'data'"
            )
        return file


def _names(file: Any) -> list[str]:
    found = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)]
    if not found:
        raise ValueError(f"{file.filename} has no data/demo_<n>; it has {sorted(file['data'])}")
    return sorted(found, key=lambda name: int(name.removeprefix("demo_")))


def _about(file: Any) -> dict[str, Any]:
    try:
        about = json.loads(to_text(file["data"].attrs.get("env_args", "{}")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.filename}: env_args is damaged: {error}") from error
    if not isinstance(about, dict) or not isinstance(about.get("env_kwargs", {}), dict):
        raise ValueError(f"{file.filename}: env_args and its env_kwargs must be JSON objects")
    return about


def _cameras(observed: Any) -> tuple[str, ...]:
    """Return the names of the cameras of which a demonstration contains images."""
    found = {
        key.removesuffix(suffix) for key in observed for suffix in _IMAGES if key.endswith(suffix)
    }
    return tuple(sorted(found))


def _image(observed: Any, camera: str, place: str) -> Any:
    """Return the images of a camera, which are named `<camera>_image` or `<camera>_rgb`."""
    names = [camera + suffix for suffix in _IMAGES if camera + suffix in observed]
    return member(observed, names[0] if names else camera + _IMAGES[0], place)


def _no_images(observed: Any) -> str:
    """Return the error message for a demonstration without images."""
    like = sorted(
        key for key, one in observed.items() if len(one.shape) == 4 and one.shape[-1] == 3
    )
    names = " or ".join(f"obs/<camera>{suffix}" for suffix in _IMAGES)
    if like:
        return f"no images named {names}; {', '.join(like)} could be images: rename them"
    return f"no images ({names}): low-dimensional data; it has {', '.join(sorted(observed))}"


def _rate_hz(about: Any) -> float | None:
    return about.get("env_kwargs", {}).get("control_freq")
