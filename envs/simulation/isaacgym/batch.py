"""The implementation of `BatchSimulator` with Isaac Gym, in a worker process.

The worker (folder `worker/`) needs Python 3.8, so it is a process of its own. Commands are small
messages in pipes; arrays and images are in shared memory.

Isaac Gym uses a new state only in the next time step. Until then, this class knows the new joint
positions and poses from MuJoCo, which computes them from the same description, so `joints` and
`bodies` are correct immediately after a reset. For images after a reset, the worker simulates one
time step, and then sets all worlds back.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...arms.arm import Arm
from ...arms.meshes import Meshes
from ...geometry import Floats
from ..batch import Rows, chosen_rows
from ..mujoco_backend import MujocoSimulator
from ..scene import Appearance, Quality, Scene, Start, require_known
from .plan import Plan, camera_plan, export
from .process import WorkerProcess
from .states import States
from .worker.slots import Slots

_MAX_TARGETS = 16  # targets per servo in one command
_START_TIMEOUT_S = 600.0  # the first import of gymtorch compiles an extension
_FAST = Quality()

View = tuple[str, int, int, int]  # camera, height, width, samples


class IsaacGymBatch:
    """A simulator of many worlds in Isaac Gym Preview 4.

    `envs.simulation.batch.BatchSimulator` documents the methods in more detail.

    Attributes:
        num_worlds: number of worlds.
        versions: versions of Python, Isaac Gym and torch in the worker, known after `build`.
    """

    def __init__(
        self,
        num_worlds: int,
        *,
        worker_python: str | Path = "",
        meshes: Meshes | None = None,
        device: str = "cuda:0",
        graphics_device: int = 0,
        device_images: bool = False,
        timeout_s: float = 60.0,
    ) -> None:
        """Store the settings; `build` starts the worker.

        Args:
            num_worlds: the number of worlds.
            worker_python: the Python 3.8 in which Isaac Gym is installed; needed.
            meshes: None; images always show the arm's primitive shapes.
            device: where the worker simulates: `cuda:<index>`, or `cpu`.
            graphics_device: index of the GPU that renders.
            device_images: True: `render` returns torch tensors on the GPU, and no image is copied
                to the host. This needs a torch with CUDA in both processes.
            timeout_s: how long a command may take, seconds. Starting and creating the worlds may
                take ten minutes.

        Raises:
            ValueError: `worker_python` is missing, there are meshes, `device` is unknown, or it is
                `cpu` with `device_images`.
        """
        if not worker_python:
            raise ValueError(
                "backend='isaacgym' needs worker_python=..., the Python 3.8 in which Isaac Gym is "
                "installed (see docs/isaac_gym.md)"
            )
        if device_images and device == "cpu":
            raise ValueError("device_images=True needs device='cuda:<index>', got 'cpu'")
        if meshes is not None:
            raise ValueError("backend='isaacgym' shows primitive shapes: leave out visuals='mesh'")
        if device != "cpu" and not device.removeprefix("cuda:").isdigit():
            raise ValueError(f"device must be 'cpu' or 'cuda:<index>', got {device!r}")
        self.num_worlds = num_worlds
        self._python, self._timeout_s = worker_python, timeout_s
        self._run = {
            "num_worlds": num_worlds,
            "device": device,
            "graphics_device": graphics_device,
            "share_images": device_images,
        }
        self._folder = Path(tempfile.mkdtemp(prefix="toto-isaacgym-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._process: WorkerProcess | None = None
        self._slots: Slots | None = None
        self._views: list[View] = []
        self._shared: dict[str, tuple[Any, int]] = {}

    def build(self, scene: Scene, arm: Arm) -> None:
        """Start the worker, and prepare the description of the worlds.

        The worlds are created when they are used for the first time, because Isaac Gym must know
        then which images are needed.

        Raises:
            ValueError: `worker_python` does not start, or the scene cannot be exported.
            WorkerError: Isaac Gym or torch cannot be imported.
        """
        self._scene = scene
        self._reference = MujocoSimulator()
        self._reference.build(scene, arm)
        self._plan = export(scene, arm, self._folder)
        self._joints = {name: i for i, (_, name) in enumerate(self._plan["joints"])}
        self._bodies = {name: i for i, (_, name) in enumerate(self._plan["bodies"])}
        self._actors = {one["name"]: i for i, one in enumerate(self._plan["actors"])}
        counts = [len(servo.joints) for servo in (*arm.servos, *arm.hand_servos)]
        self._servo_of_joint = np.repeat(np.arange(len(counts)), counts)
        self._states = States(self._plan, self.num_worlds)
        default = {box.name: box.paint.rgb for box in scene.boxes}
        self._paints = [default] * self.num_worlds
        self._start()

    def reset(
        self, rows: Rows | None, starts: Sequence[Start], appearances: Sequence[Appearance]
    ) -> None:
        """Reset some worlds; the state of the other worlds does not change.

        Raises:
            ValueError: a name is unknown, or a start or an appearance needs what Isaac Gym cannot
                change: sizes of boxes, patterns, lights, cameras and colours of arm and fixtures.
        """
        chosen = chosen_rows(rows, self.num_worlds)
        for start, appearance in zip(starts, appearances, strict=True):
            self._check(start, appearance)
        paints = []
        for row, start, appearance in zip(chosen, starts, appearances, strict=True):
            self._reference.reset(start, appearance)
            self._place(row, start)
            names = {box.name: box.paint_name or box.name for box in self._scene.boxes}
            paints.append(
                {
                    box.name: appearance.paints.get(names[box.name], box.paint).rgb
                    for box in self._scene.boxes
                }
            )
        changed = [i for i, row in enumerate(chosen) if self._paints[row] != paints[i]]
        for index in changed:
            self._paints[chosen[index]] = paints[index]
        if changed and self._slots is not None:
            its = [chosen[index] for index in changed]
            self._ask("paint", rows=its, colors=[paints[index] for index in changed])

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [n servos] of the arm's servos in order, then of the hand's, rad or m."""
        joints = np.asarray(targets)[:, self._servo_of_joint]
        self._states.targets[:, : len(self._servo_of_joint)] = joints

    def step(self, num_steps: int) -> None:
        """Advance all worlds by `num_steps` physics time steps.

        Raises:
            RuntimeError: the physics of a world diverged.
        """
        self._advance(self._states.targets[None], num_steps)

    def follow(self, targets: Floats, num_steps: int, rows: Rows | None = None) -> None:
        """Set k targets per servo [k n servos] in sequence; run `num_steps` time steps after each.

        Isaac Gym always advances all worlds; `rows` only selects in which of them a divergence is
        an error.

        Raises:
            RuntimeError: the physics of a world diverged.
        """
        every = np.repeat(self._states.targets[None], len(targets), axis=0)
        every[:, :, : len(self._servo_of_joint)] = targets[:, :, self._servo_of_joint]
        for first in range(0, len(every), _MAX_TARGETS):
            self._advance(every[first : first + _MAX_TARGETS], num_steps, rows)

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return positions (rad or m) and velocities (rad/s or m/s), each [n names]."""
        indices = [self._joints[require_known(name, self._joints, "joint")] for name in names]
        dof = self._states.dof
        return dof[:, indices, 0], dof[:, indices, 1]

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return the poses [n names 7] of bodies: position in m, then quaternion, w first."""
        return self._states.poses[:, self._body_indices(names)]

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the magnitude of the total contact force on each body [n names], N.

        Directly after a reset, these are 0 in the worlds that were reset.
        """
        return np.linalg.norm(self._states.contacts[:, self._body_indices(names)], axis=-1)

    def push(self, name: str, force_n: Sequence[float], rows: Rows | None = None) -> None:
        """Apply a force [3], N, to a body's centre of mass until the next `push` or `reset`."""
        (body,) = self._body_indices((name,))
        self._states.forces[chosen_rows(rows, self.num_worlds), body] = force_n

    def displace(self, name: str, offset_m: Sequence[float], rows: Rows | None = None) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3], without collision checks."""
        movable = [one["name"] for one in self._plan["actors"] if one["movable"]]
        actor = self._actors[require_known(name, movable, "movable box or fixture")]
        self._states.displace(chosen_rows(rows, self.num_worlds), actor, offset_m)

    def render(
        self,
        camera: str,
        height: int,
        width: int,
        quality: Quality | None = None,
        rows: Rows | None = None,
    ) -> Any:
        """Return one image for each of the worlds `rows` [n h w 3], uint8.

        Isaac Gym must know the size of its images before it creates the worlds. For a new size, the
        worker starts again with the current state, which takes some seconds. Of `quality`, only
        `samples` has an influence.
        """
        cameras = {one.name: one for one in (*self._scene.cameras, self._scene.viewer)}
        require_known(camera, cameras, "camera")
        samples = (quality or _FAST).samples
        view = (camera, height, width, samples)
        if view not in self._views:
            together = [one.name for one in self._scene.cameras]
            names = together if camera in together else [camera]
            self._views += [(name, height, width, samples) for name in names]
            if self._slots is not None:
                self._restart()
        self._ensure_created()
        self._send(self._states.targets[None])
        self._ask("draw")
        chosen = chosen_rows(rows, self.num_worlds)
        key = _view_name(view)
        if self._run["share_images"]:
            from .worker.cuda_ipc import copy_rows  # needs torch

            return copy_rows(self._shared[key][0], chosen)
        assert self._slots is not None
        return self._slots.arrays[f"image_{key}"][chosen]

    def save(self) -> Floats:
        """Return the state of the physics [n s], from which `restore` continues.

        Isaac Gym cannot save the memory of its contact solver, so the continuation is close to the
        original one, but not bit-identical.
        """
        return self._states.pack()

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned."""
        self._states.unpack(state)

    def close(self) -> None:
        """End the worker, and free the shared memory."""
        if self._process is not None:
            self._process.close()
        self._detach()
        self._remove()

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker, or None before `build`."""
        return None if self._process is None else self._process.pid

    def _check(self, start: Start, appearance: Appearance) -> None:
        """Check that Isaac Gym can change what a start and an appearance change."""
        sizes = {box.name: box.size_m for box in self._scene.boxes}
        boxes = {box.paint_name or box.name: box.paint for box in self._scene.boxes}
        refused = [
            *(
                f"the size of {name}"
                for name, size in start.box_sizes_m.items()
                if sizes.get(name, size) != tuple(size)
            ),
            *(f"the colour of {name}" for name in appearance.paints if name not in boxes),
            *(
                f"the pattern of {name}"
                for name, paint in appearance.paints.items()
                if name in boxes and paint.pattern != boxes[name].pattern
            ),
            *(["the lights"] if appearance.lighting is not None else []),
            *(f"the camera {name}" for name in appearance.camera_shifts),
        ]
        if refused:
            raise ValueError(
                f"Isaac Gym cannot change {', '.join(refused)} after the worlds are created; leave "
                "these groups out of randomise="
            )

    def _place(self, row: int, start: Start) -> None:
        """Set the newest state of a world to the start that the reference simulator has."""
        targets = np.zeros(len(self._joints))
        servos = np.concatenate([start.arm_rad, start.hand])
        targets[: len(self._servo_of_joint)] = servos[self._servo_of_joint]
        positions, _ = self._reference.joints(tuple(self._joints))
        poses = self._reference.bodies(tuple(self._bodies))
        self._states.place(row, positions, poses, targets)

    def _send(self, targets: Floats) -> dict[str, Any]:
        """Write targets [k n joints], forces and staged states; return the shared arrays."""
        assert self._slots is not None
        host = self._slots.arrays
        host["targets"][: len(targets)] = targets
        self._states.send(host)
        return host

    def _advance(self, targets: Floats, num_steps: int, rows: Rows | None = None) -> None:
        """Simulate with k targets per joint [k n joints], and read the new state."""
        self._ensure_created()
        host = self._send(targets)
        diverged = self._ask("follow", num_targets=len(targets), num_steps=num_steps)
        self._states.receive(host)
        self._states.targets[:] = targets[-1]
        if diverged := sorted({*diverged} & {*chosen_rows(rows, self.num_worlds)}):
            raise RuntimeError(
                f"the physics diverged in the worlds {diverged}: a position or a speed is not "
                "finite"
            )

    def _start(self) -> None:
        self._process = WorkerProcess(self._python, timeout_s=self._timeout_s)
        self.versions: Plan = self._ask("hello", timeout_s=_START_TIMEOUT_S)

    def _restart(self) -> None:
        """Start the worker again, in order to add cameras; all states are set again."""
        assert self._process is not None
        self._process.close()
        self._detach()
        self._start()
        self._states.stage_all()

    def _detach(self) -> None:
        """Detach the memory that was shared with a worker."""
        if self._slots is not None:
            self._slots.unlink()
            self._slots.close()
            self._slots = None
        if self._shared:
            from .worker.cuda_ipc import close_handle

            for _, address in self._shared.values():
                close_handle(address, int(self._run["device"].removeprefix("cuda:")))
            self._shared = {}

    def _ensure_created(self) -> None:
        """Create the worlds in the worker, if that was not done yet."""
        if self._slots is not None:
            return
        by_name = {one.name: one for one in (*self._scene.cameras, self._scene.viewer)}
        cameras = []
        for view in self._views:
            name, height, width, samples = view
            quality = Quality(samples=samples)
            plan = camera_plan(by_name[name], self._plan["bodies"], height, width, quality)
            cameras.append(plan | {"name": _view_name(view)})
        path = self._folder / "plan.json"
        path.write_text(json.dumps(self._plan | self._run | {"cameras": cameras}))
        self._ask("create", timeout_s=_START_TIMEOUT_S, plan=str(path))
        layout = self._layout(cameras)
        slots = self._slots = Slots(layout)
        try:
            self._ask("attach", name=slots.name, layout=layout)
        except BaseException:
            self._detach()
            raise
        # Both processes have attached the memory. Its name is removed now, so that the memory is
        # freed even if a process is killed.
        slots.unlink()
        if self._run["share_images"]:
            self._open_shared(cameras)
        rows = [row for row, paint in enumerate(self._paints) if paint is not self._paints[0]]
        self._ask("paint", rows=[0, *rows], colors=[self._paints[row] for row in (0, *rows)])

    def _layout(self, cameras: Sequence[Plan]) -> dict[str, Any]:
        """Return shape and dtype of each array in the shared memory."""
        n = self.num_worlds
        targets = ((_MAX_TARGETS, n, len(self._joints)), "float32")
        arrays = {"targets": targets} | self._states.layout
        if not self._run["share_images"]:
            for one in cameras:
                arrays[f"image_{one['name']}"] = ((n, one["height"], one["width"], 3), "uint8")
        return arrays

    def _open_shared(self, cameras: Sequence[Plan]) -> None:
        """Open the image buffers of the worker on the GPU."""
        from .worker.cuda_ipc import open_handle

        device = int(self._run["device"].removeprefix("cuda:"))
        handles = self._ask("share")
        for one in cameras:
            shape = (self.num_worlds, one["height"], one["width"], 3)
            self._shared[one["name"]] = open_handle(handles[one["name"]], shape, device)

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._process is not None
        return self._process.ask(command, **arguments)

    def _body_indices(self, names: Sequence[str]) -> list[int]:
        return [self._bodies[require_known(name, self._bodies, "body")] for name in names]


def _view_name(view: View) -> str:
    name, height, width, samples = view
    return f"{name}_{height}x{width}_{samples}"
