"""Read demonstrations with the arrays of RPT (Radosavovic et al., arXiv 2306.10007).

There is one npz file per episode of t frames. It contains these arrays:

    rgb_hand, rgb_left, rgb_right    uint8 [t h w 3]; any of them, and any other `rgb_<camera>`
    joint_pos                        [t 7], joint positions, rad
    gripper_width                    [t] or [t 1], distance between the fingers, m; or instead
    gripper_closed                   [t] or [t 1], 1 closed, 0 open
    success                          one bool, optional
    rate_hz                          one number, frames per second, optional
    actions                          [t a], needed only for path.actions=own

RPT publishes one pickle file per step. This module does not read pickle files, because opening a
pickle can execute any code. Convert files that you trust with
`numpy.savez_compressed(path, rgb_hand=..., joint_pos=..., ...)`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from toto_robot.data.arrays import read_npz
from toto_robot.data.walk import walk

from .joint_paths import MAX_WIDTH_M, JointPath
from .lerobot.layout import Column

_PREFIX = "rgb_"


@dataclass(frozen=True, kw_only=True, slots=True)
class RptDemonstrations:
    """The demonstrations in a folder of npz files.

    Attributes:
        path: the folder.
        cameras: names of the cameras to use, for example `hand` for `rgb_hand`. Empty: all cameras
            of the first file.
        task: the task in words, which the files do not contain.
    """

    kind: ClassVar[str] = "rpt"
    path: Path
    cameras: tuple[str, ...]
    task: str

    def columns(self, kept: Mapping[str, Any]) -> tuple[Column, ...]:
        """Return the additional columns of an episode: an empty tuple."""
        del kept
        return ()

    def unexpected(self) -> dict[str, str]:
        """Return an empty dictionary, because files that are not episodes are ignored."""
        return {}

    def names(self) -> list[str]:
        """Return the names of the npz files in alphabetical order.

        Raises:
            FileNotFoundError: the folder has no npz files.
        """
        paths = walk(self.path, (".npz",), deep=False) if self.path.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"no episodes (*.npz) in {self.path}")
        return [path.name for path in paths]

    def read(self, names: list[str]) -> Iterator[JointPath | ValueError]:
        """Read the files with these names.

        Yields:
            For each name, the episode. If the file is damaged, or an array is missing or wrong, an
            error instead, which names the file and says why.
        """
        cameras = self.cameras
        for name in names:
            path = self.path / name
            try:
                arrays = read_npz(path)
            except ValueError as error:
                yield error
                continue
            found = cameras or tuple(
                sorted(key.removeprefix(_PREFIX) for key in arrays if key.startswith(_PREFIX))
            )
            try:
                one = self._path(arrays, found)
            except (KeyError, ValueError, TypeError) as error:
                yield ValueError(f"{path}: {error}; it has {', '.join(sorted(arrays))}")
                continue
            cameras = found
            yield one

    def _path(self, arrays: dict[str, NDArray[Any]], cameras: tuple[str, ...]) -> JointPath:
        needed = ("joint_pos", *(_PREFIX + name for name in cameras))
        if lacking := [name for name in needed if name not in arrays]:
            raise ValueError(f"lacks {', '.join(lacking)}")
        width_m = None
        if "gripper_width" in arrays:
            width_m = _column(arrays["gripper_width"], "gripper_width")
            states = 2 * width_m / MAX_WIDTH_M - 1
        elif "gripper_closed" in arrays:
            states = 1 - 2 * _column(arrays["gripper_closed"], "gripper_closed")
        else:
            raise ValueError("lacks gripper_width or gripper_closed")
        success = arrays.get("success")
        facts: dict[str, Any] = {
            "complete": True,
            "success": None if success is None else bool(success.all()),
        }
        if "rate_hz" in arrays:
            facts["rate_hz"] = float(arrays["rate_hz"].item())
        return JointPath(
            images={name: arrays[_PREFIX + name] for name in cameras},
            joints_rad=arrays["joint_pos"].astype(np.float64),
            width_m=width_m,
            commands=np.append(states[1:], states[-1:]),  # the state of the next frame
            columns={},
            task=self.task,
            facts=facts,
            own=arrays.get("actions"),
        )


def _column(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return an array of shape [t] or [t 1] with the shape [t]."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"{name} must be [t] or [t 1], got {values.shape}")
    return values.astype(np.float64)
