"""Count the floating-point operations of a call, and measure the speed limit of this machine.

A multiplication and the addition of its result count as two operations. In causal attention, only
the unmasked part is counted. The speed limit is the highest measured rate of a matrix product.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["SIDES", "count_operations", "measure_ceiling", "timed"]

# Sizes of the matrices for the ceiling. On a busy CPU, large products are always disturbed.
SIDES = {"cpu": (512, 1024, 1536), "cuda": (4096, 8192)}
_PRODUCTS = 4  # repetitions of each size


def count_operations(call: Callable[[], object]) -> int:
    """Run a call and return its number of floating-point operations."""
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        call()
    return counter.get_total_flops()


def timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return the result of a call and its duration, milliseconds.

    The duration includes the work of a GPU.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - start) * 1e3


def measure_ceiling(squares: Sequence[Tensor]) -> float:
    """Return the highest rate, GFLOP/s, at which square matrices are multiplied by themselves."""
    rates = []
    for square in [one for one in squares for _ in range(_PRODUCTS)]:
        _, spent_ms = timed(lambda one=square: one @ one, square.device)
        rates.append(2 * len(square) ** 3 / (spent_ms / 1e3) / 1e9)
    return max(rates)


def _attention(causal_at: int) -> Callable[..., int]:
    """Return a function that counts the operations of an attention call.

    `causal_at` is the index of the argument `is_causal` of the attention function.
    """

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
