"""Calibrated thresholds for anomaly scores (split conformal prediction).

The calibration data are rollouts without faults. From the first half of them, the mean and the
standard deviation of each score (see `scores`) are computed, *separately for each frame index of an
episode*. (Each index except 0 also uses the frames of up to 3 indices on either side.) The
*deviation* of a score is its difference from the mean, in standard deviations. The *anomaly score*
of a frame is the largest absolute deviation of its scores.

Two kinds of thresholds are computed from the second half of the rollouts (Vovk et al. 2005). If new
rollouts are recorded in the same way and without a fault (they are exchangeable), the thresholds
guarantee on average over calibrations:

- at each frame index, at most a share `level` of new frames is above the threshold of this index
  (`outside`);
- at most a share `alarm_level` of new rollouts of the same length has an alarm. An alarm means that
  `patience` consecutive frames are above the alarm threshold.

There is no guarantee for rollouts that were recorded in another way. There is also none for frames
after the last calibrated index, which use the threshold of this index. An alarm means that a frame
is unusual; the cause need not be a fault.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..config import from_dict, to_dict
from ..files import written_aside
from ..moved import moved_names
from .scores import FrameScorer, place_costs

__all__ = ["MonitorSpec", "SurpriseBounds", "calibrate", "load_bounds", "save_bounds"]

_FORMAT = 1
_SMOOTHED = 3  # frame indices on either side that share a mean and a standard deviation
_LEAST_WIDTH = 0.1  # relative to a score's standard deviation over all indices


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorSpec:
    """The encoder, camera and stream for which thresholds are valid.

    Attributes:
        weights_hash: sha256 of the encoder's weights. The encoder may have any layer and pool.
        camera: name of the camera.
        rate_hz: frame rate, Hz.
        context: number of frames that the stream uses, including the newest frame.
        mode: mode of the stream, `rolling` or `staggered`.
        frame_skip: number k; the stream keeps every k-th camera frame in its window.
    """

    weights_hash: str
    camera: str
    rate_hz: float
    context: int
    mode: str
    frame_skip: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurpriseBounds:
    """Calibration statistics and thresholds for t frame indices, from the start of an episode.

    Frames after the last index use the values of the last index.

    Attributes:
        spec: encoder, camera and stream for which the statistics and thresholds are valid.
        counts: [n v] number of occurrences of each of v codes at each of n token positions.
        mean: [t s] means of the s scores in `scores.SCORES`; NaN if a score is not defined.
        width: [t s] standard deviations of the scores.
        anomaly_scores: [r t] anomaly scores of the r rollouts that determine the thresholds.
        frame_limits: [t] thresholds for the anomaly score of a frame.
        alarm_limit: threshold for the anomaly scores of `patience` consecutive frames.
        level: share of normal frames that may be above the threshold of their index.
        alarm_level: share of normal rollouts that may have an alarm.
        patience: number of consecutive frames above the alarm threshold that cause an alarm.
        num_fitted: number of rollouts that determine counts, means and widths.
    """

    spec: MonitorSpec
    counts: NDArray[np.int32]
    mean: NDArray[np.float64]
    width: NDArray[np.float64]
    anomaly_scores: NDArray[np.float64]
    frame_limits: NDArray[np.float64]
    alarm_limit: float
    level: float
    alarm_level: float
    patience: int
    num_fitted: int

    def with_levels(self, level: float, alarm_level: float, patience: int) -> "SurpriseBounds":
        """Return a copy with thresholds for other levels, computed from the saved scores.

        Raises:
            ValueError: a level is out of range, or there are too few rollouts for it; the message
                states the necessary number.
        """
        frame_limits, alarm_limit = _limits(self.anomaly_scores, level, alarm_level, patience)
        return replace(
            self,
            frame_limits=frame_limits,
            alarm_limit=alarm_limit,
            level=level,
            alarm_level=alarm_level,
            patience=patience,
        )

    def deviations(
        self, scores: NDArray[np.float64], frames_shown: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the deviations [b s] of s scores of b frames from their means.

        A deviation is measured in standard deviations.

        Args:
            scores: scores of `FrameScorer`.
            frames_shown: [b] number of frames so far in the episode of each frame, from the
                attribute `frames_shown` of the stream.
        """
        index = np.clip(frames_shown - 1, 0, len(self.mean) - 1)
        return _deviations(scores, self.mean[index], self.width[index])

    def outside(
        self, anomaly_scores: NDArray[np.float64], frames_shown: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return, for b frames, whether the anomaly score is above the threshold of its index."""
        index = np.clip(frames_shown - 1, 0, len(self.frame_limits) - 1)
        return anomaly_scores > self.frame_limits[index]


def calibrate(
    tokens: NDArray[np.integer],
    costs: NDArray[np.float32],
    spec: MonitorSpec,
    num_codes: int,
    *,
    level: float = 0.05,
    alarm_level: float = 0.05,
    patience: int = 1,
) -> SurpriseBounds:
    """Compute statistics and thresholds from rollouts without faults.

    The first half of the rollouts determines counts, means and standard deviations, the second half
    the thresholds.

    Args:
        tokens: [r t n] tokens of the first t frames of r rollouts, n tokens per frame. The order of
            the rollouts must not depend on their content.
        costs: [r t n] surprisal (negative log-probability) of the tokens, from `rollout_costs`.
        spec: encoder, camera and stream of the rollouts.
        num_codes: vocabulary size of the tokenizer.
        level: share of normal frames that may be above the threshold of their index.
        alarm_level: share of normal rollouts that may have an alarm.
        patience: number of consecutive frames above the alarm threshold that cause an alarm.

    Raises:
        ValueError: an argument is invalid, or there are too few rollouts for the levels; the
            message states the necessary number.
    """
    if tokens.ndim != 3 or tokens.shape != costs.shape:
        raise ValueError(
            f"tokens and costs must both be [r t n], got {list(tokens.shape)} and "
            f"{list(costs.shape)}"
        )
    num_rollouts, num_frames, _ = tokens.shape
    if num_frames < 2:
        raise ValueError(f"rollouts must have at least 2 frames, got {num_frames}")
    num_fitted = num_rollouts // 2
    _check_levels(num_rollouts - num_fitted, num_frames, level, alarm_level, patience)
    counts, mean, width = _statistics(tokens[:num_fitted], costs[:num_fitted], num_codes)
    others = _scores(place_costs(counts), tokens[num_fitted:], costs[num_fitted:])
    anomaly_scores = np.abs(_deviations(others, mean, width)).max(axis=2)  # r t
    frame_limits, alarm_limit = _limits(anomaly_scores, level, alarm_level, patience)
    return SurpriseBounds(
        spec=spec,
        counts=counts,
        mean=mean,
        width=width,
        anomaly_scores=anomaly_scores,
        frame_limits=frame_limits,
        alarm_limit=alarm_limit,
        level=level,
        alarm_level=alarm_level,
        patience=patience,
        num_fitted=num_fitted,
    )


def _statistics(
    tokens: NDArray[np.integer], costs: NDArray[np.float32], num_codes: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Return the counts of codes, and the means and standard deviations of the scores.

    The shapes are those in `SurpriseBounds`: [n v], [t s] and [t s].
    """
    counts = _count(tokens, num_codes)
    # each rollout is scored with the counts of the others, as a new rollout would be
    scores = [
        _scores(place_costs(counts - _count(one, num_codes)), one, cost)
        for one, cost in zip(tokens[:, None], costs[:, None], strict=True)
    ]
    return counts, *_moments(np.concatenate(scores))


def save_bounds(path: Path, bounds: SurpriseBounds) -> None:
    """Write statistics and thresholds to a safetensors file."""
    places, codes = np.nonzero(bounds.counts)
    arrays = {
        "mean": bounds.mean,
        "width": bounds.width,
        "strangeness": bounds.anomaly_scores,
        "places": places.astype(np.int32),
        "codes": codes.astype(np.int32),
        "counts": bounds.counts[places, codes],
    }
    notes = {
        "format": _FORMAT,
        "watched": to_dict(bounds.spec),
        "shape": list(bounds.counts.shape),
        "level": bounds.level,
        "alarm_level": bounds.alarm_level,
        "patience": bounds.patience,
        "num_fitted": bounds.num_fitted,
    }
    with written_aside(path) as aside:
        save_file(arrays, aside, {"bounds": json.dumps(notes)})
        aside.chmod(0o644)  # safetensors makes the file readable only by its owner


def load_bounds(path: Path) -> SurpriseBounds:
    """Load the statistics and thresholds that `save_bounds` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or has another content or format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no bounds at {path}")
    try:
        with safe_open(path, framework="numpy") as opened:
            notes = json.loads((opened.metadata() or {})["bounds"])
            if notes["format"] != _FORMAT:
                raise ValueError(f"format {notes['format']}, this version reads {_FORMAT}")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        counts = np.zeros(notes["shape"], dtype=np.int32)
        counts[arrays["places"], arrays["codes"]] = arrays["counts"]
        levels = (notes["level"], notes["alarm_level"], notes["patience"])
        frame_limits, alarm_limit = _limits(arrays["strangeness"], *levels)
        return SurpriseBounds(
            spec=from_dict(MonitorSpec, notes["watched"]),
            counts=counts,
            mean=arrays["mean"],
            width=arrays["width"],
            anomaly_scores=arrays["strangeness"],
            frame_limits=frame_limits,
            alarm_limit=alarm_limit,
            level=notes["level"],
            alarm_level=notes["alarm_level"],
            patience=notes["patience"],
            num_fitted=notes["num_fitted"],
        )
    except (SafetensorError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} holds no readable bounds ({error})") from error


def _limits(
    anomaly_scores: NDArray[np.float64], level: float, alarm_level: float, patience: int
) -> tuple[NDArray[np.float64], float]:
    """Compute the frame thresholds [t] and the alarm threshold from anomaly scores [r t]."""
    num_rollouts, num_frames = anomaly_scores.shape
    _check_levels(num_rollouts, num_frames, level, alarm_level, patience)
    in_a_row = np.lib.stride_tricks.sliding_window_view(anomaly_scores, patience, axis=1)
    highest = np.max(np.min(in_a_row, axis=2), axis=1)
    return _conformal(anomaly_scores, level), float(_conformal(highest[:, None], alarm_level)[0])


def _check_levels(
    num_rollouts: int, num_frames: int, level: float, alarm_level: float, patience: int
) -> None:
    if not 1 <= patience <= num_frames:
        raise ValueError(f"patience must be in [1, {num_frames}] frames, got {patience}")
    for name, value in (("level", level), ("alarm_level", alarm_level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
        # a threshold is one of the n values: a new value exceeds the largest with probability 1 /
        # (n + 1)
        needed = math.ceil(round(1 / value, 9)) - 1
        if num_rollouts < needed:
            raise ValueError(
                f"{name} {value} needs at least {needed} rollouts besides the fitted ones, got "
                f"{num_rollouts}"
            )


def _scores(
    costs_of_places: Tensor, tokens: NDArray[np.integer], costs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the s scores of each frame, [r t s], of r rollouts of t frames.

    They are computed frame by frame with `FrameScorer`, so they equal the scores of a running
    monitor.
    """
    scorer = FrameScorer(costs_of_places)
    rows = [
        scorer.score(
            torch.from_numpy(tokens[:, index].astype(np.int64)),
            torch.from_numpy(costs[:, index]),
            np.full(len(tokens), index + 1),
        )
        for index in range(tokens.shape[1])
    ]
    return np.stack(rows, axis=1)


def _deviations(
    scores: NDArray[np.float64], mean: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    # `still` is undefined in the first frame; any other score that is NaN counts as infinite
    deviations = np.nan_to_num((scores - mean) / width, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return np.where(np.isnan(mean), 0.0, deviations)


def _count(tokens: NDArray[np.integer], num_codes: int) -> NDArray[np.int32]:
    """Return the number of occurrences of each of v codes at each of n token positions, [n v]."""
    num_places = tokens.shape[-1]
    cells = np.arange(num_places) * num_codes + tokens.reshape(-1, num_places)
    counted = np.bincount(cells.ravel(), minlength=num_places * num_codes)
    return counted.reshape(num_places, num_codes).astype(np.int32)


def _moments(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and standard deviations [t s] of scores [r t s] for each frame index.

    Each value is computed from the frames with this index and with the 3 indices on either side.
    Index 0 is not combined with other indices.
    """
    num_frames = scores.shape[1]
    least = _LEAST_WIDTH * np.nanstd(scores, axis=(0, 1))
    mean, width = np.full(scores.shape[1:], np.nan), np.ones(scores.shape[1:])
    for index in range(num_frames):
        # the first frame has no past, so it is not pooled with others
        first, last = (max(1, index - _SMOOTHED), index + _SMOOTHED) if index else (0, 0)
        near = scores[:, first : last + 1]
        known = ~np.isnan(scores[:, index]).all(axis=0)
        mean[index, known] = np.nanmean(near[..., known], axis=(0, 1))
        width[index, known] = np.maximum(np.nanstd(near[..., known], axis=(0, 1)), least[known])
    return mean, np.maximum(width, np.finfo(float).tiny)


def _conformal(values: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return thresholds [t] that new values exceed with at most the probability `level`.

    The thresholds are computed from r exchangeable rows of values [r t].
    """
    rank = math.ceil(round((len(values) + 1) * (1 - level), 9))
    return np.sort(values, axis=0)[rank - 1]


__getattr__ = moved_names(
    __name__,
    {
        "Watched": "toto_robot.monitoring.conformal:MonitorSpec",
    },
)
