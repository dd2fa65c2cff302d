"""The `BatchSimulator` protocol: the methods of a physics engine that simulates many worlds.

All worlds have the same scene and the same arm; their starts, appearances and states differ. The
first axis of every array is the axis of the worlds, unless stated otherwise. The methods otherwise
follow `Simulator` (see `simulator.py`), and the same tests hold for both.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..geometry import Floats
from .scene import Appearance, Quality, Scene, Start
from .simulator import Measurable

# Images [n h w 3], uint8: a numpy array, or a torch tensor on the device of the engine.
Images = Any
Rows = Sequence[int] | NDArray[np.intp]


class BatchSimulator(Measurable, Protocol):
    """A physics simulator of many worlds, each with one arm in the same scene."""

    @property
    def num_worlds(self) -> int:
        """The number of worlds."""
        ...

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the worlds. Call this method once, before all other methods."""
        ...

    def reset(
        self, rows: Rows | None, starts: Sequence[Start], appearances: Sequence[Appearance]
    ) -> None:
        """Reset some worlds; the state of the other worlds does not change.

        Speeds are 0 after a reset, and servo targets are the start positions.

        Args:
            rows: the indices of the worlds, in ascending order; None: all worlds.
            starts: one start for each of these worlds.
            appearances: one appearance for each of these worlds.

        Raises:
            ValueError: a start or an appearance contains a name that the scene does not have, or
                their number is wrong.
        """
        ...

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [n servos] of all servos: first the arm's, then the hand's."""
        ...

    def step(self, num_steps: int) -> None:
        """Advance all worlds by `num_steps` time steps of `Scene.timestep_s`.

        Raises:
            RuntimeError: the physics of a world diverged.
        """
        ...

    def follow(self, targets: Floats, num_steps: int, rows: Rows | None = None) -> None:
        """Set k targets per servo [k n servos]; run `num_steps` time steps after each.

        Args:
            targets: the targets of all worlds.
            num_steps: the number of time steps after each of the k targets.
            rows: the worlds to advance; None: all. An engine that cannot advance only some worlds
                advances all, so the state of the other worlds is undefined until their next reset.

        Raises:
            RuntimeError: the physics of one of these worlds diverged.
        """
        ...

    def push(self, name: str, force_n: Sequence[float], rows: Rows | None = None) -> None:
        """Apply a constant force [3], N, to a body's centre of mass in some worlds.

        The force acts until the next call of `push` for this body, `reset` or `restore`.
        """
        ...

    def displace(self, name: str, offset_m: Sequence[float], rows: Rows | None = None) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3] in some worlds.

        Raises:
            ValueError: the name is unknown; the message lists the known ones.
        """
        ...

    def render(
        self,
        camera: str,
        height: int,
        width: int,
        quality: Quality | None = None,
        rows: Rows | None = None,
    ) -> Images:
        """Return one image for each of the worlds `rows` [n h w 3], uint8.

        The images are a numpy array, or a torch tensor on the device of the engine. A later call
        does not change them.
        """
        ...

    def save(self) -> Floats:
        """Return the complete state of the physics [n s], which `restore` accepts."""
        ...

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned; the simulation continues bit-identically.

        `reset` must be called before, with the starts of the saved episodes.

        Raises:
            ValueError: the state has the wrong size, because it belongs to another scene.
        """
        ...

    def close(self) -> None:
        """Free windows, graphics memory and threads. A second call does nothing."""
        ...


def chosen_rows(rows: Rows | None, num_worlds: int) -> list[int]:
    """Return the indices of the chosen worlds: `rows`, or all worlds if `rows` is None.

    Raises:
        ValueError: an index is not in the range of the worlds, or appears twice.
    """
    if rows is None:
        return list(range(num_worlds))
    chosen = [int(row) for row in rows]
    if len(set(chosen)) != len(chosen) or not all(0 <= row < num_worlds for row in chosen):
        raise ValueError(f"rows must be different numbers from 0 to {num_worlds - 1}, got {chosen}")
    return chosen
