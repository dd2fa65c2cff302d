"""The fingers' target: how fast it moves, and how far it leads, which is how hard they press."""

import numpy as np

from envs.arms.arm import Servo

_SLOWEST_M_S = 0.002  # of a finger
_STILL_M = 1e-6  # of a finger's target, a step
_MAX_GRASP_N = 70.0  # Franka Hand, product manual: continuous grasping force


class Fingers:
    """The common target of two fingers, each a slide of half the hand's width.

    Attributes:
        at_rest: whether the target stands still: they press as hard as they will.
    """

    def __init__(self, hand: Servo) -> None:
        if hand.max_lead is None:
            raise ValueError(f"{hand.name} needs a max_lead: it bounds how hard it presses")
        self._hand, self._usual_lead = hand, hand.max_lead
        self._target = self._goal = hand.upper
        self._lead, self._speed = hand.max_lead, hand.max_speed
        self.at_rest = True

    def move(self, width_m: float, speed_m_s: float, force_n: float | None) -> None:
        """Begin to move the fingers to a distance; with so much force, None for the usual."""
        hand = self._hand
        self._speed = float(np.clip(speed_m_s / 2, _SLOWEST_M_S, hand.max_speed))
        self.at_rest = False
        lead = self._usual_lead
        if force_n is not None:
            lead = float(np.clip(force_n, 1.0, _MAX_GRASP_N)) / hand.stiffness
        self._lead = lead
        self._goal = float(np.clip(width_m / 2, hand.lower, hand.upper))

    def open(self) -> float:
        """Put the target at fully open at once, and return it."""
        self._target = self._goal = self._hand.upper
        return self._target

    def step(self, position_m: float, seconds: float) -> float:
        """Return the next target, m, of fingers whose mean position is measured."""
        step = self._speed * seconds
        before, lead = self._target, self._lead
        target = before + min(max(self._goal - before, -step), step)
        # As in the environment: how far the target leads is how hard the fingers press.
        self._target = min(max(target, position_m - lead), position_m + lead)
        self.at_rest = abs(self._target - before) < _STILL_M
        return self._target
