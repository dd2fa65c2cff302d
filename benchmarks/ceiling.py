"""Measure the speed of the transformer against an upper bound, the speed of matrix products.

    OMP_NUM_THREADS=1 python -m benchmarks.ceiling [MODEL]        # a choice of model=, or base
    python -m benchmarks.ceiling base cuda                        # bfloat16, with CUDA graphs

Speeds are floating-point operations per second. The transformer has random weights, and runs up to
its middle layer on the start token and one frame. The upper bound (ceiling) is the highest speed of
products of square matrices on the same device, in the same precision and with the same number of
threads. The two run alternately. A multiplication and an addition are two operations. Masked
elements of the attention do not count. With one thread, times are CPU time, which does not include
other processes. With more threads, they are wall time.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot import Encoder, TotoConfig, load_encoder
from toto_robot.config import from_dict
from toto_robot.encoders.int8 import feature_cosine, to_int8

SIDES = {"cpu": (1024, 2048), "cuda": (8192, 16384)}
ROUNDS = 9
BATCHES = (1, 16, 256)


def main() -> None:
    """Print the speeds of the transformer and of matrix products, and their ratio."""
    name = sys.argv[1] if len(sys.argv) > 1 else "base"
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    path = Path(__file__).parents[1] / "toto_robot" / "configs" / "model" / f"{name}.yaml"
    config = from_dict(TotoConfig, yaml.safe_load(path.read_text()))
    layer = config.layers // 2
    torch.manual_seed(0)
    with torch.inference_mode():
        (_on_cpu if device == "cpu" else _on_cuda)(config, layer, f"toto-{name}, {layer} blocks")


def count_operations(config: TotoConfig, num_tokens: int, num_blocks: int) -> float:
    """Return the floating-point operations of `num_blocks` blocks over `num_tokens` tokens."""
    projections = 4 * config.dim**2 + 3 * config.dim * config.mlp_hidden
    attention = 2 * config.dim * (num_tokens + 1) / 2  # scores and averages over earlier tokens
    return 2.0 * num_blocks * num_tokens * (projections + attention)


def _on_cpu(config: TotoConfig, layer: int, title: str) -> None:
    nano = load_encoder("toto-nano")
    floats = Encoder(nano.tokenizer, config.build(), layer, "mean")
    image = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8)
    integers = to_int8(floats, [image])
    ids = floats.tokenize(image[None])
    squares = [torch.randn(side, side) for side in SIDES["cpu"]]
    products: dict[str, Callable[[], object]] = {
        f"product {len(one)}": lambda one=one: one @ one for one in squares
    }
    calls: dict[str, Callable[[], object]] = {
        "float32": lambda: floats.token_features(ids, (layer,)),
        "int8": lambda: integers.token_features(ids, (layer,)),
    }
    threads = torch.get_num_threads()
    seconds = least_seconds(calls | products, ROUNDS, cpu_clock())
    rates = [2 * len(one) ** 3 / seconds[f"product {len(one)}"] for one in squares]
    operations = count_operations(config, ids.shape[1] + 1, layer)
    print(f"{title}, one frame; {threads} thread(s); {operations / 1e9:.1f} GFLOP")
    print(f"ceiling: {max(rates) / 1e9:.0f} GFLOP/s of float32")
    rate = operations / seconds["float32"]
    print(
        f"float32  {seconds['float32'] * 1e3:7.1f} ms  {rate / 1e9:5.0f} GFLOP/s, "
        f"{rate / max(rates):.0%} of the ceiling"
    )
    tokens, pooled = feature_cosine(floats, integers, ids)
    print(
        f"int8     {seconds['int8'] * 1e3:7.1f} ms  {seconds['int8'] / seconds['float32']:.2f} "
        f"times float32; cosine of tokens {tokens:.4f}, pooled {pooled:.4f} (random weights)"
    )


def _on_cuda(config: TotoConfig, layer: int, title: str) -> None:
    model = config.build().to("cuda", torch.bfloat16)
    squares = [torch.randn(side, side, device="cuda").bfloat16() for side in SIDES["cuda"]]
    graphs = {}
    for batch in BATCHES:
        ids = torch.randint(0, config.codes, (batch, config.tokens_per_frame + 1), device="cuda")
        graphs[f"batch {batch}"] = _captured(lambda ids=ids: model.features(ids, (layer,)))
    products = {f"product {len(one)}": lambda one=one: one @ one for one in squares}
    seconds = least_seconds(graphs | products, ROUNDS, _cuda_clock)
    ceiling = max(2 * len(one) ** 3 / seconds[f"product {len(one)}"] for one in squares)
    print(f"{title}, bfloat16, CUDA graphs; {torch.cuda.get_device_name()}")
    print(f"ceiling: {ceiling / 1e12:.0f} TFLOP/s")
    for batch in BATCHES:
        spent = seconds[f"batch {batch}"]
        rate = batch * count_operations(config, config.tokens_per_frame + 1, layer) / spent
        print(
            f"batch {batch:4d}  {spent * 1e3:8.3f} ms  {rate / 1e12:6.1f} TFLOP/s, "
            f"{rate / ceiling:.0%} of the ceiling"
        )


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    """Record a call as a CUDA graph, and return a function that replays the graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
