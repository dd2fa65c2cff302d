"""Linear probes on the embeddings of demonstrations: what information a policy could use.

For each task, ridge regressions predict these quantities from the embeddings of all cameras; the
score is R2 on held-out episodes:

    object             position of the first object
    hand               position of the hand
    action             action of the expert
    action+proprio     the same, from embeddings and proprioception together
    inverse            mean action between two used frames, from the embeddings of both
    object at rest     position of the object in frames before it moves

The row without vision predicts from proprioception instead of embeddings. A column of a target that
hardly varies in a task is left out, and so is a target that has no other column.

As in the policies, inputs are standardised and clipped before the regression. With changed
appearance, the probes are fitted to the demonstrations as they are, and tested on the same episodes
in other light, with other colours and a moved camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.probing.ridge import ProbeEvaluation, principal_directions

from .recordings import Recording
from .rows import Row, embeddings

__all__ = ["TARGETS", "ProbeConfig", "probe"]

Array = NDArray[Any]
TARGETS = ("object", "hand", "action", "action+proprio", "inverse", "object at rest")
MOVED_M = 0.01  # distance from which an object counts as moved
VARIES = {"object": 2e-3, "hand": 2e-3, "object at rest": 2e-3}  # metres; else ACTION_VARIES
ACTION_VARIES = 0.02
# Minimum divisor of an input: about the rounding error of half precision, and less for states.
FLOOR, PROPRIO_FLOOR = 1e-2, 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Settings of the probes.

    Attributes:
        stride: distance between two used frames, in frames.
        folds: number of cross-validation folds over episodes, at least 3.
        width: maximum number of inputs of a probe; longer embeddings are projected to this number
            of principal components.
        clip: each standardised input is clipped to [-clip, clip], in standard deviations of the
            demonstrations, as `student.clip` does in policies.
        penalties: penalties of the ridge regression, relative to the mean variance of the inputs;
            one is chosen for each fold on the data of the other folds.
        resamples: number of bootstrap resamples.
        seed: seed of folds and bootstrap.
    """

    stride: int
    folds: int
    width: int
    clip: float
    penalties: tuple[float, ...]
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3 to choose a penalty, got {self.folds}")
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be positive, got {self.penalties}")
        for name, least in (("stride", 1), ("width", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Frames:
    """The used frames of all demonstrations of a task, r rows.

    Attributes:
        inputs: [r p] embeddings of all cameras; proprioception in the row without vision.
        proprio: [r 4].
        objects: [r 3].
        actions: [r 4] action of the expert in the frame.
        between: [r 4] mean action until the next used frame of the episode.
        at_rest: [r] true until the object moves.
        episode: [r] number of the episode.
        has_next: [r] false in the last used frame of an episode.
    """

    inputs: Array
    proprio: Array
    objects: Array
    actions: Array
    between: Array
    at_rest: Array
    episode: Array
    has_next: Array


def probe(
    row: Row,
    recordings: Sequence[Recording],
    config: ProbeConfig,
    changed: Sequence[Recording] | None = None,
) -> dict[str, dict[str, Any]]:
    """Fit and score the probes of one row on one task.

    Args:
        row: the row, whose encoder computes the embeddings.
        recordings: the demonstrations.
        config: settings of the probes.
        changed: the same episodes with another appearance, on which the probes are tested; None:
            they are tested on `recordings`.

    Returns:
        For each target: `score`, the mean R2 of its columns; `draws`, the score in each bootstrap
        resample of the episodes, which are paired between rows; and `rows`, the number of frames.
    """
    data = _gather(row, recordings, config.stride)
    test = data if changed is None else _gather(row, changed, config.stride)
    if not np.allclose(data.proprio, test.proprio, atol=1e-3):
        raise ValueError(f"{recordings[0].path.parent}: the two appearances differ in their motion")
    everything = np.ones(len(data.episode), bool)
    asked = {
        "object": (data.objects, everything),
        "hand": (data.proprio[:, :3], everything),
        "action": (data.actions, everything),
        "action+proprio": (data.actions, everything),
        "inverse": (data.between, data.has_next),
        "object at rest": (data.objects, data.at_rest),
    }
    floor = PROPRIO_FLOOR if row.encoder is None else FLOOR
    all_frames = _reduced(data.inputs, test.inputs, config, floor)
    found = {}
    for name, (target, chosen) in asked.items():
        target = target[chosen].astype(np.float64)
        target = target[:, target.std(0) > VARIES.get(name, ACTION_VARIES)]
        if not target.shape[1]:
            continue
        evaluation = ProbeEvaluation(
            target,
            data.episode[chosen],
            is_label=False,
            folds=config.folds,
            resamples=config.resamples,
            penalties=config.penalties,
            seed=config.seed,
        )
        used, shown = all_frames
        if chosen is not everything:
            both = name == "inverse"
            used, shown = _reduced(
                _chosen(data, chosen, both), _chosen(test, chosen, both), config, floor
            )
        companions = 0
        if row.encoder is not None and name == "action+proprio":
            joints, _ = _reduced(data.proprio, data.proprio, config, PROPRIO_FLOOR)
            used, shown = (np.concatenate([one, joints], axis=1) for one in (used, shown))
            companions = joints.shape[1]
        score = evaluation.score(used, companions, shown)
        found[name] = {
            "score": round(score.score, 5),
            "draws": [round(float(one), 5) for one in score.draws],
            "rows": len(target),
        }
    return found


def _chosen(data: _Frames, chosen: Array, both: bool) -> Array:
    """Return the inputs of some frames, or of these frames and their next frames."""
    rows = np.flatnonzero(chosen)
    if not both:
        return data.inputs[rows]
    return np.concatenate([data.inputs[rows], data.inputs[rows + 1]], axis=1)


def _reduced(inputs: Array, shown: Array, config: ProbeConfig, floor: float) -> tuple[Array, Array]:
    """Scale inputs to mean 0 and deviation 1, clip them, and project them to principal components.

    Both results are computed with the statistics and the components of `inputs` [r p].
    """
    values = inputs.astype(np.float64)
    mean, std = values.mean(0), np.maximum(values.std(0), floor)
    scaled, other = (
        np.clip((some - mean) / std, -config.clip, config.clip)
        for some in (values, shown.astype(np.float64))
    )
    if scaled.shape[1] > config.width:
        basis = principal_directions(scaled, config.width)
        scaled, other = scaled @ basis, other @ basis
    return scaled, other


def _gather(row: Row, recordings: Sequence[Recording], stride: int) -> _Frames:
    parts: dict[str, list[Array]] = {name: [] for name in _Frames.__slots__}
    for number, one in enumerate(recordings):
        rows = np.arange(0, len(one.actions), stride)
        proprio = one.proprio[rows]
        if row.encoder is None:
            inputs = proprio
        else:
            inputs = embeddings(row, one, stride)[: len(rows)].reshape(len(rows), -1)
        moved = np.linalg.norm(one.objects - one.objects[0], axis=1) > MOVED_M
        ends = np.append(rows[1:], len(one.actions))
        between = [one.actions[a:b].mean(0) for a, b in zip(rows, ends, strict=True)]
        parts["inputs"].append(inputs)
        parts["proprio"].append(proprio)
        parts["objects"].append(one.objects[rows])
        parts["actions"].append(one.actions[rows])
        parts["between"].append(np.stack(between))
        parts["at_rest"].append(~np.logical_or.accumulate(moved)[rows])
        parts["episode"].append(np.full(len(rows), number))
        parts["has_next"].append(np.arange(len(rows)) < len(rows) - 1)
    return _Frames(**{name: np.concatenate(found) for name, found in parts.items()})
