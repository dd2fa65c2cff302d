"""One demonstration in memory, with pictures: what readers give and the writer takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demonstration:
    """Hold T observations and what to do in each.

    Attributes:
        interface: what proprio, cameras and actions mean.
        pictures: uint8 [t h w 3] of each camera of the interface, by its name.
        proprio: float32 [t p].
        actions: float32 [t a], what is to be learned.
        labelled: bool [t], whether the action is one: not where none was given in time, nor after
            the last one.
        columns: what else there was at each step, [t] or [t k], by name.
        task: what was to be done, in words.
        facts: what belongs to the episode as a whole, plain data for JSON. Known here: `complete`
            (bool; False of one that was cut short), `success` (bool or None), `seed`, `round`.
    """

    interface: Interface
    pictures: Mapping[str, NDArray[np.uint8]]
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    columns: Mapping[str, Array] = field(default_factory=dict)
    task: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps, interface = len(self.actions), self.interface
        for name, array, shape, dtype in (
            ("proprio", self.proprio, (steps, len(interface.proprio)), np.float32),
            ("actions", self.actions, (steps, len(interface.action)), np.float32),
            ("labelled", self.labelled, (steps,), np.bool_),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype).name} {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
        if set(self.pictures) != set(interface.camera_names):
            raise ValueError(
                f"pictures must be of the cameras {sorted(interface.camera_names)}, "
                f"got {sorted(self.pictures)}"
            )
        for camera in interface.cameras:
            pictures, shape = self.pictures[camera.name], (steps, camera.height, camera.width, 3)
            if pictures.shape != shape or pictures.dtype != np.uint8:
                raise ValueError(
                    f"pictures of {camera.name!r} must be uint8 {shape}, "
                    f"got {pictures.dtype} {pictures.shape}"
                )
        for name, column in self.columns.items():
            if column.ndim not in (1, 2) or len(column) != steps:
                raise ValueError(f"column {name!r} must have {steps} rows, got {column.shape}")

    @property
    def num_steps(self) -> int:
        """Return the number of observations T."""
        return len(self.actions)

    @property
    def is_complete(self) -> bool:
        """Return whether it ran to its end; what nobody marked did."""
        return bool(self.facts.get("complete", True))
