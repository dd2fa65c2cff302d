"""Measure the success rate of a policy on given seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from envs.success_rates import wilson_interval

from .job import Rollout, RolloutJob
from .pool import RolloutPool


def evaluate_policy(
    pool: RolloutPool,
    policy: Path | None,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Run a policy as `run_policy` does, and return its success rate as `summarise` does."""
    return summarise(run_policy(pool, policy, seeds, progress))


def run_policy(
    pool: RolloutPool,
    policy: Path | None,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> list[Rollout]:
    """Run a policy on these seeds, each episode until it succeeds or ends.

    Args:
        pool: the workers that run the episodes.
        policy: the student's checkpoint; None: the pool's teacher or, without one, the expert.
        seeds: the environment's seeds, one per episode.
        progress: called with the number of newly completed episodes.
    """
    groups = [tuple(seeds[at : at + pool.group]) for at in range(0, len(seeds), pool.group)]
    jobs = [
        RolloutJob(
            seeds=group,
            policy=policy,
            beta=1.0 if policy is None else 0.0,
            mixing="step",
            mixing_seeds=tuple((seed,) for seed in group),
            recorded=False,
            steps_after_success=0,
            round=0,
        )
        for group in groups
    ]

    def count(some: list[Rollout]) -> None:
        progress(len(some))

    return pool.run(jobs, count)


def summarise(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return the success rate of episodes, with its confidence interval.

    Returns:
        Plain data: `episodes`, `successes`, `rate`, `wilson_95`, and `seeds`, with `success` and
        `steps` of each.
    """
    successes = sum(rollout.success for rollout in rollouts)
    return {
        "episodes": len(rollouts),
        "successes": successes,
        "rate": successes / max(1, len(rollouts)),
        "wilson_95": list(wilson_interval(successes, len(rollouts))),
        "seeds": [
            {"seed": rollout.seed, "success": rollout.success, "steps": rollout.num_steps}
            for rollout in rollouts
        ],
    }


def best(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the result with the most successes; of equal results the last one."""
    return max(reversed(results), key=lambda result: result["successes"])
