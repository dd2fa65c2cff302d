"""The environments that `envs` registers: which arm does which task."""

from typing import Any

from .arms import FRANKA_PANDA
from .manipulation import ManipulationEnv
from .tasks.pick import PickTask


def franka_pick(**options: Any) -> ManipulationEnv:
    """Make a Franka Panda that picks a cube; options are those of `ManipulationEnv`."""
    return ManipulationEnv(arm=FRANKA_PANDA, task=PickTask(), **options)
