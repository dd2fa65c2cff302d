"""Data classes of a group of episodes and of its results, and a clock for the phases of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..demonstrations.episode import Episode

PHASES = ("start-up", "environment and rendering", "tokenizer", "transformer", "expert", "student")

Mixing = Literal["step", "episode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutJob:
    """A group of episodes that one worker runs in lockstep: one control step of each in turn.

    Attributes:
        seeds: the environment seed of each episode.
        policy: checkpoint of the student; None: the expert acts in all steps.
        beta: probability that the expert acts instead of the student.
        mixing: how often the acting policy is drawn. `step`: at every control step, as in Ross et
            al. 2011. `episode`: once per episode.
        mixing_seeds: the seed of these draws for each episode.
        recorded: True: return the episodes with the expert's labels. False: return only whether
            each episode succeeded and the executed actions.
        steps_after_success: number of control steps for which an episode continues after success.
        round: number of the DAgger iteration, which is stored in the episodes.
    """

    seeds: tuple[int, ...]
    policy: Path | None
    beta: float
    mixing: Mixing
    mixing_seeds: tuple[tuple[int, ...], ...]
    recorded: bool
    steps_after_success: int
    round: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rollout:
    """The result of one episode.

    Attributes:
        seed: the environment seed.
        success: whether the episode succeeded.
        actions: float32 [T a], the T executed actions.
        episode: the episode with the expert's labels; None if it was not recorded.
        features: float16 [T+1 c e], the embeddings of T + 1 frames of c cameras; None if the
            episode was not recorded.
    """

    seed: int
    success: bool
    actions: NDArray[np.float32]
    episode: Episode | None
    features: NDArray[np.float16] | None

    @property
    def num_steps(self) -> int:
        """Return the number T of executed actions."""
        return len(self.actions)


@dataclass(slots=True)
class PhaseClock:
    """A clock that sums the wall time of each phase of a run, such as `tokenizer`, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the wall time of a `with` block to a phase."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {phase: time.perf_counter() - start})


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add the seconds of each phase in `more` to `total`, in place."""
    for phase, value in more.items():
        total[phase] = total.get(phase, 0.0) + value
