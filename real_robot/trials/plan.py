"""The plan of an evaluation: the poses of the object, and the order of the policies.

The plan is saved before the first trial. Its poses are random, at a distance from the poses of the
demonstrations. If two policies are compared, each pose has two trials, in random order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toto_robot.config import differences
from toto_robot.files import write_json

from .poses import Pose, PoseArea, draw_poses, nearest_m

FORMAT = 1
PLAN = "plan.json"

PolicyKey = Literal["a", "b"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of the plan.

    Attributes:
        key: name of the trial and of its folder, such as `004-b`: number of the pose, policy.
        policy: key of the policy that is tried, `a` or `b`.
        pose: pose of the object.
        pose_index: index of the pose in the plan. The two trials of a pair have the same index.
    """

    key: str
    policy: PolicyKey
    pose: Pose
    pose_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Plan of an evaluation.

    Attributes:
        settings: config of the evaluation and hashes of the policies' weights. They must be the
            same when the evaluation is resumed.
        facts: further data for the report, such as the distance of the poses from the poses of the
            demonstrations.
        trials: the trials, in the order in which they are run.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def policies(self) -> tuple[PolicyKey, ...]:
        """Return the keys of the policies: `a`, or `a` and `b`."""
        return ("a", "b") if any(trial.policy == "b" for trial in self.trials) else ("a",)


def make_plan(
    poses: Sequence[Pose],
    *,
    paired: bool,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Plan:
    """Return a plan for given poses.

    Args:
        poses: poses of the object.
        paired: False for one trial per pose, of policy `a`; True for two trials per pose, of `a`
            and `b` in random order.
        rng: random generator for the order.
        settings: settings that must not change when the evaluation is resumed; see `Plan`.
        facts: further data for the report; see `Plan`.
    """
    trials: list[Trial] = []
    for index, pose in enumerate(poses):
        order: list[PolicyKey] = ["a", "b"] if paired else ["a"]
        if paired and rng.random() < 0.5:
            order.reverse()
        trials += [
            Trial(key=f"{index:03d}-{policy}", policy=policy, pose=pose, pose_index=index)
            for policy in order
        ]
    return Plan(settings=settings, facts=facts, trials=tuple(trials))


def draw_plan(
    area: PoseArea,
    num_poses: int,
    seed: int,
    *,
    settings: Mapping[str, Any],
    paired: bool,
    places: Sequence[tuple[float, float]],
    least_distance_m: float,
) -> Plan:
    """Return a plan with random poses, at a distance from the poses of the demonstrations.

    Args:
        area: the area of the poses.
        num_poses: number of poses.
        seed: seed of the poses and of the order of the policies.
        settings: settings that must not change when the evaluation is resumed; see `Plan`.
        paired: True for trials of two policies at each pose.
        places: positions x, y of the object in the demonstrations, m.
        least_distance_m: smallest distance between a pose of the plan and a position in `places`,
            m.

    Raises:
        ValueError: a part of the area has no pose that is far enough from `places`.
    """
    poses = draw_poses(
        area,
        num_poses,
        np.random.default_rng((seed, 0)),
        avoid=places,
        least_distance_m=least_distance_m,
    )
    if places:
        nearest = min(nearest_m(pose, places) for pose in poses)
        text = (
            f"{len(poses)} poses, at least {nearest:.4f} m from each of the {len(places)} poses of "
            f"the demonstrations (required: {least_distance_m} m)"
        )
    else:
        text = (
            f"{len(poses)} poses; no demonstrations were named, so the policy may have been "
            "trained at some of these positions"
        )
    return make_plan(
        poses,
        paired=paired,
        rng=np.random.default_rng((seed, 1)),
        settings=settings,
        facts={"said": [text]},
    )


def keep_plan(folder: Path, settings: Mapping[str, Any], make: Callable[[], Plan]) -> Plan:
    """Return the plan that is saved in a folder; if there is none, make a plan and save it.

    Raises:
        ValueError: the saved plan is damaged, or has other settings; the message then names each
            difference.
    """
    path = folder / PLAN
    plain = json.loads(json.dumps(settings))
    if path.is_file():
        plan = load_plan(folder)
        if lines := differences(plan.settings, plain):
            raise ValueError(
                f"{folder} holds trials with other settings; use another `out`, or restore the "
                "settings (folder != command):\n  " + "\n  ".join(lines)
            )
        return plan
    plan = make()
    data = {
        "format": FORMAT,
        "kind": "trials",
        "settings": plain,
        "facts": dict(plan.facts),
        "trials": [asdict(trial) for trial in plan.trials],
    }
    write_json(path, data)
    return load_plan(folder)


def load_plan(folder: Path) -> Plan:
    """Return the plan that is saved in a folder.

    Raises:
        ValueError: the folder contains no plan, or the file of the plan is damaged.
    """
    path = folder / PLAN
    try:
        data = json.loads(path.read_text())
        if data["kind"] != "trials" or data["format"] != FORMAT:
            raise ValueError(f"kind {data['kind']!r}, format {data['format']!r}")
        return Plan(
            settings=data["settings"],
            facts=data["facts"],
            trials=tuple(read_trial(trial) for trial in data["trials"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a plan of trials: {type(error).__name__}: {error}"
        ) from error


def read_trial(data: Mapping[str, Any]) -> Trial:
    """Return a trial from the dictionary that `dataclasses.asdict` made from it."""
    values: dict[str, Any] = {**data, "pose": Pose(**data["pose"])}
    return Trial(**values)
