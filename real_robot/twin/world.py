"""Physics simulation of the twin: an environment's scene and arm in MuJoCo, stepped at 1 kHz.

The class `World` extends the simulation of franka-sim. It uses the model of the environment, places
the arm's base in the scene, and sets the frame of the tool. It adds external pushes, a hand that
grasps, and a queue of functions that other threads add. franka-sim 1.1.7 is written for MuJoCo 3.2.
Its methods `initialize_simulation` and `_bind_self_collision` fail on MuJoCo 4, so they are
replaced here.
"""

import time

import mujoco
import numpy as np
from franka_sim.cartesian_ik import CartesianJointSolver
from franka_sim.control_modes import ControlMode
from franka_sim.mujoco_franka_sim import MujocoFrankaSim
from franka_sim.sim_common import FR3_FORCE_LIMITS
from numpy.typing import NDArray

from envs.arms.arm import Arm
from envs.geometry import Floats
from envs.simulation.mujoco_model import build_spec
from envs.simulation.scene import Scene

from ..limits import FR3
from .fingers import Fingers
from .jobs import Jobs
from .shared import Shared

TIMESTEP_S = 0.001  # cycle of Franka's control interface
_SETTLE_STEPS = 100
_SMOOTHING = 0.02  # low-pass weight of external torques per step: a time constant of 50 ms
_QUIET_NM = 0.01  # smaller external torques do not count as a push
_NUM_STEP_TIMES = 20_000
# Regularisation for directions in which the tool moves less than 10 mm per radian. Without it, a
# torque error of 0.01 Nm would become a force error of hundreds of newtons in these directions.
_REGULAR = 1e-4 * np.eye(6)


class World(MujocoFrankaSim):
    """Simulation of arm, hand and objects; only the physics thread may change its state `data`.

    Attributes:
        jobs: queue of functions from other threads, which the physics thread calls.
        fingers: target position of the hand's fingers.
    """

    def __init__(self, scene: Scene, arm: Arm, home_rad: Floats, shared: Shared) -> None:
        """Store the settings; the simulation starts later, in `initialize_simulation`.

        Args:
            scene: the environment's scene.
            arm: the arm's model, kinematics and hand.
            home_rad: joint positions of the home pose [7], rad.
            shared: memory into which the positions are written, for the cameras.
        """
        super().__init__(enable_hand=True, model_path=arm.model)
        self.arm, self.home_rad, self.base_yaw_rad = arm, home_rad, scene.base_yaw_rad
        self._scene, self._shared = scene, shared
        self._hand = arm.hand_servos[0]
        self.latest_joint_positions = home_rad.copy()
        self.jobs = Jobs()
        self._step_times_s = np.zeros(_NUM_STEP_TIMES)
        self.num_steps = self._num_reported_steps = 0
        self._torques = np.zeros(7)  # torques that a client commands directly
        self._tau_ext = np.zeros(7)
        # The current push: body, force in the frame of the world, end time.
        self._push: tuple[int, Floats, float] | None = None
        self._push_nm = np.zeros(7)
        self._path: tuple[Floats, Floats] | None = None  # times, positions
        self.fingers = Fingers(self._hand)
        cos, sin = np.cos(scene.base_yaw_rad), np.sin(scene.base_yaw_rad)
        self.R_world_base = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.base_position_m = np.array(scene.base_position_m)
        # Transforms a twist from the frame of the world to the frame of the base.
        self._turn = np.zeros((6, 6))
        self._turn[:3, :3] = self._turn[3:, 3:] = self.R_world_base.T
        self._T_base_world = np.eye(4)
        self._T_base_world[:3, :3] = self.R_world_base.T
        self._T_base_world[:3, 3] = -self.R_world_base.T @ self.base_position_m
        self._T_link7_flange = np.eye(4)
        self._T_link7_flange[2, 3] = arm.flange_m

    def initialize_simulation(self) -> None:
        """Build the simulation, and run it until all objects are at rest."""
        spec = build_spec(self._scene, self.arm)
        spec.option.timestep = self.dt
        # Without these iterations a grasped cube slips by 0.7 mm/s, with them by 0.004 mm/s.
        spec.option.noslip_iterations = 3
        for servo in self.arm.servos:
            # The control mode sets the gains, and a target may lie beyond the joint's limits.
            spec.actuator(servo.name).ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        for name, lower, upper in zip(
            self.arm.joint_names, FR3.lower_rad, FR3.upper_rad, strict=True
        ):
            spec.joint(name).range = [lower, upper]
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._bind_model()
        self._configure_model()
        self._hand_actuator = self.model.actuator(self._hand.name).id
        self._motors = np.array([self.model.actuator(servo.name).id for servo in self.arm.servos])
        self._stiffness = np.array([servo.stiffness for servo in self.arm.servos])
        self._damping = np.array([servo.damping for servo in self.arm.servos])
        self._gains_mode: ControlMode | None = None
        self._fingers = _slice(self.finger_qpos_adr), _slice(self.finger_dofs_idx)
        self._joints = _slice(self.arm_qpos_adr), _slice(self.arm_dofs_idx)
        self._pushed = np.zeros(self.model.nv)
        self._go_home()
        for _ in range(_SETTLE_STEPS):
            self._apply_control()
            mujoco.mj_step(self.model, self.data)
        self._read_and_publish_state()

    def _bind_self_collision(self) -> None:
        # In franka-sim, the margin of a contact equals its gap. In MuJoCo 4, this causes forces.
        # The geometries of the arm never collide with each other.
        self._self_collision_pairs = {}

    # Methods that other threads call, directly or through `jobs`

    def put_box(self, name: str, position_m: Floats, yaw_rad: float) -> None:
        """Place a movable box at rest.

        Args:
            name: name of the box in the scene.
            position_m: position x, y, z in the frame of the arm's base, m.
            yaw_rad: rotation about the vertical axis of the base, rad.
        """
        joint = self.model.joint(name)
        pose, start = joint.qposadr[0], joint.dofadr[0]
        yaw = yaw_rad + self.base_yaw_rad
        self.data.qpos[pose : pose + 3] = self.to_world(position_m)
        self.data.qpos[pose + 3 : pose + 7] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self.data.qvel[start : start + 6] = 0.0

    def box_speed(self, name: str) -> float:
        """Return the largest component of a box's velocity, linear (m/s) or angular (rad/s)."""
        start = self.model.joint(name).dofadr[0]
        return float(np.abs(self.data.qvel[start : start + 6]).max())

    def to_world(self, position_m: Floats) -> Floats:
        """Convert a point x, y, z, m, from the frame of the arm's base to the world's frame."""
        return self.base_position_m + self.R_world_base @ position_m

    def go_home(self) -> None:
        """Set the arm to its home pose, and the hand to open, at once and without a motion."""
        self._go_home()
        self.set_control_mode(ControlMode.POSITION)

    def push(self, body: str, force_n: Floats, seconds: float) -> None:
        """Apply a force to the centre of mass of a body.

        Args:
            body: name of the body.
            force_n: force x, y, z in the frame of the arm's base, N.
            seconds: duration in simulated time, s.

        Raises:
            ValueError: the scene has no body of this name.
        """
        names = [self.model.body(index).name for index in range(self.model.nbody)]
        if body not in names:
            raise ValueError(f"no body {body!r}; known: {', '.join(names[1:])}")
        self._push = (names.index(body), self.R_world_base @ force_n, self.data.time + seconds)

    def lead(self, path_rad: Floats, seconds: float) -> None:
        """Start to guide the joints along a path, from their present positions.

        Args:
            path_rad: n positions of the 7 joints [n 7], rad. All sections of the path take the
                same time.
            seconds: duration of the whole path, s.
        """
        points = np.concatenate([[self.data.qpos[self.arm_qpos_adr]], path_rad])
        times = self.data.time + np.linspace(0.0, seconds, len(points))
        self._path = (times, points)
        self.update_joint_positions(points[0])
        self.set_control_mode(ControlMode.POSITION)

    @property
    def leading(self) -> bool:
        """Return whether the arm is being guided."""
        return self._path is not None

    def stop_leading(self) -> None:
        """Stop guiding the arm at its current pose."""
        self._path = None

    def periods_s(self) -> Floats:
        """Return the measured wall times [n], s, of the n simulation steps since the previous call.

        Only about the newest 20,000 steps are returned.
        """
        end = self.num_steps
        begin = max(self._num_reported_steps, end - _NUM_STEP_TIMES)
        self._num_reported_steps = end - 1
        return np.diff(self._step_times_s[np.arange(begin, end) % _NUM_STEP_TIMES])

    # Methods that franka-sim calls in the physics thread

    def update_ee_transform(self, f_t_ee: object) -> None:
        """Set the pose of the tool in the frame of the flange.

        This method is replaced because franka-sim assumes that the flange is at link 7.
        """
        super().update_ee_transform(f_t_ee)
        self._f_t_ee = self._T_link7_flange @ self._f_t_ee

    def ee_pose(self) -> Floats:
        """Return the pose of the tool in the frame of the base, `T_base_ee` [4 4].

        This method is replaced because franka-sim assumes that the base is at the world's origin.
        """
        return self._in_base(self.data) @ self._f_t_ee

    def ee_jacobian(self) -> Floats:
        """Return the Jacobian [6 7] of the tool in the frame of the base."""
        return self._turn @ super().ee_jacobian()

    def joint_space_solver(self) -> CartesianJointSolver | None:
        """Return a solver of the inverse kinematics with a copy of the simulation's data.

        The thread of the server uses the solver while the physics thread changes the data.
        """
        if self.model is None:
            return None
        model, data = self.model, mujoco.MjData(self.model)
        jacobian = np.zeros((6, model.nv))

        def forward(joints_rad: Floats) -> tuple[Floats, Floats]:
            data.qpos[self.arm_qpos_adr] = joints_rad
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            rotation = data.xmat[self.ee_body_id].reshape(3, 3)
            point = data.xpos[self.ee_body_id] + rotation @ self._f_t_ee[:3, 3]
            mujoco.mj_jac(model, data, jacobian[:3], jacobian[3:], point, self.ee_body_id)
            pose = self._in_base(data) @ self._f_t_ee
            return pose, self._turn @ jacobian[:, self.arm_dofs_idx]

        return CartesianJointSolver(forward)

    def _in_base(self, data: mujoco.MjData) -> Floats:
        link7 = np.zeros((4, 4))
        link7[:3, :3] = data.xmat[self.ee_body_id].reshape(3, 3)
        link7[:3, 3] = data.xpos[self.ee_body_id]
        link7[3, 3] = 1.0
        return self._T_base_world @ link7

    def _apply_control(self) -> None:
        self._step_times_s[self.num_steps % _NUM_STEP_TIMES] = time.perf_counter()
        self.num_steps += 1
        self.jobs.run()
        if self._path is not None:
            self._follow_path()
        self.data.qfrc_applied[:] = 0.0
        self._drive_arm()
        if self._push is not None:
            self._apply_push()
        self._drive_fingers()

    def _read_and_publish_state(self) -> None:
        model, data = self.model, self.data
        # After mj_step, the poses of the bodies belong to the joint positions before this step.
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        self._readings_time = None
        places, dofs = self._joints
        # Constraint forces on a joint of the arm come only from contacts and joint limits.
        pushed = data.qfrc_constraint[dofs] + self._push_nm
        self._tau_ext = self._tau_ext + _SMOOTHING * (pushed - self._tau_ext)
        jacobian, pose = self._step_ee_readings()
        wrench = np.zeros(6)
        tau_ext = self._tau_ext.tolist()
        if max(map(abs, tau_ext)) > _QUIET_NM:
            gram = jacobian @ jacobian.T + _REGULAR
            wrench = np.linalg.solve(gram, jacobian @ self._tau_ext)
        joints, speeds = data.qpos[places].copy(), data.qvel[dofs].copy()
        fingers, finger_dofs = self._fingers
        self._finger_snapshot = {
            "q": data.qpos[fingers].copy(),
            "dq": data.qvel[finger_dofs].copy(),
        }
        # Other threads read this dictionary at any time, so it is replaced and not changed. It
        # contains lists, because the server reads single numbers, which is slow with arrays.
        self._state_snapshot = {
            "q": joints.tolist(),
            "dq": speeds.tolist(),
            "tau_J": (data.actuator_force[self._motors] + self._torques).tolist(),
            "O_T_EE": pose.T.ravel().tolist(),
            "O_dP_EE": (jacobian[:3] @ speeds).tolist(),
            "O_J_EE": jacobian,
            "self_collision": None,
            "tau_ext_hat_filtered": tau_ext,
            "O_F_ext_hat_K": wrench.tolist(),
            "K_F_ext_hat_K": (wrench.reshape(2, 3) @ pose[:3, :3]).ravel().tolist(),
        }
        self._shared.write(data.qpos, data.qvel)

    def _go_home(self) -> None:
        data = self.data
        data.qvel[self.arm_dofs_idx] = 0.0
        data.qpos[self.arm_qpos_adr] = self.home_rad
        data.qpos[self.finger_qpos_adr] = self.fingers.open()
        data.qvel[self.finger_dofs_idx] = 0.0
        self.update_joint_positions(self.home_rad.copy())
        self.update_torques(np.zeros(7))
        self._position_feedforward.reset(self.home_rad)
        self._tau_ext = np.zeros(7)
        mujoco.mj_forward(self.model, data)

    def _follow_path(self) -> None:
        assert self._path is not None
        times, points = self._path
        now_s = self.data.time
        self.update_joint_positions(
            np.array([np.interp(now_s, times, column) for column in points.T])
        )
        if now_s >= times[-1]:
            self._path = None

    def _apply_push(self) -> None:
        assert self._push is not None
        body, force_n, until_s = self._push
        if self.data.time >= until_s:
            self._push, self._push_nm = None, np.zeros(7)
            return
        self._pushed[:] = 0.0
        point = self.data.xipos[body]
        mujoco.mj_applyFT(self.model, self.data, force_n, np.zeros(3), point, body, self._pushed)
        self.data.qfrc_applied += self._pushed
        self._push_nm = self._pushed[self.arm_dofs_idx]

    def _drive_arm(self) -> None:
        """Set the controls of the joint actuators from the client's command.

        MuJoCo integrates the damping of actuators implicitly. franka-sim applies the same torques
        explicitly; with the arm's stiff gains and its inertia, they would oscillate between the
        torque limits.
        """
        mode, data = self.control_mode, self.data
        if mode != self._gains_mode:
            self._set_gains(mode)
        if mode == ControlMode.TORQUE:
            self._torques = np.clip(self.latest_torques, -FR3_FORCE_LIMITS, FR3_FORCE_LIMITS)
            data.qfrc_applied[self._joints[1]] = self._torques
            return
        self._torques = np.zeros(7)
        if mode in (ControlMode.CARTESIAN_POSE, ControlMode.CARTESIAN_VELOCITY):
            jacobian, pose = self._step_ee_readings()
            data.ctrl[self._motors] = self.cartesian_joint_velocity(jacobian, pose)
        elif mode == ControlMode.VELOCITY:
            data.ctrl[self._motors] = self.latest_joint_velocities
        else:
            target = self.latest_joint_positions
            speed = self._position_feedforward.step(target, self.dt)
            # Damping must act on the difference from the commanded speed, so the target is shifted.
            data.ctrl[self._motors] = target + self._damping / self._stiffness * speed

    def _set_gains(self, mode: ControlMode) -> None:
        """Set the gains of the actuators for a control mode (force = gain * control + bias)."""
        gain, motors = self.model.actuator_gainprm, self._motors
        bias = self.model.actuator_biasprm
        gain[motors, 0], bias[motors, 1:3] = 0.0, 0.0
        if mode == ControlMode.POSITION:
            gain[motors, 0], bias[motors, 1] = self._stiffness, -self._stiffness
            bias[motors, 2] = -self._damping
        elif mode != ControlMode.TORQUE:
            gain[motors, 0], bias[motors, 2] = self._damping, -self._damping
        self._gains_mode = mode

    def _drive_fingers(self) -> None:
        left, right = self.data.qpos[self._fingers[0]].tolist()
        self.data.ctrl[self._hand_actuator] = self.fingers.step((left + right) / 2, TIMESTEP_S)


def _slice(addresses: NDArray[np.intp]) -> slice:
    """Return consecutive indices as a slice, because indexing with a slice is faster."""
    first = int(addresses[0])
    assert list(addresses) == list(range(first, first + len(addresses)))
    return slice(first, first + len(addresses))
