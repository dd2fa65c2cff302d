"""How a task is put to a policy, as data: rate, actions, observations and what ends an episode.

`robot` is what a real arm offers: 10 Hz, joint increments and absolute hand commands, a camera on
the hand and one in front. `pixmc` is the suite of MVP (PixMC, arXiv 2203.06173) number by number:
60 Hz, increments for every joint and finger, one wide camera on the hand. A protocol chooses data;
no code asks for its name.
"""

from dataclasses import dataclass
from typing import Literal

# What an observation vector is made of; `envs.manipulation` knows how to read each.
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
    "hand_position": "positions of the hand's joints, rad; of a gripper the width, m",
    "hand_command": "the last command to each servo of the hand, in [-1, 1]",
    "scaled_position": "positions of all joints, from -1 to 1 between their limits",
    "scaled_velocity": "velocities of all joints, times 0.1",
    "task": "what the task measures",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """Describe how a policy meets a task.

    Attributes:
        rate_hz: control steps per second.
        num_steps: of an episode.
        arm_increment_rad: what an action of 1 adds to a joint's stored target.
        hand_action: `absolute`: -1 to 1 is from the least to the greatest target of a servo;
            `increment`: it is added to the stored target.
        hand_increment: what an action of 1 adds to a stored target of the hand, rad or m; None
            where hand actions are absolute.
        num_targets: how often the target is renewed within a control step, so that it moves
            evenly; 1 sets it at once.
        proprio: what the observation's `proprio` is made of, in order.
        state: what the observation's privileged `state` is made of, in order.
        clip: vectors are cut at plus and minus this; None for the bounds of what they measure.
        max_arm_contact_n: an episode fails when a part of the arm is pushed harder; None if not.
        cameras: what is observed unless the user says otherwise.
        image_size: height and width of the pictures unless the user says otherwise.
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
            raise ValueError("hand_increment goes with hand_action='increment', and only with it")
        unknown = [name for name in (*self.proprio, *self.state) if name not in READINGS]
        if unknown:
            raise ValueError(f"unknown reading {unknown}; known: {', '.join(READINGS)}")


# An action of 1 moves a joint's target by this much in one control step of 0.1 s. The target moves
# at an even speed within the step, so a joint is asked for at most 1.0 rad/s: 46 % of the Panda's
# limit for its large joints (2.175 rad/s) and 38 % for the small ones (2.61 rad/s). Up to 0.2 would
# stay within them; 0.1 makes a policy's error of 5 % half as large, for four steps more an episode.
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
    """Return PixMC's protocol: increments of 7.5 rad/s over a step, for fingers what is said."""
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
