"""Skip updates of the weights if the loss has a spike, or if loss or gradient is not finite."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Guard", "GuardConfig"]

LEAST_HISTORY = 20  # minimum number of losses for a reliable standard deviation
LEAST_SPREAD = (
    0.01  # minimum standard deviation, relative to the mean, for a loss that is nearly constant
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """Settings of `Guard`.

    Attributes:
        deviations: threshold of a spike, in standard deviations. A loss is a spike if it
            exceeds the mean of the recent losses by more than this.
        history: number of recent accepted losses from which the mean and the standard deviation are
            computed.
        most_skipped: maximum number of consecutive skipped steps before training stops.
    """

    deviations: float
    history: int
    most_skipped: int

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        if not self.deviations > 0:
            raise ValueError(f"guard.deviations must be positive, got {self.deviations}")
        if self.history < LEAST_HISTORY:
            raise ValueError(f"guard.history must be at least {LEAST_HISTORY}, got {self.history}")
        if self.most_skipped < 1:
            raise ValueError(f"guard.most_skipped must be at least 1, got {self.most_skipped}")


class Guard:
    """A check of the loss and the gradient of each step, before the weights are updated.

    Attributes:
        skipped: number of steps whose update was skipped since the start of the run.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.history)
        self._in_a_row = 0
        self.skipped = 0

    def fault(self, loss: float, gradient_norm: float) -> str | None:
        """Return the reason why the update of a step must be skipped, or None if it is safe.

        Raises:
            FloatingPointError: too many consecutive steps had to be skipped. None of their updates
                was applied.
        """
        fault = self._fault(loss, gradient_norm)
        if fault is None:
            self._losses.append(loss)
            self._in_a_row = 0
            return None
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row > self._config.most_skipped:
            raise FloatingPointError(
                f"{fault}; {self._in_a_row} bad steps in a row, so training stops. No bad update "
                "was applied: the last checkpoint is good. A lower optimizer.lr or a longer "
                "warm-up helps against spikes; a run with other settings needs a new out="
            )
        return fault

    def reset(self) -> None:
        """Clear the history of losses. Used between phases, whose losses are not comparable."""
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """Return the history and the counts for a checkpoint, as plain data."""
        return {
            "losses": list(self._losses),
            "in_a_row": self._in_a_row,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self._losses.extend(state["losses"])
        self._in_a_row, self.skipped = state["in_a_row"], state["skipped"]

    def _fault(self, loss: float, gradient_norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return f"loss {loss}, gradient norm {gradient_norm}"
        if len(self._losses) < LEAST_HISTORY:
            return None
        mean, spread = float(np.mean(self._losses)), float(np.std(self._losses))
        limit = mean + self._config.deviations * max(spread, LEAST_SPREAD * abs(mean))
        if loss > limit:
            return f"loss {loss:.4g} is a spike above {limit:.4g} (mean {mean:.4g})"
        return None
