"""The scripted expert on an arm: it reads the state of robot and object, not images.

It records demonstrations where the pose of the object is known: on the twin. Noise on the executed
action, with the undisturbed action as the label, gives demonstrations that contain recoveries from
errors (DART, Laskey et al. 2017, arXiv 1703.09327). Demonstrations without noise contain none.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.arms.kinematics import forward_kinematics, tool_pose
from envs.catalogue import Variant, variant
from envs.experts import EXPERTS
from envs.experts.scripted import base_transform, slices
from envs.geometry import Floats, quaternion_of, quaternion_product

from ..episode import Observation, Proposal, Scene
from ..robot import RobotState
from ..translator import Translator

# The quantities of an environment's privileged state that are known here, by their names there.
_KNOWN = (
    "arm_position",
    "arm_velocity",
    "arm_target",
    "hand_position",
    "hand_command",
    "cube_position",
    "cube_quaternion",
    "tool_position",
    "tool_quaternion",
)
# At each tick a disturbance begins, or ends, with these probabilities. It is constant while it
# lasts, because an arm follows some ticks later and would hardly move by a new disturbance at each
# tick. Without pauses between disturbances, the fingers would never reach around an object.
_BEGINS, _ENDS = 0.1, 0.25


class PrivilegedState:
    """The `state` that an environment's expert reads, computed from a robot and a scene."""

    def __init__(self, env_id: str, scene: Scene, translator: Translator) -> None:
        """Find the environment.

        Raises:
            ValueError: its state has quantities that are unknown for an arm with a scene.
        """
        chosen: Variant[Any] = variant(env_id)
        self._arm = chosen.arm
        self._scene, self._translator = scene, translator
        self._slices = slices(chosen)
        unknown = [name for name in self._slices if name not in _KNOWN]
        if unknown:
            raise ValueError(
                f"the expert of {env_id} reads {', '.join(unknown)}; an arm with a scene provides "
                f"only {', '.join(_KNOWN)}"
            )
        inverse = np.linalg.inv(base_transform(chosen.task.scene(chosen.arm)))
        self._T_world_base: Floats = inverse.astype(np.float64)

    def read(self, state: RobotState) -> NDArray[np.float32]:
        """Return `state` [s].

        Raises:
            ValueError: the pose of the object is unknown.
        """
        pose = self._scene.object_pose()
        if pose is None:
            raise ValueError("the expert needs the pose of the object; this scene does not know it")
        joints = state.joint_positions_rad
        tool = self._T_world_base @ tool_pose(self._arm, joints)
        hand = self._T_world_base @ forward_kinematics(self._arm, joints)
        base_turn = quaternion_of(self._T_world_base[:3, :3])
        width_m = np.nan if state.gripper is None else state.gripper.width_m
        values: dict[str, Any] = {
            "arm_position": joints,
            "arm_velocity": state.joint_velocities_rad_s,
            "arm_target": self._translator.joint_targets_rad,
            "hand_position": width_m,
            "hand_command": self._translator.gripper_command,
            "cube_position": (self._T_world_base @ np.append(pose[:3], 1.0))[:3],
            "cube_quaternion": quaternion_product(base_turn, np.array(pose[3:])),
            "tool_position": tool[:3, 3],
            "tool_quaternion": quaternion_of(hand[:3, :3]),
        }
        parts = [np.atleast_1d(values[name]) for name in self._slices]
        return np.concatenate(parts).astype(np.float32)


class ScriptedAgent:
    """An agent that acts on an arm by an environment's scripted expert."""

    def __init__(
        self, env_id: str, scene: Scene, translator: Translator, *, noise: float, seed: int
    ) -> None:
        """Create the expert.

        Args:
            env_id: the environment of the expert.
            scene: the scene, which knows the pose of the object.
            translator: translator of the control loop, which stores the joint targets.
            noise: standard deviation of the disturbances of the executed joint action, in units of
                the action range [-1, 1]; the label is not disturbed. 0: no disturbances.
            seed: seed of the noise.

        Raises:
            ValueError: the environment has no expert, or its expert reads an unknown quantity.
        """
        if env_id not in EXPERTS:
            raise ValueError(f"no expert for {env_id!r}; known: {', '.join(EXPERTS)}")
        if not 0 <= noise < np.inf:
            raise ValueError(f"noise must be finite and not negative, got {noise}")
        self._expert = EXPERTS[env_id]()
        self._state = PrivilegedState(env_id, scene, translator)
        self._translator = translator
        self._noise, self._rng = noise, np.random.default_rng(seed)
        self._disturbance: Floats | None = None
        self._num_joints = len(translator.joint_targets_rad)
        disturbed = f", disturbed by {noise}" if noise else ""
        self._name = f"scripted expert of {env_id}{disturbed}"

    @property
    def name(self) -> str:
        """Return the name of the expert."""
        return self._name

    @property
    def weights_hash(self) -> None:
        """Return None: there are no weights."""

    def reset(self, observation: Observation) -> None:
        """Begin an episode."""
        self._expert.reset()
        self._disturbance = None

    def act(self, observation: Observation) -> Proposal:
        """Return the expert's action with disturbances; the undisturbed action is the label."""
        begun_s = time.monotonic()
        state = self._state.read(observation.state)
        label = np.clip(self._expert.act({"state": state}), -1.0, 1.0).astype(np.float32)
        label[-1] = self._translator.gripper_order(float(label[-1]))
        action = label.copy()
        if self._disturbance is None and self._rng.random() < _BEGINS:
            self._disturbance = self._rng.normal(scale=self._noise, size=self._num_joints)
        elif self._disturbance is not None and self._rng.random() < _ENDS:
            self._disturbance = None
        if self._disturbance is not None:
            arm = action[: self._num_joints]
            arm += self._disturbance
            np.clip(arm, -1.0, 1.0, out=arm)
        return Proposal(
            actions=action[None],
            observed_s=observation.stamp_s,
            label=label,
            timings_s={"expert": time.monotonic() - begun_s},
        )

    def close(self) -> None:
        """Do nothing: the owner of the scene closes it."""
