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
    """Run a policy on these seeds, and return the success rate.

    The arguments are those of `run_policy`; the result is that of `summarise`.
    """
    return summarise(run_policy(pool, policy, seeds, progress))


def run_policy(
    pool: RolloutPool,
    policy: Path | None,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> list[Rollout]:
    """Run a policy on these seeds; each episode stops when it succeeds or ends.

    Args:
        pool: the worker processes that run the episodes.
        policy: a student's checkpoint; None: the teacher of `pool.spec` or, without one, the
            scripted expert.
        seeds: the environment seed of each episode.
        progress: called with the number of newly completed episodes, for a progress bar.
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
        A dictionary for JSON: `episodes`, `successes`, `rate` in [0, 1], `wilson_95` (the Wilson
        95 % interval), and `seeds`, a list with one dictionary per episode: `seed`, `success` and
        the number of `steps`.
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
    """Return the result of `summarise` with the most successes; of several, the last one."""
    return max(reversed(results), key=lambda result: result["successes"])
