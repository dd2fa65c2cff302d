"""Agent that converts the commands of a teleoperation device to joint increments."""

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
    """Settings of teleoperation.

    Attributes:
        max_speed_m_s: maximum linear speed of the tool, m/s.
        max_turn_rad_s: maximum angular speed of the tool, rad/s.
        hold_s: time for which a key counts as pressed after each key press, s. A terminal does not
            report the release of a key.
    """

    max_speed_m_s: float
    max_turn_rad_s: float
    hold_s: float

    def __post_init__(self) -> None:
        for name in ("max_speed_m_s", "max_turn_rad_s", "hold_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")


class TeleoperationAgent:
    """Agent that moves the tool as a person requests with a device.

    Each motion starts at the newest joint targets, which are stored in the translator, and not at
    the measured positions. Without input, the targets therefore stay exactly the same.
    """

    def __init__(
        self, device: Device, arm: Arm, translator: Translator, config: TeleoperationConfig
    ) -> None:
        """Create the agent.

        Args:
            device: the open device that the person uses.
            arm: kinematics of the arm.
            translator: the control loop's translator, which stores the last joint targets.
            config: limits on the speed of the tool.
        """
        self._device, self._arm, self._translator = device, arm, translator
        self._config = config
        self._rest: Floats = np.zeros(len(arm.servos))
        self._period_s = 1 / translator.interface.rate_hz
        self._scale = np.array(translator.interface.action_scale[: len(arm.servos)])
        self._opening = 1.0

    @property
    def name(self) -> str:
        """The name of the agent, which contains the name of the device."""
        return f"operator with {self._device.name}"

    @property
    def weights_hash(self) -> None:
        """Return None: a person has no weights."""

    def reset(self, observation: Observation) -> None:
        """Take the arm's pose and gripper state as the start, and discard earlier input."""
        self._rest = observation.state.joint_positions_rad.copy()
        self._opening = self._translator.gripper_command
        self._device.read()

    def act(self, observation: Observation) -> Proposal:
        """Return the action that the person requests now."""
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
        """Do nothing, because the caller closes the device."""

    def _increments(self, command: Command) -> Floats:
        """Return the increments [j] of the j joints that move the tool as a command requests.

        The increments are scaled as in an action.

        If an increment is too large, all increments are reduced by the same factor, so that the
        direction of the motion in joint space does not change.
        """
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
    """Return a vector, shortened to length 1 if it is longer.

    The tool is therefore not faster when a person presses two keys at the same time.
    """
    return values / max(1.0, float(np.linalg.norm(values)))
