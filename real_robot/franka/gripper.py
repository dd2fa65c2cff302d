"""Control the Franka Hand in two threads, because reading its state and moving it both block.

If several widths are requested during a motion, only the newest is used after the motion. A motion
is never interrupted, because the hand does not support this reliably.
"""

import math
import threading
import time
from typing import Any, Literal, Protocol

from ..robot import GripperState
from .config import GripperConfig

Motion = tuple[Literal["move", "grasp"], float]

_READ_EVERY_S = 0.02
# If the fingers stop farther than this from the requested width, they hold an object.
_AWAY_M = 0.002
_JOIN_S = 1.5


class Hand(Protocol):
    """The methods of `franky.Gripper` that this driver uses."""

    @property
    def state(self) -> Any:
        """Wait for the next state of the hand, and return it."""
        ...

    def move(self, width: float, speed: float) -> bool:
        """Move the fingers at `speed`, m/s, until the motion ends.

        Return whether the fingers reached `width`, m.
        """
        ...

    def grasp(
        self, width: float, speed: float, force: float, epsilon_inner: float, epsilon_outer: float
    ) -> bool:
        """Close the fingers at `speed`, m/s, and wait until they are at rest.

        The hand then keeps the `force`, N. Return whether the hand holds an object: its width is
        between `width` - `epsilon_inner` and `width` + `epsilon_outer`, m.
        """
        ...


class Gripper:
    """Franka Hand, with one thread that reads its state and one thread that moves it."""

    def __init__(self, hand: Any, config: GripperConfig) -> None:
        """Start the threads. From now on only they use the hand."""
        self._hand, self._config = hand, config
        self._condition = threading.Condition()
        self._requested_m: float | None = None
        self._last_motion_m: float | None = None  # requested width of the most recent motion
        self._motion_error: str | None = None
        self._read_error: str | None = None
        self._closing = False
        self._raw: Any = hand.state
        self._stamp_s = time.monotonic()
        self._threads = [
            threading.Thread(target=self._read, name="franka hand's state", daemon=True),
            threading.Thread(target=self._move, name="franka hand's motion", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def state(self) -> GripperState:
        """Return the newest state of the hand, without waiting."""
        with self._condition:
            raw, stamp_s, requested_m = self._raw, self._stamp_s, self._requested_m
            error = self._read_error or self._motion_error
        width_m = float(raw.width)
        # With a wide tolerance, the hand also reports a grasp for closed fingers without object.
        is_grasping = bool(raw.is_grasped) and width_m > (requested_m or 0.0) + _AWAY_M
        return GripperState(
            stamp_s=stamp_s,
            width_m=width_m,
            max_width_m=float(raw.max_width),
            is_grasping=is_grasping,
            error=error,
        )

    @property
    def temperature_c(self) -> float:
        """Return the hand's temperature, degrees C."""
        return float(self._raw.temperature)

    def request(self, width_m: float) -> None:
        """Request a distance between the fingers, m, without waiting for the motion.

        Raises:
            ValueError: the width is not finite.
        """
        if not math.isfinite(width_m):
            raise ValueError(f"the gripper's width must be finite, got {width_m}")
        with self._condition:
            self._requested_m = float(width_m)
            self._condition.notify_all()

    def close(self) -> None:
        """End the threads; a hand that holds an object continues to hold it."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._hand = None  # franky disconnects when the last reference is deleted

    def _read(self) -> None:
        while not self._closing:
            began_s = time.monotonic()
            try:
                raw = self._hand.state
            except Exception as error:
                with self._condition:  # the old `_stamp_s` stays, so that readers see a stale state
                    self._read_error = f"the gripper does not answer: {error}"
            else:
                with self._condition:
                    self._raw, self._stamp_s, self._read_error = raw, time.monotonic(), None
            time.sleep(max(began_s + _READ_EVERY_S - time.monotonic(), 0.001))

    def _move(self) -> None:
        while True:
            with self._condition:
                motion = None
                while not self._closing and motion is None:
                    motion = self._next()
                    if motion is None:
                        self._condition.wait()
                if self._closing or motion is None:
                    return
                self._last_motion_m = self._requested_m
            error = self._carry_out(motion)
            with self._condition:
                self._motion_error = error
                if error is not None:  # the next request tries again, also one of the same width
                    self._last_motion_m = None
                    if self._requested_m == motion[1]:
                        self._requested_m = None

    def _next(self) -> Motion | None:
        """Return the motion for the newest requested width; None if no motion is necessary."""
        requested_m, config = self._requested_m, self._config
        if requested_m is None:
            return None
        if (
            self._last_motion_m is not None
            and abs(requested_m - self._last_motion_m) <= config.tolerance_m
        ):
            return None
        state = self.state()
        if state.is_grasping and requested_m < state.width_m:
            return None  # the hand holds an object already; a new grasp might drop the object
        is_closing = requested_m < state.width_m
        return (
            "grasp" if is_closing and requested_m < config.grasp_below_m else "move",
            requested_m,
        )

    def _carry_out(self, motion: Motion) -> str | None:
        """Execute a motion, and return an error message, or None if the motion succeeded."""
        kind, width_m = motion
        config = self._config
        try:
            before_m = float(self._hand.state.width)
            if kind == "grasp":
                self._grasp(width_m)
                return None
            reached = self._hand.move(width_m, config.speed_m_s)
            width_now_m = float(self._hand.state.width)
            if width_now_m - width_m > _AWAY_M and width_m < before_m:
                self._grasp(width_m)  # an object is between the fingers
            elif not reached:
                return f"the gripper stopped at {width_now_m:.4f} m before {width_m:.4f} m"
        except Exception as error:
            return f"the gripper's {kind} to {width_m:.4f} m failed: {error}"
        return None

    def _grasp(self, width_m: float) -> None:
        # The tolerance covers closed to open, so an object of any width counts as grasped.
        speed_m_s, force_n = self._config.speed_m_s, self._config.force_n
        self._hand.grasp(width_m, speed_m_s, force_n, width_m + 0.01, 1.0)
