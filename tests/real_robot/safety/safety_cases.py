"""Random robots, caps and wishes, and an independent word on what may be sent."""

from dataclasses import replace

import numpy as np

from envs.arms.franka import FRANKA_PANDA
from envs.arms.kinematics import joint_frames
from real_robot.limits import FR3, JointLimits
from real_robot.robot import GripperState, RobotState, Target
from real_robot.safety.config import SafetyConfig, Watchdog
from real_robot.safety.layer import Ages
from real_robot.safety.motion import MotionConfig
from real_robot.safety.workspace import Workspace

ARM = FRANKA_PANDA
HOME = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785])
PERIOD_S = 0.1
FRESH = Ages(action_s=0.0, cameras_s={"hand": 0.0})
CONFIG = SafetyConfig(
    motion=MotionConfig(
        joint_margin_rad=0.1,
        velocity_fraction=0.3,
        acceleration_fraction=0.3,
        max_step_rad=0.1,
        max_lead_rad=0.2,
        period_s=PERIOD_S,
    ),
    workspace=Workspace(
        low_m=(0.2, -0.4, -0.02),
        high_m=(0.8, 0.4, 0.8),
        table_m=0.0,
        tool_clearance_m=0.005,
        link_radius_m=0.08,
        hand_points_m=((0.0, 0.1, 0.066), (0.0, -0.1, 0.066)),
    ),
    action=Watchdog(hold_after_s=0.25, stop_after_s=1.0),
    camera=Watchdog(hold_after_s=0.3, stop_after_s=1.0),
    state=Watchdog(hold_after_s=0.05, stop_after_s=0.2),
    start_tolerance_rad=0.05,
    start_velocity_rad_s=0.05,
    max_recoveries=0,
)


def state_at(positions, now_s, **changes):
    zeros = np.zeros(len(positions))
    state = RobotState(
        stamp_s=now_s,
        joint_positions_rad=np.array(positions, dtype=np.float64),
        joint_velocities_rad_s=zeros,
        joint_torques_nm=zeros,
        external_torques_nm=zeros,
        gripper=GripperState(
            stamp_s=now_s, width_m=0.08, max_width_m=0.08, is_grasping=False, error=None
        ),
        mode="moving",
        errors=(),
        command_success_rate=1.0,
    )
    return replace(state, **changes)


def target(positions, width_m=None):
    return Target(
        joint_positions_rad=np.array(positions, dtype=np.float64), gripper_width_m=width_m
    )


def random_limits(rng) -> JointLimits:
    """Draw an arm whose limits hold `HOME` with room to spare."""
    lower, upper = HOME - rng.uniform(0.4, 2.5, 7), HOME + rng.uniform(0.4, 2.5, 7)
    shrinking = rng.random(7) < 0.7
    return replace(
        FR3,
        lower_rad=tuple(lower),
        upper_rad=tuple(upper),
        velocity_rad_s=tuple(rng.uniform(0.5, 5.0, 7)),
        acceleration_rad_s2=tuple(rng.uniform(1.0, 20.0, 7)),
        velocity_offset_rad_s=tuple(np.where(shrinking, rng.uniform(0.0, 0.4, 7), 0.0)),
        braking_rad_s2=tuple(np.where(shrinking, rng.uniform(1.0, 20.0, 7), np.inf)),
    )


def random_config(rng) -> SafetyConfig:
    motion = MotionConfig(
        joint_margin_rad=rng.uniform(0.0, 0.2),
        velocity_fraction=rng.uniform(0.05, 1.0),
        acceleration_fraction=rng.uniform(0.05, 1.0),
        max_step_rad=10 ** rng.uniform(-2.0, 0.0),
        max_lead_rad=rng.uniform(0.05, 0.5),
        period_s=1 / rng.uniform(10.0, 60.0),
    )
    tool = joint_frames(ARM, HOME)[-1] @ [*ARM.tool_offset_m, 1.0]
    workspace = replace(
        CONFIG.workspace,
        low_m=tuple(tool[:3] - rng.uniform(0.03, 0.5, 3)),
        high_m=tuple(tool[:3] + rng.uniform(0.03, 0.5, 3)),
        table_m=tool[2] - rng.uniform(0.06, 0.5),
    )
    if rng.random() < 0.4:  # so wide that only the joints' own limits are met
        far = (-9.0, -9.0, -9.0), (9.0, 9.0, 9.0)
        workspace = replace(workspace, low_m=far[0], high_m=far[1], table_m=-9.0)
    # mostly so wide that the pushed arms of the property test are led on, and not stopped
    error_rad = 0.5 if rng.random() < 0.2 else 10.0
    return replace(CONFIG, motion=motion, workspace=workspace, max_tracking_error_rad=error_rad)


def velocity_bounds(limits, positions):
    """Return the lowest and highest allowed velocities [j], rad/s, at positions [j].

    The formula is that of libfranka, joint_velocity_limits.h. Beyond a limit, it allows no motion
    towards the limit.
    """

    def most(distance_rad):
        inside = np.maximum(distance_rad, 0.0)
        with np.errstate(invalid="ignore"):  # an infinite deceleration at the limit itself
            curve = np.sqrt(2.0 * np.array(limits.braking_rad_s2) * inside)
        speed = np.clip(curve - limits.velocity_offset_rad_s, 0.0, limits.velocity_rad_s)
        return np.where(distance_rad > 0, speed, 0.0)

    return -most(positions - limits.lower_rad), most(np.array(limits.upper_rad) - positions)


class Judge:
    """Hold what is sent against every limit, by formulas of its own."""

    def __init__(self, config, limits):
        self.config, self.limits = config, limits

    def check(self, sent, before, velocities_before, elapsed_s, *, where=""):
        motion, limits = self.config.motion, self.limits
        assert np.isfinite(sent).all(), where
        margin = motion.joint_margin_rad
        assert (sent >= np.array(limits.lower_rad) + margin - 1e-9).all(), where
        assert (sent <= np.array(limits.upper_rad) - margin + 1e-9).all(), where
        elapsed_s = min(elapsed_s, motion.period_s)
        step = sent - before
        assert np.abs(step).max() <= motion.max_step_rad + 1e-9, where
        velocities = step / elapsed_s
        least, most = velocity_bounds(limits, sent)
        fraction = motion.velocity_fraction
        assert (velocities <= fraction * most + 1e-6).all(), where
        assert (velocities >= fraction * least - 1e-6).all(), where
        change = np.abs(velocities - velocities_before)
        most_change = (
            motion.acceleration_fraction * np.array(limits.acceleration_rad_s2) * elapsed_s
        )
        assert (change <= most_change + 1e-6).all(), where
        self.check_place(sent, where)
        return velocities

    def check_place(self, sent, where=""):
        workspace = self.config.workspace
        frames = joint_frames(ARM, sent)
        hand = frames[-1]
        tool = (hand @ [*ARM.tool_offset_m, 1.0])[:3]
        assert (tool >= np.array(workspace.low_m) - 1e-6).all(), where
        assert (tool <= np.array(workspace.high_m) + 1e-6).all(), where
        floor = workspace.table_m
        for point in (ARM.tool_offset_m, *workspace.hand_points_m):
            height = (hand @ [*point, 1.0])[2]
            assert height >= floor + workspace.tool_clearance_m - 1e-6, where
        assert frames[2:-1, 2, 3].min() >= floor + workspace.link_radius_m - 1e-6, where
