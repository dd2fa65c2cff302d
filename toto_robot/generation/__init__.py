"""Generate the next frames of a video, and preview them for a robot."""

from .sampling import (
    GREEDY,
    Sampling,
    choose,
    continue_frames,
    generate_frames,
    load_predictor,
    preview_frame,
)

__all__ = [
    "GREEDY",
    "Sampling",
    "choose",
    "continue_frames",
    "generate_frames",
    "load_predictor",
    "preview_frame",
]
