"""What a twin is made of, and where it listens."""

import os
import struct
from dataclasses import dataclass
from ipaddress import ip_address

# libfranka's clients cannot choose a port, so every twin has an address of its own instead, and
# all twins the same ports.
ROBOT_PORT, GRIPPER_PORT = 1337, 1338
CONTROL_PORT, CAMERA_PORT = 1400, 1401
# Before each image of a camera: magic, height, width, when it was drawn (time.monotonic), number.
HEADER = struct.Struct("<4sIIdQ")
MAGIC = b"TWIN"


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinConfig:
    """Say what a twin is made of.

    Attributes:
        address: a loopback address, 127.a.b.c; None for a free one.
        env_id: the environment whose scene and task it has; one with a Franka arm.
        image_size: side of the cameras' pictures, pixels.
        camera_rate_hz: how many pictures a second each camera that is looked at gives, at most.
        motion_limits: whether commands beyond the arm's limits end a motion, as on the arm.
        communication_limits: whether lost commands end a motion, as on the arm.
        collision_torque_nm: a joint's push from outside that ends a motion, until a client sets
            other thresholds.
        collision_force_n: likewise a force on the tool.
        priority: real-time priority of the robot's process, 1 to 99; 0 for none. Where the system
            does not allow it the twin runs without, and says so.
        pinned: whether the robot's process keeps to one CPU. Its threads share an interpreter lock,
            and on one CPU they leave the others to a policy that computes beside it; without such
            a policy two CPUs lose fewer commands.
        switch_interval_s: how long a Python thread of it may run before another may.
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
                f"a twin listens on a loopback address, 127.a.b.c, got {self.address!r}: it asks "
                "nobody for a password"
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
        """Return the CPU, of those that this process may use, that a twin at an address keeps to.

        Twins that run at the same time are spread by their addresses.
        """
        if not self.pinned or not hasattr(os, "sched_getaffinity"):
            return None
        cpus = sorted(os.sched_getaffinity(0))
        return cpus[int(ip_address(address)) % len(cpus)]


# The same as configs/twin.yaml, for whoever starts a twin without a command: a test, a script.
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
