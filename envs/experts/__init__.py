"""Scripted experts: policies that use the privileged state.

The action of an expert depends only on `observation["state"]`, so it can label any state that a
student visits (DAgger). The arm motion is a continuous function of nearly every state, which a
student can imitate: goals move smoothly, and the arm moves by a fixed share of the remaining
distance. Experts need the `robot` protocol.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .franka_cabinet import FrankaCabinetExpert
from .franka_pick import FrankaPickExpert
from .kuka_cabinet import KukaCabinetExpert
from .kuka_pick import KukaPickExpert


class Expert(Protocol):
    """A policy on privileged observations."""

    def reset(self) -> None:
        """Reset the expert before an episode."""
        ...

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action for a privileged observation."""
        ...


EXPERTS: dict[str, Callable[[], Expert]] = {
    "toto/FrankaPick-v0": FrankaPickExpert,
    "toto/KukaPick-v0": KukaPickExpert,
    "toto/FrankaCabinet-v0": FrankaCabinetExpert,
    "toto/KukaCabinet-v0": KukaCabinetExpert,
}
