"""Draw the plan of an evaluation: poses away from those of the demonstrations, and the order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.demonstrations.lerobot.reader import DatasetReader

from .plan import Plan, make_plan
from .poses import PoseArea, draw_poses, nearest_m


def draw_plan(
    area: PoseArea,
    num_poses: int,
    seed: int,
    *,
    settings: Mapping[str, Any],
    paired: bool,
    demonstrations: Sequence[Path],
    least_distance_m: float,
) -> Plan:
    """Draw poses and order, away from the demonstrations.

    Args:
        area: where poses are drawn.
        num_poses: how many.
        seed: of poses and order.
        settings: what must not change between trials, for the plan.
        paired: whether two policies are tried at each pose.
        demonstrations: data sets whose poses are kept away from.
        least_distance_m: how far each pose is from all of theirs.

    Raises:
        ValueError: a data set does not say where its objects were, or leaves no room.
    """
    places = [place for folder in demonstrations for place in places_of(folder)]
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


def places_of(dataset: Path) -> list[tuple[float, float]]:
    """Give x and y of the object, m, at the beginning of each episode of a data set.

    Raises:
        ValueError: no episode says it.
    """
    reader = DatasetReader(dataset)
    places = []
    for index in range(len(reader)):
        notes = reader.facts(index).get("notes", {})
        if (found := notes.get("object_pose")) is not None:
            places.append((float(found[0]), float(found[1])))
        elif (planned := notes.get("pose")) is not None:
            places.append((float(planned["x_m"]), float(planned["y_m"])))
    if not places:
        raise ValueError(
            f"{dataset}: none of {len(reader)} episodes says where the object was, so poses cannot "
            "be kept away from theirs; leave it out of `demonstrations`"
        )
    return places
