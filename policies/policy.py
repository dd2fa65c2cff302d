"""The interface of all policies: experts, students, operators and remote servers."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Policy(Protocol):
    """A policy: `reset` is called at the start of an episode, then `act` at each step."""

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation; it may exceed the limits."""
        ...

    def reset(self) -> None:
        """Clear the state of the previous episode."""
        ...
