"""The implementation of `BatchSimulator` with MuJoCo Warp: many worlds on one GPU, or on the CPU.

MuJoCo Warp reads the same compiled model as MuJoCo, and computes in 32-bit floats. For each reset,
one `MujocoSimulator` applies start and appearance; what changed is then copied into the row of the
world. So names, sizes, masses and colours have the same meaning as in MuJoCo.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco_warp
import numpy as np
import torch
import warp
from torch import Tensor

from toto_robot.device import choose_device

from ..arms.arm import Arm
from ..arms.meshes import Meshes
from ..geometry import Floats
from .batch import Rows, chosen_rows
from .mujoco_backend import MujocoSimulator
from .mujoco_model import build_spec, mujoco
from .mujoco_warp_look import (
    LOOK_FIELDS,
    WarpRenderers,
    adapt_look,
    match_opengl,
    textured_materials,
)
from .scene import Appearance, Quality, Scene, Start, require_known

# Fields of the model that a reset or `displace` changes, so that each world has its own values.
PHYSICS_FIELDS = (
    "body_pos",
    "body_mass",
    "body_subtreemass",
    "body_inertia",
    "body_invweight0",
    "dof_invweight0",
    "geom_size",
    "geom_rbound",
    "geom_aabb",
)
# The complete state of the physics: all else is computed from it.
_STATE = (
    "time",
    "qpos",
    "qvel",
    "act",
    "qacc_warmstart",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
)
# Warp computes the poses of the geoms of bodies without a joint once, not in every step.
_STATIC = ("geom_xpos", "geom_xmat")
_MAX_VALUE = 1e10  # as in MuJoCo: a larger position or speed counts as diverged


class MujocoWarpBatch:
    """A simulator of many worlds in MuJoCo Warp.

    `envs.simulation.batch.BatchSimulator` documents the methods in more detail. Images are torch
    tensors on the device of the engine; all other results are numpy arrays.

    The first `build` of a scene compiles its kernels, which takes one to two minutes. Warp keeps
    them in a folder (`WARP_CACHE_PATH`, or `~/.cache/warp`), so that later processes take seconds.
    """

    def __init__(
        self,
        num_worlds: int,
        *,
        meshes: Meshes | None = None,
        device: str = "auto",
        max_contacts: int = 96,
        max_constraints: int = 256,
    ) -> None:
        """Choose the device.

        Args:
            num_worlds: the number of worlds.
            meshes: the meshes of the arm; None: images show the arm's primitive shapes.
            device: a device of torch; `auto`: `cuda` if there is a GPU, else `cpu`.
            max_contacts: memory for this many contacts per world, on average over the worlds.
            max_constraints: memory for this many rows of constraints in each world.

        Raises:
            ValueError: the device does not exist.
        """
        self.num_worlds = num_worlds
        warp.config.log_level = warp.LOG_WARNING
        warp.init()
        self._warp_device = warp.get_device(choose_device(device))
        self.device = torch.device(warp.device_to_torch(self._warp_device))
        self._host = _HostWorld(meshes=meshes)
        self._max_contacts, self._max_constraints = max_contacts, max_constraints

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the worlds; the first time on a machine, this compiles the kernels of the scene."""
        if not any(Path(warp.config.kernel_cache_dir).glob("*")):
            print("compiling the kernels of MuJoCo Warp, once: one to two minutes", file=sys.stderr)
        self._host.build(scene, arm)
        model, count = self._host.model, self.num_worlds
        fields = (*PHYSICS_FIELDS, *LOOK_FIELDS)
        with warp.ScopedDevice(self._warp_device):
            self._model = mujoco_warp.put_model(model, batch_sizes=dict.fromkeys(fields, count))
            # The solver starts from the last step's accelerations, as MuJoCo's does near contacts.
            # Otherwise a linear system is solved in 100 fixed iterations, 80 % of all launches.
            self._model.opt.run_qacc_smooth = False
            self._model.opt.warn_overflow = 0  # reported by `_check` as an error
            self._data = mujoco_warp.make_data(
                model,
                nworld=count,
                nconmax=self._max_contacts,
                njmax=self._max_constraints,
            )
            self._fields = {name: warp.to_torch(getattr(self._model, name)) for name in fields}
            self._state = {name: warp.to_torch(getattr(self._data, name)) for name in _STATE}
            self._static = {name: warp.to_torch(getattr(self._data, name)) for name in _STATIC}
            self._contacts = warp.array(np.arange(self._data.naconmax), dtype=int)
            self._wrenches = warp.zeros(self._data.naconmax, dtype=warp.spatial_vector)
            self._step, self._forward, self._poses = (
                _record(function)
                for function in (self._run_step, self._run_forward, self._run_kinematics)
            )
            self._renderers = WarpRenderers(model, self._model, self._data, self._wait)
        self._wait()
        self._joints = {model.joint(i).name: i for i in range(model.njnt)}
        self._bodies = {model.body(i).name: i for i in range(model.nbody)}
        self._actuators = torch.tensor(
            [model.actuator(servo.name).id for servo in (*arm.servos, *arm.hand_servos)],
            device=self.device,
        )
        self._geom_bodies = torch.tensor(model.geom_bodyid, device=self.device).long()
        self._scene = scene

    def reset(
        self, rows: Rows | None, starts: Sequence[Start], appearances: Sequence[Appearance]
    ) -> None:
        """Reset some worlds; the state of the other worlds does not change."""
        chosen = chosen_rows(rows, self.num_worlds)
        worlds = []
        for _, start, appearance in zip(chosen, starts, appearances, strict=True):
            self._host.reset(start, appearance)
            worlds.append(self._host.values((*self._fields, *self._state, *_STATIC)))
        for name, view in {**self._fields, **self._state, **self._static}.items():
            values = np.stack([world[name] for world in worlds])
            self._write(view, chosen, values)
        warp.to_torch(self._data.overflow).zero_()

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [n servos] of the arm's servos in order, then of the hand's, rad or m."""
        self._state["ctrl"][:, self._actuators] = self._upload(targets)

    def step(self, num_steps: int) -> None:
        """Advance all worlds by `num_steps` physics time steps.

        Raises:
            RuntimeError: the physics of a world diverged, or had more contacts than fit in memory.
        """
        self._launch(self._step, num_steps)
        self._check()

    def follow(self, targets: Floats, num_steps: int, rows: Rows | None = None) -> None:
        """Set k targets per servo [k n servos] in sequence; run `num_steps` time steps after each.

        All worlds advance, since one graph of kernels computes them; `rows` are those to check.

        Raises:
            RuntimeError: the physics of a world diverged, or had more contacts than fit in memory.
        """
        for target in self._upload(targets):
            self._state["ctrl"][:, self._actuators] = target
            self._launch(self._step, num_steps)
        self._check(rows)

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return positions (rad or m) and velocities (rad/s or m/s), each [n names]."""
        ids = [self._joints[require_known(name, self._joints, "joint")] for name in names]
        model = self._host.model
        positions = self._state["qpos"][:, model.jnt_qposadr[ids].tolist()]
        velocities = self._state["qvel"][:, model.jnt_dofadr[ids].tolist()]
        return _download(positions), _download(velocities)

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return the poses [n names 7] of bodies: position in m, then quaternion, w first."""
        ids = [self._bodies[require_known(name, self._bodies, "body")] for name in names]
        self._launch(self._poses)
        positions = _download(warp.to_torch(self._data.xpos)[:, ids])
        turns = _download(warp.to_torch(self._data.xquat)[:, ids])
        turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
        return np.concatenate([positions, turns], axis=-1)

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the magnitude of the total contact force on each body [n names], N.

        The forces are those of the current state.
        """
        ids = [self._bodies[require_known(name, self._bodies, "body")] for name in names]
        self._launch(self._forward)
        contact = self._data.contact
        count = int(warp.to_torch(self._data.nacon)[0])
        force = warp.to_torch(self._wrenches)[:count, :3].double()
        world = warp.to_torch(contact.worldid)[:count].long()
        bodies = self._geom_bodies[warp.to_torch(contact.geom)[:count].long()]
        force = force * (bodies[:, 0] != bodies[:, 1])[:, None]
        totals = force.new_zeros(self.num_worlds * len(self._bodies), 3)
        totals.index_add_(0, world * len(self._bodies) + bodies[:, 1], force)
        totals.index_add_(0, world * len(self._bodies) + bodies[:, 0], -force)
        magnitudes = totals.reshape(self.num_worlds, -1, 3)[:, ids].norm(dim=-1)
        return _download(magnitudes)

    def push(self, name: str, force_n: Sequence[float], rows: Rows | None = None) -> None:
        """Apply a force [3], N, to a body's centre of mass until the next `push` or `reset`."""
        body = self._bodies[require_known(name, self._bodies, "body")]
        chosen = chosen_rows(rows, self.num_worlds)
        self._state["xfrc_applied"][chosen, body, :3] = self._upload(np.asarray(force_n))

    def displace(self, name: str, offset_m: Sequence[float], rows: Rows | None = None) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3], without collision checks."""
        chosen = chosen_rows(rows, self.num_worlds)
        movable = [box.name for box in self._scene.boxes if box.mass_kg is not None]
        fixtures = [fixture.name for fixture in self._scene.fixtures]
        require_known(name, movable + fixtures, "movable box or fixture")
        offset = self._upload(np.asarray(offset_m))
        if name in movable:
            first = int(self._host.model.jnt_qposadr[self._joints[name]])
            self._state["qpos"][chosen, first : first + 3] += offset
        else:
            self._fields["body_pos"][chosen, self._bodies[name]] += offset
            rooted = self._host.model.body_rootid[self._host.model.geom_bodyid]
            fixed = self._host.model.body_weldid[self._host.model.geom_bodyid] == 0
            geoms = np.flatnonzero((rooted == self._bodies[name]) & fixed)
            self._static["geom_xpos"][np.array(chosen)[:, None], geoms] += offset

    def render(
        self,
        camera: str,
        height: int,
        width: int,
        quality: Quality | None = None,
        rows: Rows | None = None,
    ) -> Tensor:
        """Return one image for each of the worlds `rows` [n h w 3], uint8, on the device."""
        chosen = chosen_rows(rows, self.num_worlds)
        self._launch(self._poses)
        with warp.ScopedDevice(self._warp_device):
            images = self._renderers.render(camera, height, width, quality or Quality())
        return images if rows is None else images[chosen]

    def save(self) -> Floats:
        """Return the complete state of the physics [n s], from which `restore` continues."""
        parts = [view.reshape(self.num_worlds, -1) for view in self._state.values()]
        return _download(torch.cat(parts, dim=1))

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned; the simulation continues bit-identically."""
        sizes = [view[0].numel() for view in self._state.values()]
        if state.shape != (self.num_worlds, sum(sizes)):
            raise ValueError(
                f"a state of this scene has shape {(self.num_worlds, sum(sizes))}, "
                f"got {state.shape}"
            )
        parts = self._upload(state).split(sizes, dim=1)
        for view, part in zip(self._state.values(), parts, strict=True):
            view.copy_(part.reshape(view.shape))

    def close(self) -> None:
        """Free the memory of the renderers."""
        if hasattr(self, "_renderers"):
            self._renderers.close()

    def _run_step(self) -> None:
        mujoco_warp.step(self._model, self._data)

    def _run_forward(self) -> None:
        mujoco_warp.forward(self._model, self._data)
        mujoco_warp.contact_force(self._model, self._data, self._contacts, True, self._wrenches)

    def _run_kinematics(self) -> None:
        mujoco_warp.kinematics(self._model, self._data)
        mujoco_warp.com_pos(self._model, self._data)
        mujoco_warp.camlight(self._model, self._data)

    def _launch(self, graph: Any, count: int = 1) -> None:
        """Run a recorded graph of kernels; torch has its own stream, so wait before and after."""
        self._wait()
        with warp.ScopedDevice(self._warp_device):
            for _ in range(count):
                warp.capture_launch(graph)
        self._wait()

    def _wait(self) -> None:
        if self._warp_device.is_cuda:
            warp.synchronize_device(self._warp_device)

    def _check(self, rows: Rows | None = None) -> None:
        """Check that the worlds `rows` are finite, and that no buffer overflowed.

        Raises:
            RuntimeError: see `step`.
        """
        kinds = mujoco_warp.OverflowType
        harmless = int(kinds.ITERATIONS | kinds.LS_ITERATIONS)
        overflow = warp.to_torch(self._data.overflow) & ~harmless
        state = torch.cat([self._state["qpos"], self._state["qvel"]], dim=1)
        diverged = ~(state.abs() < _MAX_VALUE).all(dim=1)
        if rows is not None:
            others = torch.ones_like(diverged)
            others[list(rows)] = False
            overflow, diverged = overflow.masked_fill(others, 0), diverged & ~others
        if not bool((overflow.bool() | diverged).any()):
            return
        if bool(diverged.any()):
            worlds = diverged.nonzero()[:, 0].tolist()
            raise RuntimeError(
                f"the physics of the worlds {worlds} diverged: a position or speed is not finite"
            )
        worlds = overflow.nonzero()[:, 0].tolist()
        names = ", ".join(str(kind.name) for kind in kinds(int(overflow.max())))
        raise RuntimeError(
            f"the worlds {worlds} have more contacts than fit in memory ({names}): increase "
            f"max_contacts={self._max_contacts} or max_constraints={self._max_constraints}"
        )

    def _upload(self, values: Floats) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self.device)

    def _write(self, view: Tensor, rows: list[int], values: Floats) -> None:
        shaped = torch.as_tensor(values.reshape(len(rows), *view.shape[1:]))
        view[rows] = shaped.to(self.device, view.dtype)


class _HostWorld(MujocoSimulator):
    """The world in MuJoCo that applies the start and the appearance of each reset."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the world, with one more light per camera."""
        spec = build_spec(scene, arm, meshes=self._meshes)
        match_opengl(spec)
        self._use(spec.compile(), scene, arm)
        self._textured = textured_materials(self._model, scene)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self._model

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Reset the world to a start, and set the lights of the cameras."""
        super().reset(start, appearance)
        adapt_look(self._model, *self._textured)

    def values(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return copies of these fields of the state or of the model."""
        found = {}
        for name in names:
            owner = self._data if hasattr(self._data, name) else self._model
            found[name] = np.array(getattr(owner, name), copy=True)
        # The accelerations belong to a state with other forces; every episode begins without.
        found["qacc_warmstart"][:] = 0.0
        return found


def _record(function: Any) -> Any:
    """Run a function, so that its kernels are compiled; then return its kernels as a graph."""
    function()
    with warp.ScopedCapture() as capture:
        function()
    return capture.graph


def _download(values: Tensor) -> Floats:
    return values.double().cpu().numpy().copy()
