"""Choose the device and precision of a computation, seed random weights, count processors."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # devices on which a user may turn on autocast


def choose_device(name: str) -> str:
    """Return the name of a device that works here; for `auto`, `cuda` if possible, else `cpu`.

    Raises:
        ValueError: there is no such device, or this build of torch cannot use it.
    """
    import torch  # not needed to count the processors

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise ValueError(
            f"device {name!r} cannot be used: torch {torch.__version__} is {build}; available: "
            f"{', '.join(here)}"
        ) from error
    return name


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers on the CPU in a `with` block, and restore their state at its end.

    The random numbers of GPUs are not changed.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def float32_default() -> Iterator[None]:
    """Make float32 torch's default dtype in a `with` block, and restore the default at its end.

    It can also decorate a function.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def own_precision() -> Iterator[None]:
    """Turn `torch.autocast` off in a `with` block, so that models compute in their own precision.

    It can also decorate a function.
    """
    import torch

    with ExitStack() as stack:
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def num_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
