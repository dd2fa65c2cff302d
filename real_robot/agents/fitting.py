"""Check that a policy can control a robot.

The policy's action and observation spec (`Interface`) must equal the robot's, with two exceptions.
The names of the arms may differ if the arms have the same kinematics. The robot may have more
proprioception columns than the policy reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from envs.interface import Interface

# Pairs (arm of the policy, arm of the robot) with the same kinematics, joints and hand. A policy
# that was trained for the first arm can control the second.
ALIKE = (("franka_panda", "franka_fr3"),)


def fit_interface(policy: Interface, robot: Interface, what: str) -> tuple[Interface, str | None]:
    """Check that a policy can control a robot, and return the spec that both share.

    Args:
        policy: the policy's action and observation spec.
        robot: the robot's action and observation spec. Its `proprio` may have more columns than
            the policy's; `proprio_columns` selects the columns that the policy reads.
        what: name of the policy, for the error message.

    Returns:
        The robot's spec with the policy's arm name and the policy's `proprio` columns, and a note
        if the arms have different names (else None).

    Raises:
        ValueError: the specs differ in more than the name of an arm with the same kinematics, or
            the robot lacks a `proprio` column that the policy reads.
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
    """Return a warning if a policy was not trained for the requested task, else None.

    On a digital twin, the twin's environment is compared with the environments of the training, if
    the checkpoint names these. In all other cases, the task descriptions are compared. None is also
    returned if the checkpoint does not name what must be compared.

    Args:
        origin: environments (`envs`) and task descriptions (`tasks`) of the policy's training. A
            key is missing if the checkpoint does not contain it.
        env_id: id of the environment whose scene the digital twin simulates; None on a real arm.
        task: description of the requested task, as text.
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
    """Return, for each `proprio` column of the policy, its index in the robot's `proprio`."""
    return [robot.proprio.index(name) for name in policy.proprio]
