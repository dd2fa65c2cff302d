"""What is usual, and limits of strangeness that keep a promise (split conformal prediction).

The scores of `scores` are taken relative to what is usual *at that frame of an
episode*: by how many standard deviations each is above or below the mean of the rollouts fitted on.
The largest of them, to either side, is the frame's strangeness. Two limits for it come from other
rollouts (Vovk et al. 2005). If new rollouts are exchangeable with those (made the same way, nothing
wrong), then on average over calibrations

- at each frame index at most `level` of new frames are above the index's limit (`outside`),
- at most `alarm_level` of new rollouts, of the same length, ever have an alarm: `patience` frames
  in a row above one limit for all.

Nothing is promised of rollouts made otherwise, nor of frames after the last index, which are held
against it; and an alarm says that something is unusual, not that something is wrong.
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
_SMOOTHED = 3  # frame indices to either side that share a mean and a standard deviation
_LEAST_WIDTH = 0.1  # of a score's standard deviation over all indices


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorSpec:
    """What bounds are of; they are of no use for anything else.

    Attributes:
        weights_hash: of the encoder. Its layer and pool do not matter here.
        camera: name of the camera.
        rate_hz: frames a second.
        context: frames of the stream's window.
        mode: of the stream.
        frame_skip: of the stream.
    """

    weights_hash: str
    camera: str
    rate_hz: float
    context: int
    mode: str
    frame_skip: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurpriseBounds:
    """What is usual at each frame index of an episode; the last holds from there on.

    Attributes:
        spec: of which encoder, camera and stream.
        counts: [n v] how often each code was at each place.
        mean: [t s] of the scores, s as in `scores.SCORES`; NaN where there is none.
        width: [t s] their standard deviations.
        anomaly_scores: [r t] of the rollouts that the limits are of.
        frame_limits: [t] of the strangeness of a frame.
        alarm_limit: of the strangeness of `patience` frames in a row.
        level: share of usual frames that may be above their limit.
        alarm_level: share of usual rollouts that may have an alarm.
        patience: frames in a row that make an alarm.
        num_fitted: rollouts that the counts, means and widths are of.
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
        """Return the same with other limits; takes no rollouts.

        Raises:
            ValueError: impossible levels, or too few rollouts for them; the message says how many
                it takes.
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
        """Return by how many standard deviations scores [b s] are above the mean, [b s].

        Args:
            scores: what `FrameScorer` gives.
            frames_shown: [b] what the stream gives: frames of each episode so far.
        """
        index = np.clip(frames_shown - 1, 0, len(self.mean) - 1)
        return _deviations(scores, self.mean[index], self.width[index])

    def outside(
        self, anomaly_scores: NDArray[np.float64], frames_shown: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which frames are stranger [b] than `level` of the usual ones at their index."""
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
    """Learn what is usual from rollouts in which nothing was wrong.

    The first half of them gives counts, means and widths, the second half the limits.

    Args:
        tokens: [r t n] of r rollouts of t frames, from their first frames on, in any order that
            has nothing to do with what is in them.
        costs: [r t n] what `rollout_costs` gives for them.
        spec: what they are of.
        num_codes: vocabulary of the tokenizer.
        level: share of usual frames that may be outside.
        alarm_level: share of usual rollouts that may have an alarm.
        patience: frames in a row that make an alarm.

    Raises:
        ValueError: the rollouts are too few for the levels; the message says how many it takes.
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
    counts, mean, width = _usual(tokens[:num_fitted], costs[:num_fitted], num_codes)
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


def _usual(
    tokens: NDArray[np.integer], costs: NDArray[np.float32], num_codes: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Return the counts of codes at each place, and means and widths of the scores."""
    counts = _count(tokens, num_codes)
    # without their own counts, or these rollouts would seem more usual than new ones
    scores = [
        _scores(place_costs(counts - _count(one, num_codes)), one, cost)
        for one, cost in zip(tokens[:, None], costs[:, None], strict=True)
    ]
    return counts, *_moments(np.concatenate(scores))


def save_bounds(path: Path, bounds: SurpriseBounds) -> None:
    """Write bounds to a safetensors file; nothing in it can execute."""
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
        aside.chmod(0o644)  # safetensors makes it readable to its owner alone


def load_bounds(path: Path) -> SurpriseBounds:
    """Read what `save_bounds` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or of another kind or a newer format.
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
        raise ValueError(f"{path} holds no bounds that can be read ({error})") from error


def _limits(
    anomaly_scores: NDArray[np.float64], level: float, alarm_level: float, patience: int
) -> tuple[NDArray[np.float64], float]:
    """Return the limits [t] of frames and the limit of alarms, from usual rollouts [r t]."""
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
        # a limit is one of the values: the largest of n is exceeded with a chance of 1 / (n + 1)
        needed = math.ceil(round(1 / value, 9)) - 1
        if num_rollouts < needed:
            raise ValueError(
                f"{name} {value} takes at least {needed} rollouts beside those that are fitted "
                f"on, got {num_rollouts}"
            )


def _scores(
    costs_of_places: Tensor, tokens: NDArray[np.integer], costs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the scores [r t s] of rollouts, as a monitor would."""
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
    # the first frame has no stillness; any other score that is no number is as strange as can be
    strange = np.nan_to_num((scores - mean) / width, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return np.where(np.isnan(mean), 0.0, strange)


def _count(tokens: NDArray[np.integer], num_codes: int) -> NDArray[np.int32]:
    """Count how often each code is at each place, [n v]."""
    num_places = tokens.shape[-1]
    cells = np.arange(num_places) * num_codes + tokens.reshape(-1, num_places)
    counted = np.bincount(cells.ravel(), minlength=num_places * num_codes)
    return counted.reshape(num_places, num_codes).astype(np.int32)


def _moments(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and standard deviations [t s] of scores [r t s], pooled over close frames."""
    num_frames = scores.shape[1]
    least = _LEAST_WIDTH * np.nanstd(scores, axis=(0, 1))
    mean, width = np.full(scores.shape[1:], np.nan), np.ones(scores.shape[1:])
    for index in range(num_frames):
        # the first frame has no past, and is like no other
        first, last = (max(1, index - _SMOOTHED), index + _SMOOTHED) if index else (0, 0)
        near = scores[:, first : last + 1]
        known = ~np.isnan(scores[:, index]).all(axis=0)
        mean[index, known] = np.nanmean(near[..., known], axis=(0, 1))
        width[index, known] = np.maximum(np.nanstd(near[..., known], axis=(0, 1)), least[known])
    return mean, np.maximum(width, np.finfo(float).tiny)


def _conformal(values: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return limits [t] that one more row like those [r t] exceeds with at most this chance."""
    rank = math.ceil(round((len(values) + 1) * (1 - level), 9))
    return np.sort(values, axis=0)[rank - 1]


__getattr__ = moved_names(
    __name__,
    {
        "Watched": "toto_robot.monitoring.conformal:MonitorSpec",
    },
)
