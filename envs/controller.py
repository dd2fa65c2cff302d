"""The controller: converts actions of a policy to joint targets of arm and hand."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arms.arm import Arm, Servo
from .geometry import Floats
from .protocols import Protocol
from .randomisation import ActionNoise
from .simulation.simulator import Measurable


class Controller:
    """A converter from actions to position targets of the servos of arm and hand.

    In the shapes of arrays, `*b` is the number of worlds; it is missing for a single world.

    Attributes:
        arm_targets: [*b j] stored targets of the arm's joints, rad.
        hand_targets: [*b h] stored targets of the hand's servos, rad or m.
        hand_command: [*b h] newest action elements for the hand's servos, in [-1, 1].
    """

    def __init__(self, arm: Arm, protocol: Protocol, batch: tuple[int, ...] = ()) -> None:
        """Compute the scales and limits of all servos.

        Args:
            arm: the arm.
            protocol: how actions are converted.
            batch: () for one world; (n,) for n worlds.
        """
        self._protocol = protocol
        self._num_arm = len(arm.servos)
        servos = (*arm.servos, *arm.hand_servos)
        self._servo_joints = arm.joint_names + arm.hand_joint_names
        self._mean = servo_means(servos)
        self._lower = np.array([servo.lower for servo in servos])
        self._upper = np.array([servo.upper for servo in servos])
        self._max_lead = np.array(
            [np.inf if servo.max_lead is None else servo.max_lead for servo in servos]
        )
        self._most = np.array([servo.max_speed for servo in servos]) / protocol.rate_hz
        self._ramp = np.arange(1, protocol.num_targets + 1) / protocol.num_targets
        self._leads = bool(np.isfinite(self._max_lead).any())
        if protocol.hand_action == "absolute":
            self.action_kind = "joint_increment"
            hand_names = [
                f"{servo.name}_{'opening' if len(servo.joints) > 1 else 'target'}"
                for servo in arm.hand_servos
            ]
        else:
            self.action_kind = "joint_and_hand_increment"
            hand_names = [f"{servo.name}_increment" for servo in arm.hand_servos]
        self.action_names = (*(f"{name}_increment" for name in arm.joint_names), *hand_names)
        hand_scale = 1.0 if protocol.hand_increment is None else protocol.hand_increment
        self.action_scale = (
            *[protocol.arm_increment_rad] * self._num_arm,
            *[hand_scale] * len(hand_names),
        )
        self._scale = np.array(self.action_scale)
        self._half_range = (self._upper - self._lower) / 2
        self.arm_targets = np.zeros((*batch, self._num_arm))
        self.hand_targets = np.zeros((*batch, len(arm.hand_servos)))
        self.hand_command = self.hand_targets.copy()

    def reset(self, arm_rad: Floats, hand: Floats, rows: Any = ...) -> None:
        """Set the stored targets to the joint positions at the start of an episode.

        Args:
            arm_rad: [*b j] positions of the arm's joints, rad.
            hand: [*b h] positions of the hand's servos, rad or m.
            rows: indices of the worlds to reset; `...`: all.
        """
        lower, upper = self._lower[self._num_arm :], self._upper[self._num_arm :]
        self.arm_targets[rows], self.hand_targets[rows] = arm_rad, hand
        self.hand_command[rows] = 2 * (hand - lower) / (upper - lower) - 1

    @property
    def holding(self) -> Floats:
        """The action [*b a] without a new command: increments of 0.

        If the hand's action elements are absolute, they are those of the newest hand command.
        """
        absolute = self._protocol.hand_action == "absolute"
        hand = self.hand_command if absolute else np.zeros_like(self.hand_command)
        return np.concatenate([np.zeros_like(self.arm_targets), hand], axis=-1)

    def targets(self, action: Floats, simulator: Measurable) -> Floats:
        """Update the stored targets by an action [*b a], and return what to send to the servos.

        Returns:
            [k *b servos]: k targets per servo, rad or m, to be sent one after the other during one
            control step; k is `Protocol.num_targets`.
        """
        protocol, num_arm = self._protocol, self._num_arm
        lower, upper = self._lower, self._upper
        positions = simulator.joints(self._servo_joints)[0] @ self._mean.T if self._leads else None
        before = np.concatenate([self.arm_targets, self.hand_targets], axis=-1)
        if protocol.hand_action == "increment":
            after = clip_to(before + self._scale * action, lower, upper)
            sent_before, sent_after = before, after
            if positions is not None:
                sent_after = clip_to(after, positions - self._max_lead, positions + self._max_lead)
        else:
            if positions is not None:
                before = clip_to(before, positions - self._max_lead, positions + self._max_lead)
            self.hand_command = action[..., num_arm:].copy()
            wanted = lower + (action + 1) * self._half_range
            after = before + clip_to(wanted - before, -self._most, self._most)
            arm = before[..., :num_arm] + protocol.arm_increment_rad * action[..., :num_arm]
            after[..., :num_arm] = clip_to(arm, lower[:num_arm], upper[:num_arm])
            sent_before, sent_after = before, after
        self.arm_targets = after[..., :num_arm].copy()
        self.hand_targets = after[..., num_arm:].copy()
        if protocol.num_targets == 1:
            return sent_after[None]
        ramp = self._ramp.reshape(-1, *[1] * after.ndim)
        return sent_before + ramp * (sent_after - sent_before)


class ActionDelay:
    """A queue that delays each action by a fixed number of control steps, and adds noise.

    Attributes:
        waiting: the actions [a] that have not been executed yet, oldest first.
    """

    def __init__(self, noise: ActionNoise | None, num_arm: int, num_actions: int) -> None:
        """Store the standard deviation of the noise of each action element.

        Args:
            noise: standard deviations for arm and hand; None: no noise.
            num_arm: number of action elements that move the arm; they come first.
            num_actions: number of all action elements.
        """
        self._deviation: Floats | None = None
        if noise is not None:
            self._deviation = np.full(num_actions, noise.hand)
            self._deviation[:num_arm] = noise.arm

    def reset(self, holding: Floats, num_steps: int) -> None:
        """Set the delay to `num_steps` control steps.

        During the first `num_steps` control steps, the action `holding` [a] is executed.
        """
        self.waiting = deque([holding] * num_steps)

    def __call__(self, action: Floats, rng: Callable[[], np.random.Generator]) -> Floats:
        """Add an action to the queue; return the action to execute now, with noise.

        Args:
            action: [a] the new action.
            rng: function that returns the random generator of the noise; called only if there is
                noise.
        """
        self.waiting.append(action)
        action = self.waiting.popleft()
        if self._deviation is not None:
            error = rng().normal(size=action.shape) * self._deviation
            action = clip_to(action + error, -1.0, 1.0)
        return action


def clip_to(values: NDArray[Any], lower: Any, upper: Any) -> NDArray[Any]:
    """Return the clipped values; the same as `np.clip`, but three times as fast on small arrays."""
    return np.minimum(np.maximum(values, lower), upper)


def servo_means(servos: Sequence[Servo]) -> Floats:
    """Return the matrix [servos joints] that maps joint positions to servo positions.

    The position of a servo is the mean of the positions of its joints.
    """
    num_joints = sum(len(servo.joints) for servo in servos)
    mean = np.zeros((len(servos), num_joints))
    column = 0
    for row, servo in enumerate(servos):
        mean[row, column : column + len(servo.joints)] = 1 / len(servo.joints)
        column += len(servo.joints)
    return mean
