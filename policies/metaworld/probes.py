"""Linear probes on the embeddings of demonstrations: what a policy could read out of an encoder.

For each task, ridge regressions predict these quantities from the embeddings of all cameras; the
score is R2 on held-out episodes:

    object             position of the first object
    hand               position of the hand
    action             action of the expert
    action+proprio     the same, from embeddings and proprioception together
    inverse            mean action between two used frames, from the embeddings of both
    object at rest     position of the object in frames before it moves

The row without vision predicts from proprioception instead of embeddings. A column of a target that
hardly varies in a task is left out, and a target without other columns too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.probing.ridge import ProbeEvaluation, rotate, standardise

from .recordings import Recording
from .rows import Row, embeddings

__all__ = ["TARGETS", "ProbeConfig", "probe"]

Array = NDArray[Any]
TARGETS = ("object", "hand", "action", "action+proprio", "inverse", "object at rest")
MOVED_M = 0.01  # distance from which an object counts as moved
VARIES = {"object": 2e-3, "hand": 2e-3, "object at rest": 2e-3}  # metres; else ACTION_VARIES
ACTION_VARIES = 0.02
PROPRIO_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Settings of the probes.

    Attributes:
        stride: distance between two used frames, in frames.
        folds: number of cross-validation folds over episodes, at least 3.
        width: maximum number of inputs of a probe; longer embeddings are projected to this number
            of principal components.
        penalties: penalties of the ridge regression, relative to the mean variance of the inputs;
            one is chosen for each fold on the data of the other folds.
        resamples: number of bootstrap resamples.
        seed: seed of folds and bootstrap.
    """

    stride: int
    folds: int
    width: int
    penalties: tuple[float, ...]
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3 to choose a penalty, got {self.folds}")
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
    row: Row, recordings: Sequence[Recording], config: ProbeConfig
) -> dict[str, dict[str, Any]]:
    """Fit and score the probes of one row on one task.

    Returns:
        For each target: `score`, the mean R2 of its columns; `draws`, the score in each bootstrap
        resample of the episodes, which are paired between rows; and `rows`, the number of frames.
    """
    data = _gather(row, recordings, config.stride)
    everything = np.ones(len(data.episode), bool)
    pairs = np.flatnonzero(data.has_next)
    vision = row.encoder is not None
    both = np.concatenate([data.inputs[pairs], data.inputs[pairs + 1]], axis=1)
    asked = {
        "object": (data.inputs, data.objects, everything),
        "hand": (data.inputs, data.proprio[:, :3], everything),
        "action": (data.inputs, data.actions, everything),
        "action+proprio": (data.inputs, data.actions, everything),
        "inverse": (both, data.between, data.has_next),
        "object at rest": (data.inputs, data.objects, data.at_rest),
    }
    found = {}
    for name, (inputs, target, chosen) in asked.items():
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
        used = inputs if len(inputs) == len(target) else inputs[chosen]
        used, _ = rotate(standardise(used.astype(np.float64), _floor(vision)), config.width)
        companions = 0
        if vision and name == "action+proprio":
            joints = standardise(data.proprio[chosen].astype(np.float64), PROPRIO_FLOOR)
            used, companions = np.concatenate([used, joints], axis=1), joints.shape[1]
        score = evaluation.score(used, companions)
        found[name] = {
            "score": round(score.score, 5),
            "draws": [round(float(one), 5) for one in score.draws],
            "rows": len(target),
        }
    return found


def _floor(vision: bool) -> float:
    return 1e-2 if vision else PROPRIO_FLOOR


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
