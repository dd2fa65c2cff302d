"""Choose the device of a computation, and count the processors."""

import os


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


def num_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
