"""Division of labelled examples into training and test examples.

A division is two arrays: the numbers of the training examples, and those of the test examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Division",
    "check_random_divisions",
    "given_division",
    "leave_one_out",
    "random_divisions",
]

Division = tuple[NDArray[np.int64], NDArray[np.int64]]


def check_random_divisions(splits: int, test_share: float) -> None:
    """Raise unless the settings of `random_divisions` are valid.

    Raises:
        ValueError: there is no division, or the share is not between 0 and 1.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")


def given_division(is_test: NDArray[np.bool_]) -> Division:
    """Return the division with the given test examples [n]."""
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def random_divisions(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    splits: int,
    test_share: float,
    seed: int,
) -> list[Division]:
    """Return random divisions, each with the same share of test examples in all classes.

    Args:
        labels: the class of each example [n].
        classes: names of the classes.
        splits: number of divisions.
        test_share: share of the examples of a class that are tested.
        seed: seed of the draws.

    Raises:
        ValueError: a class has too few examples to train and to test; the message names it.
    """
    divisions = []
    for split in range(splits):
        rng = np.random.default_rng((seed, split))
        is_test = np.zeros(len(labels), bool)
        for label, name in enumerate(classes):
            members = rng.permutation(np.flatnonzero(labels == label))
            number = round(len(members) * test_share)
            if not 1 <= number < len(members):
                raise ValueError(
                    f"class {name!r} has {len(members)} examples, too few to train and to test "
                    f"with test_share={test_share:g}"
                )
            is_test[members[:number]] = True
        divisions.append(given_division(is_test))
    return divisions


def leave_one_out(groups: NDArray[np.int64]) -> list[Division]:
    """Return one division per group, in the order of their numbers; the group is tested."""
    return [given_division(groups == group) for group in np.unique(groups)]
