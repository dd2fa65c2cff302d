"""Environment seeds for training, validation and evaluation, in three separate ranges.

A policy is evaluated on episodes that were used neither for training nor for choosing the policy.
So each purpose has its own range of a million environment seeds:

    training       [        0, 1 000 000)   a run with `seed=s` uses [s * 10 000, (s + 1) * 10 000)
    validation     [1 000 000, 2 000 000)   the same seeds after every DAgger iteration
    evaluation     [2 000 000, 3 000 000)   the same seeds for every run, to compare policies

The seeds of videos for pre-training begin at 5 000 000 (`configs/render_videos.yaml`).
"""

_RANGE = 1_000_000
TRAINING_SEEDS = range(0, _RANGE)
VALIDATION_SEEDS = range(_RANGE, 2 * _RANGE)
EVALUATION_SEEDS = range(2 * _RANGE, 3 * _RANGE)

EPISODES_PER_RUN = 10_000
NUM_RUN_SEEDS = _RANGE // EPISODES_PER_RUN


def check_run(seed: int, num_training: int, num_validation: int, num_evaluation: int) -> None:
    """Check the seed of a run, and that each of the three ranges has enough environment seeds.

    Args:
        seed: the run's seed.
        num_training: number of training episodes.
        num_validation: number of validation episodes.
        num_evaluation: number of episodes of the final evaluation.

    Raises:
        ValueError: the seed is invalid, or a number of episodes is larger than its limit; the
            message contains both numbers.
    """
    if not 0 <= seed < NUM_RUN_SEEDS:
        raise ValueError(f"seed must be in [0, {NUM_RUN_SEEDS}), got {seed}")
    for what, number, limit in (
        ("training episodes", num_training, EPISODES_PER_RUN),
        ("validation episodes", num_validation, _RANGE),
        ("evaluation episodes", num_evaluation, _RANGE),
    ):
        if not 0 <= number <= limit:
            raise ValueError(f"{what} must be in [0, {limit}], got {number}: seeds would overlap")


def training_seed(run_seed: int, episode: int) -> int:
    """Return the environment seed of a training episode.

    Args:
        run_seed: the run's seed.
        episode: index of the episode in the run, counted over all DAgger iterations.
    """
    assert 0 <= run_seed < NUM_RUN_SEEDS
    assert 0 <= episode < EPISODES_PER_RUN
    return TRAINING_SEEDS[run_seed * EPISODES_PER_RUN + episode]


def validation_seeds(episodes: int) -> tuple[int, ...]:
    """Return the environment seeds of a validation, which are the same for all validations."""
    return tuple(VALIDATION_SEEDS[:episodes])


def evaluation_seeds(episodes: int, first: int = EVALUATION_SEEDS.start) -> tuple[int, ...]:
    """Return the consecutive environment seeds of an evaluation, beginning with `first`.

    Raises:
        ValueError: a seed is outside the range for evaluation.
    """
    seeds = range(first, first + episodes)
    if first not in EVALUATION_SEEDS or seeds.stop > EVALUATION_SEEDS.stop:
        raise ValueError(
            f"first_seed={first} with {episodes} episodes: evaluation seeds must be in "
            f"{EVALUATION_SEEDS.start} to {EVALUATION_SEEDS.stop - 1}; those below are of training "
            f"({TRAINING_SEEDS.start} to {TRAINING_SEEDS.stop - 1}) and validation"
        )
    return tuple(seeds)
