"""Episodes for tests: any that may exist, and one of a given size."""

import numpy as np
from hypothesis import strategies as st

from policies.demonstrations.episode import Episode


def make_episode(steps=3, cameras=1, tokens=16, proprio=3, action=2, seed=0, success=True, round=0):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(-1, 1, (steps, action)).astype(np.float32)
    by_expert = rng.random(steps) < 0.5
    others = rng.uniform(-1, 1, (steps, action)).astype(np.float32)
    return Episode(
        tokens=rng.integers(0, 8192, (steps + 1, cameras, tokens), dtype=np.uint16),
        proprio=rng.normal(size=(steps + 1, proprio)).astype(np.float32),
        labels=labels,
        executed=np.where(by_expert[:, None], labels, others),
        acted_by_expert=by_expert,
        success=success,
        seed=seed,
        round=round,
    )


def episodes(**fixed):
    """Strategy of valid episodes."""
    return st.builds(
        make_episode,
        steps=st.integers(1, 9),
        seed=st.integers(0, 10**6),
        success=st.booleans(),
        round=st.integers(0, 9),
        **{name: st.just(value) for name, value in fixed.items()},
    )


def same(one, two):
    """Return whether two episodes are equal, to the bit."""
    names = ("tokens", "proprio", "labels", "executed", "acted_by_expert")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names) and (
        (one.success, one.seed, one.round) == (two.success, two.seed, two.round)
    )
