"""Compute the target position of the hand's fingers at each simulation step.

The force of the fingers is proportional to the distance between target and measured position.
"""

import numpy as np

from envs.arms.arm import Servo

_SLOWEST_M_S = 0.002  # speed of one finger
_STILL_M = 1e-6  # change of a finger's target in one step
_MAX_GRASP_N = 70.0  # Franka Hand, product manual: continuous grasping force


class Fingers:
    """Common target position of both fingers; each finger moves half as far as the width changes.

    Attributes:
        at_rest: True if the target does not move, so that the force of the fingers is constant.
    """

    def __init__(self, hand: Servo) -> None:
        if hand.max_lead is None:
            raise ValueError(f"{hand.name} needs max_lead, which limits its force")
        self._hand, self._default_lead = hand, hand.max_lead
        self._target = self._goal = hand.upper
        self._lead, self._speed = hand.max_lead, hand.max_speed
        self.at_rest = True

    def move(self, width_m: float, speed_m_s: float, force_n: float | None) -> None:
        """Start to move the fingers.

        Args:
            width_m: distance between the fingers at the end, m.
            speed_m_s: speed at which this distance changes, m/s.
            force_n: greatest force of the fingers, N; None: the force of the environment's hand.
        """
        hand = self._hand
        self._speed = float(np.clip(speed_m_s / 2, _SLOWEST_M_S, hand.max_speed))
        self.at_rest = False
        lead = self._default_lead
        if force_n is not None:
            lead = float(np.clip(force_n, 1.0, _MAX_GRASP_N)) / hand.stiffness
        self._lead = lead
        self._goal = float(np.clip(width_m / 2, hand.lower, hand.upper))

    def open(self) -> float:
        """Set the target to fully open at once, and return the target, m."""
        self._target = self._goal = self._hand.upper
        return self._target

    def step(self, position_m: float, seconds: float) -> float:
        """Compute the target after `seconds`, and return it, m.

        Args:
            position_m: measured mean position of the two fingers, m.
            seconds: duration of the step, s.
        """
        step = self._speed * seconds
        before, lead = self._target, self._lead
        target = before + min(max(self._goal - before, -step), step)
        # As in the environment, the distance between target and position limits the force.
        self._target = min(max(target, position_m - lead), position_m + lead)
        self.at_rest = abs(self._target - before) < _STILL_M
        return self._target
