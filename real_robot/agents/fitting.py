"""Whether a policy fits a robot: the same interface, with two exceptions.

Two arms may be built alike, and a robot may tell more than the policy looks at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from envs.interface import Interface

# A policy for the first arm may act on the second: same kinematics, same joints, same hand.
ALIKE = (("franka_panda", "franka_fr3"),)


def fit_interface(policy: Interface, robot: Interface, what: str) -> tuple[Interface, str | None]:
    """Return the robot's interface as the policy knows it, and a note where they differ in name.

    Args:
        policy: what the policy was trained for.
        robot: what there is here; its `proprio` may have more than the policy's, see
            `proprio_columns`.
        what: the policy, for the error.

    Raises:
        ValueError: they differ in more than the name of an arm that is built alike, or the robot
            does not tell what the policy looks at.
    """
    note = None
    if (policy.arm, robot.arm) in ALIKE:
        note = f"{what} was trained for {policy.arm} and acts on {robot.arm}: same kinematics"
        robot = replace(robot, arm=policy.arm)
    if set(policy.proprio) <= set(robot.proprio):
        robot = replace(robot, proprio=policy.proprio)
    policy.require_equal(robot, what, "this robot")
    return robot, note


def unknown_task(origin: Mapping[str, Sequence[str]], env_id: str | None, task: str) -> str | None:
    """Return a warning where a policy is asked for what it was not trained for; None where not.

    Args:
        origin: what it was trained for, as far as it is known: `envs` and `tasks`.
        env_id: the environment whose scene a twin has; None on a table.
        task: what is asked for, in words.
    """
    envs, tasks = origin.get("envs", ()), origin.get("tasks", ())
    if env_id is not None and envs:
        if env_id in envs:
            return None
        return f"the policy was trained for {', '.join(envs)}, and this twin has {env_id}"
    if not tasks or task in tasks:
        return None
    known = ", ".join(map(repr, tasks))
    return f"the policy was trained for {known}, and is asked for {task!r}"


def proprio_columns(policy: Interface, robot: Interface) -> list[int]:
    """Return where in a robot's `proprio` the policy's is, in the policy's order."""
    return [robot.proprio.index(name) for name in policy.proprio]
