"""Protocols: settings of the control rate, the actions, the observations and the episode length.

`robot` is similar to a real arm: 10 Hz, joint increments for the arm, absolute commands for the
hand, a camera on the hand and a camera in front. `pixmc` has the published settings of PixMC, the
benchmark of MVP (arXiv 2203.06173): 60 Hz, increments for every joint and finger, and one
wide-angle camera on the hand. The code reads only the fields of a `Protocol`, so you can define
another one.
"""

from dataclasses import dataclass
from typing import Literal

# Parts of an observation vector; `envs.readings` reads each.
Reading = Literal[
    "arm_position",
    "arm_velocity",
    "arm_target",
    "hand_position",
    "hand_command",
    "scaled_position",
    "scaled_velocity",
    "task",
]

READINGS: dict[Reading, str] = {
    "arm_position": "joint positions of the arm, rad",
    "arm_velocity": "joint velocities of the arm, rad/s",
    "arm_target": "the stored joint targets of the arm, rad",
    "hand_position": "positions of the hand's joints, rad; for a gripper the width, m",
    "hand_command": "the last command to each servo of the hand, in [-1, 1]",
    "scaled_position": "positions of all joints, scaled to [-1, 1] between their limits",
    "scaled_velocity": "velocities of all joints, times 0.1",
    "task": "quantities that the task measures",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """The control rate, the actions, the observations and the episode length of an environment.

    Attributes:
        rate_hz: number of control steps per second.
        num_steps: default number of control steps of an episode.
        arm_increment_rad: change of a joint's stored target by an action element of 1, rad.
        hand_action: `absolute`: an action element from -1 to 1 is mapped to the range from the
            lowest to the highest target of a servo. `increment`: the element is scaled and added to
            the stored target.
        hand_increment: change of a hand servo's stored target by an action element of 1, rad or m;
            None if hand actions are absolute.
        num_targets: number of targets that are sent to a servo within a control step, evenly spaced
            from the old to the new target; 1: the target changes at the beginning of the step.
        proprio: measured quantities (keys of `READINGS`) that form the observation's `proprio`, in
            order.
        state: measured quantities that form the observation's privileged `state`, in order.
        clip: `proprio` and `state` are clipped to plus and minus this value; None: each quantity is
            clipped to its physical bounds (see `envs.readings`).
        max_arm_contact_n: an episode fails if the contact force on a body of the arm is larger than
            this, N; None: no limit.
        cameras: names of the default cameras.
        image_size: default height and width of the images, pixels.
    """

    rate_hz: float
    num_steps: int
    arm_increment_rad: float
    hand_action: Literal["absolute", "increment"]
    hand_increment: float | None
    num_targets: int
    proprio: tuple[Reading, ...]
    state: tuple[Reading, ...]
    clip: float | None
    max_arm_contact_n: float | None
    cameras: tuple[str, ...]
    image_size: int

    def __post_init__(self) -> None:
        if (self.hand_action == "increment") != (self.hand_increment is not None):
            raise ValueError("hand_increment must be set if and only if hand_action='increment'")
        unknown = [name for name in (*self.proprio, *self.state) if name not in READINGS]
        if unknown:
            raise ValueError(f"unknown reading {unknown}; known: {', '.join(READINGS)}")


# An action of 1 moves a joint's target by 0.1 rad in one control step of 0.1 s. The target moves at
# constant speed within the step, so the commanded speed is at most 1.0 rad/s: 46 % of the limit of
# the Panda's large joints (2.175 rad/s) and 38 % of that of the small ones (2.61 rad/s). Up to 0.2
# rad would be within the limits; 0.1 halves the effect of an action error of 5 %, and costs four
# more steps per episode.
ROBOT = Protocol(
    rate_hz=10.0,
    num_steps=80,
    arm_increment_rad=0.1,
    hand_action="absolute",
    hand_increment=None,
    num_targets=10,
    proprio=("arm_position", "arm_velocity", "hand_position", "hand_command"),
    state=("arm_position", "arm_target", "hand_position", "hand_command", "task"),
    clip=None,
    max_arm_contact_n=None,
    cameras=("hand", "front"),
    image_size=128,
)


def pixmc(*, hand_increment: float) -> Protocol:
    """Return PixMC's protocol: 60 Hz, and arm targets that change by at most 7.5 rad/s.

    Args:
        hand_increment: change of a finger joint's target by an action element of 1 in one control
            step, rad or m.
    """
    return Protocol(
        rate_hz=60.0,
        num_steps=500,
        arm_increment_rad=7.5 / 60,
        hand_action="increment",
        hand_increment=hand_increment,
        num_targets=1,
        proprio=("scaled_position", "scaled_velocity"),
        state=("scaled_position", "scaled_velocity", "task"),
        clip=5.0,
        max_arm_contact_n=1.0,
        cameras=("hand",),
        image_size=224,
    )
