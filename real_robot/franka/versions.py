"""Read and check the version of the robot's server before libfranka connects.

libfranka waits a minute for a robot that does not answer, and reports a version mismatch only as
two numbers. The functions of this module fail within seconds, and their errors say what to do.

The version is read with the message `Connect` of Franka's protocol. Source: research_interface of
libfranka-common. The request has a header of command, id and size (uint32 each), then version and
UDP port (uint16 each). The answer has the same header, then a status (uint8; 0 is success) and the
server's version (uint16), without padding bytes.
"""

import socket
import struct

from ..robot import ConnectionLostError, RobotError

ROBOT_PORT, GRIPPER_PORT = 1337, 1338
SERVER_VERSION = 10  # server version that the libfranka in franky-control 2.0.0 supports

_HEADER = struct.Struct("<III")
_REQUEST = struct.Struct("<HH")
_CONNECT = 0
_MAX_BYTES = 4096

# Systems: libfranka's change log. Wheels: franky's README and its page of releases.
_RELEASES = "https://github.com/TimSchneider42/franky/releases"
_WHEELS = {
    5: ("a Panda with system 4.2", "0-9-2"),
    6: ("an FR3 with system 5.2 to 5.4", "0-12-1"),
    7: ("an FR3 with system 5.5 or 5.6", "0-13-3"),
    8: ("an FR3 with system 5.7.0 or 5.7.1", "0-14-2"),
    9: ("an FR3 with system 5.7.2 to 5.8", "0-17-0"),
}


def read_server_version(address: str, timeout_s: float) -> int:
    """Return the server version of the robot at an address.

    Raises:
        ConnectionLostError: no robot answers; the message has the cause and what to check.
    """
    with (
        _connect(address, ROBOT_PORT, timeout_s) as connection,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as states,
    ):
        # A robot that accepts the connection sends its states to this socket; they are not read.
        states.bind(("", 0))
        request = _REQUEST.pack(SERVER_VERSION, states.getsockname()[1])
        size = _HEADER.size + len(request)
        try:
            connection.sendall(_HEADER.pack(_CONNECT, 0, size) + request)
            command, _, size = _HEADER.unpack(_receive(connection, _HEADER.size))
            if command != _CONNECT or not _HEADER.size < size <= _MAX_BYTES:
                raise ValueError
            answer = _receive(connection, size - _HEADER.size)
            (version,) = struct.unpack_from("<H", answer, 1)
        except TimeoutError as error:
            raise ConnectionLostError(
                f"{address} accepts connections on port {ROBOT_PORT} but does not answer within "
                f"{timeout_s} s: is the Franka Control Interface activated in Desk? Does another "
                "program use it?"
            ) from error
        except (ValueError, struct.error) as error:
            raise ConnectionLostError(
                f"the server at {address}, port {ROBOT_PORT} is not a Franka: its answer is invalid"
            ) from error
        except OSError as error:
            raise ConnectionLostError(
                f"{address} closed the connection ({error}): does another program use the robot? "
                "Is the Franka Control Interface still being activated?"
            ) from error
    return int(version)


def require_port(address: str, port: int, timeout_s: float) -> None:
    """Check that a server listens on a port.

    Raises:
        ConnectionLostError: no server listens; the message has the cause and what to check.
    """
    _connect(address, port, timeout_s).close()


def require_version(version: int) -> None:
    """Check that this driver's libfranka supports a server version.

    Raises:
        RobotError: the version is not supported; the message names the robot of this version, and
            says what to install or update.
    """
    if version == SERVER_VERSION:
        return
    supported = (
        f"the installed franky-control supports version {SERVER_VERSION}, an FR3 with system 5.9 "
        "or later"
    )
    if version in _WHEELS:
        robot, wheels = _WHEELS[version]
        update = "" if version == 5 else "Update the robot's system to 5.9, or "
        raise RobotError(
            f"the robot's server has version {version}, {robot}; {supported}. {update}install "
            f"franky from libfranka_{wheels}_wheels.zip of {_RELEASES}; this driver is not tested "
            "with it and refuses to connect"
        )
    if version > SERVER_VERSION:
        raise RobotError(
            f"the robot's server has version {version}, newer than this driver; {supported}. "
            "Install a newer franky-control: pip install --upgrade franky-control"
        )
    known = ", ".join(f"{number} ({robot})" for number, (robot, _) in _WHEELS.items())
    raise RobotError(
        f"the robot's server has version {version}; {supported}; other versions: {known}"
    )


def _connect(address: str, port: int, timeout_s: float) -> socket.socket:
    robot = f"the robot at {address}"
    try:
        return socket.create_connection((address, port), timeout=timeout_s)
    except socket.gaierror as error:
        raise ConnectionLostError(
            f"the host {address!r} is not found ({error.strerror}): check the name and the DNS"
        ) from error
    except ConnectionRefusedError as error:
        advice = (
            "activate the Franka Control Interface in Desk, and check that this is the address of "
            "the control box"
            if port == ROBOT_PORT
            else "switch the hand on in Desk, or set gripper: null if there is no hand"
        )
        raise ConnectionLostError(f"{address} answers but refuses port {port}: {advice}") from error
    except TimeoutError as error:
        raise ConnectionLostError(
            f"{robot} does not answer within {timeout_s} s: is it switched on, is the cable in the "
            "LAN socket of the control box, and is this computer in its network?"
        ) from error
    except OSError as error:
        raise ConnectionLostError(
            f"{robot} cannot be reached ({error.strerror}): is this computer's network interface "
            "set to the robot's network?"
        ) from error


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("without an answer")
        data += part
    return data
