"""Which robot is there: its server version by a handshake of our own, before libfranka is asked.

libfranka waits a minute for a robot that is not there, and of one with another version it tells two
numbers. Here it is seconds, and what to do.

Source of the handshake: research_interface of libfranka-common, `Connect`. A header of command, id
and size (uint32 each), then version and UDP port (uint16 each). The answer has the same header,
then a status (uint8; 0 is well) and the server's version (uint16), packed.
"""

import socket
import struct

from ..robot import ConnectionLostError, RobotError

ROBOT_PORT, GRIPPER_PORT = 1337, 1338
SERVER_VERSION = 10  # of the libfranka in franky-control 2.0.0

_HEADER = struct.Struct("<III")
_REQUEST = struct.Struct("<HH")
_CONNECT = 0
_MOST_BYTES = 4096

# libfranka's change log tells the systems, franky's README the wheels on its page of releases.
_RELEASES = "https://github.com/TimSchneider42/franky/releases"
_WHEELS = {
    5: ("a Panda with system 4.2", "0-9-2"),
    6: ("an FR3 with system 5.2 to 5.4", "0-12-1"),
    7: ("an FR3 with system 5.5 or 5.6", "0-13-3"),
    8: ("an FR3 with system 5.7.0 or 5.7.1", "0-14-2"),
    9: ("an FR3 with system 5.7.2 to 5.8", "0-17-0"),
}


def read_server_version(address: str, timeout_s: float) -> int:
    """Ask the robot at an address for its server version.

    Raises:
        ConnectionLostError: no robot answers; naming the cause and what to look at.
    """
    with (
        _connect(address, ROBOT_PORT, timeout_s) as connection,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as states,
    ):
        # A robot that accepts sends its states there at once; nobody reads them.
        states.bind(("", 0))
        request = _REQUEST.pack(SERVER_VERSION, states.getsockname()[1])
        size = _HEADER.size + len(request)
        try:
            connection.sendall(_HEADER.pack(_CONNECT, 0, size) + request)
            command, _, size = _HEADER.unpack(_receive(connection, _HEADER.size))
            if command != _CONNECT or not _HEADER.size < size <= _MOST_BYTES:
                raise ValueError
            answer = _receive(connection, size - _HEADER.size)
            (version,) = struct.unpack_from("<H", answer, 1)
        except TimeoutError as error:
            raise ConnectionLostError(
                f"{address} accepts connections on port {ROBOT_PORT} and does not answer within "
                f"{timeout_s} s: is the Franka Control Interface activated in Desk, and does no "
                "other program use it?"
            ) from error
        except (ValueError, struct.error) as error:
            raise ConnectionLostError(
                f"what listens at {address} on port {ROBOT_PORT} is no Franka: its answer makes no "
                "sense"
            ) from error
        except OSError as error:
            raise ConnectionLostError(
                f"{address} closed the connection ({error}): does another program use the robot, "
                "or is the Franka Control Interface being activated?"
            ) from error
    return int(version)


def require_port(address: str, port: int, timeout_s: float) -> None:
    """See that something listens there.

    Raises:
        ConnectionLostError: nothing does; naming the cause and what to look at.
    """
    _connect(address, port, timeout_s).close()


def require_version(version: int) -> None:
    """See that this driver's libfranka speaks with a server of this version.

    Raises:
        RobotError: it does not; naming the robot and the wheel that does.
    """
    if version == SERVER_VERSION:
        return
    ours = (
        f"the installed franky-control speaks version {SERVER_VERSION}, an FR3 with system 5.9 or "
        "later"
    )
    if version in _WHEELS:
        robot, wheels = _WHEELS[version]
        update = "" if version == 5 else "Update the robot's system to 5.9, or "
        raise RobotError(
            f"the robot's server has version {version}, {robot}; {ours}. {update}install franky "
            f"from libfranka_{wheels}_wheels.zip of {_RELEASES}: this driver has not been tried "
            "with it, and refuses"
        )
    if version > SERVER_VERSION:
        raise RobotError(
            f"the robot's server has version {version}, newer than what is known here; {ours}. "
            "Look for a newer franky-control: pip install --upgrade franky-control"
        )
    known = ", ".join(f"{number} ({robot})" for number, (robot, _) in _WHEELS.items())
    raise RobotError(f"the robot's server has version {version}; {ours}; also known: {known}")


def _connect(address: str, port: int, timeout_s: float) -> socket.socket:
    what = f"the robot at {address}"
    try:
        return socket.create_connection((address, port), timeout=timeout_s)
    except socket.gaierror as error:
        raise ConnectionLostError(
            f"there is no {address!r} ({error.strerror}): a wrong name, or no name server"
        ) from error
    except ConnectionRefusedError as error:
        what_to_do = (
            "activate the Franka Control Interface in Desk, and look whether this is the control "
            "box's address"
            if port == ROBOT_PORT
            else "switch the hand on in Desk, or set gripper: null where there is none"
        )
        raise ConnectionLostError(
            f"{address} is there and refuses port {port}: {what_to_do}"
        ) from error
    except TimeoutError as error:
        raise ConnectionLostError(
            f"{what} does not answer within {timeout_s} s: is it on, the cable in the control "
            "box's LAN socket, and this computer in its network?"
        ) from error
    except OSError as error:
        raise ConnectionLostError(
            f"there is no way to {what} ({error.strerror}): is this computer's network card set to "
            "the robot's network?"
        ) from error


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("without a word")
        data += part
    return data
