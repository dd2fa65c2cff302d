"""The Gymnasium environment: a simulator, an arm, its controller and a task."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .arms import Arm
from .interface import CameraSpec, Interface
from .mujoco_backend import MujocoSimulator
from .randomisation import check_groups, draw_appearance
from .simulator import Simulator
from .tasks.pick import PickTask

Observation = dict[str, NDArray[Any]]

RATE_HZ = 10.0

# An action of 1 moves a joint's target by this much in one control step of 0.1 s. The target moves
# at an even speed within the step, so a joint is asked for at most 1.0 rad/s: 46 % of the Panda's
# limit for its large joints (2.175 rad/s) and 38 % for the small ones (2.61 rad/s). Up to 0.2 would
# stay within them; 0.1 makes a policy's error of 5 % half as large, for four steps more an episode.
JOINT_INCREMENT_RAD = 0.1

# The target is renewed this often within a control step.
_TARGETS_PER_STEP = 10
# The gripper's target stays this close to where the fingers are: 4000 N/m * 15 mm = 60 N between
# two fingers on a cube (the real hand holds with up to 70 N), and a closed hand opens at once.
_GRIPPER_LEAD_M = 0.015

# The limits of what is reported; a joint that is thrown faster is reported as this fast.
_POSITION_MARGIN_RAD = 0.1
_MAX_REPORTED_SPEED = 10.0
_MAX_REPORTED_STATE = 10.0
_VIEWER_PX = 480
_VISUALS = ("light",)


class ManipulationEnv(gymnasium.Env[Any, Any]):
    """Control an arm by joint increments and look at it through cameras.

    Observations: a Dict of `image_<camera>` uint8 [h w 3] for every camera, `proprio` float32
    [p] and, when privileged, `state` float32 [s]; `proprio_names` and `state_names` name the
    elements.

    Actions: float32 [8] in [-1, 1]. The first seven are added, scaled, to a stored joint target
    (not to the measured position), which is cut at the joint limits. The last is the gripper's
    opening: 1 fully open, -1 fully closed.

    An episode does not end on success: `info["success"]` becomes true once the goal has been
    held, and stays true. It is terminated when the task has failed for good, and truncated by the
    TimeLimit of `gymnasium.make`. `info["reward_terms"]` names the terms whose sum is the reward.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RATE_HZ}  # noqa: RUF012

    def __init__(
        self,
        *,
        arm: Arm,
        task: PickTask,
        cameras: Sequence[str] = ("hand", "front"),
        image_size: int = 128,
        privileged: bool = False,
        visuals: str = "light",
        randomise: Sequence[str] = (),
        render_mode: str | None = None,
        simulator: Simulator | None = None,
    ) -> None:
        """Build the world.

        Args:
            arm: the robot.
            task: what there is to do.
            cameras: which of the scene's cameras are observed; none makes steps quick.
            image_size: height and width of their pictures in pixels.
            privileged: whether observations carry `state`, which a real robot would not have.
            visuals: how the arm is drawn; only `light` (primitive shapes) so far.
            randomise: which groups of `envs.randomisation.GROUPS` are drawn anew per episode.
            render_mode: `rgb_array` or None.
            simulator: a simulator that is not built yet; MuJoCo when None.

        Raises:
            ValueError: for an unknown camera, group, visual or render mode, listing the known.
        """
        scene = task.scene(arm)
        _check_cameras(cameras, [camera.name for camera in scene.cameras])
        if image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, got {image_size}")
        if visuals == "mesh":
            raise ValueError('visuals="mesh" is not there yet; use visuals="light"')
        if visuals not in _VISUALS:
            raise ValueError(f"unknown visuals {visuals!r}; known: {', '.join(_VISUALS)}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}; known: rgb_array, None")
        self.render_mode = render_mode
        self.arm = arm
        self.task = task
        self._scene = scene
        self._privileged = privileged
        self._randomise = check_groups(randomise)
        self.interface = Interface(
            arm=arm.name,
            cameras=tuple(
                CameraSpec(name=name, height=image_size, width=image_size) for name in cameras
            ),
            proprio=(
                *(f"{name}_position" for name in arm.joint_names),
                *(f"{name}_velocity" for name in arm.joint_names),
                "gripper_width",
                "gripper_command",
            ),
            action_kind="joint_increment",
            action=(*(f"{name}_increment" for name in arm.joint_names), "gripper_opening"),
            action_scale=(*[JOINT_INCREMENT_RAD] * len(arm.servos), 1.0),
            rate_hz=RATE_HZ,
        )
        self.state_names = (
            *(f"{name}_position" for name in arm.joint_names),
            *(f"{name}_target" for name in arm.joint_names),
            "gripper_width",
            "gripper_command",
            *task.state_names,
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.interface.action),), np.float32)
        self._image_boxes, self._vector_boxes = self._observation_boxes()
        self.observation_space = spaces.Dict({**self._image_boxes, **self._vector_boxes})
        self._num_substeps = round(1 / (RATE_HZ * scene.timestep_s))
        self._simulator: Simulator = MujocoSimulator() if simulator is None else simulator
        self._simulator.build(scene, arm)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the same seed gives the same one, to the bit.

        Raises:
            ValueError: when `options` are given: there are none.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"reset takes no options, got {', '.join(sorted(options))}")
        # One number each, whether it is used or not: randomising the look moves nothing else.
        start_rng, look_rng = (
            np.random.default_rng(int(number)) for number in self.np_random.integers(2**63, size=2)
        )
        start = self.task.sample_start(self.arm, start_rng)
        fingers = dict.fromkeys(self.arm.gripper.joints, start.finger_position_m)
        self._simulator.reset(
            {**dict(zip(self.arm.joint_names, start.joint_positions, strict=True)), **fingers},
            start.box_poses,
            draw_appearance(self._scene, self._randomise, look_rng),
        )
        self._joint_targets = start.joint_positions.copy()
        self._finger_target_m = start.finger_position_m
        self._gripper_command = 2 * start.finger_position_m / self.arm.gripper.upper - 1
        self._num_held = 0
        self._success = False
        self._state = self.task.measure(self._simulator, self.arm)
        return self._observe(), {"success": False, "reward_terms": {}}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one control step.

        Raises:
            ValueError: when the action has the wrong shape or is not finite.
        """
        clipped = self._check_action(action)
        self._move(clipped)
        self._state = self.task.measure(self._simulator, self.arm)
        self._num_held = self._num_held + 1 if self.task.at_goal(self._state) else 0
        self._success |= self._num_held >= self.task.num_hold_steps(RATE_HZ)
        terms = {
            name: float(term) for name, term in self.task.rewards(self._state, clipped).items()
        }
        terminated = bool(self.task.failed(self._state))
        info = {"success": self._success, "reward_terms": terms}
        return self._observe(), sum(terms.values()), terminated, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Give a picture [480 480 3] for people, or None without a render mode."""
        if self.render_mode is None:
            return None
        return self._simulator.render(self._scene.viewer.name, _VIEWER_PX, _VIEWER_PX, fine=True)

    def close(self) -> None:
        """Free graphics memory."""
        self._simulator.close()

    def _check_action(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Give the action cut to [-1, 1]."""
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape:
            raise ValueError(
                f"an action has shape {self.action_space.shape} "
                f"({', '.join(self.interface.action)}), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"an action must be finite, got {values}")
        return np.clip(values, -1.0, 1.0)

    def _move(self, action: NDArray[np.float64]) -> None:
        """Move the targets evenly to where the action wants them, over one control step."""
        arm = self.arm
        before = self._joint_targets
        self._joint_targets = np.clip(
            before + JOINT_INCREMENT_RAD * action[:-1], arm.lower_rad, arm.upper_rad
        )
        self._gripper_command = float(action[-1])
        wanted_m = (self._gripper_command + 1) / 2 * arm.gripper.upper
        finger_m = self._finger_position_m()
        finger_m = float(
            np.clip(self._finger_target_m, finger_m - _GRIPPER_LEAD_M, finger_m + _GRIPPER_LEAD_M)
        )
        most_m = arm.gripper.max_speed / RATE_HZ
        self._finger_target_m = finger_m + float(np.clip(wanted_m - finger_m, -most_m, most_m))
        targets = np.linspace(
            np.append(before, finger_m),
            np.append(self._joint_targets, self._finger_target_m),
            _TARGETS_PER_STEP + 1,
        )
        for target in targets[1:]:
            self._simulator.set_joint_targets(target)
            self._simulator.step(self._num_substeps // _TARGETS_PER_STEP)

    def _finger_position_m(self) -> float:
        positions, _ = self._simulator.joints(self.arm.gripper.joints)
        return float(positions.mean())

    def _observe(self) -> Observation:
        positions, velocities = self._simulator.joints(self.arm.joint_names)
        gripper = [2 * self._finger_position_m(), self._gripper_command]
        parts = {"proprio": np.concatenate([positions, velocities, gripper])}
        if self._privileged:
            parts["state"] = np.concatenate(
                [positions, self._joint_targets, gripper, self.task.privileged(self._state)]
            )
        observation: Observation = {
            f"image_{camera.name}": self._simulator.render(camera.name, camera.height, camera.width)
            for camera in self.interface.cameras
        }
        for key, values in parts.items():
            box = self._vector_boxes[key]
            observation[key] = np.clip(values.astype(np.float32), box.low, box.high)
        return observation

    def _observation_boxes(self) -> tuple[dict[str, spaces.Box], dict[str, spaces.Box]]:
        arm, num_joints = self.arm, len(self.arm.servos)
        lower = np.array(arm.lower_rad) - _POSITION_MARGIN_RAD
        upper = np.array(arm.upper_rad) + _POSITION_MARGIN_RAD
        speed = np.full(num_joints, _MAX_REPORTED_SPEED)
        gripper_low, gripper_high = [-0.01, -1.0], [2 * arm.gripper.upper + 0.01, 1.0]
        images: dict[str, spaces.Box] = {
            f"image_{camera.name}": spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in self.interface.cameras
        }
        vectors = {"proprio": _box([lower, -speed, gripper_low], [upper, speed, gripper_high])}
        if self._privileged:
            task = np.full(len(self.task.state_names), _MAX_REPORTED_STATE)
            vectors["state"] = _box(
                [lower, lower, gripper_low, -task], [upper, upper, gripper_high, task]
            )
        return images, vectors


def _box(low: list[Any], high: list[Any]) -> spaces.Box:
    return spaces.Box(
        np.concatenate(low).astype(np.float32),
        np.concatenate(high).astype(np.float32),
        dtype=np.float32,
    )


def _check_cameras(cameras: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(cameras, str):
        raise ValueError(f"cameras takes a sequence of names, such as ({cameras!r},)")
    unknown = [name for name in cameras if name not in known]
    if unknown:
        raise ValueError(
            f"unknown camera {', '.join(map(repr, unknown))}; known: {', '.join(known)}"
        )
