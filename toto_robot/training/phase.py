"""The definition of a training phase: its steps, its training rows and its validation rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Phase", "Rows"]

Rows = Callable[[int, int], tuple[Tensor, ...]]
"""``rows(first, count)``: rows ``first`` to ``first + count - 1`` of an endless stream."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A number of training steps with rows (training examples) of one shape.

    Attributes:
        steps: number of optimizer steps.
        batch: number of rows in a step, over all ranks.
        part: number of rows in a forward pass of a rank. The gradients of several forward passes
            are accumulated for a step.
        rows: function that returns training rows by their numbers.
        tokens_per_row: number of tokens in a row, for the log.
        flops_per_row: floating-point operations of a row, forward and backward, without
            recomputation.
        validation: dictionary from the name of each data set to the function that returns its
            held-out rows.
        validation_rows: number of validation rows of each data set.
        first_row: number of the first training row. The rows before it belong to earlier phases.
        measure: function that computes further values for the log, by name. Its argument is a
            function that returns the mean loss of the first ``validation_rows`` rows of `Rows`.
    """

    steps: int
    batch: int
    part: int
    rows: Rows
    tokens_per_row: int
    flops_per_row: float
    validation: Mapping[str, Rows] = field(default_factory=dict)
    validation_rows: int = 0
    first_row: int = 0
    measure: Callable[[Callable[[Rows], float]], Mapping[str, float]] | None = None

    def check_shares(self, num_ranks: int) -> None:
        """Raise ValueError unless `batch` is a multiple of ``num_ranks`` times `part`."""
        if self.part < 1 or self.batch < 1 or self.batch % (num_ranks * self.part):
            raise ValueError(
                f"batch must be a multiple of ranks * part = {num_ranks} * {self.part}, "
                f"got {self.batch}"
            )
