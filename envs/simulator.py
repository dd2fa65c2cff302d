"""The nine questions that an environment may ask of a physics engine.

Arrays have the shape `[*batch ...]`: the batch is empty for an engine that runs one world (the
MuJoCo backend), and one axis for an engine that runs many at once. Poses are in the frame of their
own world. Nothing that is returned shares memory with the engine.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .arms import Arm
from .scene import Appearance, Scene

Floats = NDArray[np.float64]


class Simulator(Protocol):
    """Simulate one arm in one scene."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Make the world; called once, before anything else."""
        ...

    def reset(
        self,
        joint_positions: Mapping[str, float],
        box_poses: Mapping[str, Floats],
        appearance: Appearance,
    ) -> None:
        """Start anew, at rest, with targets equal to positions.

        Args:
            joint_positions: rad or m by joint name; a joint that is not named starts at 0.
            box_poses: [7] position and quaternion (w first) by the name of a movable box.
            appearance: the look of this episode.
        """
        ...

    def set_joint_targets(self, targets: Floats) -> None:
        """Set servo targets [*batch servos]: the arm's servos in order, then the gripper's."""
        ...

    def step(self, num_steps: int) -> None:
        """Advance by `num_steps` time steps of the scene."""
        ...

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Give positions and velocities, each [*batch names]."""
        ...

    def bodies(self, names: Sequence[str]) -> Floats:
        """Give poses [*batch names 7]: position, then quaternion (w first)."""
        ...

    def contact_force(self, body: str) -> Floats:
        """Give the length of the net contact force on a body [*batch], in newtons."""
        ...

    def render(
        self, camera: str, height: int, width: int, *, fine: bool = False
    ) -> NDArray[np.uint8]:
        """Give a picture [*batch h w 3]; `fine` adds shadows and smooth edges, and costs time."""
        ...

    def close(self) -> None:
        """Free windows and graphics memory; may be called twice."""
        ...
