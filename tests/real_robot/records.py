"""Episodes of an arm that nobody ran, small and full of odd values."""

import numpy as np

from envs.interface import CameraSpec, Interface
from real_robot.cameras.camera import Frame
from real_robot.episode import EpisodeRecord, Observation, Step
from real_robot.robot import GripperState, RobotState, Target
from real_robot.safety.layer import Decision, Intervention

JOINTS = tuple(f"joint{index}" for index in range(1, 8))
SIDE = 16


def interface(cameras=("hand", "front"), side=SIDE):
    return Interface(
        arm="franka_fr3",
        cameras=tuple(CameraSpec(name=name, height=side, width=side) for name in cameras),
        proprio=(*(f"{name}_position" for name in JOINTS), "gripper_width"),
        action_kind="joint_increment",
        action=(*(f"{name}_increment" for name in JOINTS), "gripper_opening"),
        action_scale=(0.05,) * 7 + (1.0,),
        rate_hz=10.0,
    )


def make_step(index, rng, cameras=("hand", "front"), side=SIDE, **changes):
    stamp_s = 100.0 + 0.1 * index
    positions = rng.normal(size=7)
    state = RobotState(
        stamp_s=stamp_s - 0.001,
        joint_positions_rad=positions,
        joint_velocities_rad_s=rng.normal(size=7),
        joint_torques_nm=rng.normal(size=7),
        external_torques_nm=rng.normal(size=7),
        gripper=GripperState(
            stamp_s=stamp_s - 0.02, width_m=0.04, max_width_m=0.08, is_grasping=False, error=None
        ),
        mode="moving",
        errors=changes.pop("errors", ()),
        command_success_rate=0.99,
    )
    frames = {
        name: Frame(
            camera=name,
            image=rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
            stamp_s=stamp_s - 0.03,
            sequence=3 * index,
        )
        for name in cameras
    }
    action = rng.uniform(-1, 1, 8).astype(np.float32)
    requested = Target(joint_positions_rad=positions + 0.1, gripper_width_m=0.05)
    decision = Decision(
        target=Target(joint_positions_rad=positions + 0.05, gripper_width_m=0.04),
        verdict="move",
        causes=(),
        interventions=(
            Intervention(name="step", amount=0.05, unit="rad", detail="joint 3"),
        ),
        ended=False,
    )  # fmt: skip
    values = {
        "index": index,
        "observation": Observation(
            stamp_s=stamp_s,
            frames=frames,
            state=state,
            proprio=np.array([*positions, 0.04], np.float32),
        ),
        "action": action,
        "label": action,
        "requested": requested,
        "decision": decision,
        "sent_rad": positions + 0.05,
        "surprise": None,
        "late_s": 0.002,
        "timings_s": {"observe": 0.001, "send": 0.002, "thinking": 0.5},
    }
    return Step(**(values | changes))


def make_record(steps=3, seed=0, steps_given=None, **changes):
    rng = np.random.default_rng(seed)
    given = tuple(make_step(index, rng) for index in range(steps))
    values = {
        "task": "pick the cube",
        "agent": "expert",
        "weights_hash": None,
        "steps": given if steps_given is None else steps_given,
        "reason": "success",
        "message": "the cube is up",
        "success": True,
        "started": "2026-11-21T12:00:00+00:00",
        "notes": {"seed": seed, "object": np.array([0.5, 0.1]), "score": float("nan")},
    }
    return EpisodeRecord(**(values | changes))
