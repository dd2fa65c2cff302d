"""DAgger: the student acts, the expert labels the visited states, and the data is aggregated.

The method is algorithm 3.1 of Ross, Gordon, Bagnell: "A Reduction of Imitation Learning and
Structured Prediction to No-Regret Online Learning", AISTATS 2011. An iteration of the algorithm is
called a round here. In round i the expert acts with probability beta_i, and the student acts
otherwise. The expert labels every visited state with its action. The episodes are added to those of
all earlier rounds, and a new student is trained on all of them.

In round 0 only the expert acts (beta is 1), so the episodes of round 0 are demonstrations.
Behaviour cloning is DAgger with round 0 only.

One thing differs from the paper. The paper returns the student with the best validation result.
This module returns the last student, which was trained on the most data, and reports the validation
result of every round.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class IndicatorBeta:
    """A schedule of beta, the probability that the expert acts: 1 in round 0, and 0 later.

    This is the choice without parameters in section 3.1 of the paper.
    """

    kind: ClassVar[str] = "indicator"

    def __call__(self, round: int) -> float:
        """Return beta of a round."""
        return 1.0 if round == 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentialBeta:
    """A schedule of beta, the probability that the expert acts: `decay ** round`.

    Source: section 3.1 of the paper.

    Attributes:
        decay: probability that the expert acts in round 1, at least 0 and below 1.
    """

    kind: ClassVar[str] = "exponential"
    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")

    def __call__(self, round: int) -> float:
        """Return beta of a round."""
        return self.decay**round


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearBeta:
    """A schedule of beta, the probability that the expert acts.

    Beta falls linearly from 1 in round 0 to 0 in round `rounds`.

    Attributes:
        rounds: the first round in which only the student acts.
    """

    kind: ClassVar[str] = "linear"
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def __call__(self, round: int) -> float:
        """Return beta of a round."""
        return max(0.0, 1.0 - round / self.rounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class DaggerConfig:
    """Settings of the DAgger iterations (rounds) after the demonstrations.

    Attributes:
        rounds: number of rounds after the demonstrations.
        episodes: number of episodes that are collected per round.
        beta: schedule of the probability that the expert acts instead of the student.
        mixing: how often the acting policy is drawn. `step`: at every control step, as in the
            paper. `episode`: once per episode.
    """

    rounds: int
    episodes: int
    beta: IndicatorBeta | ExponentialBeta | LinearBeta
    mixing: Mixing

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.episodes < 1:
            raise ValueError("rounds must be at least 0, and episodes at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The settings for collecting the episodes of one round.

    Attributes:
        number: index of the round; in round 0 the expert acts.
        first: index, in the run, of the first episode of the round.
        episodes: number of episodes to collect; 0 in round 0 if demonstrations were given.
        beta: probability that the expert acts instead of the student.
        mixing: how often the acting policy is drawn: every `step`, or once per `episode`.
        seed: the run's seed.
        steps_after_success: number of control steps for which an episode continues after success.
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
    """The numbers of rounds and episodes of a run in an environment.

    Attributes:
        seed: the run's seed.
        demonstrations: number of episodes that the expert collects in round 0.
        rounds: number of rounds after round 0; 0 for behaviour cloning.
        dagger: settings of these rounds.
        steps_after_success: number of control steps for which an episode continues after success.
        validation_episodes: number of validation episodes after each round.
        evaluation_episodes: number of held-out episodes in the final evaluation.
        video_episodes: number of evaluation episodes to film.
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
        """Return the settings of all rounds in order, including round 0."""
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
        """Return the total number of episodes for training, validation and evaluation."""
        collected = self.demonstrations + self.rounds * self.dagger.episodes
        return collected + (self.rounds + 1) * self.validation_episodes + self.evaluation_episodes


def collect(
    pool: RolloutPool,
    store: DemoStore,
    cache: FeatureCache | None,
    round: Round,
    policy: Path | None,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Collect the episodes of a round, and append them to the demonstration store.

    Episodes that the store contains already are not collected again. But if a run was killed while
    a group of episodes was being stored, the whole group is run again. So its episodes are encoded
    in the same batch, and are bit-identical to those of a run without a kill.

    Args:
        pool: the worker processes that run the episodes.
        store: the demonstration store. It contains all episodes of earlier rounds.
        cache: the cache to which the embeddings of the episodes are written; None: they are not
            kept.
        round: the settings of the round.
        policy: checkpoint of the student of the previous round; None in round 0.
        progress: called with the number of newly completed episodes, for a progress bar.
    """
    last = round.first + round.episodes
    assert round.first <= len(store)
    stored = min(len(store), last) - round.first
    progress(stored)
    if stored == round.episodes:
        return
    start = round.first + stored // pool.group * pool.group
    jobs = [
        _job(round, policy, range(first, min(first + pool.group, last)))
        for first in range(start, last, pool.group)
    ]
    indices = iter(range(start, last))

    def keep(rollouts: list[Rollout]) -> None:
        for rollout, index in zip(rollouts, indices, strict=False):
            if index < len(store):
                continue
            assert rollout.episode is not None
            if cache is not None:
                assert rollout.features is not None
                # features first, so that a stored episode never has to be embedded again
                cache.put(index, rollout.features)
            store.append(rollout.episode)
            progress(1)

    pool.run(jobs, keep)


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
