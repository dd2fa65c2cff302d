"""Scripted expert that controls an arm.

The expert reads the state of the robot and the pose of the object, not images. It therefore works
only on the digital twin, where the pose of the object is known. The expert is used to record
demonstrations. Noise can be added to the executed action, while the action without noise is the
label. The demonstrations then contain recoveries from errors (DART, Laskey et al. 2017, arXiv
1703.09327). Demonstrations without noise contain no recoveries.
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

# Quantities that can be computed for an arm, by their names in an environment's privileged state.
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
# At each time step a disturbance begins, or ends, with these probabilities. A disturbance is
# constant until it ends. An arm follows its target with a delay of some time steps, so a new
# disturbance at each time step would hardly move it. Without pauses between disturbances, the
# fingers would never reach around an object.
_BEGINS, _ENDS = 0.1, 0.25


class PrivilegedState:
    """Converter from the state of a robot and a scene to the `state` vector of a scripted expert.

    The vector has the same quantities, in the same order, as `state` in the environment.
    """

    def __init__(self, env_id: str, scene: Scene, translator: Translator) -> None:
        """Read from the environment `env_id` which quantities its `state` contains.

        Raises:
            ValueError: `state` contains quantities that cannot be computed for an arm.
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
        """Return the `state` vector [s] of the expert: s numbers, in the environment's order.

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
    """Agent that controls an arm with the scripted expert of a simulated environment."""

    def __init__(
        self, env_id: str, scene: Scene, translator: Translator, *, noise: float, seed: int
    ) -> None:
        """Create the expert.

        Args:
            env_id: id of the environment, for example `toto/FrankaPick-v0`.
            scene: the scene, from which the expert reads the pose of the object.
            translator: the control loop's translator, from which the expert reads the stored
                joint targets.
            noise: standard deviation of the disturbances of the executed joint action, in units of
                the action range [-1, 1]. The label is not disturbed. 0 means no disturbances.
            seed: seed of the disturbances.

        Raises:
            ValueError: the environment has no expert, its expert reads a quantity that cannot be
                computed for an arm, or `noise` is negative or not finite.
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
        """Return None: a scripted expert has no weights."""

    def reset(self, observation: Observation) -> None:
        """Reset the expert, and end the current disturbance, at the start of an episode."""
        self._expert.reset()
        self._disturbance = None

    def act(self, observation: Observation) -> Proposal:
        """Return the expert's next action with the current disturbance added to it.

        The result also contains the action without the disturbance, as the label of the
        demonstration.
        """
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
