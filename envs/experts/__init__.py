"""Scripted experts: policies that use the privileged state (true poses of objects).

The action of an expert depends only on the current `observation["state"]`. So an expert can label
any state that a student (a policy that uses images) visits in DAgger. A student can imitate the
expert well, because the arm's action changes smoothly with the state: the goal of the motion moves
smoothly, and in each step the arm moves by a fixed fraction of the remaining distance. Experts need
the `robot` protocol.
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
    """A policy that needs `state` in its observations."""

    def reset(self) -> None:
        """Reset the expert before an episode."""
        ...

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for an observation with `state`."""
        ...


EXPERTS: dict[str, Callable[[], Expert]] = {
    "toto/FrankaPick-v0": FrankaPickExpert,
    "toto/KukaPick-v0": KukaPickExpert,
    "toto/FrankaCabinet-v0": FrankaCabinetExpert,
    "toto/KukaCabinet-v0": KukaCabinetExpert,
}
