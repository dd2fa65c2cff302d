"""The job of running a group of episodes, its results, and a clock of seconds by phase."""

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
    """A group of episodes to run.

    Attributes:
        seeds: the environment's seed of each episode.
        policy: checkpoint of the student; None: the expert acts in all steps.
        beta: probability that the expert acts instead of the student.
        mixing: `step` draws the acting policy at every step, as in Ross et al. 2011; `episode`
            draws it once per episode.
        mixing_seeds: seed of these draws, for each episode.
        recorded: True to return episodes with the expert's labels; False to return outcomes only.
        steps_after_success: number of steps that an episode continues after success.
        round: DAgger round, which is stored in the episodes.
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
        seed: the environment's seed.
        success: True if the episode succeeded.
        actions: float32 [T a], the executed actions.
        episode: the episode with its labels; None if it was not recorded.
        features: float16 [T+1 c e], the embeddings; None if the episode was not recorded.
    """

    seed: int
    success: bool
    actions: NDArray[np.float32]
    episode: Episode | None
    features: NDArray[np.float16] | None

    @property
    def num_steps(self) -> int:
        """Return the number of actions T."""
        return len(self.actions)


@dataclass(slots=True)
class PhaseClock:
    """A clock that sums wall seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the seconds of a `with` block to a phase."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {phase: time.perf_counter() - start})


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add seconds by phase to a total, in place."""
    for phase, value in more.items():
        total[phase] = total.get(phase, 0.0) + value
