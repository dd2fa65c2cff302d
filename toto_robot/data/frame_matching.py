"""Which frame of a video belongs to which step of an episode, by their times alone.

Times are on the video's own clock, in seconds. A file may hold many episodes, one after the other.
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
    """Return the time of the frame of each step of an episode.

    Args:
        path: the video.
        wanted_s: time of each step; the first is the episode's begin.
        end_s: the episode's end.
        episodes: begin, end and number of steps of each episode in this file.
        rate_hz: frames a second.

    Raises:
        ValueError: a step has no frame within half a frame, or the file's frames are not those of
            its episodes.
    """
    times_s = _times(path)
    chosen = _nearest(times_s, wanted_s, end_s, rate_hz)
    _require_in_place(path, times_s, chosen, wanted_s[0], episodes, rate_hz)
    return times_s[chosen]


def _times(path: Path) -> Times:
    """Return the times of a video's frames."""
    if not path.is_file():
        raise ValueError("the video is missing")
    about = path.stat()
    return _times_once(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _times_once(path: Path, size: int, changed_ns: int) -> Times:
    del size, changed_ns  # a file that is written anew is another
    return frame_times(path)


def _nearest(times_s: Times, wanted_s: Times, end_s: float, rate_hz: float) -> NDArray[np.intp]:
    """Return the frame that is nearest to each of the times.

    Raises:
        ValueError: one is farther away than half a frame, is another episode's, or was chosen
            before.
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
    # times are kept as float32 and by ticks of the container
    if len(far := np.flatnonzero(gaps_s > half_s + 1e-6)):
        step = far[0]
        raise ValueError(
            f"frame {step}, due at {wanted_s[step]:.3f} s of the video, is missing: the nearest "
            f"is {gaps_s[step]:.3f} s away, half a frame is {half_s:.3f} s"
        )
    if len(twice := np.flatnonzero(np.diff(chosen) <= 0)):
        raise ValueError(f"frames {twice[0]} and {twice[0] + 1} are the same one of the video")
    return chosen


def _require_in_place(
    path: Path,
    times_s: Times,
    chosen: NDArray[np.intp],
    start_s: float,
    episodes: Sequence[tuple[float, float, int]],
    rate_hz: float,
) -> None:
    """Refuse frames whose times are right, but not their number in a file of many episodes.

    A frame that a camera lost may leave no gap in the times, and a file that begins late shifts
    the frames of one episode to the next. A file whose end was cut off is right until there.

    Args:
        path: the video.
        times_s: of the video's frames.
        chosen: the frames of the episode.
        start_s: begin of the episode.
        episodes: begin, end and number of steps of each episode in this file.
        rate_hz: frames a second.
    """
    steps = sum(length for *_, length in episodes)
    if len(times_s) > steps:
        # of a doubled frame, or one before the first, the times look like those of a frame after
        # the last: all that tells them apart is that the table knows of frames without a step
        known = max(round(end_s * rate_hz) for _, end_s, _ in episodes)
        if len(times_s) > known or round(times_s[-1] * rate_hz) + 1 != known:
            raise ValueError(
                f"the video has {len(times_s)} frames for {steps} steps, and its episodes end at "
                f"frame {known}: one may be doubled, or come before the first, and all after it "
                "belong to other steps"
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
            f"{times_s[-1]:.3f} s: its times do not tell which are missing"
        )
