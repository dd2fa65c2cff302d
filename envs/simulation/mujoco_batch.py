"""The implementation of `BatchSimulator` with MuJoCo on the CPU: many worlds on a few threads.

Each thread has its own worlds and its own renderers, because an OpenGL context belongs to a thread.
A world is a `MujocoSimulator`, so its results are bit-identical to those of a single world. MuJoCo
releases Python's global lock while it simulates and renders, so the threads run in parallel.

The thread pools `mujoco.rollout` and `mujoco.batch` are not used: they keep one `MjData` per thread
or copy it, so contacts and poses of each world would be computed again for rewards and
images. They need as much CPU time for the physics: 0.71 and 0.65 ms per control step, against 0.70
ms here (`python -m benchmarks.batch_env`, two cores).
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from toto_robot.device import num_cpus

from ..arms.arm import Arm
from ..arms.meshes import Meshes
from ..geometry import Floats
from .batch import Rows, chosen_rows
from .mujoco_backend import MujocoSimulator
from .mujoco_look import Renderers
from .scene import Appearance, Quality, Scene, Start


class MujocoBatch:
    """A simulator of many worlds in MuJoCo on the CPU.

    `envs.simulation.batch.BatchSimulator` documents the methods in more detail.
    """

    def __init__(
        self, num_worlds: int, *, meshes: Meshes | None = None, num_threads: int | None = None
    ) -> None:
        """Start the threads.

        Args:
            num_worlds: the number of worlds.
            meshes: the meshes of the arm; None: images show the arm's primitive shapes.
            num_threads: the number of threads, at most one per world; None: one per core.

        Raises:
            ValueError: `num_threads` is less than 1.
        """
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.num_worlds = num_worlds
        self.num_threads = min(num_threads or num_cpus(), num_worlds)
        self._meshes = meshes
        self._lanes = [_Lane(index) for index in range(self.num_threads)]
        self._close = weakref.finalize(self, _close, self._lanes)

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the worlds: the MuJoCo model is compiled once, and copied for each world."""
        first = MujocoSimulator(meshes=self._meshes, renderers=self._lanes[0].renderers)
        first.build(scene, arm)
        others = range(1, self.num_worlds)
        self._worlds = [first, *(first.another(self._lane(row).renderers) for row in others)]

    def reset(
        self, rows: Rows | None, starts: Sequence[Start], appearances: Sequence[Appearance]
    ) -> None:
        """Reset some worlds; the state of the other worlds does not change."""
        chosen = chosen_rows(rows, self.num_worlds)
        for row, start, appearance in zip(chosen, starts, appearances, strict=True):
            self._worlds[row].reset(start, appearance)

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [n servos] of the arm's servos in order, then of the hand's, rad or m."""
        for world, target in zip(self._worlds, targets, strict=True):
            world.set_joint_targets(target)

    def step(self, num_steps: int) -> None:
        """Advance all worlds by `num_steps` physics time steps.

        Raises:
            RuntimeError: the physics of a world diverged.
        """
        self._each(lambda row: self._worlds[row].step(num_steps))

    def follow(self, targets: Floats, num_steps: int, rows: Rows | None = None) -> None:
        """Set k targets per servo [k n servos] in sequence; run `num_steps` time steps after each.

        Only the worlds `rows` are advanced.

        Raises:
            RuntimeError: the physics of a world diverged.
        """
        chosen = chosen_rows(rows, self.num_worlds)
        self._each(lambda row: self._worlds[row].follow(targets[:, row], num_steps), chosen)

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return positions (rad or m) and velocities (rad/s or m/s), each [n names]."""
        positions, velocities = zip(*(world.joints(names) for world in self._worlds), strict=True)
        return np.stack(positions), np.stack(velocities)

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return the poses [n names 7] of bodies: position in m, then quaternion, w first."""
        return np.stack([world.bodies(names) for world in self._worlds])

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the magnitude of the total contact force on each body [n names], N."""
        return np.stack([world.contact_forces(names) for world in self._worlds])

    def push(self, name: str, force_n: Sequence[float], rows: Rows | None = None) -> None:
        """Apply a force [3], N, to a body's centre of mass until the next `push` or `reset`."""
        for row in chosen_rows(rows, self.num_worlds):
            self._worlds[row].push(name, force_n)

    def displace(self, name: str, offset_m: Sequence[float], rows: Rows | None = None) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3], without collision checks."""
        for row in chosen_rows(rows, self.num_worlds):
            self._worlds[row].displace(name, offset_m)

    def render(
        self,
        camera: str,
        height: int,
        width: int,
        quality: Quality | None = None,
        rows: Rows | None = None,
    ) -> NDArray[np.uint8]:
        """Return one image for each of the worlds `rows` [n h w 3]."""
        chosen = chosen_rows(rows, self.num_worlds)
        images = np.empty((len(chosen), height, width, 3), np.uint8)
        index = {row: at for at, row in enumerate(chosen)}

        def draw(row: int) -> None:
            images[index[row]] = self._worlds[row].render(camera, height, width, quality)

        self._each(draw, chosen)
        return images

    def save(self) -> Floats:
        """Return the complete state of the physics [n s], from which `restore` continues."""
        return np.stack([world.save() for world in self._worlds])

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned; the simulation continues bit-identically."""
        if len(state) != self.num_worlds:
            raise ValueError(f"a state of {self.num_worlds} worlds is needed, got {len(state)}")
        for world, values in zip(self._worlds, state, strict=True):
            world.restore(values)

    def close(self) -> None:
        """Free the graphics memory and end the threads."""
        self._close()

    def _lane(self, row: int) -> "_Lane":
        return self._lanes[row % self.num_threads]

    def _each(self, function: Callable[[int], None], rows: Sequence[int] | None = None) -> None:
        """Call a function for each of the worlds `rows`, in the threads; None: all worlds.

        Raises:
            Exception: the error of the first world in which the function failed.
        """
        chosen = range(self.num_worlds) if rows is None else rows
        errors: dict[int, Exception] = {}

        def run(its: list[int]) -> None:
            for row in its:
                try:
                    function(row)
                except Exception as error:
                    errors[row] = error

        parts = [
            (lane, its)
            for index, lane in enumerate(self._lanes)
            if (its := [row for row in chosen if row % self.num_threads == index])
        ]
        running = []
        try:
            running += (lane.executor.submit(run, its) for lane, its in parts)
            wait(running)
        except BaseException:  # Ctrl-C: afterwards, no thread may still use its worlds
            wait(running)
            raise
        if errors:
            first = min(errors)
            errors[first].add_note(f"in world {first} of {self.num_worlds}")
            raise errors[first]


class _Lane:
    """One thread with the renderers of its worlds."""

    def __init__(self, index: int) -> None:
        self.renderers = Renderers()
        self.executor = ThreadPoolExecutor(
            1, f"mujoco-{index}", initializer=_close_at_end, initargs=(self.renderers,)
        )


_of_thread = threading.local()


class _End:
    """An object of a thread; Python deletes it, in the thread, when the thread ends."""


def _close_at_end(renderers: Renderers) -> None:
    """Close the renderers when this thread ends, also if it ends because Python exits."""
    _of_thread.end = _End()
    weakref.finalize(_of_thread.end, renderers.close)


def _close(lanes: list[_Lane]) -> None:
    for lane in lanes:
        lane.executor.shutdown()
