"""Whether a policy fits a robot: the same interface, but for two arms that are built alike."""

from dataclasses import replace

from envs.interface import Interface

# A policy for the first arm may act on the second: same kinematics, same joints, same hand.
ALIKE = (("franka_panda", "franka_fr3"),)


def fit_interface(policy: Interface, robot: Interface, what: str) -> tuple[Interface, str | None]:
    """Give the robot's interface as the policy knows it, and a note where they differ in name.

    Args:
        policy: what the policy was trained for.
        robot: what there is here.
        what: the policy, for the error.

    Raises:
        ValueError: they differ in more than the name of an arm that is built alike.
    """
    if (policy.arm, robot.arm) in ALIKE:
        note = f"{what} was trained for {policy.arm} and acts on {robot.arm}: same kinematics"
        robot = replace(robot, arm=policy.arm)
        policy.require_equal(robot, what, "this robot")
        return robot, note
    policy.require_equal(robot, what, "this robot")
    return robot, None
