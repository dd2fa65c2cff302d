"""The list of the physics engines that simulate many worlds; a new engine needs one entry here."""

from collections.abc import Callable
from typing import Any

from .batch import BatchSimulator


def _mujoco(num_worlds: int, **options: Any) -> BatchSimulator:
    from .mujoco_batch import MujocoBatch

    return MujocoBatch(num_worlds, **options)


# The engines by name. Each function imports its engine when it is called, because the packages of
# an engine can be missing: then it raises an ImportError that names the extra to install.
BACKENDS: dict[str, Callable[..., BatchSimulator]] = {"mujoco": _mujoco}


def make_backend(name: str, num_worlds: int, **options: Any) -> BatchSimulator:
    """Return a simulator of `num_worlds` worlds, on which `build` has not been called yet.

    Args:
        name: a name in `BACKENDS`.
        num_worlds: the number of worlds.
        options: further arguments of the engine.

    Raises:
        ValueError: the name is unknown (the message lists the known ones), or `num_worlds` is less
            than 1.
        ImportError: the packages of the engine are not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if num_worlds < 1:
        raise ValueError(f"at least one world is needed, got {num_worlds}")
    return BACKENDS[name](num_worlds, **options)
