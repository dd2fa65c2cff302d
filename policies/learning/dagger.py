"""DAgger: let the student act, ask the expert what it would have done, learn from all of it.

Ross, Gordon, Bagnell: "A Reduction of Imitation Learning and Structured Prediction to No-Regret
Online Learning", AISTATS 2011, algorithm 3.1. In round i the policy is a mixture: the expert with
probability beta_i, the student otherwise. The visited states are labelled by the expert, added to
all that was collected before, and a student is trained on the whole. The stored label is the
expert's at every step, whoever acted.

Round 0 is the expert alone (beta 1): plain demonstrations. Behaviour cloning is DAgger with no
further round.

Where we differ: the paper returns the best student by validation, we return the last, which has
seen most; the validation of every round is reported beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..demonstrations.features import FeatureCache
from ..demonstrations.store import DemoStore
from ..rollouts.rollout import Mixing, Rollout, RolloutPool, Task
from ..rollouts.seeds import training_seed

# From a round to the probability that the expert acts.
BetaSchedule = Callable[[int], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndicatorBeta:
    """1 in round 0 and 0 after: the paper's parameter-free choice (section 3.1)."""

    kind: ClassVar[str] = "indicator"

    def __call__(self, round: int) -> float:
        """Give beta."""
        return 1.0 if round == 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentialBeta:
    """`decay ** round` (section 3.1 of the paper)."""

    kind: ClassVar[str] = "exponential"
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")

    def __call__(self, round: int) -> float:
        """Give beta."""
        return self.decay**round


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearBeta:
    """From 1 in round 0 down to 0 in round `rounds`, evenly."""

    kind: ClassVar[str] = "linear"
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def __call__(self, round: int) -> float:
        """Give beta."""
        return max(0.0, 1.0 - round / self.rounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class DaggerConfig:
    """Say how the student's rounds go.

    Attributes:
        rounds: rounds after the demonstrations.
        episodes: episodes collected in each.
        beta: from a round to the probability that the expert acts.
        mixing: `step` draws at every step who acts, as in the paper; `episode` once an episode.
    """

    rounds: int
    episodes: int
    beta: IndicatorBeta | ExponentialBeta | LinearBeta
    mixing: Mixing

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.episodes < 1:
            raise ValueError("rounds must not be negative, episodes at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Say which episodes a round collects, and how.

    Attributes:
        round: the round; 0 is the expert's.
        first: index of its first episode among the run's.
        episodes: how many.
        policy: the student's checkpoint; None in round 0.
        beta: probability that the expert acts.
        mixing: see `DaggerConfig`.
        seed: of the run.
        group: episodes in lockstep.
        steps_after_success: see `Task`.
    """

    round: int
    first: int
    episodes: int
    policy: Path | None
    beta: float
    mixing: Mixing
    seed: int
    group: int
    steps_after_success: int


def collect(
    pool: RolloutPool,
    store: DemoStore,
    cache: FeatureCache,
    collection: Collection,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Collect a round's episodes that are not in the store yet, and append them.

    A group of which a part is stored is run again as a whole: its episodes were seen in one batch,
    and so come out the same.

    Args:
        pool: runs them.
        store: takes them; holds all earlier episodes of the run.
        cache: takes their embeddings.
        collection: which, and how.
        progress: called with the number of episodes that are done.
    """
    last = collection.first + collection.episodes
    assert collection.first <= len(store)
    stored = min(len(store), last) - collection.first
    progress(stored)
    start = collection.first + stored // collection.group * collection.group
    groups = [
        range(first, min(first + collection.group, last))
        for first in range(start, last, collection.group)
    ]
    if stored == collection.episodes:
        return
    tasks = [
        Task(
            seeds=tuple(training_seed(collection.seed, index) for index in group),
            policy=collection.policy,
            beta=collection.beta,
            mixing=collection.mixing,
            mixing_seeds=tuple((collection.seed, collection.round, index) for index in group),
            recorded=True,
            steps_after_success=collection.steps_after_success,
            round=collection.round,
        )
        for group in groups
    ]
    indices = iter(range(start, last))

    def keep(rollouts: list[Rollout]) -> None:
        for rollout, index in zip(rollouts, indices, strict=False):
            if index < len(store):
                continue
            assert rollout.episode is not None
            assert rollout.features is not None
            # features first: an episode that is there never has to be embedded again
            cache.put(index, rollout.features)
            store.append(rollout.episode)
            progress(1)

    pool.run(tasks, keep)
