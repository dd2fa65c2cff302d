"""The plan of an evaluation, settled before the first trial: poses, and which policy is tried when.

Poses are drawn away from those of the demonstrations. With two policies the trials come in pairs at
the same pose, and which of the two begins is drawn for each pair.
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
    """One thing to do.

    Attributes:
        key: its name, and its folder's: the pose's number and the policy.
        policy: which one is tried.
        pose: where the object lies.
        pose_index: which of the plan's poses that is; both trials of a pair have the same.
    """

    key: str
    policy: PolicyKey
    pose: Pose
    pose_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that is settled before the first trial.

    Attributes:
        settings: plain data that must not change between trials: config, weights' hashes.
        facts: plain data for the report: how far the poses are from the demonstrations'.
        trials: in the order in which they are done.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def policies(self) -> tuple[PolicyKey, ...]:
        """Return what is compared: one or two."""
        return ("a", "b") if any(trial.policy == "b" for trial in self.trials) else ("a",)


def make_plan(
    poses: Sequence[Pose],
    *,
    paired: bool,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Plan:
    """Settle what is done when: at each pose `a`, or `a` and `b` in an order that is drawn."""
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
    """Draw poses and order, away from the demonstrations.

    Args:
        area: where poses are drawn.
        num_poses: how many.
        seed: of poses and order.
        settings: what must not change between trials, for the plan.
        paired: whether two policies are tried at each pose.
        places: x and y, m, in the demonstrations, which are kept away from.
        least_distance_m: how far each pose is from all of these.

    Raises:
        ValueError: these places leave no room.
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
        said = (
            f"{len(poses)} poses, none nearer than {nearest:.4f} m to any of the {len(places)} of "
            f"the demonstrations (least distance asked for: {least_distance_m} m)"
        )
    else:
        said = (
            f"{len(poses)} poses; no demonstrations were named, so a policy may have been trained "
            "on some of these places"
        )
    return make_plan(
        poses,
        paired=paired,
        rng=np.random.default_rng((seed, 1)),
        settings=settings,
        facts={"said": [said]},
    )


def keep_plan(folder: Path, settings: Mapping[str, Any], make: Callable[[], Plan]) -> Plan:
    """Return the folder's plan; make and write it down if there is none.

    Raises:
        ValueError: the folder's plan was made with other settings; naming each that differs.
    """
    path = folder / PLAN
    plain = json.loads(json.dumps(settings))
    if path.is_file():
        plan = load_plan(folder)
        if lines := differences(plan.settings, plain):
            raise ValueError(
                f"{folder} holds trials with other settings; give another `out`, or make it the "
                "same again (there != here):\n  " + "\n  ".join(lines)
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
    """Read what was settled.

    Raises:
        ValueError: there is none, or it is damaged; naming the file.
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
        raise ValueError(f"{path} is no plan of trials: {type(error).__name__}: {error}") from error


def read_trial(data: Mapping[str, Any]) -> Trial:
    """Return the trial that `asdict` made plain."""
    values: dict[str, Any] = {**data, "pose": Pose(**data["pose"])}
    return Trial(**values)
