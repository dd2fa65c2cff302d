"""The implementation of `Simulator` with MuJoCo on the CPU, one world per simulator."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm
from ..arms.meshes import Meshes
from ..geometry import Floats
from .mujoco_look import ModelAppearance, Renderers, fixed_camera
from .mujoco_model import build_spec, mujoco
from .scene import Appearance, Quality, Scene, Start, require_known

_DIVERGED = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]
_FAST = Quality()
_SIZED = ("geom_size", "geom_rbound", "geom_aabb", "body_mass", "body_inertia")
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class MujocoSimulator:
    """A simulator of one world in MuJoCo on the CPU.

    `envs.simulation.simulator.Simulator` documents the methods in more detail.
    """

    def __init__(self, *, meshes: Meshes | None = None, renderers: Renderers | None = None) -> None:
        """Store what images need.

        Args:
            meshes: the meshes of the arm; None: images show the arm's primitive shapes.
            renderers: renderers that are shared with other worlds of the same scene; None: own
                renderers.
        """
        self._meshes = meshes
        self._renderers = renderers or Renderers()

    def build(self, scene: Scene, arm: Arm) -> None:
        """Build the world: the MuJoCo model of the scene and the arm."""
        self._use(build_spec(scene, arm, meshes=self._meshes).compile(), scene, arm)

    def another(self, renderers: Renderers) -> "MujocoSimulator":
        """Return another world of the same scene; call this method before the first `reset`.

        Args:
            renderers: the renderers of the new world.
        """
        world = MujocoSimulator(meshes=self._meshes, renderers=renderers)
        world._use(copy.copy(self._model), self._scene, self._arm)
        return world

    def _use(self, model: mujoco.MjModel, scene: Scene, arm: Arm) -> None:
        self._model, self._scene, self._arm = model, scene, arm
        self._servos = (*arm.servos, *arm.hand_servos)
        self._data = mujoco.MjData(model)
        self._actuators = np.array([model.actuator(servo.name).id for servo in self._servos])
        self._qpos = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self._dof = {model.joint(i).name: int(model.jnt_dofadr[i]) for i in range(model.njnt)}
        self._appearance = ModelAppearance(model, scene)
        self._defaults = {name: getattr(model, name).copy() for name in (*_SIZED, "body_pos")}
        self._box_sizes = {box.name: box.size_m for box in scene.boxes}
        self._divergence = [self._data.warning[warning] for warning in _DIVERGED]
        # A name lookup costs a tenth of a step, so the indices are cached.
        self._joint_indices: dict[tuple[str, ...], tuple[NDArray[Any], NDArray[Any]]] = {}
        self._body_indices: dict[tuple[str, ...], NDArray[Any]] = {}
        self._bodies = {model.body(i).name: i for i in range(model.nbody)}
        self._cameras: dict[str, mujoco.MjvCamera] = {}

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Reset the world to a start; speeds are 0, and servo targets are the start positions."""
        model, data = self._model, self._data
        self._resize({**{box.name: box.size_m for box in self._scene.boxes}, **start.box_sizes_m})
        mujoco.mj_resetData(model, data)
        servo_positions = np.concatenate([start.arm_rad, start.hand])
        for servo, position in zip(self._servos, servo_positions, strict=True):
            for name in servo.joints:
                data.qpos[self._qpos[name]] = position
        for name, pose in start.box_poses.items():
            address = self._qpos[require_known(name, self._qpos, "movable box")]
            data.qpos[address : address + 7] = pose
        model.body_pos[:] = self._defaults["body_pos"]
        fixtures = {fixture.name for fixture in self._scene.fixtures}
        for name, position in start.fixture_positions_m.items():
            model.body_pos[model.body(require_known(name, fixtures, "fixture")).id] = position
        data.ctrl[self._actuators] = servo_positions
        self._appearance.apply(appearance)
        mujoco.mj_forward(model, data)

    def set_joint_targets(self, targets: Floats) -> None:
        """Set the targets [servos] of the arm's servos in order, then of the hand's, rad or m."""
        self._data.ctrl[self._actuators] = targets

    def step(self, num_steps: int) -> None:
        """Advance the simulation by `num_steps` physics time steps.

        Raises:
            RuntimeError: the physics diverged.
        """
        mujoco.mj_step(self._model, self._data, num_steps)
        self._check_divergence()

    def follow(self, targets: Floats, num_steps: int) -> None:
        """Set k targets per servo [k servos] in sequence; run `num_steps` time steps after each.

        The environment could call `set_joint_targets` and `step` instead, but the overhead of ten
        such calls is as long as one physics time step.

        Raises:
            RuntimeError: the physics diverged.
        """
        model, data, actuators = self._model, self._data, self._actuators
        controls = data.ctrl
        for target in targets:
            controls[actuators] = target
            mujoco.mj_step(model, data, num_steps)
        self._check_divergence()

    def _check_divergence(self) -> None:
        # MuJoCo resets a diverged world to its default, and counts a warning.
        if any([warning.number for warning in self._divergence]):
            raise RuntimeError("the physics diverged: a position, speed or force is not finite")

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Return positions (rad or m) and velocities (rad/s or m/s) of the joints, each [names]."""
        key = tuple(names)
        if key not in self._joint_indices:
            self._joint_indices[key] = (
                np.array([self._qpos[require_known(name, self._qpos, "joint")] for name in key]),
                np.array([self._dof[name] for name in key]),
            )
        positions, velocities = self._joint_indices[key]
        return self._data.qpos[positions], self._data.qvel[velocities]

    def bodies(self, names: Sequence[str]) -> Floats:
        """Return the world poses [names 7] of bodies: position in m, then quaternion, w first."""
        # mj_step leaves xpos one step old, so the kinematics are updated first.
        mujoco.mj_kinematics(self._model, self._data)
        ids = self._body_ids(names)
        return np.concatenate([self._data.xpos[ids], self._data.xquat[ids]], axis=1)

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Return the magnitude of the total contact force on each body [names], N."""
        model, data = self._model, self._data
        totals, wrench = np.zeros((model.nbody, 3)), np.zeros(6)
        sides = model.geom_bodyid[data.contact.geom[: data.ncon]]
        requested = np.zeros(model.nbody, dtype=np.bool_)
        requested[self._body_ids(names)] = True
        wanted = requested[sides].any(axis=1) & (sides[:, 0] != sides[:, 1])
        for index in np.flatnonzero(wanted):
            mujoco.mj_contactForce(model, data, index, wrench)
            force = data.contact.frame[index].reshape(3, 3).T @ wrench[:3]
            totals[sides[index, 1]] += force
            totals[sides[index, 0]] -= force
        return np.linalg.norm(totals[self._body_ids(names)], axis=1)

    def push(self, name: str, force_n: Sequence[float]) -> None:
        """Apply a force [3], N, to a body's centre of mass until the next `push` or `reset`."""
        (body,) = self._body_ids((name,))
        self._data.xfrc_applied[body, :3] = force_n

    def displace(self, name: str, offset_m: Sequence[float]) -> None:
        """Move a movable box or a fixture instantly by `offset_m` [3], without collision checks."""
        model, data = self._model, self._data
        movable = [box.name for box in self._scene.boxes if box.mass_kg is not None]
        fixtures = [fixture.name for fixture in self._scene.fixtures]
        require_known(name, movable + fixtures, "movable box or fixture")
        if name in movable:
            data.qpos[self._qpos[name] : self._qpos[name] + 3] += offset_m
        else:
            model.body_pos[model.body(name).id] += offset_m
        mujoco.mj_forward(model, data)

    def render(
        self, camera: str, height: int, width: int, quality: Quality | None = None
    ) -> NDArray[np.uint8]:
        """Return an image [h w 3] of a camera; `quality` None is the fastest quality."""
        if camera not in self._cameras:
            self._cameras[camera] = fixed_camera(self._model, camera)
        # mj_step leaves bodies and cameras one step old, and `bodies` updates only the bodies.
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._renderers.render(
            self._model, self._data, self._cameras[camera], (height, width), quality or _FAST
        )

    def positions(self) -> Floats:
        """Return the positions [q] of all joints and movable boxes: MuJoCo's `qpos`."""
        return self._data.qpos.copy()

    def place(self, positions: Floats) -> None:
        """Set the positions [q] of all joints and movable boxes, and all velocities to 0.

        No time step is simulated. Use this method to measure or render a given configuration.

        Raises:
            ValueError: `positions` has the wrong shape.
        """
        if positions.shape != (self._model.nq,):
            raise ValueError(
                f"positions must have shape {(self._model.nq,)}, got {positions.shape}"
            )
        self._data.qpos[:] = positions
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def save(self) -> Floats:
        """Return the complete state of the physics [n], from which `restore` continues."""
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        return state

    def restore(self, state: Floats) -> None:
        """Restore a state that `save` returned; the simulation continues bit-identically."""
        size = mujoco.mj_stateSize(self._model, _STATE)
        if state.shape != (size,):
            raise ValueError(f"a state of this scene has shape {(size,)}, got {state.shape}")
        mujoco.mj_setState(self._model, self._data, state, _STATE)
        mujoco.mj_forward(self._model, self._data)

    def close(self) -> None:
        """Free the graphics memory of the renderers."""
        self._renderers.close()

    def _body_ids(self, names: Sequence[str]) -> NDArray[Any]:
        key = tuple(names)
        if key not in self._body_indices:
            self._body_indices[key] = np.array(
                [self._bodies[require_known(name, self._bodies, "body")] for name in key]
            )
        return self._body_indices[key]

    def _resize(self, sizes_m: dict[str, tuple[float, float, float]]) -> None:
        """Set the edge lengths of boxes, and adapt masses and inertias at constant density."""
        if sizes_m == self._box_sizes:
            return
        model = self._model
        # All values are computed from the built model, so that earlier episodes have no influence.
        for name in (*_SIZED, "body_pos"):
            getattr(model, name)[:] = self._defaults[name]
        for name, size in sizes_m.items():
            geom = model.geom(require_known(name, self._box_sizes, "box")).id
            half = np.array(size) / 2
            if np.array_equal(half, model.geom_size[geom]):
                continue
            volume_ratio = np.prod(half) / np.prod(model.geom_size[geom])
            model.geom_size[geom] = half
            model.geom_rbound[geom] = np.linalg.norm(half)
            model.geom_aabb[geom, 3:] = half
            body = int(model.geom_bodyid[geom])
            model.body_mass[body] *= volume_ratio
            x, y, z = np.square(2 * half)
            model.body_inertia[body] = model.body_mass[body] / 12 * np.array([y + z, x + z, x + y])
        mujoco.mj_setConst(model, self._data)
        self._box_sizes = sizes_m
