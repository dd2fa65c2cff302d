"""The `Simulator` protocol: the methods that an environment needs from a physics engine.

A `Simulator` simulates one world; a `BatchSimulator` (see `batch.py`) simulates many worlds. Both
are `Measurable`. In the shape `[*batch ...]` of an array, `batch` is the axis of the worlds; a
simulator of one world has no such axis. Poses are in the frame of their world. Returned arrays
never share memory with the engine. Every engine must pass the tests in
tests/envs/simulation/test_simulator_contract.py.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats
from .scene import Appearance, Quality, Scene, Start


class Measurable(Protocol):
    """One world or many worlds whose state can be measured."""

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return the positions (rad or m) and velocities (rad/s or m/s) of these joints.

        Each array has the shape [*batch names].
        """
        ...

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return the poses [*batch names 7] of bodies: position in m, then quaternion, w first."""
        ...

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the magnitude of the total contact force on each body [*batch names], N."""
        ...


class Simulator(Measurable, Protocol):
    """A physics simulator of one arm in one scene."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the world. Call this method once, before all other methods."""
        ...

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Reset the world to a start; speeds are 0, and servo targets are the start positions.

        Raises:
            ValueError: `start` or `appearance` contains a name that the scene does not have.
        """
        ...

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [servos] of all servos: first the arm's, then the hand's."""
        ...

    def step(self, num_steps: int) -> None:
        """Advance the simulation by `num_steps` time steps of `Scene.timestep_s`.

        Raises:
            RuntimeError: the physics diverged.
        """
        ...

    def follow(self, targets: Floats, num_steps: int) -> None:
        """Set k targets per servo [k servos]; run `num_steps` time steps after each.

        Raises:
            RuntimeError: the physics diverged.
        """
        ...

    def push(self, name: str, force_n: Sequence[float]) -> None:
        """Apply a constant force [3], N, to a body's centre of mass.

        The force acts until the next call of `push` for this body, `reset` or `restore`.
        """
        ...

    def displace(self, name: str, offset_m: Sequence[float]) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3], without collision checks.

        Raises:
            ValueError: the name is unknown; the message lists the known ones.
        """
        ...

    def render(
        self, camera: str, height: int, width: int, quality: Quality | None = None
    ) -> NDArray[np.uint8]:
        """Return an image [h w 3] of a camera; `quality` None is the fastest quality."""
        ...

    def save(self) -> Floats:
        """Return the complete state of the physics [n], which `restore` accepts."""
        ...

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned; the simulation continues bit-identically.

        `reset` must be called before, with the start of the saved episode.

        Raises:
            ValueError: the state has the wrong size, because it belongs to another scene.
        """
        ...

    def close(self) -> None:
        """Free windows and graphics memory. A second call does nothing."""
        ...
