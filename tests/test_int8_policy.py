"""The figures of the benchmark of int8 policies: minimum cosine and R2."""

import numpy as np
import pytest

from benchmarks.int8_policy import action_r2, least_cosine


def test_least_cosine_is_that_of_the_worst_frame():
    one = [np.ones((3, 2, 4), np.float16) for _ in range(2)]
    other = [array.copy() for array in one]
    assert least_cosine(one, other) == pytest.approx(1)
    other[1][2, 0] = (1, 1, 1, -1)
    assert least_cosine(one, other) == pytest.approx(0.5)


def test_r2_is_high_for_actions_that_depend_on_the_embeddings_only():
    rng = np.random.default_rng(0)
    embeddings = [rng.normal(size=(81, 2, 4)).astype(np.float16) for _ in range(12)]
    dependent = [e[:-1].reshape(80, -1) @ np.ones((8, 2), np.float32) for e in embeddings]
    assert action_r2(embeddings, dependent) > 0.99
    independent = [rng.normal(size=(80, 2)).astype(np.float32) for _ in range(12)]
    assert action_r2(embeddings, independent) < 0.1
