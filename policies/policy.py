"""What every policy is: an expert, a student, a person or a remote server."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Policy(Protocol):
    """Choose actions; `reset` is called where an episode begins."""

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation; not necessarily within the limits."""
        ...

    def reset(self) -> None:
        """Forget the episode before."""
        ...
