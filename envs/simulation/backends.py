"""The list of the physics engines that simulate many worlds; a new engine needs one entry here."""

from collections.abc import Callable
from inspect import signature
from typing import Any

from .batch import BatchSimulator

Engine = Callable[..., BatchSimulator]


def _mujoco() -> Engine:
    from .mujoco_batch import MujocoBatch

    return MujocoBatch


def _mujoco_warp() -> Engine:
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
    return MujocoWarpBatch


def _isaacgym() -> Engine:
    from .isaacgym.batch import IsaacGymBatch

    return IsaacGymBatch


# The engines by name. Each function imports its engine when it is called, because the packages of
# an engine can be missing: then it raises an ImportError that names the extra to install.
BACKENDS: dict[str, Callable[[], Engine]] = {
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
        ValueError: the name or an option is unknown (the message lists the known ones), or
            `num_worlds` is not a whole number of at least 1.
        ImportError: the packages of the engine are not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if not isinstance(num_worlds, int) or num_worlds < 1:
        raise ValueError(f"at least one world is needed, got {num_worlds!r}")
    engine = BACKENDS[name]()
    known = [option for option in signature(engine).parameters if option != "num_worlds"]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"backend={name!r} has no option {', '.join(unknown)}; known: {', '.join(known)}"
        )
    return engine(num_worlds, **options)
