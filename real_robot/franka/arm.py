"""Thread that calls the library franky: it reads states, and passes targets to the controller.

While franky's 1 kHz thread controls the arm, franky's calls return at once. At other times a call
waits for the next state: one millisecond, or one second if the connection is lost. Only this thread
calls franky, so that no other thread waits. Other threads store a target here and read the newest
state. The thread has four phases:

    idle      no controller runs, and the arm holds its pose; a target starts the controller
    tracking  the controller follows the reference position
    braking   the reference position comes to rest
    ending    the torques change to those of a damper; then the controller ends (phase idle)
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

from envs.geometry import Floats

from ..limits import JointLimits
from ..robot import CommandRefusedError, ConnectionLostError, RobotError
from ..scheduling import ask_for_priority
from .config import FrankaConfig
from .reference import Reference

T = TypeVar("T")
Phase = Literal["idle", "tracking", "braking", "ending"]

_FADE_S = 0.1  # duration of the change from the controller's torques to those of a damper
_STILL_RAD_S = 0.01
_SETTLE_S = 0.03
_JOIN_S = 2.5  # a read from a disconnected robot takes one second, so this is longer
_NAMES = re.compile(r"\[\s*\"[^\]]*\]")


class Arm:
    """Connection to one arm, with the thread that calls franky."""

    def __init__(self, franky: Any, robot: Any, config: FrankaConfig, limits: JointLimits) -> None:
        """Start the thread. From now on only this thread uses the `franky.Robot`."""
        self._franky, self._robot = franky, robot
        self._config, self._limits = config, limits
        self._period_s = 1.0 / config.tracking.reference_rate_hz
        self._phase: Phase = "idle"
        self._reference: Reference | None = None
        self._motion: Any = None
        self._lock = threading.Lock()
        self._target: Floats | None = None  # newest target; None once the thread has used it
        self._stop_requested = False
        self._rest_by_s = 0.0
        self._at_rest = threading.Event()
        self._at_rest.set()
        self._fault: str | None = None
        self._lost: str | None = None
        self._closing = False
        self.has_priority = False
        self._newest: tuple[Any, float] = (robot.state, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="franka arm", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> tuple[Any, float]:
        """Return the newest `franky.RobotState`, and the time when it arrived, s.

        Raises:
            ConnectionLostError: the connection is lost; the message has the cause.
        """
        if self._lost is not None:
            raise ConnectionLostError(self._lost)
        return self._newest

    @property
    def fault(self) -> str | None:
        """Return why the controller ended by itself; None if it did not, or `stop` followed."""
        return self._fault

    def command(self, target: Floats) -> None:
        """Set a new target [j], rad, one value per joint, without waiting for the motion.

        Raises:
            CommandRefusedError: the controller has ended by itself, or `stop` is running.
            ConnectionLostError: the connection is lost.
        """
        with self._lock:
            if self._lost is not None:
                raise ConnectionLostError(self._lost)
            if self._fault is not None:
                raise CommandRefusedError(self._fault)
            if self._stop_requested:
                raise CommandRefusedError("the arm is being stopped")
            self._target = target
            self._at_rest.clear()

    def stop(self) -> bool:
        """Bring the arm to rest, and wait until it is at rest.

        Return whether the arm came to rest within `stop_timeout_s`.
        """
        timeout_s = self._config.stop_timeout_s
        with self._lock:
            self._fault = None
            if self._at_rest.is_set() or self._lost is not None:
                return self._lost is None
            self._rest_by_s = time.monotonic() + timeout_s
            self._stop_requested = True
        # If the arm does not come to rest in time, the thread ends the controller at once, and the
        # robot stops the arm itself. The 0.5 s are for this stop.
        return self._at_rest.wait(timeout_s + 0.5)

    def recover(self) -> None:
        """Clear the robot's errors.

        Raises:
            CommandRefusedError: the robot cannot recover; the message has its reason.
            ConnectionLostError: the robot does not answer.
        """
        self.stop()
        timeout_s = self._config.recover_timeout_s
        try:
            self.call(self._robot.recover_from_errors, timeout_s)
        except RobotError:
            raise
        except Exception as error:
            if isinstance(error, self._franky.NetworkException):
                raise ConnectionLostError(f"{self._where()}: {text_of(error)}") from error
            raise CommandRefusedError(f"the robot cannot recover: {text_of(error)}") from error
        self._wait_for_state(timeout_s)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Call a function that may block if the robot is disconnected, and return its result.

        Raises:
            ConnectionLostError: the function took longer than `timeout_s`.
        """
        return call(function, timeout_s, self._where())

    def close(self) -> None:
        """Stop the arm and end the thread; repeated calls are allowed."""
        self.stop()
        self._closing = True
        self._thread.join(_JOIN_S)
        # franky disconnects when its last reference is deleted; until then no other program can
        # connect.
        self._robot = self._motion = None

    def _wait_for_state(self, timeout_s: float) -> None:
        """Wait for a state that arrives after this call, so that `newest` shows the new mode."""
        start_s, end_s = time.monotonic(), time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if self.newest[1] > start_s + self._period_s:
                return
            time.sleep(self._period_s)
        raise ConnectionLostError(f"{self._where()} sends no states")

    def _where(self) -> str:
        return f"the robot at {self._config.address}"

    def _run(self) -> None:
        # This thread starts the 1 kHz thread, which inherits its priority.
        self.has_priority = ask_for_priority(self._config.priority)
        next_s = time.monotonic()
        while not self._closing:
            try:
                self._tick()
            except Exception as error:
                self._mark_lost(error)
                return
            next_s = max(next_s + self._period_s, time.monotonic())
            time.sleep(max(next_s - time.monotonic(), 0.0))

    def _tick(self) -> None:
        # Check this first: if no controller runs, a read from a disconnected robot takes a second.
        if self._phase != "idle" and not self._robot.is_in_control:
            self._ended()
            return
        now_s = self._read()
        with self._lock:
            target, self._target = self._target, None
            stop_requested = self._stop_requested
        if self._phase == "idle":
            if stop_requested or target is None:
                self._mark_at_rest(stop_requested)
                return
            self._start(now_s)
        reference = self._reference
        assert reference is not None
        if self._phase == "tracking":
            if stop_requested:
                braking = self._config.tracking.braking_fraction
                acceleration = braking * np.array(self._limits.acceleration_rad_s2)
                reference.brake(acceleration, now_s)
                self._phase = "braking"
            elif target is not None:
                reference.aim(target, now_s)
        if self._phase in ("tracking", "braking"):
            positions, velocities = reference.advance(now_s)
            self._motion.set_reference(self._franky.JointReference(q=positions, dq=velocities))
        if self._phase == "braking" and reference.at_rest:
            self._robot.move(self._torque_stop(now_s), asynchronous=True)
            self._phase = "ending"
        if stop_requested and now_s > self._rest_by_s:
            self._robot.stop()  # the controller ends in the next cycle

    def _read(self) -> float:
        """Read the newest state of the robot and store it; return the time of the read, s."""
        state = self._robot.state
        now_s = time.monotonic()
        # Between two cycles, and while disconnected, franky returns the previous state.
        if state.time.to_msec() != self._newest[0].time.to_msec():
            self._newest = (state, now_s)
        return now_s

    def _start(self, now_s: float) -> None:
        """Start the controller at the current pose; if the robot refuses, `_ended` records this."""
        tracking, limits = self._config.tracking, self._limits
        positions = np.array(self._newest[0].q, dtype=np.float64)
        self._reference = Reference(
            positions,
            period_s=tracking.period_s,
            smoothing_s=tracking.smoothing_s,
            velocity_rad_s=tracking.velocity_fraction * np.array(limits.velocity_rad_s),
            acceleration_rad_s2=tracking.acceleration_fraction
            * np.array(limits.acceleration_rad_s2),
            now_s=now_s,
        )
        self._motion = self._franky.JointImpedanceTrackingMotion(
            stiffness=np.array(tracking.stiffness_nm_rad),
            damping=np.array(tracking.damping_nms_rad),
            lower_joint_limits=np.array(limits.lower_rad),
            upper_joint_limits=np.array(limits.upper_rad),
            max_delta_tau=tracking.torque_rate_nm_s / 1000.0,
        )
        self._motion.set_reference(self._franky.JointReference(q=positions))
        self._robot.move(self._motion, asynchronous=True)
        self._phase = "tracking"

    def _torque_stop(self, now_s: float) -> Any:
        return self._franky.TorqueStopMotion(
            damping=np.array(self._config.tracking.damping_nms_rad),
            ramp_duration=_FADE_S,
            velocity_epsilon=_STILL_RAD_S,
            max_duration=max(self._rest_by_s - now_s, _FADE_S),
            max_delta_tau=self._config.tracking.torque_rate_nm_s / 1000.0,
        )

    def _ended(self) -> None:
        """Record that the controller has ended, and the cause."""
        stop_requested, cause = self._stop_requested, "the controller ended by itself"
        transient = {"Move"}
        try:
            self._robot.poll_motion()
        except self._franky.NetworkException:
            raise
        except Exception as error:
            cause = text_of(error)
            transient.add("Idle")
        # The new mode of the robot arrives some milliseconds later. Wait for it, to report mode and
        # cause together.
        end_s = time.monotonic() + _SETTLE_S
        while self._read() < end_s and self._newest[0].robot_mode.name in transient:
            time.sleep(self._period_s)
        expected = stop_requested and self._phase in ("ending", "braking")
        with self._lock:
            self._phase, self._target = "idle", None  # an old target must not restart the motion
            # If a stop was requested and there is an error, the thread has ended the controller at
            # once, because the arm did not come to rest in time.
            if not expected or _names(cause):
                self._fault = cause
        self._mark_at_rest(stop_requested)

    def _mark_at_rest(self, stop_requested: bool) -> None:
        with self._lock:
            if stop_requested:
                self._stop_requested, self._target = False, None
            if stop_requested or self._target is None:
                self._at_rest.set()

    def _mark_lost(self, error: Exception) -> None:
        with self._lock:
            self._lost = f"{self._where()} does not answer any more: {text_of(error)}"
            self._stop_requested = False
            self._at_rest.set()
        with contextlib.suppress(Exception):
            self._robot.poll_motion()


def call(function: Callable[[], T], timeout_s: float, where: str) -> T:
    """Call a function in a separate thread, and return its result.

    An error that the function raises is passed on to the caller.

    Raises:
        ConnectionLostError: the function took longer than `timeout_s`; its thread is left running.
    """
    values: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            values.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="franka call", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not values:
        raise ConnectionLostError(f"{where} does not answer within {timeout_s} s")
    return values[0]


def errors_of(state: Any, fault: str | None) -> tuple[str, ...]:
    """Return the names of the errors in a robot state, and `fault` unless it is None.

    Args:
        state: the `franky.RobotState`.
        fault: why the controller ended by itself; None if it did not.
    """
    names = json.loads(str(state.current_errors))
    if state.robot_mode.name == "Reflex" and not names:
        names = json.loads(str(state.last_motion_errors))
    if fault is not None:
        names += [name for name in _names(fault) or [fault] if name not in names]
    return tuple(names)


def text_of(error: Exception) -> str:
    """Return the text of an error in one line, without libfranka's name and command statistics."""
    text = " ".join(str(error).split())
    return re.sub(r"\s*control_command_success_rate:.*$", "", text.removeprefix("libfranka: "))


def _names(text: str) -> list[str]:
    found = _NAMES.search(text)
    return json.loads(found.group()) if found else []
