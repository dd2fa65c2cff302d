"""The scripted expert on an arm: fed with where the robot and the object are, not with pictures.

It is there to record demonstrations where somebody knows the object's pose: on the twin. Noise on
what is executed, while the label stays the expert's word, makes demonstrations that show the way
back (Laskey et al. 2017, DART, arXiv 1703.09327): what a clone of the expert alone never sees.
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

# What this can tell of an environment's privileged state: task quantities by their names there.
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
# Disturbances come and go: at each tick they begin, or end, with these probabilities. While one
# lasts it is the same: an arm follows some ticks later, and of a new one at each tick it would show
# next to nothing. Without calm between them no fingers would get around anything.
_BEGINS, _ENDS = 0.1, 0.25


class PrivilegedState:
    """Build the `state` that an environment's expert reads, from a robot and a scene."""

    def __init__(self, env_id: str, scene: Scene, translator: Translator) -> None:
        """Look the environment up.

        Raises:
            ValueError: its state has what an arm and a scene cannot tell; naming it.
        """
        chosen: Variant[Any] = variant(env_id)
        self._arm = chosen.arm
        self._scene, self._translator = scene, translator
        self._slices = slices(chosen)
        unknown = [name for name in self._slices if name not in _KNOWN]
        if unknown:
            raise ValueError(
                f"the expert of {env_id} reads {', '.join(unknown)}; an arm with a scene can tell "
                f"{', '.join(_KNOWN)}"
            )
        inverse = np.linalg.inv(base_transform(chosen.task.scene(chosen.arm)))
        self._T_world_base: Floats = inverse.astype(np.float64)

    def read(self, state: RobotState) -> NDArray[np.float32]:
        """Return `state` [s].

        Raises:
            ValueError: nobody knows where the object is.
        """
        pose = self._scene.object_pose()
        if pose is None:
            raise ValueError("the expert must know where the object is; this scene cannot tell")
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
    """Let an environment's scripted expert act on an arm."""

    def __init__(
        self, env_id: str, scene: Scene, translator: Translator, *, noise: float, seed: int
    ) -> None:
        """Begin.

        Args:
            env_id: whose expert.
            scene: knows the object's pose.
            translator: that of the loop: the expert reads the stored targets.
            noise: standard deviation of what is now and then added, for some ticks, to the arm's
                part of the executed action, in actions of 1; the label stays without. 0 for none.
            seed: of the noise.

        Raises:
            ValueError: an environment whose expert cannot be fed here.
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
        """Which expert."""
        return self._name

    @property
    def weights_hash(self) -> None:
        """None: there are no weights."""

    def reset(self, observation: Observation) -> None:
        """Begin an episode."""
        self._expert.reset()
        self._disturbance = None

    def act(self, observation: Observation) -> Proposal:
        """Return the expert's action, disturbed, with the undisturbed one as its label."""
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
        """Do nothing: the scene is closed by its owner."""
