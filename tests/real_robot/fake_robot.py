"""A minimal fake robot: it moves to its targets, and fails on request."""

import numpy as np

from real_robot.limits import FR3
from real_robot.robot import CommandRefusedError, ConnectionLostError, GripperState, RobotState


class FakeRobot:
    """Keep the `Robot` protocol. `clock` gives the time; the attributes are the test's levers."""

    name = "franka_panda"
    description = "a fake, server version 10"
    limits = FR3

    def __init__(self, positions, clock):
        self.positions = np.array(positions, dtype=np.float64)
        self.clock = clock
        self.mode, self.errors, self.width_m = "idle", (), 0.08
        self.gripper_error = None
        self.cut_s = None  # since when nothing is heard of it
        self.connected, self.log = False, []

    def connect(self):
        self.connected = True

    def state(self):
        if not self.connected:
            raise ConnectionLostError("the fake is not connected: call connect()")
        zeros = np.zeros_like(self.positions)
        stamp_s = self.clock() if self.cut_s is None else self.cut_s
        return RobotState(
            stamp_s=stamp_s,
            joint_positions_rad=self.positions,
            joint_velocities_rad_s=zeros,
            joint_torques_nm=zeros,
            external_torques_nm=zeros,
            gripper=GripperState(
                stamp_s=stamp_s,
                width_m=self.width_m,
                max_width_m=0.08,
                is_grasping=False,
                error=self.gripper_error,
            ),
            mode=self.mode,
            errors=self.errors,
            command_success_rate=1.0,
        )

    def command(self, joint_positions_rad):
        if self.mode not in ("idle", "moving"):
            raise CommandRefusedError(f"command not possible in the current mode ({self.mode})")
        self.mode = "moving"
        self.log.append(joint_positions_rad)
        self.positions = np.array(joint_positions_rad)
        return joint_positions_rad

    def move_gripper(self, width_m):
        self.width_m = width_m

    def stop(self):
        if self.mode == "moving":
            self.mode = "idle"

    def recover(self):
        if self.mode == "user_stopped":
            raise CommandRefusedError("the user stop is pressed: release it first")
        self.mode, self.errors = "idle", ()

    def close(self):
        self.stop()
        self.connected = False

    def __enter__(self):
        self.connect()
        return self

    def __exit__(self, *_):
        self.close()

    def fails(self, mode, *errors):
        self.mode, self.errors = mode, errors
