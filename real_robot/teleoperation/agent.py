"""From what a person's device says to joint increments: an agent like any other."""

import math
import time
from dataclasses import dataclass

import numpy as np

from envs.arms.arm import Arm
from envs.arms.kinematics import solve_ik, tool_pose
from envs.geometry import Floats, rotation_matrix

from ..episode import Observation, Proposal
from ..translator import Translator
from .device import Command, Device

_MAX_ACTION = 0.95
_ITERATIONS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TeleoperationConfig:
    """Say how far a device reaches.

    Attributes:
        max_speed_m_s: of the tool.
        max_turn_rad_s: of the tool.
        hold_s: how long a key counts; see `keyboard`.
    """

    max_speed_m_s: float
    max_turn_rad_s: float
    hold_s: float

    def __post_init__(self) -> None:
        for name in ("max_speed_m_s", "max_turn_rad_s", "hold_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")


class TeleoperationAgent:
    """Move the tool as a device says.

    The tool goes on from where its targets are, so a wall or a slow arm leaves nothing to catch up
    with. Without input the targets stay, exactly.
    """

    def __init__(
        self, device: Device, arm: Arm, translator: Translator, config: TeleoperationConfig
    ) -> None:
        """Use an open device.

        Args:
            device: what the person holds.
            arm: its kinematics.
            translator: that of the loop, which has the stored targets.
            config: caps.
        """
        self._device, self._arm, self._translator = device, arm, translator
        self._config = config
        self._rest: Floats = np.zeros(len(arm.servos))
        self._period_s = 1 / translator.interface.rate_hz
        self._scale = np.array(translator.interface.action_scale[: len(arm.servos)])
        self._opening = 1.0

    @property
    def name(self) -> str:
        """Which device."""
        return f"operator with {self._device.name}"

    @property
    def weights_hash(self) -> None:
        """None: a person has no weights."""

    def reset(self, observation: Observation) -> None:
        """Begin where the arm is, with the gripper as it is; old input does not count."""
        self._rest = observation.state.joint_positions_rad.copy()
        self._opening = self._translator.gripper_command
        self._device.read()

    def act(self, observation: Observation) -> Proposal:
        """Return the person's action."""
        begun_s = time.monotonic()
        command = self._device.read()
        if command.gripper is not None:
            self._opening = command.gripper
        increments = np.zeros(len(self._scale))
        if command.moves:
            increments = self._increments(command)
        action = np.append(increments, self._opening).astype(np.float32)
        return Proposal(
            actions=action[None],
            observed_s=observation.stamp_s,
            timings_s={"device": time.monotonic() - begun_s},
            end=command.end,
        )

    def close(self) -> None:
        """Do nothing: the device is closed by its owner."""

    def _increments(self, command: Command) -> Floats:
        """Return the arm's part of the action, in the direction asked for if not in its length."""
        targets = self._translator.joint_targets_rad
        goal = tool_pose(self._arm, targets)
        goal[:3, 3] += self._config.max_speed_m_s * self._period_s * _shortened(command.translation)
        turn = self._config.max_turn_rad_s * self._period_s * _shortened(command.rotation)
        goal[:3, :3] = rotation_matrix(turn) @ goal[:3, :3]
        joints, _, _ = solve_ik(
            self._arm, goal, targets, rest=self._rest, num_iterations=_ITERATIONS
        )
        change = (joints - targets) / self._scale
        return change * min(1.0, _MAX_ACTION / max(float(np.abs(change).max()), 1e-9))


def _shortened(values: Floats) -> Floats:
    """Cut a vector to length 1: two keys are no faster than one."""
    return values / max(1.0, float(np.linalg.norm(values)))
