"""The plan of an evaluation, fixed before the first trial: poses, and the order of the policies.

Poses are drawn away from those of the demonstrations. With two policies there are two trials at
each pose, in a random order.
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
        key: name of the trial and of its folder: the number of the pose, and the policy.
        policy: the policy of the trial.
        pose: pose of the object.
        pose_index: index of the pose in the plan; the two trials of a pair have the same one.
    """

    key: str
    policy: PolicyKey
    pose: Pose
    pose_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The plan of an evaluation.

    Attributes:
        settings: plain data that must not change between trials: the config and weight hashes.
        facts: plain data for the report: the distance of the poses from the demonstrations.
        trials: the trials in their order.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def policies(self) -> tuple[PolicyKey, ...]:
        """Return the keys of the policies, one or two."""
        return ("a", "b") if any(trial.policy == "b" for trial in self.trials) else ("a",)


def make_plan(
    poses: Sequence[Pose],
    *,
    paired: bool,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Plan:
    """Return the plan: at each pose a trial of `a`, or trials of `a` and `b` in random order."""
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
    """Return a plan with random poses, away from those of the demonstrations.

    Args:
        area: the area of the poses.
        num_poses: number of poses.
        seed: seed of poses and order.
        settings: the plan's settings, which must not change between trials.
        paired: True for trials of two policies at each pose.
        places: x and y of the object in the demonstrations, m.
        least_distance_m: smallest distance of each pose from every pose in `places`.

    Raises:
        ValueError: no pose is far enough from the poses in `places`.
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
    """Return the plan in a folder; make and write it if there is none.

    Raises:
        ValueError: the plan in the folder has other settings; the error names each difference.
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
    """Return the plan in a folder.

    Raises:
        ValueError: there is no plan, or its file is damaged.
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
    """Return the trial of which `data` is the `asdict`."""
    values: dict[str, Any] = {**data, "pose": Pose(**data["pose"])}
    return Trial(**values)
