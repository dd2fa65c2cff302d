"""What the engine is fed: some steps on rows of one shape, and how they are scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Phase", "Rows"]

Rows = Callable[[int, int], tuple[Tensor, ...]]
"""``rows(first, count)``: rows ``first`` to ``first + count - 1`` of an endless stream."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some steps on rows of one shape.

    Attributes:
        steps: optimizer steps.
        batch: rows a step, over all ranks.
        part: rows that a rank computes at once; the rest of its share is accumulated.
        rows: the training rows.
        tokens_per_row: for counting.
        flops_per_row: operations that the model's mathematics needs for a row, forward and
            backward.
        validation: held-out rows of each data set.
        validation_rows: how many of each are scored.
    """

    steps: int
    batch: int
    part: int
    rows: Rows
    tokens_per_row: int
    flops_per_row: float
    validation: Mapping[str, Rows] = field(default_factory=dict)
    validation_rows: int = 0

    def check_shares(self, num_ranks: int) -> None:
        """Refuse a batch that the ranks cannot share."""
        if self.part < 1 or self.batch < 1 or self.batch % (num_ranks * self.part):
            raise ValueError(
                f"batch must be a multiple of ranks * part = {num_ranks} * {self.part}, "
                f"got {self.batch}"
            )
