"""The hand of the twin, for franka-sim's gripper server.

The methods that move the hand return when the motion has ended.
"""

import contextlib
import socket
import time

from franka_sim.gripper.backend import GripperBackend, GripperStateData, validate_width
from franka_sim.gripper.server import FrankaGripperServer

from .world import World

_MAX_WIDTH_M = 0.08
_TEMPERATURE_C = 30
_POLL_S, _NUM_STILL = 0.01, 5
_STILL_M_S = 1e-3
_TIMEOUT_S = 5.0
_REACHED_M = 0.002
_HOMING_SPEED_M_S = 0.1


class Hand(GripperBackend):
    """A simulated hand; only the thread of the gripper server may call its methods."""

    def __init__(self, world: World) -> None:
        self._world = world
        # Widths between these two count as grasped, m.
        self._held: tuple[float, float] | None = None

    def homing(self) -> bool:
        """Open the hand, and return True."""
        return self.move(_MAX_WIDTH_M, _HOMING_SPEED_M_S)

    def move(self, width: float, speed: float) -> bool:
        """Move the fingers to a width, m, at a speed, m/s; return False if an object stops them."""
        validate_width(width, _MAX_WIDTH_M, "move")
        self._held = None
        self._world.fingers.move(width, speed, None)
        return abs(self._settle() - width) <= _REACHED_M

    def grasp(
        self, width: float, epsilon_inner: float, epsilon_outer: float, speed: float, force: float
    ) -> bool:
        """Close the fingers until an object stops them.

        Return whether the width of the object is between `width` - `epsilon_inner` and `width` +
        `epsilon_outer`, m.
        """
        validate_width(width, _MAX_WIDTH_M)
        self._held = None
        self._world.fingers.move(0.0, speed, force)
        # libfranka, gripper.h: grasped if width - inner < d < width + outer
        band = (width - epsilon_inner, width + epsilon_outer)
        if band[0] < self._settle() < band[1]:
            self._held = band
        return self._held is not None

    def stop(self) -> bool:
        """Stop the fingers at their current position."""
        self._world.fingers.move(self._width(), _HOMING_SPEED_M_S, None)
        return True

    def get_state(self) -> GripperStateData:
        """Return the state of the hand; an object that has slipped away is not grasped any more."""
        width, held = self._width(), self._held
        grasped = held is not None and held[0] < width < held[1]
        return GripperStateData(width, _MAX_WIDTH_M, grasped, _TEMPERATURE_C)

    def _width(self) -> float:
        fingers = self._world.get_finger_state()["q"]
        return float(min(max(fingers[0] + fingers[1], 0.0), _MAX_WIDTH_M))

    def _settle(self) -> float:
        """Wait until the fingers are at rest and their force is constant; return the width, m."""
        end_s, still = time.monotonic() + _TIMEOUT_S, 0
        time.sleep(3 * _POLL_S)
        while time.monotonic() < end_s and still < _NUM_STILL:
            time.sleep(_POLL_S)
            speed = max(abs(value) for value in self._world.get_finger_state()["dq"])
            rests = self._world.fingers.at_rest and speed < _STILL_M_S
            still = still + 1 if rests else 0
        return self._width()


class HandServer(FrankaGripperServer):
    """Network server of the hand for one client, with a method that disconnects the client."""

    _client: socket.socket | None = None

    def handle_client(self, sock: socket.socket) -> None:
        """Answer the requests of a client until the client disconnects."""
        self._client = sock
        try:
            super().handle_client(sock)
        finally:
            self._client = None

    def disconnect(self) -> None:
        """Close the connection of the client, if a client is connected."""
        cut(self._client)


def cut(client: socket.socket | None) -> None:
    """Shut down a connection; a thread that reads from it then receives the end of the data."""
    if client is not None:
        with contextlib.suppress(OSError):  # already closed
            client.shutdown(socket.SHUT_RDWR)
