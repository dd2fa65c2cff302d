"""How many floating-point operations a call takes, and how many this machine can do in that time.

Two for each multiplication with an addition; of causal attention only what is not masked counts.
A machine's ceiling is its own matrix product.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["SIDES", "count_operations", "measure_ceiling", "timed"]

# Sides of the products that the ceiling is taken of. On a busy CPU long ones are never undisturbed.
SIDES = {"cpu": (512, 1024, 1536), "cuda": (4096, 8192)}
_PRODUCTS = 4  # of each


def count_operations(call: Callable[[], object]) -> int:
    """Make a call and return how many operations it took."""
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        call()
    return counter.get_total_flops()


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return what a call returns and its milliseconds, waiting for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - start) * 1e3


def measure_ceiling(squares: Sequence[Tensor]) -> float:
    """Return the best GFLOP/s of the products of square matrices with themselves."""
    rates = []
    for square in [one for one in squares for _ in range(_PRODUCTS)]:
        _, spent_ms = timed(lambda one=square: one @ one, square.device)
        rates.append(2 * len(square) ** 3 / (spent_ms / 1e3) / 1e9)
    return max(rates)


def _attention(causal_at: int) -> Callable[..., int]:
    """Return a rule for an attention whose argument at this place says that it is causal."""

    def count(*args: Any, out_shape: Any = None, is_causal: bool = False, **_: Any) -> int:
        q, k, v = args[:3]
        whole = sdpa_flop_count(q, k, v)
        causal = is_causal or (len(args) > causal_at and args[causal_at])
        return whole * (q[-2] + 1) // (2 * q[-2]) if causal else whole

    return count


def _integers(x: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(out_shape) * x[-1]


_COUNTED: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention(4),
    torch.ops.aten._scaled_dot_product_flash_attention: _attention(4),
    torch.ops.aten._scaled_dot_product_efficient_attention: _attention(6),
    torch.ops.aten._scaled_dot_product_cudnn_attention: _attention(6),
    torch.ops.onednn.qlinear_pointwise: _integers,
}
