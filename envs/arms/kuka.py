"""The KUKA iiwa 7 with an Allegro hand, scaled by 0.9 as in PixMC: limits, kinematics, gains."""

import math
from dataclasses import replace

from .arm import MODELS, Arm, Fingertip, LinkFrame, Servo, bounded_speed

# PixMC (arXiv 2203.06173) scales the whole robot by this factor; the model file has the published
# lengths. PixMC's grasp points are in metres of the scaled robot.
_SCALE = 0.9

# Limits: public description of the iiwa 7 R800. Torques: PixMC. Maximum speeds: KUKA's data sheet
# of the LBR iiwa 7 R800 (98, 98, 100, 130, 140, 180, 180 degrees/s); the description has 10 rad/s
# for all joints. Gains of the `robot` protocol: the public MuJoCo model of the iiwa 14 (MuJoCo
# Menagerie, BSD-3); their ratio is 0.1 s, like the Panda's.
_ARM = (
    # limit rad, degrees/s, N m
    (2.96705972839, 98.0, 320.0),
    (2.09439510239, 98.0, 320.0),
    (2.96705972839, 100.0, 176.0),
    (2.09439510239, 130.0, 176.0),
    (2.96705972839, 140.0, 110.0),
    (2.09439510239, 180.0, 40.0),
    (3.05432619099, 180.0, 40.0),
)
_STIFFNESS, _DAMPING = 2000.0, 200.0

# Public description of the Allegro hand: limits of each finger joint, rad, and 6.283 rad/s. Torque:
# that of the real motors.
_FINGER = ((-0.558488888889, 0.558488888889), *[(-0.279244444444, 1.727825)] * 3)
_THUMB = (
    (0.279244444444, 1.57075),
    (-0.331602777778, 1.15188333333),
    (-0.279244444444, 1.727825),
    (-0.279244444444, 1.76273055556),
)
_HAND_SPEED, _HAND_TORQUE = 6.283, 0.7
# Our own values: with the public model's 1 N m/rad, a fingertip presses with less than 1 N
# (measured).
_HAND_STIFFNESS, _HAND_DAMPING = 4.0, 0.1

# Postures for a cube of 60 mm at the tool point. The fingers squeeze along a line that is
# horizontal when the hand points 30 degrees downwards: open with a gap of 28 mm on each side,
# squeezing with targets 20 mm inside the cube. Computed by inverse kinematics of each finger (pads
# on the line, facing each other).
OPEN_HAND = (
    *(-0.278, -0.244, 1.599, -0.274),
    *(0.034, -0.279, 1.692, -0.279),
    *(0.459, -0.161, 1.525, -0.242),
    *(1.570, 0.101, 0.300, 0.150),
)
SQUEEZING_HAND = (
    *(-0.156, 0.288, 1.727, -0.279),
    *(0.024, 0.280, 1.727, -0.279),
    *(0.296, 0.338, 1.727, -0.279),
    *(1.570, 0.000, 1.250, -0.279),
)

FINGERS = ("index", "middle", "ring", "thumb")

# Gains per finger joint for PixMC. PixMC's own gains (600 to 1000) are for an implicit drive. With
# the limit of 0.7 N m, the torque is always saturated, both with PixMC's gains and with these.
_HAND_STIFFNESS_PIXMC = 20.0
_HAND_DAMPING_PIXMC = 1.0


def _hand_servos() -> tuple[Servo, ...]:
    return tuple(
        Servo(
            name=f"{finger}_joint_{index}",
            joints=(f"{finger}_joint_{index}",),
            lower=lower,
            upper=upper,
            max_speed=_HAND_SPEED,
            max_force=_HAND_TORQUE,
            stiffness=_HAND_STIFFNESS,
            damping=_HAND_DAMPING,
        )
        for finger in FINGERS
        for index, (lower, upper) in enumerate(_THUMB if finger == "thumb" else _FINGER)
    )


KUKA_ALLEGRO = Arm(
    name="kuka_allegro",
    model=MODELS / "iiwa7_allegro.xml",
    scale=_SCALE,
    servos=tuple(
        Servo(
            name=f"joint{index}",
            joints=(f"joint{index}",),
            lower=-limit,
            upper=limit,
            max_speed=math.radians(speed),
            max_force=force,
            stiffness=_STIFFNESS,
            damping=_DAMPING,
        )
        for index, (limit, speed, force) in enumerate(_ARM, start=1)
    ),
    hand_servos=_hand_servos(),
    # The published offsets are 0.15 + 0.19, 0.21 + 0.19, 0.21 + 0.19 and 0.081 + 0.071 m.
    link_frames=tuple(
        LinkFrame(a_m=0.0, d_m=_SCALE * d, alpha_rad=alpha)
        for d, alpha in (
            (0.34, 0.0),
            (0.0, -math.pi / 2),
            (0.40, math.pi / 2),
            (0.0, math.pi / 2),
            (0.40, -math.pi / 2),
            (0.0, -math.pi / 2),
            (0.081, math.pi / 2),
        )
    ),
    flange_m=_SCALE * 0.071,
    hand_yaw_rad=0.0,
    hand_body="hand",
    # Position of a cube between thumb and fingers: 75 mm in front of the palm.
    tool_offset_m=(0.0824, -0.0186, 0.1328),
    palm_offset_m=(_SCALE * 0.008219, _SCALE * -0.02063, _SCALE * 0.08086),
    fingertips=tuple(
        Fingertip(
            name=finger,
            body=f"{finger}_link_3",
            offset_m=(0.06 if finger == "thumb" else 0.045, 0.01, 0.0),
        )
        for finger in FINGERS
    ),
    arm_bodies=tuple(f"link{index}" for index in range(8)),
    sources=(
        "KUKA LBR iiwa 7 R800 data sheet: speeds",
        "Public kuka_allegro description (numbers only): frames, limits, masses, inertias",
        "PixMC, arXiv 2203.06173: scale, torques, grasp points",
        "MuJoCo Menagerie, kuka_iiwa_14 (BSD-3): joint gains, armature",
    ),
)

KUKA_ALLEGRO_PIXMC = replace(
    KUKA_ALLEGRO,
    servos=tuple(
        bounded_speed(replace(servo, stiffness=400.0, damping=80.0))
        for servo in KUKA_ALLEGRO.servos
    ),
    hand_servos=tuple(
        bounded_speed(replace(servo, stiffness=_HAND_STIFFNESS_PIXMC, damping=_HAND_DAMPING_PIXMC))
        for servo in KUKA_ALLEGRO.hand_servos
    ),
)
