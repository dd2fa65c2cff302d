"""Measure the training throughput: tokens per second, and model-FLOPs utilisation.

Model-FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B) is the number of floating-point
operations of the model per second, divided by the peak speed of the device. The operations include
the forward and backward pass, but no recomputation.
"""

import time

import torch

__all__ = ["Throughput", "peak_flops", "settle"]

# Peak speed of dense matrix products without sparsity, operations per second, from data sheets.
PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "H100": {"bfloat16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "L40S": {"bfloat16": 362e12, "float32": 91.6e12},
    "RTX 4090": {"bfloat16": 165e12, "float32": 82.6e12},
}


def peak_flops(device: torch.device, precision: str) -> float:
    """Return the peak speed of one device, floating-point operations per second.

    For a GPU in `PEAKS`, the value is from the data sheet. For a CPU or another GPU, it is the
    speed of the fastest of a few products of square matrices.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peaks in PEAKS.items():
            if part in name:
                return peaks[precision]
    side = 8192 if device.type == "cuda" else 1024
    dtype = getattr(torch, precision)
    left = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(6):
        settle(device)
        start = time.perf_counter()
        left @ left
        settle(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


class Throughput:
    """A counter of the training tokens and operations of all ranks, and of the time."""

    def __init__(self, device: torch.device, precision: str, world: int) -> None:
        self._device, self._precision, self._world = device, precision, world
        self._peak = peak_flops(device, precision)
        self._tokens = self._flops = 0.0
        self._seconds = 0.0
        self._start = time.perf_counter()

    def add(self, tokens: int, flops: float) -> None:
        """Add the tokens and the floating-point operations of one step."""
        self._tokens += tokens
        self._flops += flops

    def pause(self) -> None:
        """Stop the clock, so that the time of a validation or a checkpoint does not count."""
        settle(self._device)
        self._seconds += time.perf_counter() - self._start

    def go_on(self) -> None:
        """Start the clock again."""
        self._start = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return tokens per second and utilisation since the last `read`. Call `pause` first."""
        seconds = max(self._seconds, 1e-9)
        if (
            self._device.type == "cpu"
        ):  # the peak may be too low if other processes used the CPU during its measurement
            self._peak = max(self._peak, peak_flops(self._device, self._precision))
        result = {
            "tokens_per_s": self._tokens / seconds,
            "model_flops_utilisation": self._flops / seconds / (self._peak * self._world),
        }
        self._tokens = self._flops = self._seconds = 0.0
        return result


def settle(device: torch.device) -> None:
    """Wait until the device has completed all operations."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
