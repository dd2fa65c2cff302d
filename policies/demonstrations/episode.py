"""One episode as it is stored: tokens instead of pictures, and the expert's word at every step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toto_robot.encoders.contract import Codes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episode:
    """Hold T actions and the T + 1 observations around them, or refuse to exist.

    The label is the expert's action at every step, whoever acted (Ross et al. 2011).

    Attributes:
        tokens: [T+1 c n], the frame of each camera as the encoder compresses it: token ids in
            uint16 (512 bytes for 256 tokens), or an embedding in float16. Without cameras c is 0.
        proprio: float32 [T+1 p].
        labels: float32 [T a], what the expert would do, within [-1, 1] if the env's actions are.
        executed: float32 [T a], what was done.
        acted_by_expert: bool [T], who did it.
        success: whether the episode succeeded.
        seed: the environment's seed.
        round: DAgger round that it was collected in; 0 for the expert's demonstrations.
    """

    tokens: Codes
    proprio: NDArray[np.float32]
    labels: NDArray[np.float32]
    executed: NDArray[np.float32]
    acted_by_expert: NDArray[np.bool_]
    success: bool
    seed: int
    round: int

    def __post_init__(self) -> None:
        for name, ndim, *dtypes in (
            ("tokens", 3, "uint16", "float16"),
            ("proprio", 2, "float32"),
            ("labels", 2, "float32"),
            ("executed", 2, "float32"),
            ("acted_by_expert", 1, "bool"),
        ):
            array: NDArray[np.generic] = getattr(self, name)  # one of the five names above
            if array.ndim != ndim or array.dtype.name not in dtypes:
                raise ValueError(
                    f"{name} must be {' or '.join(dtypes)} with {ndim} dimensions, "
                    f"got {array.dtype} {array.shape}"
                )
        steps = len(self.labels)
        if steps < 1:
            raise ValueError("an episode has at least one action")
        for name, length in (("tokens", len(self.tokens)), ("proprio", len(self.proprio))):
            if length != steps + 1:
                raise ValueError(
                    f"{steps} actions need {steps + 1} observations, got {length} {name}"
                )
        if self.executed.shape != self.labels.shape:
            raise ValueError(
                f"labels {self.labels.shape} and executed {self.executed.shape} must agree"
            )
        if len(self.acted_by_expert) != steps:
            raise ValueError(f"{steps} actions but {len(self.acted_by_expert)} acted_by_expert")
        for name in ("proprio", "labels", "executed"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite")
        by_expert = self.acted_by_expert
        if not np.array_equal(self.executed[by_expert], self.labels[by_expert]):
            raise ValueError("where the expert acted, what was executed must be the label")

    @property
    def num_steps(self) -> int:
        """Return the number of actions T."""
        return len(self.labels)
