"""`python -m toto_robot.latency`: what a frame costs on this machine, stage by stage.

Prints the median, the 95th and 99th percentile and the first call of every stage between a camera
frame and an action, its floating-point operations, and the share of this machine's own matrix
product that it reaches; and says which control rate is safe.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from .cli import command
from .encoder import Encoder, load_encoder

__all__ = ["LatencyConfig", "StageTime", "latency"]

# What torch's counter does not know; causal attention is counted whole, as it does for GPUs.
_CPU_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)
    )
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConfig:
    """Say what to measure.

    Attributes:
        encoder: a shipped name or a checkpoint folder.
        layer: None for the checkpoint's own.
        pool: None for the checkpoint's own.
        device: `cpu`, `cuda`, or `auto`.
        dtype: of the weights and the computation: float32, bfloat16 or float16.
        threads: of torch on the CPU; None for its own choice.
        num_cameras: frames of one step, encoded together.
        camera_height: of a camera's picture before it is resized, pixels.
        camera_width: likewise.
        context: frames of the stream's window; None for those of a training sequence.
        policy_hidden: widths of the policy's hidden layers.
        num_actions: width of its output.
        repeats: calls of each stage that are timed.
        rates_hz: control rates to choose from.
        budget: share of a control step that vision and policy may take at the 99th percentile.
    """

    encoder: str
    layer: int | None
    pool: str | None
    device: str
    dtype: str
    threads: int | None
    num_cameras: int
    camera_height: int
    camera_width: int
    context: int | None
    policy_hidden: tuple[int, ...]
    num_actions: int
    repeats: int
    rates_hz: tuple[float, ...]
    budget: float

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.repeats < 20:
            raise ValueError(f"repeats must be at least 20 for a percentile, got {self.repeats}")
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget must be in (0, 1], got {self.budget}")
        if min(self.num_cameras, self.camera_height, self.camera_width) < 1 or not self.rates_hz:
            raise ValueError("cameras, their height and width, and rates_hz must not be empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """What one stage costs, in milliseconds and floating-point operations."""

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    first_ms: float
    gflop: float
    ceiling_share: float


def latency(config: LatencyConfig, out: Path) -> None:
    """Measure, print the table, write `out/latency.json`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = torch.device(_device(config.device))
    dtype = DTYPES[config.dtype]
    encoder, load_ms = _timed_once(
        lambda: load_encoder(config.encoder, config.layer, config.pool, device, dtype), device
    )
    ceiling_gflops = measure_ceiling(device, dtype)
    stages = measure_stages(config, encoder, device, ceiling_gflops)
    print(
        f"{config.encoder}, layer {encoder.layer} of {encoder.num_layers}, pool {encoder.pool}, "
        f"{config.num_cameras} camera(s), {device}, {config.dtype}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    print(f"load {load_ms:.0f} ms; matrix product of this machine: {ceiling_gflops:.0f} GFLOP/s")
    header = (
        f"{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'first ms':>10}{'GFLOP':>8}{'of ceiling':>12}"
    )
    print(f"{'stage':<28}{header}")
    for stage in stages:
        print(
            f"{stage.name:<28}{stage.p50_ms:>9.2f}{stage.p95_ms:>9.2f}{stage.p99_ms:>9.2f}"
            f"{stage.first_ms:>10.1f}{stage.gflop:>8.2f}{stage.ceiling_share:>12.0%}"
        )
    advice = {}
    for path in ("frame to action", "stream to action"):
        (whole,) = [stage for stage in stages if stage.name == path]
        advice[path] = safe_rate(whole.p99_ms, config.rates_hz, config.budget)
        print(f"{path}: {_describe(advice[path], config)}")
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "load_ms": load_ms,
        "ceiling_gflops": ceiling_gflops,
        "threads": torch.get_num_threads(),
        "stages": [asdict(stage) for stage in stages],
        "safe_rate_hz": advice,
    }
    written, aside = out / "latency.json", out / "latency.json.part"
    aside.write_text(json.dumps(result, indent=2) + "\n")
    aside.replace(written)
    print(f"results: {written}")


def measure_stages(
    config: LatencyConfig, encoder: Encoder, device: torch.device, ceiling_gflops: float
) -> list[StageTime]:
    """Time every stage by itself, and the two ways from frame to action as a whole."""
    rng = np.random.default_rng(0)
    shape = (config.num_cameras, config.camera_height, config.camera_width, 3)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    ids = encoder.tokenize(frames)
    (features,) = encoder.token_features(ids, (encoder.layer,))
    embedding = encoder.pooling(features).float()
    policy = _policy(int(embedding.numel()), config).to(device)
    stream = encoder.stream(config.num_cameras, config.context)
    for _ in range(stream.context):  # so that the window is full
        stream.step_tokens(ids)

    def act(embeddings: Tensor) -> Tensor:
        return policy(embeddings.flatten()).cpu()

    calls: dict[str, Callable[[], object]] = {
        "tokenise": lambda: encoder.tokenize(frames),
        "transformer": lambda: encoder.token_features(ids, (encoder.layer,)),
        "transformer, streaming": lambda: stream.token_features(ids),
        "pool": lambda: encoder.pooling(features),
        "policy": lambda: act(embedding),
        "frame to action": lambda: act(encoder(frames)),
        "stream to action": lambda: act(stream.step(frames)),
    }
    stages = []
    with torch.no_grad():
        for name, call in tqdm(calls.items(), desc="latency", unit="stage"):
            _, first_ms = _timed_once(call, device)
            with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
                call()
            times = [_timed_once(call, device)[1] for _ in range(config.repeats)]
            p50, p95, p99 = np.percentile(times, (50, 95, 99))
            gflop = counter.get_total_flops() / 1e9
            stages.append(
                StageTime(
                    name=name,
                    p50_ms=float(p50),
                    p95_ms=float(p95),
                    p99_ms=float(p99),
                    first_ms=first_ms,
                    gflop=gflop,
                    ceiling_share=gflop / (p50 / 1e3) / ceiling_gflops,
                )
            )
    return stages


def measure_ceiling(device: torch.device, dtype: torch.dtype, size: int = 1536) -> float:
    """Give the GFLOP/s of this machine's own product of two square matrices, the best of ten."""
    left = torch.randn(size, size, device=device).to(dtype)
    times = [_timed_once(lambda: left @ left, device)[1] for _ in range(11)]
    return 2 * size**3 / (min(times[1:]) / 1e3) / 1e9


def safe_rate(p99_ms: float, rates_hz: Sequence[float], budget: float) -> float | None:
    """Give the highest rate whose step has room for the 99th percentile; None if none has."""
    fits = [rate for rate in rates_hz if p99_ms <= budget * 1e3 / rate]
    return max(fits, default=None)


def _describe(rate_hz: float | None, config: LatencyConfig) -> str:
    share = f"{config.budget:.0%} of a step"
    if rate_hz is None:
        return f"no rate of {list(config.rates_hz)} Hz is safe: the 99th percentile is over {share}"
    return f"{rate_hz:g} Hz is safe: the 99th percentile is within {share}"


def _policy(width: int, config: LatencyConfig) -> nn.Module:
    widths = (width, *config.policy_hidden, config.num_actions)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SELU()]
    return nn.Sequential(*layers[:-1]).eval()


def _timed_once(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Give what a call returns and its milliseconds, waiting for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - start) * 1e3


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


main = command("latency", LatencyConfig)(latency)

if __name__ == "__main__":
    main()
