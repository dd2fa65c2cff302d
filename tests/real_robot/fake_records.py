"""Records of episodes that never were: a few steps with small pictures."""

import numpy as np

from real_robot.cameras.camera import Frame
from real_robot.episode import EpisodeRecord, Observation, Step
from real_robot.robot import GripperState, RobotState, Target
from real_robot.safety.layer import Decision, Intervention


def fake_step(index, *, camera_size=16, interventions=(), surprise=None, reached=None):
    """Return a step at 10 Hz; joint 1 goes on by 0.01 rad each time."""
    stamp_s = 100.0 + 0.1 * index
    joints = np.full(7, 0.1)
    joints[0] = 0.01 * index
    state = RobotState(
        stamp_s=stamp_s,
        joint_positions_rad=joints - 0.005,
        joint_velocities_rad_s=np.zeros(7),
        joint_torques_nm=np.zeros(7),
        external_torques_nm=np.zeros(7),
        gripper=GripperState(
            stamp_s=stamp_s, width_m=0.08, max_width_m=0.08, is_grasping=False, error=None
        ),
        mode="moving",
        errors=(),
        command_success_rate=1.0,
    )
    image = np.full((camera_size, camera_size, 3), 10 * index, np.uint8)
    frames = {
        name: Frame(camera=name, image=image, stamp_s=stamp_s - 0.02, sequence=index)
        for name in ("hand", "front")
    }
    target = Target(joint_positions_rad=joints, gripper_width_m=0.08)
    return Step(
        index=index,
        observation=Observation(
            stamp_s=stamp_s, frames=frames, state=state, proprio=np.zeros(3, np.float32)
        ),
        action=np.zeros(8, np.float32),
        label=np.zeros(8, np.float32),
        requested=target,
        decision=Decision(
            target=target,
            verdict="move",
            causes=(),
            interventions=tuple(
                Intervention(name=name, amount=0.1, unit="rad", detail="joint 1")
                for name in interventions
            ),
            ended=False,
        ),
        sent_rad=joints if reached is None else reached,
        surprise=surprise,
        late_s=0.001 * index,
        timings_s={"observe": 0.001, "encoder": 0.02, "age": 0.03 + 0.001 * index},
    )


def fake_record(*, success=None, reason="time", message="5 steps were taken", weights_hash="wa"):
    return EpisodeRecord(
        task="pick the cube up",
        agent="a fake",
        weights_hash=weights_hash,
        steps=tuple(
            fake_step(index, interventions=("velocity",) if index < 2 else (), surprise=2.0)
            for index in range(5)
        ),
        reason=reason,
        message=message,
        success=success,
        started="2026-01-02T03:04:05.000+00:00",
        notes={"seed": 1},
    )
