"""Measure whether temporal context (cached earlier frames) improves a policy.

    python -m benchmarks.stream_policy STORE [CONTEXT] [EPISODES]    # runs/train/store, 8, 50

STORE is a folder of demonstrations, and CONTEXT is a number of frames. The frames are encoded in
four ways: as single frames, with each frame twice, and with the two modes in which the encoder can
drop old frames from its cache (`rolling` and `staggered`). For each way, a policy network is
trained on four fifths of the episodes, with the same number of steps, seed and batches. The output
has three tables:

    drift           distance between the embeddings of the two modes, for each frame of an episode
    held-out error  mean squared error of the predicted expert action on the other fifth. For each
                    of the two modes, also the error with embeddings of the other mode.
    success         success rate on held-out seeds, which are the same for all four policies

The policy that collected the episodes had single frames. This is a small advantage for single
frames.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.students import embed, evaluate_with, fit_student, held_out_errors, open_split
from envs.success_rates import describe_rate
from policies.vision import TotoVision
from toto_robot import StreamConfig

RESAMPLES = 2000


def main() -> None:
    """Print the tables of drift, held-out error and success rate."""
    folder = Path(sys.argv[1])
    context = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    num_episodes = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    split = open_split(folder)
    plain = TotoVision(
        name_or_path="toto-nano", layer=None, pool=None, repeat_frame=False, stream=None
    )
    ways = {
        "single frames": plain,
        "frames fed twice": replace(plain, repeat_frame=True),
        "rolling": replace(plain, stream=StreamConfig(context=context, mode="rolling")),
        "staggered": replace(plain, stream=StreamConfig(context=context, mode="staggered")),
    }
    print(f"{folder}: {len(split.chosen)} of {len(split.store)} episodes; context {context}")
    embeddings = {name: embed(split, vision, name) for name, vision in ways.items()}
    _print_drift(embeddings["rolling"], embeddings["staggered"], context)
    students = {name: fit_student(split, vision, embeddings[name]) for name, vision in ways.items()}
    given = [(name, name) for name in ways]
    given += [("rolling", "staggered"), ("staggered", "rolling")]
    errors = {
        pair: held_out_errors(split, students[pair[0]], embeddings[pair[1]]) for pair in given
    }
    print(f"\n{'fitted to':18}{'used with':18}{'error':>8}   ratio to single frames (95 %)")
    for (fitted, seen), values in errors.items():
        ratio, low, high = _ratio(values, errors["single frames", "single frames"])
        print(f"{fitted:18}{seen:18}{values.mean():8.4f}   {ratio:.3f} ({low:.3f} to {high:.3f})")
    print(f"\n{'fitted to':18}{'used with':18}success", flush=True)
    for fitted, seen in given:
        outcome = evaluate_with(students[fitted], ways[seen], num_episodes, num_workers=None)
        successes, episodes = outcome["successes"], outcome["episodes"]
        print(f"{fitted:18}{seen:18}{describe_rate(successes, episodes)}", flush=True)


def _print_drift(
    rolling: Sequence[NDArray[np.float16]], staggered: Sequence[NDArray[np.float16]], context: int
) -> None:
    """Print the distance between the embeddings of the two modes, for each frame.

    The distance is 0 until the window of earlier frames is full.
    """
    print(f"\n{'frame of the episode':24}{'distance':>9}{'cosine':>8}   rolling to staggered")
    edges = [0, context, 2 * context, 4 * context, 8 * context]
    for first, last in itertools.pairwise(edges):
        one, other = (
            np.concatenate([e[first:last].reshape(-1, e.shape[-1]) for e in ways]).astype(float)
            for ways in (rolling, staggered)
        )
        if not len(one):
            break
        mean = other.mean(axis=0)
        spread = np.linalg.norm(other - mean, axis=1).mean()
        distance = np.linalg.norm(one - other, axis=1).mean() / spread
        centred = (one - mean, other - mean)
        norms = np.linalg.norm(centred[0], axis=1) * np.linalg.norm(centred[1], axis=1)
        cosine = ((centred[0] * centred[1]).sum(axis=1) / norms.clip(1e-9)).mean()
        print(f"{f'{first} to {last - 1}':24}{distance:9.3f}{cosine:8.3f}")


def _ratio(
    errors: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the mean error divided by the mean baseline error, and the ends of its interval.

    The interval is from a bootstrap over episodes. An episode has an error and a baseline error.
    """
    rng = np.random.default_rng(0)
    rows = rng.integers(len(errors), size=(RESAMPLES, len(errors)))
    ratios = errors[rows].mean(axis=1) / baseline[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(errors.mean() / baseline.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
