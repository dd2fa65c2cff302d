"""franky in a few lines: an arm that is where its reference is, and a hand, both with levers."""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np

HOME = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785])
URDF = (
    "<robot>"
    + "".join(
        f'<joint name="joint{index}" type="revolute"><limit lower="{low}" upper="{high}" '
        f'velocity="2.6" effort="87"/></joint>'
        for index, (low, high) in enumerate(
            [(-2.7, 2.7), (-1.7, 1.7), (-2.9, 2.9), (-3.0, -0.1), (-2.8, 2.8), (0.5, 4.5), (-3, 3)],
            start=1,
        )
    )
    + "</robot>"
)


class NetworkException(Exception):
    """What franky raises when nothing is heard."""


class ControlException(Exception):
    """What franky raises when a motion ends in an error."""


class CommandException(Exception):
    """What franky raises when a request is refused."""


class RealtimeException(Exception):
    """What franky raises without a real-time kernel."""


class Errors(list):
    """What prints like franky's."""

    def __str__(self):
        return json.dumps(list(self))


class RealtimeConfig:
    Enforce, Ignore = "enforce", "ignore"


class JointReference:
    def __init__(self, q, dq=None):
        self.q, self.dq = np.array(q), np.zeros(7) if dq is None else np.array(dq)


class JointImpedanceTrackingMotion:
    def __init__(self, **arguments):
        self.arguments, self.references = arguments, []

    def set_reference(self, reference):
        self.references.append(reference)


class TorqueStopMotion:
    def __init__(self, **arguments):
        self.arguments = arguments


class Robot:
    """Levers: `mode`, `errors`, `end(...)`, `is_gone`, `frozen`."""

    model_urdf = URDF

    def __init__(self, address="127.0.0.1", realtime_config=None):
        self.address, self.realtime_config = address, realtime_config
        self.mode, self.errors = "Idle", Errors()
        self.q, self.motion, self.log = HOME.copy(), None, []
        self.pending, self.is_gone, self.frozen = None, False, False
        self.heals = True
        self._milliseconds = 0
        self._lock = threading.Lock()

    def set_collision_behavior(self, torque, force):
        self._refuse_setting("Set Collision Behavior")
        self.log.append(("collision", torque, force))

    def _refuse_setting(self, name):
        if self.mode in ("Reflex", "UserStopped"):
            raise CommandException(
                f"libfranka: {name} command rejected: command not possible in the current mode "
                f'("{self.mode}")!'
            )

    def set_load(self, mass, center, inertia):
        self._refuse_setting("Set Load")
        self.log.append(("load", mass, center, inertia))

    @property
    def state(self):
        if self.is_gone:
            raise NetworkException("libfranka: UDP receive: Timeout")
        with self._lock:
            if self.motion is not None and self.motion.references:
                self.q = self.motion.references[-1].q
            if not self.frozen:
                self._milliseconds += 1
            count = self._milliseconds
        return SimpleNamespace(
            q=self.q.copy(),
            dq=np.zeros(7),
            tau_J=np.zeros(7),
            tau_ext_hat_filtered=np.zeros(7),
            robot_mode=SimpleNamespace(name=self.mode),
            current_errors=Errors(self.errors),
            last_motion_errors=Errors(["joint_reflex"]),
            control_command_success_rate=1.0,
            time=SimpleNamespace(to_msec=lambda: count),
        )

    @property
    def is_in_control(self):
        return self.motion is not None

    def move(self, motion, asynchronous):
        assert asynchronous
        self.log.append(("move", type(motion).__name__))
        if isinstance(motion, TorqueStopMotion):
            self.motion, self.mode = None, "Idle"
        else:
            self.motion, self.mode = motion, "Move"

    def poll_motion(self):
        pending, self.pending = self.pending, None
        if pending is not None:
            raise pending
        return self.motion is not None

    def stop(self):
        self.log.append(("stop",))
        self.motion, self.mode = None, "Idle"
        self.pending = ControlException("libfranka: Move command preempted!")

    def recover_from_errors(self):
        self.log.append(("recover",))
        if self.heals:
            self.mode, self.errors = "Idle", Errors()
        return self.heals

    def end(self, mode, *errors, words="motion aborted by reflex!"):
        """End the motion as an error does."""
        self.mode, self.errors = mode, Errors(errors)
        self.pending = ControlException(
            f"libfranka: Move command aborted: {words} {self.errors if errors else ''}\n"
            "control_command_success_rate: 0.98"
        )
        self.motion = None


class Gripper:
    """Fingers that take a moment, and stop at `object_m` when they close onto it."""

    def __init__(self, address="127.0.0.1"):
        self.width, self.max_width, self.is_grasped, self.temperature = 0.08, 0.08, False, 30
        self.object_m, self.log, self.error, self.is_gone = None, [], None, False
        self.seconds = 0.0
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def state(self):
        if self.is_gone:
            raise NetworkException("libfranka: UDP receive: Timeout")
        return SimpleNamespace(
            width=self.width,
            max_width=self.max_width,
            is_grasped=self.is_grasped,
            temperature=self.temperature,
        )

    def homing(self):
        self.log.append(("homing",))
        return True

    def move(self, width, speed):
        self.log.append(("move", width))
        self._go(width)
        self.is_grasped = False
        return self.width == width

    def grasp(self, width, speed, force, epsilon_inner, epsilon_outer):
        self.log.append(("grasp", width))
        self._go(0.0)
        self.is_grasped = width - epsilon_inner < self.width < width + epsilon_outer
        return self.is_grasped

    def _go(self, width):
        assert self.go_on.wait(5.0)
        if self.error is not None:
            raise self.error
        time.sleep(self.seconds)
        blocked = self.object_m is not None and width < self.object_m <= self.width
        self.width = self.object_m if blocked else width


def wait_for(condition, timeout_s=5.0):
    """Wait until a thread has done something."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.001)
