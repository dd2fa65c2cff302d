"""Monitor a camera for anomalies while a policy runs, and report them for the log.

    bounds = calibrate_monitor(encoder, tokens, camera="front", rate_hz=10.0)         # once
    save_bounds(path, bounds)                             # toto_robot.monitoring.conformal

    monitor = CameraMonitor(encoder, load_bounds(path), camera="front", rate_hz=10.0)
    stream = monitor.watched_stream(num_envs=1)
    ids = encoder.tokenize(frames)
    embedding = stream.step_tokens(ids, reset)
    report = monitor.report(ids, stream)
    log(report.entries())                  # alarm, outside, anomaly score, reason, all scores

`tokens` [r t n] are the tokens of r rollouts without faults, with t frames of n tokens. The monitor
gives advice and is not a safety function. docs/toto_robot.md lists the faults that it detects and
the faults that it misses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.encoder import Encoder
from ..encoders.streaming import EncoderStream
from .conformal import MonitorSpec, SurpriseBounds, calibrate
from .scores import SCORES, FrameScorer, heat_map, place_costs, rollout_costs

__all__ = ["CameraMonitor", "Report", "calibrate_monitor"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Report:
    """The anomaly report of the newest frames of b environments.

    Attributes:
        scores: [b s] the s scores in `toto_robot.monitoring.scores.SCORES`.
        deviations: [b s] differences of the scores from their means, in standard deviations.
        anomaly_scores: [b] the largest absolute deviation of each frame.
        outside: [b] true if the anomaly score is above the frame threshold, which is calibrated for
            each frame index.
        alarm: [b] true if the scores of the newest `patience` frames are above the alarm threshold,
            which is the same for all frames of an episode.
        heat: [b h w] surprisal of each token, nats, at its position in the image.
    """

    scores: NDArray[np.float64]
    deviations: NDArray[np.float64]
    anomaly_scores: NDArray[np.float64]
    outside: NDArray[np.bool_]
    alarm: NDArray[np.bool_]
    heat: NDArray[np.float32]

    def reason(self, env: int = 0) -> str:
        """Return the name of the score with the largest deviation, and its sign (high or low)."""
        worst = int(np.abs(self.deviations[env]).argmax())
        side = "high" if self.deviations[env, worst] > 0 else "low"
        return f"{SCORES[worst]} {side}"

    def entries(self, env: int = 0) -> dict[str, float | bool | str]:
        """Return the report of one environment as plain data, for a log."""
        return {
            "alarm": bool(self.alarm[env]),
            "outside": bool(self.outside[env]),
            "strangeness": float(self.anomaly_scores[env]),
            "reason": self.reason(env),
            **dict(zip(SCORES, self.scores[env].tolist(), strict=True)),
        }


class CameraMonitor:
    """A monitor that compares the frames of one camera with calibrated statistics.

    Attributes:
        bounds: calibrated statistics and thresholds.
    """

    def __init__(
        self, encoder: Encoder, bounds: SurpriseBounds, *, camera: str, rate_hz: float
    ) -> None:
        """Start a monitor without earlier frames.

        Args:
            encoder: the frozen encoder.
            bounds: statistics and thresholds for the same weights, camera and rate.
            camera: name of the monitored camera.
            rate_hz: rate of the monitored frames, Hz.

        Raises:
            ValueError: the bounds are for another encoder, camera or rate; the message names the
                difference.
        """
        spec = bounds.spec
        found = {"weights_hash": encoder.weights_hash, "camera": camera, "rate_hz": rate_hz}
        _require(spec, found)
        self.bounds = bounds
        self._encoder = encoder
        self._scorer = FrameScorer(place_costs(bounds.counts))
        self._alarm_frames = np.zeros(0, dtype=np.int64)

    def watched_stream(self, num_envs: int) -> EncoderStream:
        """Return a new stream for `report`, with the settings of the calibration."""
        spec = self.bounds.spec
        return self._encoder.stream(
            num_envs,
            spec.context,
            mode=spec.mode,
            frame_skip=spec.frame_skip,
            surprise=True,
        )

    def report(self, ids: Int64[Tensor, "b n"], stream: EncoderStream) -> Report:
        """Return the report of the newest frames. Call this once after each step of the stream.

        Args:
            ids: tokens of the newest frames of all environments.
            stream: stream from `watched_stream`, after its step with these frames.

        Raises:
            ValueError: the settings of the stream differ from those of the calibration, the stream
                does not compute surprisal or has no frame yet, or `ids` does not have one frame for
                each environment.
        """
        shown = stream.frames_shown
        kind = {"context": stream.context, "mode": stream.mode, "frame_skip": stream.frame_skip}
        _require(self.bounds.spec, kind)
        if len(ids) != stream.num_envs:
            raise ValueError(f"expected tokens of {stream.num_envs} environments, got {len(ids)}")
        costs = stream.surprise
        scores = self._scorer.score(ids, costs, shown)
        deviations = self.bounds.deviations(scores, shown)
        anomaly_scores = np.abs(deviations).max(axis=1)
        if len(self._alarm_frames) != len(shown):
            self._alarm_frames = np.zeros(len(shown), dtype=np.int64)
        before = np.where(shown == 1, 0, self._alarm_frames)
        self._alarm_frames = np.where(anomaly_scores > self.bounds.alarm_limit, before + 1, 0)
        return Report(
            scores=scores,
            deviations=deviations,
            anomaly_scores=anomaly_scores,
            outside=self.bounds.outside(anomaly_scores, shown),
            alarm=self._alarm_frames >= self.bounds.patience,
            heat=heat_map(costs).to(torch.float32, copy=True).cpu().numpy(),
        )

    look = report  # the name until version 0.1


def calibrate_monitor(
    encoder: Encoder,
    tokens: NDArray[np.integer],
    *,
    camera: str,
    rate_hz: float,
    context: int = 4,
    mode: str = "rolling",
    frame_skip: int = 1,
    level: float = 0.05,
    alarm_level: float = 0.05,
    patience: int = 1,
) -> SurpriseBounds:
    """Compute the statistics and thresholds for a monitor of a camera.

    The calibration encodes each frame with one step of a stream.

    Args:
        encoder: the frozen encoder.
        tokens: [r t n] tokens of r rollouts without faults, with t frames of n tokens. The order of
            the rollouts must not depend on their content.
        camera: name of the camera.
        rate_hz: frame rate, Hz.
        context: number of frames that the stream uses, including the newest frame.
        mode: mode of the stream, `rolling` or `staggered`.
        frame_skip: number k; the stream keeps every k-th camera frame in its window.
        level: share of normal frames that may be above the threshold of their index.
        alarm_level: share of normal rollouts that may have an alarm.
        patience: number of consecutive frames above the alarm threshold that cause an alarm.

    Raises:
        ValueError: an argument is invalid, or there are too few rollouts for the levels; the
            message states the necessary number.
    """
    spec = MonitorSpec(
        weights_hash=encoder.weights_hash,
        camera=camera,
        rate_hz=rate_hz,
        context=context,
        mode=mode,
        frame_skip=frame_skip,
    )
    return calibrate(
        tokens,
        rollout_costs(encoder, tokens, context, mode, frame_skip),
        spec,
        encoder.tokenizer.vocab_size,
        level=level,
        alarm_level=alarm_level,
        patience=patience,
    )


def _require(spec: MonitorSpec, found: Mapping[str, object]) -> None:
    """Raise an error if thresholds are for another encoder, camera or stream."""
    wrong = [
        f"{name} is {short(value)}, the bounds need {short(getattr(spec, name))}"
        for name, value in found.items()
        if value != getattr(spec, name)
    ]
    if wrong:
        raise ValueError(
            f"the bounds do not apply: {'; '.join(wrong)}; calibrate the monitor again"
        )
