"""The list of the physics engines that simulate many worlds; a new engine needs one entry here."""

from collections.abc import Callable
from typing import Any

from .batch import BatchSimulator


def _mujoco(num_worlds: int, **options: Any) -> BatchSimulator:
    from .mujoco_batch import MujocoBatch

    return MujocoBatch(num_worlds, **options)


def _mujoco_warp(num_worlds: int, **options: Any) -> BatchSimulator:
    from . import mujoco_model  # noqa: F401  # before MuJoCo Warp: it chooses how MuJoCo renders

    try:
        from .mujoco_warp_batch import MujocoWarpBatch
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco_warp", "warp"):
            raise
        raise ImportError(
            "backend='mujoco_warp' needs MuJoCo Warp: pip install 'toto-robot[warp]'",
            name=error.name,
        ) from error
    return MujocoWarpBatch(num_worlds, **options)


def _isaacgym(num_worlds: int, *, worker_python: str = "", **options: Any) -> BatchSimulator:
    from .isaacgym.batch import IsaacGymBatch

    if not worker_python:
        raise ValueError(
            "backend='isaacgym' needs worker_python=..., the Python 3.8 in which Isaac Gym is "
            "installed (see docs/isaac_gym.md)"
        )
    return IsaacGymBatch(num_worlds, worker_python=worker_python, **options)


# The engines by name. Each function imports its engine when it is called, because the packages of
# an engine can be missing: then it raises an ImportError that names the extra to install.
BACKENDS: dict[str, Callable[..., BatchSimulator]] = {
    "mujoco": _mujoco,
    "mujoco_warp": _mujoco_warp,
    "isaacgym": _isaacgym,
}


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
