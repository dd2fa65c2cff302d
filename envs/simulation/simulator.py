"""The `Simulator` protocol: the methods that an environment needs from a physics engine.

Arrays have the shape `[*batch ...]`: the batch is empty for an engine that simulates one world
(the MuJoCo backend), and one axis for an engine that simulates many worlds. Poses are in the frame
of their own world. Returned arrays never share memory with the engine. The `reset` of an engine of
many worlds has a further argument `rows`: the indices of the worlds to reset, None for all. An
engine must pass tests/envs/simulation/test_simulator_contract.py; add one entry for it there.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats
from .scene import Appearance, Quality, Scene, Start


class Simulator(Protocol):
    """A simulator of one arm in one scene."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the world; must be called once, before all other methods."""
        ...

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Reset to a start, at rest, with targets equal to positions.

        Raises:
            ValueError: the scene lacks one of the names.
        """
        ...

    def set_joint_targets(self, targets: Floats) -> None:
        """Set servo targets [*batch servos]: the arm's servos in order, then the hand's."""
        ...

    def step(self, num_steps: int) -> None:
        """Advance by `num_steps` time steps of the scene.

        Raises:
            RuntimeError: the physics diverged.
        """
        ...

    def follow(self, targets: Floats, num_steps: int) -> None:
        """Set targets [k *batch servos] one after the other, and advance `num_steps` after each.

        Raises:
            RuntimeError: the physics diverged.
        """
        ...

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return positions and velocities, each [*batch names]."""
        ...

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return poses [*batch names 7]: position, then quaternion (w first)."""
        ...

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the length of the net contact force on each body [*batch names], in newtons."""
        ...

    def push(self, name: str, force_n: Sequence[float]) -> None:
        """Apply a force of [3] newtons to a body's centre of mass until the next call.

        `reset` and `restore` end it.
        """
        ...

    def displace(self, name: str, offset_m: Sequence[float]) -> None:
        """Move a movable box or a fixture instantly by [3] metres, without collision checks.

        Raises:
            ValueError: the name is unknown; the message lists the known ones.
        """
        ...

    def render(
        self, camera: str, height: int, width: int, quality: Quality | None = None
    ) -> NDArray[np.uint8]:
        """Return an image [*batch h w 3], by default rendered as fast as possible."""
        ...

    def save(self) -> Floats:
        """Return the complete state of the physics, [*batch n], for `restore`."""
        ...

    def restore(self, state: Floats) -> None:
        """Restore a state of `save` bit-identically, after a `reset` to the same start.

        Raises:
            ValueError: the state has the wrong size, because it belongs to another scene.
        """
        ...

    def close(self) -> None:
        """Free windows and graphics memory; can be called twice."""
        ...
