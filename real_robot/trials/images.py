"""Write images of a trial: the first and the last frames, and a video of all cameras."""

from pathlib import Path

import numpy as np

from ..cameras.camera import Image
from ..cameras.png import write_png
from ..episode import EpisodeRecord, Step

FIRST, LAST, VIDEO = "first.png", "last.png", "video.mp4"

_LEAST_PX = 256
_BORDER_PX = 6
_GREEN, _RED, _GREY = (60, 180, 90), (210, 70, 60), (120, 120, 120)
_SECONDS_AT_END = 0.8


def illustrate(record: EpisodeRecord, success: bool | None, folder: Path) -> tuple[str, ...]:
    """Write images and a video of an episode into a folder, and return their file names.

    The last image has a border: green for success, red for failure, grey for an invalid attempt.
    Nothing is written for an episode without steps or without cameras.
    """
    steps = [step for step in record.steps if step.observation.frames]
    if not steps:
        return ()
    images = [side_by_side(step) for step in steps]
    colour = _GREY if success is None else (_GREEN if success else _RED)
    last = images[-1].copy()
    for edge in (
        last[:_BORDER_PX],
        last[-_BORDER_PX:],
        last[:, :_BORDER_PX],
        last[:, -_BORDER_PX:],
    ):
        edge[:] = colour
    write_png(folder / FIRST, images[0])
    write_png(folder / LAST, last)
    rate_hz = _rate_hz(steps)
    held = [last] * max(1, round(_SECONDS_AT_END * rate_hz))
    _write_video(folder / VIDEO, [*images, *held], rate_hz)
    return (FIRST, LAST, VIDEO)


def side_by_side(step: Step) -> Image:
    """Return the images of all cameras at a time step, side by side in one image.

    All images are enlarged by the same whole factor, so that the tallest image has at least 256
    rows. Height and width of the result are even numbers, because the video codec needs this.
    """
    images = [frame.image for frame in step.observation.frames.values()]
    height = max(image.shape[0] for image in images)
    scale = -(-_LEAST_PX // height)
    wide = []
    for image in images:
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        below = scale * height - large.shape[0]
        wide.append(np.pad(large, ((0, below), (0, 0), (0, 0))))
    joined = np.concatenate(wide, axis=1)
    odd_height, odd_width = joined.shape[0] % 2, joined.shape[1] % 2
    return np.pad(joined, ((0, odd_height), (0, odd_width), (0, 0)))


def _rate_hz(steps: list[Step]) -> float:
    if len(steps) < 2:
        return 10.0
    seconds = steps[-1].observation.stamp_s - steps[0].observation.stamp_s
    ticks = steps[-1].index - steps[0].index
    return min(100.0, max(1.0, round(ticks / max(seconds, 1e-6), 1)))


def _write_video(path: Path, frames: list[Image], rate_hz: float) -> None:
    from toto_robot.data.video import write_video

    write_video(path, frames, rate_hz)
