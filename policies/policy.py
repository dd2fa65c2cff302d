"""The methods of all policies, such as experts, students, human operators and policy servers."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Policy(Protocol):
    """A policy. Call `reset` at the start of an episode, then `act` at each control step."""

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, not necessarily clipped to [-1, 1]."""
        ...

    def reset(self) -> None:
        """Clear the state of the previous episode."""
        ...
