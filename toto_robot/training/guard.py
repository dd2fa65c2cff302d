"""Stop a bad batch from spoiling a model: updates of spikes and of NaN are left out."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Guard", "GuardConfig"]

LEAST_HISTORY = 20  # losses; fewer say little of how they spread
LEAST_SPREAD = 0.01  # of the mean: a loss that hardly moves is no reason to call 1 % a spike


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """When an update is left out.

    Attributes:
        deviations: a loss this many standard deviations above the mean of ``history`` is a spike.
        history: accepted losses that are remembered.
        most_skipped: bad steps in a row after which training stops.
    """

    deviations: float
    history: int
    most_skipped: int

    def __post_init__(self) -> None:
        """Refuse a guard that could never, or would always, say stop."""
        if not self.deviations > 0:
            raise ValueError(f"guard.deviations must be positive, got {self.deviations}")
        if self.history < LEAST_HISTORY:
            raise ValueError(f"guard.history must be at least {LEAST_HISTORY}, got {self.history}")
        if self.most_skipped < 1:
            raise ValueError(f"guard.most_skipped must be at least 1, got {self.most_skipped}")


class Guard:
    """Judges each step by its loss and gradient before the weights are touched.

    Attributes:
        skipped: steps left out so far.
    """

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.history)
        self._in_a_row = 0
        self.skipped = 0

    def fault(self, loss: float, gradient_norm: float) -> str | None:
        """Say what is wrong with a step, or None if it may be taken.

        Raises:
            FloatingPointError: too many bad steps in a row; no bad one was taken.
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
                "was taken: the last checkpoint is good. A lower optimizer.lr or a longer warm-up "
                "helps against spikes"
            )
        return fault

    def forget(self) -> None:
        """Begin anew: losses of another phase do not compare."""
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain data."""
        return {
            "losses": list(self._losses),
            "in_a_row": self._in_a_row,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
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
