"""Check that a policy fits a robot: their interfaces must be equal, with two exceptions.

Two arms may have the same kinematics, and a robot may have more `proprio` than the policy reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from envs.interface import Interface

# A policy for the first arm can act on the second: same kinematics, same joints, same hand.
ALIKE = (("franka_panda", "franka_fr3"),)


def fit_interface(policy: Interface, robot: Interface, what: str) -> tuple[Interface, str | None]:
    """Return the robot's interface in the policy's terms, and a note if the arms' names differ.

    Args:
        policy: the interface of the policy.
        robot: the interface of the robot; its `proprio` may have more columns than the policy's,
            see `proprio_columns`.
        what: name of the policy, for the error.

    Raises:
        ValueError: they differ in more than the name of an arm with the same kinematics, or the
            robot lacks a column of `proprio` that the policy reads.
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
    """Return a warning if a policy was not trained for the requested task; None if it was.

    Args:
        origin: the environments and tasks of the training, as far as known: `envs` and `tasks`.
        env_id: the environment whose scene the twin has; None on a real table.
        task: the requested task, in words.
    """
    envs, tasks = origin.get("envs", ()), origin.get("tasks", ())
    if env_id is not None and envs:
        if env_id in envs:
            return None
        return f"the policy was trained for {', '.join(envs)}, and this twin has {env_id}"
    if not tasks or task in tasks:
        return None
    known = ", ".join(map(repr, tasks))
    return f"the policy was trained for {known}; the requested task is {task!r}"


def proprio_columns(policy: Interface, robot: Interface) -> list[int]:
    """Return the indices of the policy's `proprio` in the robot's, in the policy's order."""
    return [robot.proprio.index(name) for name in policy.proprio]
