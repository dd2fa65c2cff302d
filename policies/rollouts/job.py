"""What a group of episodes is asked for, what comes of it, and where the time goes."""

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
    """A group of episodes.

    Attributes:
        seeds: the environment's seed of each.
        policy: checkpoint of the student; None: the expert acts throughout.
        beta: probability that the expert acts in the student's place.
        mixing: whether that is drawn at every step, as in Ross et al. 2011, or once an episode.
        mixing_seeds: seed of these draws, for each episode.
        recorded: whether episodes are kept, with the expert's labels, or only their outcome.
        steps_after_success: an episode goes on for so many steps when it has succeeded.
        round: written into the episodes.
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
    """What came of one episode.

    Attributes:
        seed: the environment's.
        success: whether it succeeded.
        actions: float32 [T a], what the environment was given.
        episode: with its labels, when it was recorded.
        features: float16 [T+1 c e], the embeddings of a recorded episode.
    """

    seed: int
    success: bool
    actions: NDArray[np.float32]
    episode: Episode | None
    features: NDArray[np.float16] | None

    @property
    def num_steps(self) -> int:
        """Its length."""
        return len(self.actions)


@dataclass(slots=True)
class PhaseClock:
    """Count seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds of a `with` block as those of `stage`."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {stage: time.perf_counter() - start})


def add_seconds(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add seconds by stage to a total."""
    for stage, value in more.items():
        total[stage] = total.get(stage, 0.0) + value
