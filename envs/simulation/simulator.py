"""What an environment may ask of a physics engine: fourteen questions.

Arrays have the shape `[*batch ...]`: the batch is empty for an engine that runs one world (the
MuJoCo backend), and one axis for an engine that runs many at once. Poses are in the frame of their
own world. Nothing that is returned shares memory with the engine. The `reset` of an engine of many
worlds takes `rows` besides: which of them begin anew, None for all. What an engine must keep is
tests/envs/simulation/test_simulator_contract.py, which any takes by one more entry.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats
from .scene import Appearance, Quality, Scene, Start


class Simulator(Protocol):
    """Simulate one arm in one scene."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Make the world; called once, before anything else."""
        ...

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Start anew, at rest, with targets equal to positions.

        Raises:
            ValueError: a name that the scene does not have.
        """
        ...

    def set_joint_targets(self, targets: Floats) -> None:
        """Set servo targets [*batch servos]: the arm's servos in order, then the hand's."""
        ...

    def step(self, num_steps: int) -> None:
        """Advance by `num_steps` time steps of the scene.

        Raises:
            RuntimeError: when the physics diverged.
        """
        ...

    def follow(self, targets: Floats, num_steps: int) -> None:
        """Set targets [k *batch servos] one after the other, and advance after each.

        Raises:
            RuntimeError: when the physics diverged.
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
        """Push a body at its centre of mass with [3] newtons, from now until told otherwise.

        Reset and `restore` end it.
        """
        ...

    def displace(self, name: str, offset_m: Sequence[float]) -> None:
        """Move a movable box or a fixture by [3] metres, at once, whatever is in the way.

        Raises:
            ValueError: for an unknown name, listing the known ones.
        """
        ...

    def render(
        self, camera: str, height: int, width: int, quality: Quality | None = None
    ) -> NDArray[np.uint8]:
        """Return a picture [*batch h w 3], drawn as quickly as possible unless told otherwise."""
        ...

    def save(self) -> Floats:
        """Return all that the physics depends on from here, [*batch n], for `restore`."""
        ...

    def restore(self, state: Floats) -> None:
        """Go back to where `save` was called, to the bit, in the episode that was begun there.

        Raises:
            ValueError: the state has the wrong size: it is of another scene.
        """
        ...

    def close(self) -> None:
        """Free windows and graphics memory; may be called twice."""
        ...
