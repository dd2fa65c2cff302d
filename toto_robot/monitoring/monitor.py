"""Watch a camera while a policy runs: what a robot logs beside its frames.

    bounds = calibrate_monitor(encoder, tokens, camera="front", rate_hz=10.0)         # once
    save_bounds(path, bounds)                             # toto_robot.monitoring.conformal

    monitor = CameraMonitor(encoder, load_bounds(path), camera="front", rate_hz=10.0)
    stream = monitor.watched_stream(num_envs=1)
    ids = encoder.tokenize(frames)
    embedding = stream.step_tokens(ids, reset)
    report = monitor.look(ids, stream)
    log(report.entries())                  # alarm, outside, strangeness, the reason, the scores

`tokens` are those of rollouts in which nothing was wrong, [r t n], t frames each. Advice, never a
safety function: what it finds and what it misses is in docs/toto_robot.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
    """What is to be said of the newest frame of every environment.

    Attributes:
        scores: [b s] as in `toto_robot.monitoring.scores.SCORES`.
        deviations: [b s] by how many standard deviations they are above the usual mean.
        anomaly_scores: [b] the largest deviation, to either side.
        outside: [b] whether the frame is stranger than usual ones at its index.
        alarm: [b] whether enough frames in a row are strange.
        heat: [b h w] what each token cost the model, nats, where it is in the picture.
    """

    scores: NDArray[np.float64]
    deviations: NDArray[np.float64]
    anomaly_scores: NDArray[np.float64]
    outside: NDArray[np.bool_]
    alarm: NDArray[np.bool_]
    heat: NDArray[np.float32]

    def reason(self, env: int = 0) -> str:
        """Name the score that is farthest from usual, and to which side."""
        worst = int(np.abs(self.deviations[env]).argmax())
        side = "high" if self.deviations[env, worst] > 0 else "low"
        return f"{SCORES[worst]} {side}"

    def entries(self, env: int = 0) -> dict[str, float | bool | str]:
        """Return one environment's line of a log, as plain data."""
        return {
            "alarm": bool(self.alarm[env]),
            "outside": bool(self.outside[env]),
            "strangeness": float(self.anomaly_scores[env]),
            "reason": self.reason(env),
            **dict(zip(SCORES, self.scores[env].tolist(), strict=True)),
        }


class CameraMonitor:
    """Holds what a stream sees of one camera against what is usual there.

    Attributes:
        bounds: what is usual.
    """

    def __init__(
        self, encoder: Encoder, bounds: SurpriseBounds, *, camera: str, rate_hz: float
    ) -> None:
        """Begin with an empty past.

        Args:
            encoder: the frozen encoder.
            bounds: made with the same weights, camera and rate.
            camera: name of the camera that will be watched.
            rate_hz: frames a second that will be looked at.

        Raises:
            ValueError: the bounds are of something else; the message says what.
        """
        spec = bounds.spec
        found = {"weights_hash": encoder.weights_hash, "camera": camera, "rate_hz": rate_hz}
        _require(spec, found)
        self.bounds = bounds
        self._encoder = encoder
        self._scorer = FrameScorer(place_costs(bounds.counts))
        self._alarm_frames = np.zeros(0, dtype=np.int64)

    def watched_stream(self, num_envs: int) -> EncoderStream:
        """Return a stream of the kind that the bounds were made with."""
        spec = self.bounds.spec
        return self._encoder.stream(
            num_envs,
            spec.context,
            mode=spec.mode,
            frame_skip=spec.frame_skip,
            surprise=True,
        )

    def look(self, ids: Int64[Tensor, "b n"], stream: EncoderStream) -> Report:
        """Report on the newest frames; call it once after each step of the stream.

        Args:
            ids: the frames' tokens, of all environments.
            stream: which has just seen them.

        Raises:
            ValueError: a stream of another kind than the bounds', or without surprise.
        """
        shown = stream.frames_shown
        kind = {"context": stream.context, "mode": stream.mode, "frame_skip": stream.frame_skip}
        _require(self.bounds.spec, kind)
        if len(ids) != stream.num_envs:
            raise ValueError(f"needed tokens of {stream.num_envs} environments, got {len(ids)}")
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
    """Learn what a camera usually shows; costs a step of the stream for each frame.

    Args:
        encoder: the frozen encoder.
        tokens: [r t n] of r rollouts of t frames in which nothing was wrong, in any order that has
            nothing to do with what is in them.
        camera: its name.
        rate_hz: frames a second.
        context: frames of the stream's window.
        mode: of the stream.
        frame_skip: of the stream.
        level: share of usual frames that may be outside.
        alarm_level: share of usual rollouts that may have an alarm.
        patience: strange frames in a row that make an alarm.

    Raises:
        ValueError: the rollouts are too few for the levels; the message says how many it takes.
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
    """Refuse what the bounds are not of."""
    wrong = [
        f"{name} is {value!r}, of the bounds {getattr(spec, name)!r}"
        for name, value in found.items()
        if value != getattr(spec, name)
    ]
    if wrong:
        raise ValueError(f"the bounds are of something else: {'; '.join(wrong)}")
