"""Match the frames of a video to the steps of a robot episode by their times.

Times are on the clock of the video file, in seconds. A file may hold many episodes, one after the
other.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .video import frame_times, frames_before_cut

__all__ = ["frames_of_steps"]

Times = NDArray[np.float64]


def frames_of_steps(
    path: Path,
    wanted_s: Times,
    end_s: float,
    episodes: Sequence[tuple[float, float, int]],
    rate_hz: float,
) -> Times:
    """Find the frame of each step of an episode, and return the times of these frames, seconds.

    Args:
        path: the video file.
        wanted_s: time of each step, seconds. The first time is the start of the episode.
        end_s: end of the episode, seconds.
        episodes: start time (s), end time (s) and number of steps of each episode in this file.
        rate_hz: frame rate of the video.

    Raises:
        ValueError: a step has no frame within half a frame period, or the frames of the file do
            not match its episodes.
    """
    times_s = _times(path)
    chosen = _nearest(times_s, wanted_s, end_s, rate_hz)
    _require_in_place(path, times_s, chosen, wanted_s[0], episodes, rate_hz)
    return times_s[chosen]


def _times(path: Path) -> Times:
    """Return the times of all frames of a video, seconds."""
    if not path.is_file():
        raise ValueError("the video is missing")
    status = path.stat()
    return _times_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _times_once(path: Path, size: int, changed_ns: int) -> Times:
    del size, changed_ns  # part of the cache key: a file that was rewritten is read again
    return frame_times(path)


def _nearest(times_s: Times, wanted_s: Times, end_s: float, rate_hz: float) -> NDArray[np.intp]:
    """Return the index of the nearest frame for each wanted time.

    Raises:
        ValueError: the nearest frame is more than half a frame period away or belongs to another
            episode, or two times have the same nearest frame.
    """
    half_s = 0.5 / rate_hz
    own = times_s[: np.searchsorted(times_s, end_s - half_s)]
    if not len(own):
        raise ValueError(f"the video has no frame before {end_s:.3f} s")
    after = np.searchsorted(own, wanted_s).clip(1, max(1, len(own) - 1))
    before = after - 1
    after = after.clip(max=len(own) - 1)
    chosen = np.where(wanted_s - own[before] <= own[after] - wanted_s, before, after)
    gaps_s = np.abs(own[chosen] - wanted_s)
    # times are rounded to float32 and to the container's ticks
    if len(far := np.flatnonzero(gaps_s > half_s + 1e-6)):
        step = far[0]
        raise ValueError(
            f"frame {step}, due at {wanted_s[step]:.3f} s of the video, is missing: the nearest "
            f"is {gaps_s[step]:.3f} s away, half a frame is {half_s:.3f} s"
        )
    if len(twice := np.flatnonzero(np.diff(chosen) <= 0)):
        raise ValueError(f"steps {twice[0]} and {twice[0] + 1} match the same frame of the video")
    return chosen


def _require_in_place(
    path: Path,
    times_s: Times,
    chosen: NDArray[np.intp],
    start_s: float,
    episodes: Sequence[tuple[float, float, int]],
    rate_hz: float,
) -> None:
    """Check that the frames that were found by time also have the expected frame numbers.

    The times alone can match by mistake, in two cases. A frame that the camera dropped may leave no
    gap in the times. A file that begins late shifts frames of one episode to the next episode. In a
    truncated file, the frames before the end are correct.

    Args:
        path: the video file.
        times_s: times of all frames of the video, seconds.
        chosen: index in the video of the frame of each step.
        start_s: start of the episode, seconds.
        episodes: start time (s), end time (s) and number of steps of each episode in this file.
        rate_hz: frame rate of the video.
    """
    steps = sum(length for *_, length in episodes)
    if len(times_s) > steps:
        # A duplicated frame, or an extra one before the first, has the same times as an extra frame
        # after the last. Only the last case is correct, and only if the table counts that frame.
        known = max(round(end_s * rate_hz) for _, end_s, _ in episodes)
        if len(times_s) > known or round(times_s[-1] * rate_hz) + 1 != known:
            raise ValueError(
                f"the video has {len(times_s)} frames for {steps} steps, and its episodes end at "
                f"frame {known}: a frame may be duplicated, or an extra one may come before the "
                "first, so that the frames after it belong to other steps"
            )
        return
    if len(times_s) == steps or frames_before_cut(path) == steps:
        first = sum(length for begin_s, _, length in episodes if begin_s < start_s - 0.5 / rate_hz)
        if len(odd := np.flatnonzero(chosen != first + np.arange(len(chosen)))):
            raise ValueError(
                f"frame {odd[0]} should be number {first + odd[0]} of the video, but number "
                f"{chosen[odd[0]]} has its time; the video begins at {times_s[0]:.3f} s"
            )
        return
    if round(times_s[-1] * rate_hz) + 1 != steps:
        raise ValueError(
            f"the video has {len(times_s)} frames for {steps} steps, the last at "
            f"{times_s[-1]:.3f} s: the times do not show which frames are missing"
        )
