"""One recorded episode, with tokens instead of images, and with an expert action for every step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toto_robot.encoders.contract import Codes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episode:
    """An episode of T actions and T + 1 observations.

    The label of a step is always the expert's action, also where the student acted (Ross et al.
    2011).

    Attributes:
        tokens: [T+1 c n], the frames of c cameras, compressed by the encoder. A frame is either n
            token ids in uint16 (256 tokens are 512 bytes), an embedding of n elements in float16,
            or n pixel values in uint8. Without cameras c is 0.
        proprio: float32 [T+1 p], proprioception of p elements.
        labels: float32 [T a], the expert's actions. They are within [-1, 1], except for actions in
            the units of another project's data set.
        executed: float32 [T a], the actions that the environment or the arm executed.
        acted_by_expert: bool [T], True where the expert's action was executed.
        success: whether the episode succeeded.
        seed: the environment seed; without an environment, the number of the episode.
        round: the DAgger iteration that recorded the episode; 0 for demonstrations of the expert.

    Raises:
        ValueError: shapes, dtypes or lengths are not consistent, a value is not finite, or
            `executed` differs from `labels` at a step where `acted_by_expert` is True.
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
            ("tokens", 3, "uint16", "float16", "uint8"),
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
            raise ValueError("an episode needs at least one action, got none")
        for name, length in (("tokens", len(self.tokens)), ("proprio", len(self.proprio))):
            if length != steps + 1:
                raise ValueError(
                    f"{steps} actions need {steps + 1} observations, got {length} {name}"
                )
        if self.executed.shape != self.labels.shape:
            raise ValueError(
                f"labels {self.labels.shape} and executed {self.executed.shape} must have one shape"
            )
        if len(self.acted_by_expert) != steps:
            raise ValueError(f"{steps} actions but {len(self.acted_by_expert)} acted_by_expert")
        for name in ("proprio", "labels", "executed"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite")
        by_expert = self.acted_by_expert
        if not np.array_equal(self.executed[by_expert], self.labels[by_expert]):
            raise ValueError("executed must equal labels where acted_by_expert is True")

    @property
    def num_steps(self) -> int:
        """Return the number T of actions."""
        return len(self.labels)
