"""Which device a computation runs on."""

import torch


def choose_device(name: str) -> str:
    """Give `cuda` or `cpu` for `auto`, and any other name as it is."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
