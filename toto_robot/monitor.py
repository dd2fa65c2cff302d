"""Watch a camera while a policy runs: what a robot logs beside its frames.

    monitor = CameraMonitor(encoder, load_calibration(path), camera="front", rate_hz=10.0)
    stream = monitor.watched_stream(num_envs=1)
    ids = encoder.tokenize(frames)
    embedding = stream.step_tokens(ids, reset)
    report = monitor.look(ids, stream)
    log(report.entries())                  # alarm, outside, strangeness, the scores, the reason

Advice, never a safety function: what it finds and what it misses is in docs/toto_robot.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from .encoder import Encoder
from .streaming import EncoderStream
from .surprise import SCORES, Calibration, FrameScorer, Watched, heat_map, place_costs

__all__ = ["CameraMonitor", "Report"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Report:
    """What is to be said of the newest frame of every environment.

    Attributes:
        scores: [b s] as in `toto_robot.surprise.SCORES`.
        deviations: [b s] by how many standard deviations they are above the usual mean.
        strangeness: [b] the largest deviation, to either side.
        outside: [b] whether the frame is stranger than usual ones at its index.
        alarm: [b] whether enough frames in a row are strange.
        heat: [b h w] what each token cost the model, nats, where it is in the picture.
    """

    scores: NDArray[np.float64]
    deviations: NDArray[np.float64]
    strangeness: NDArray[np.float64]
    outside: NDArray[np.bool_]
    alarm: NDArray[np.bool_]
    heat: NDArray[np.float32]

    def reason(self, env: int = 0) -> str:
        """Name the score that is farthest from usual, and to which side."""
        worst = int(np.abs(self.deviations[env]).argmax())
        side = "high" if self.deviations[env, worst] > 0 else "low"
        return f"{SCORES[worst]} {side}"

    def entries(self, env: int = 0) -> dict[str, float | bool | str]:
        """Give one environment's line of a log, as plain data."""
        return {
            "alarm": bool(self.alarm[env]),
            "outside": bool(self.outside[env]),
            "strangeness": float(self.strangeness[env]),
            "reason": self.reason(env),
            **dict(zip(SCORES, self.scores[env].tolist(), strict=True)),
        }


class CameraMonitor:
    """Holds what a stream sees of one camera against what is usual there.

    Attributes:
        calibration: what is usual.
    """

    def __init__(
        self, encoder: Encoder, calibration: Calibration, *, camera: str, rate_hz: float
    ) -> None:
        """Begin with an empty past.

        Args:
            encoder: the frozen encoder.
            calibration: made with the same weights, camera and rate.
            camera: name of the camera that will be watched.
            rate_hz: frames a second that will be looked at.

        Raises:
            ValueError: the calibration is of something else; the message says what.
        """
        watched = calibration.watched
        found = {"weights_hash": encoder.weights_hash, "camera": camera, "rate_hz": rate_hz}
        _require(watched, found)
        self.calibration = calibration
        self._encoder = encoder
        self._scorer = FrameScorer(place_costs(calibration.counts))
        self._strange_frames = np.zeros(0, dtype=np.int64)

    def watched_stream(self, num_envs: int) -> EncoderStream:
        """Give a stream of the kind that the calibration was made with."""
        watched = self.calibration.watched
        return self._encoder.stream(
            num_envs,
            watched.context,
            mode=watched.mode,
            frame_skip=watched.frame_skip,
            surprise=True,
        )

    def look(self, ids: Int64[Tensor, "b n"], stream: EncoderStream) -> Report:
        """Report on the newest frames; call it once after each step of the stream.

        Args:
            ids: the frames' tokens, of all environments.
            stream: which has just seen them.

        Raises:
            ValueError: a stream of another kind than the calibration's, or without surprise.
        """
        shown = stream.frames_shown
        kind = {"context": stream.context, "mode": stream.mode, "frame_skip": stream.frame_skip}
        _require(self.calibration.watched, kind)
        if len(ids) != stream.num_envs:
            raise ValueError(f"needed tokens of {stream.num_envs} environments, got {len(ids)}")
        costs = stream.surprise
        scores = self._scorer.score(ids, costs, shown)
        deviations = self.calibration.deviations(scores, shown)
        strangeness = np.abs(deviations).max(axis=1)
        if len(self._strange_frames) != len(shown):
            self._strange_frames = np.zeros(len(shown), dtype=np.int64)
        before = np.where(shown == 1, 0, self._strange_frames)
        self._strange_frames = np.where(strangeness > self.calibration.alarm_limit, before + 1, 0)
        return Report(
            scores=scores,
            deviations=deviations,
            strangeness=strangeness,
            outside=self.calibration.outside(strangeness, shown),
            alarm=self._strange_frames >= self.calibration.patience,
            heat=heat_map(costs).to(torch.float32, copy=True).cpu().numpy(),
        )


def _require(watched: Watched, found: Mapping[str, object]) -> None:
    """Refuse what the calibration is not of."""
    wrong = [
        f"{name} is {value!r}, of the calibration {getattr(watched, name)!r}"
        for name, value in found.items()
        if value != getattr(watched, name)
    ]
    if wrong:
        raise ValueError(f"the calibration is of something else: {'; '.join(wrong)}")
