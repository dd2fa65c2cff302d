"""One demonstration with images in memory, as readers return it and the writer writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demonstration:
    """A demonstration of t steps, with an observation and an action for each step.

    Attributes:
        interface: action and observation spec: cameras, `proprio` and actions.
        images: uint8 [t h w 3] of each camera, by camera name.
        proprio: float32 [t p], proprioception of p elements.
        actions: float32 [t a], the actions to learn, each with a elements.
        labelled: bool [t], whether the action of a step may be learned. False where the operator
            sent no action in time, and at the frame after the last action.
        columns: additional columns by name, each [t] or [t k] with k numbers per step.
        task: the task in words.
        facts: data of the whole episode, which can be written as JSON. Known keys: `complete`
            (bool; False: the episode was cut short), `success` (bool or None), `seed`, `round`.

    Raises:
        ValueError: shapes, dtypes or lengths do not fit the interface.
    """

    interface: Interface
    images: Mapping[str, NDArray[np.uint8]]
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
        if set(self.images) != set(interface.camera_names):
            raise ValueError(
                f"images must be of the cameras {sorted(interface.camera_names)}, "
                f"got {sorted(self.images)}"
            )
        for camera in interface.cameras:
            images, shape = self.images[camera.name], (steps, camera.height, camera.width, 3)
            if images.shape != shape or images.dtype != np.uint8:
                raise ValueError(
                    f"images of {camera.name!r} must be uint8 {shape}, "
                    f"got {images.dtype} {images.shape}"
                )
        for name, column in self.columns.items():
            if column.ndim not in (1, 2) or len(column) != steps:
                raise ValueError(f"column {name!r} must have {steps} rows, got {column.shape}")

    @property
    def num_steps(self) -> int:
        """Return the number t of steps."""
        return len(self.actions)

    @property
    def is_complete(self) -> bool:
        """Return False if the episode is marked as cut short, otherwise True."""
        return bool(self.facts.get("complete", True))
