"""Settings of a twin, and the ports at which a twin listens."""

import os
import struct
from dataclasses import dataclass
from ipaddress import ip_address

# libfranka's clients cannot choose a port, so all twins use the same ports on different addresses.
ROBOT_PORT, GRIPPER_PORT = 1337, 1338
CONTROL_PORT, CAMERA_PORT = 1400, 1401
# Header of each camera image: magic number, height, width, time of rendering (time.monotonic),
# number of the image.
HEADER = struct.Struct("<4sIIdQ")
MAGIC = b"TWIN"


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinConfig:
    """Settings of a twin.

    Attributes:
        address: loopback address of the twin, 127.a.b.c; null selects a free address.
        env_id: id of the environment that defines scene and task. Its arm must be a Franka.
        image_size: height and width of the camera images, pixels.
        camera_rate_hz: highest frame rate of each camera that has a client.
        motion_limits: True if commands beyond the arm's limits end a motion, as on the real arm.
        communication_limits: True if 20 lost commands in a row end a motion, as on the real arm.
        collision_torque_nm: a motion ends if the external torque on a joint exceeds this value, Nm.
            A client may set other thresholds.
        collision_force_n: a motion ends if the external force on the tool exceeds this value, N. A
            client may set other thresholds.
        priority: real-time priority of the robot's process, 1 to 99; 0: no real-time priority. If
            the system does not allow it, the twin runs without it and prints a note.
        pinned: True to bind the robot's process to one CPU. The other CPUs are then free for a
            policy on the same machine. The process is hardly slower, because its threads share one
            interpreter lock. If no policy runs on the machine, use False: fewer commands are lost.
        switch_interval_s: time after which Python changes between the threads of the robot's
            process, s (`sys.setswitchinterval`).
    """

    address: str | None
    env_id: str
    image_size: int
    camera_rate_hz: float
    motion_limits: bool
    communication_limits: bool
    collision_torque_nm: float
    collision_force_n: float
    priority: int
    pinned: bool
    switch_interval_s: float

    def __post_init__(self) -> None:
        if self.address is not None and not self.address.startswith("127."):
            raise ValueError(
                f"address must be a loopback address, 127.a.b.c, got {self.address!r}: a twin has "
                "no password"
            )
        if not 0 <= self.priority <= 99:
            raise ValueError(f"priority must be 0 (none) to 99, got {self.priority}")
        for name in (
            "image_size",
            "camera_rate_hz",
            "collision_torque_nm",
            "collision_force_n",
            "switch_interval_s",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def cpu(self, address: str) -> int | None:
        """Return the number of the CPU to which a twin at this address is bound.

        None is returned if `pinned` is False, or if the system cannot bind processes. The address
        selects one of the CPUs that this process may use, so that several twins can use different
        CPUs.
        """
        if not self.pinned or not hasattr(os, "sched_getaffinity"):
            return None
        cpus = sorted(os.sched_getaffinity(0))
        return cpus[int(ip_address(address)) % len(cpus)]


# Same values as in configs/twin.yaml, for tests and scripts that start a twin without the command.
STANDARD = TwinConfig(
    address=None,
    env_id="toto/FrankaPick-v0",
    image_size=128,
    camera_rate_hz=30.0,
    motion_limits=True,
    communication_limits=True,
    collision_torque_nm=40.0,
    collision_force_n=40.0,
    priority=20,
    pinned=False,
    switch_interval_s=0.005,
)
