"""The Franka Panda and FR3 with the Franka Hand: limits, kinematics and gains per protocol."""

import math
from dataclasses import replace

from .arm import MODELS, Arm, Fingertip, LinkFrame, Servo, bounded_speed

# Limits: Franka Control Interface documentation, "Robot and interface specifications", Panda.
# Stiffness and damping are those of the public MuJoCo model of the Panda (MuJoCo Menagerie,
# franka_emika_panda): similar to the robot's own joint-impedance control. Their ratio is 0.1 s for
# every joint, so position + 0.1 s * velocity is very nearly the target: a policy can infer the
# stored target from both.
_LIMITS = (
    # lower rad, upper rad, rad/s, N m, N m/rad, N m s/rad
    (-2.8973, 2.8973, 2.1750, 87.0, 4500.0, 450.0),
    (-1.7628, 1.7628, 2.1750, 87.0, 4500.0, 450.0),
    (-2.8973, 2.8973, 2.1750, 87.0, 3500.0, 350.0),
    (-3.0718, -0.0698, 2.1750, 87.0, 3500.0, 350.0),
    (-2.8973, 2.8973, 2.6100, 12.0, 2000.0, 200.0),
    (-0.0175, 3.7525, 2.6100, 12.0, 2000.0, 200.0),
    (-2.8973, 2.8973, 2.6100, 12.0, 2000.0, 200.0),
)

# Franka Control Interface documentation, "Denavit-Hartenberg parameters" (modified convention).
_LINK_FRAMES = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -math.pi / 2),
    (0.0, 0.316, math.pi / 2),
    (0.0825, 0.0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0.0, 0.0, math.pi / 2),
    (0.088, 0.0, math.pi / 2),
)

FRANKA_PANDA = Arm(
    name="franka_panda",
    model=MODELS / "panda.xml",
    scale=1.0,
    servos=tuple(
        Servo(
            name=f"joint{index}",
            joints=(f"joint{index}",),
            lower=lower,
            upper=upper,
            max_speed=speed,
            max_force=force,
            stiffness=stiffness,
            damping=damping,
        )
        for index, (lower, upper, speed, force, stiffness, damping) in enumerate(_LIMITS, start=1)
    ),
    # Travel and speed: Franka Hand product manual (80 mm in all, 50 mm/s per finger). Stiffness,
    # damping and force are our own, from measurements: with the public model's 100 N/m a finger
    # presses a 45 mm cube with 1 N, and thin objects slip. The target leads by at most 15 mm:
    # 4000 N/m * 15 mm = 60 N between two fingers on a cube (the real hand grasps with up to 70 N),
    # and a closed hand opens without delay.
    hand_servos=(
        Servo(
            name="gripper",
            joints=("finger_joint1", "finger_joint2"),
            lower=0.0,
            upper=0.04,
            max_speed=0.05,
            max_force=100.0,
            stiffness=4000.0,
            damping=60.0,
            max_lead=0.015,
        ),
    ),
    link_frames=tuple(LinkFrame(a_m=a, d_m=d, alpha_rad=alpha) for a, d, alpha in _LINK_FRAMES),
    flange_m=0.107,
    hand_yaw_rad=-math.pi / 4,
    hand_body="hand",
    tool_offset_m=(0.0, 0.0, 0.1034),
    palm_offset_m=(0.0, 0.0, 0.0584),
    fingertips=(
        Fingertip(name="left", body="left_finger", offset_m=(0.0, 0.0, 0.045)),
        Fingertip(name="right", body="right_finger", offset_m=(0.0, 0.0, 0.045)),
    ),
    arm_bodies=tuple(f"link{index}" for index in range(8)),
    sources=(
        "Franka Control Interface documentation: limits, Denavit-Hartenberg parameters",
        "Franka Hand product manual: travel and speed of the fingers",
        "C. Gaz et al., Dynamic identification of the Franka Emika Panda robot with retrieval of "
        "feasible parameters using penalty-based optimization, IEEE RA-L 4(4), 2019: inertias",
        "MuJoCo Menagerie, franka_emika_panda (Apache-2.0): joint gains, armature, hand inertia",
    ),
)


# The FR3 has the Panda's kinematics (same document, same table) and its own limits: libfranka 0.21,
# rate_limiting.h, system version 5.9 and later. `real_robot.limits` also has the position-dependent
# speed limits.
_FR3_LIMITS = (
    # lower rad, upper rad, rad/s
    (-2.9007, 2.9007, 2.62),
    (-1.8361, 1.8361, 2.62),
    (-2.9007, 2.9007, 2.62),
    (-3.0770, -0.1169, 2.62),
    (-2.8763, 2.8763, 5.26),
    (0.4398, 4.6216, 4.18),
    (-3.0508, 3.0508, 5.26),
)

FRANKA_FR3 = replace(
    FRANKA_PANDA,
    name="franka_fr3",
    servos=tuple(
        replace(servo, lower=lower, upper=upper, max_speed=speed)
        for servo, (lower, upper, speed) in zip(FRANKA_PANDA.servos, _FR3_LIMITS, strict=True)
    ),
)


# PixMC (the suite of MVP, arXiv 2203.06173): gains 400 and 80 for every joint of the arm, the same
# limits; two independent fingers with 200 N and 0.2 m/s. Its finger gains (1e6, 100) are for
# PhysX's implicit drive with one substep. Here 10,000 and more throws the cube (measured), so it is
# 1,000.
FRANKA_PANDA_PIXMC = replace(
    FRANKA_PANDA,
    servos=tuple(
        bounded_speed(replace(servo, stiffness=400.0, damping=80.0))
        for servo in FRANKA_PANDA.servos
    ),
    hand_servos=tuple(
        bounded_speed(
            Servo(
                name=name,
                joints=(name,),
                lower=0.0,
                upper=0.04,
                max_speed=0.2,
                max_force=200.0,
                stiffness=1000.0,
                damping=100.0,
            )
        )
        for name in ("finger_joint1", "finger_joint2")
    ),
)
