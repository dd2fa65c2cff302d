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
from ..rollouts.job import Mixing, Rollout, RolloutJob
from ..rollouts.pool import RolloutPool
from ..rollouts.seeds import training_seed

# From a round to the probability that the expert acts.
BetaSchedule = Callable[[int], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndicatorBeta:
    """1 in round 0 and 0 after: the paper's parameter-free choice (section 3.1)."""

    kind: ClassVar[str] = "indicator"

    def __call__(self, round: int) -> float:
        """Return beta."""
        return 1.0 if round == 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentialBeta:
    """`decay ** round` (section 3.1 of the paper).

    Attributes:
        decay: probability that the expert acts in round 1, at least 0 and below 1.
    """

    kind: ClassVar[str] = "exponential"
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")

    def __call__(self, round: int) -> float:
        """Return beta."""
        return self.decay**round


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearBeta:
    """From 1 in round 0 down to 0 in round `rounds`, evenly.

    Attributes:
        rounds: the first round in which the student alone acts.
    """

    kind: ClassVar[str] = "linear"
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def __call__(self, round: int) -> float:
        """Return beta."""
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
class Round:
    """Say what a round collects.

    Attributes:
        number: the round; 0 is the expert's.
        first: index of its first episode among the run's.
        episodes: how many it collects; 0 where demonstrations were given.
        beta: probability that the expert acts.
        mixing: see `DaggerConfig`.
        seed: of the run.
        steps_after_success: see `RolloutJob`.
    """

    number: int
    first: int
    episodes: int
    beta: float
    mixing: Mixing
    seed: int
    steps_after_success: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Say what a run in an environment does, from the first demonstration to the last video.

    Attributes:
        seed: of the run.
        demonstrations: episodes that the expert gives in round 0.
        rounds: rounds after that; 0 is behaviour cloning.
        dagger: how these go.
        steps_after_success: see `RolloutJob`.
        validation_episodes: episodes that judge the student of each round.
        evaluation_episodes: held-out episodes that judge the last student.
        video_episodes: how many of these are filmed.
    """

    seed: int
    demonstrations: int
    rounds: int
    dagger: DaggerConfig
    steps_after_success: int
    validation_episodes: int
    evaluation_episodes: int
    video_episodes: int

    def all_rounds(self) -> tuple[Round, ...]:
        """Return the rounds in order."""
        episodes = [self.demonstrations] + [self.dagger.episodes] * self.rounds
        return tuple(
            Round(
                number=number,
                first=sum(episodes[:number]),
                episodes=episodes[number],
                beta=self.dagger.beta(number),
                mixing=self.dagger.mixing,
                seed=self.seed,
                steps_after_success=self.steps_after_success,
            )
            for number in range(self.rounds + 1)
        )

    @property
    def num_episodes(self) -> int:
        """Return the number of episodes that are run in all."""
        collected = self.demonstrations + self.rounds * self.dagger.episodes
        return collected + (self.rounds + 1) * self.validation_episodes + self.evaluation_episodes


def collect(
    pool: RolloutPool,
    store: DemoStore,
    cache: FeatureCache,
    round: Round,
    policy: Path | None,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Collect a round's episodes that are not in the store yet, and append them.

    A group of which a part is stored is run again as a whole: its episodes were seen in one batch,
    and so come out the same.

    Args:
        pool: runs them.
        store: takes them; holds all earlier episodes of the run.
        cache: takes their embeddings.
        round: which, and how.
        policy: the student's checkpoint; None in round 0.
        progress: called with the number of episodes that are done.
    """
    last = round.first + round.episodes
    assert round.first <= len(store)
    stored = min(len(store), last) - round.first
    progress(stored)
    if stored == round.episodes:
        return
    start = round.first + stored // pool.group * pool.group
    tasks = [
        _job(round, policy, range(first, min(first + pool.group, last)))
        for first in range(start, last, pool.group)
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


def _job(round: Round, policy: Path | None, group: range) -> RolloutJob:
    return RolloutJob(
        seeds=tuple(training_seed(round.seed, index) for index in group),
        policy=policy,
        beta=round.beta,
        mixing=round.mixing,
        mixing_seeds=tuple((round.seed, round.number, index) for index in group),
        recorded=True,
        steps_after_success=round.steps_after_success,
        round=round.number,
    )
