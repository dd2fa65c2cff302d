"""Measure a pre-training step, forward and backward, in float32 and with `precision: auto`.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step

The baseline is the Llama of the package `transformers` (extra `dev`). Both models have the same
weights, batch, precision and loss, and both use scaled_dot_product_attention. They run alternately.
The printed ratio is the time of the baseline divided by the time of Toto.

On a CPU, these two use float32. Two more steps of Toto run alternately with them: one with the
precision that `precision: auto` chooses, and one as in version 0.1, which computed in float32 with
the logits of 1,024 tokens at a time. "against 0.1" is the time of version 0.1 divided by the time
with `auto`. MFU (model-FLOPs utilisation) is the rate of `auto`, divided by the highest measured
rate of a matrix product in the same precision.

On a GPU, both models use bfloat16 products and compiled blocks. The output has the tokens/s of the
sizes base, large and 1b, and the MFU of Toto, here against the peak of the data sheet.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot.config import from_dict
from toto_robot.models import TotoConfig, TotoTransformer, causal, count_parameters, model_flops
from toto_robot.models.transformer import llama_config, llama_state_dict
from toto_robot.training.parallel import Precision, choose_precision, join_ranks
from toto_robot.training.throughput import peak_flops

MODELS = Path(__file__).parents[1] / "toto_robot" / "configs" / "model"
# name of the model, number of blocks, frames in a sequence, sequences in a batch
ON_CPU = (("nano", 8, 1, 4), ("nano", 8, 4, 1), ("nano", 8, 16, 1), ("base", 2, 4, 1))
ON_CUDA = (("base", 12, 16, 16), ("large", 16, 16, 8), ("1b", 22, 16, 4))


def main() -> None:
    """Print the times of a training step of both models, and their ratio."""
    with join_ranks("auto", None) as ranks:
        precision, why = choose_precision("auto", ranks)
    print(f"auto: {precision} ({why}); {torch.get_num_threads()} threads")
    print(f"{'model':>6}{'blocks':>7}{'million':>8}{'tokens':>14}", end="")
    print(f"{'tokens/s':>10}{'Llama':>8}{'ratio':>7}{'loss differs':>14}{'gradient':>10}", end="")
    print(f"{'auto':>8}{'0.1':>7}{'against 0.1':>13}{'MFU':>7}")
    for name, layers, frames, sequences in ON_CUDA if ranks.device.type == "cuda" else ON_CPU:
        config = from_dict(TotoConfig, yaml.safe_load((MODELS / f"{name}.yaml").read_text()))
        _compare(name, replace(config, layers=layers), frames, sequences, ranks.device, precision)


def _compare(
    name: str,
    config: TotoConfig,
    frames: int,
    sequences: int,
    device: torch.device,
    precision: Precision,
) -> None:
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    model = config.build().to(device)
    sizes: dict[str, Any] = llama_config(config) | {"attn_implementation": "sdpa"}
    llama: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    llama.load_state_dict(llama_state_dict(model), strict=False)
    llama.to(device)
    ids = torch.randint(
        0, config.codes, (sequences, frames * config.tokens_per_frame + 1), device=device
    )
    ours = _step(device, model, lambda: model.loss(ids), on_gpu)
    theirs = _step(device, llama, lambda: _loss(llama, ids), on_gpu)
    differences = _differences(model, llama, ours, theirs)
    arms = {"ours": ours, "Llama": theirs}
    if on_gpu:
        for blocks in (model.layers, llama.model.layers):
            for block in blocks:
                block.compile()
    else:
        arms["auto"] = _step(device, model, lambda: model.loss(ids), precision == "bfloat16")
        arms["0.1"] = _as_in_0_1(ours)
    clock = _cuda_clock if on_gpu else cpu_clock()
    seconds = least_seconds(arms, 10 if on_gpu else 3, clock)
    tokens = sequences * frames * config.tokens_per_frame
    auto = seconds["ours" if on_gpu else "auto"]
    peak = peak_flops(device, precision) if on_gpu else _cpu_peak(precision, clock)
    mfu = tokens * model_flops(config, frames) / auto / peak
    print(
        f"{name:>6}{config.layers:>7}{count_parameters(config) / 1e6:>8.1f}"
        f"{f'{sequences} x {tokens // sequences}':>14}"
        f"{tokens / seconds['ours']:>10.0f}{tokens / seconds['Llama']:>8.0f}"
        f"{seconds['Llama'] / seconds['ours']:>6.2f}x{differences[0]:>14.1e}{differences[1]:>10.1e}"
        f"{tokens / auto:>8.0f}",
        end="",
    )
    before = seconds.get("0.1")
    print(f"{tokens / before:>7.0f}{before / auto:>12.2f}x" if before else " " * 20, end="")
    print(f"{mfu:>7.1%}", flush=True)


def _cpu_peak(precision: Precision, clock: Callable[[], float]) -> float:
    square = torch.randn(1024, 1024, dtype=getattr(torch, precision))
    return (
        2
        * len(square) ** 3
        / least_seconds({"product": lambda: square @ square}, 9, clock)["product"]
    )


def _as_in_0_1(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def old_step() -> Tensor:
        with patch.object(causal, "LOSS_ROWS", 1024):
            return step()

    return old_step


def _step(
    device: torch.device, model: Any, loss: Callable[[], Tensor], bfloat16: bool
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            value = loss()
        value.backward()
        return value.detach()

    return step


def _loss(llama: Any, ids: Tensor) -> Tensor:
    logits = llama(ids[:, :-1], use_cache=False).logits.float()
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _differences(
    model: TotoTransformer, llama: Any, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]
) -> tuple[float, float]:
    """Return the difference between the losses, and the relative difference of all gradients."""
    loss = abs(ours().item() - theirs().item())
    other = {name.removeprefix("model."): p.grad for name, p in llama.named_parameters()}
    pairs = [(p.grad, other[name]) for name, p in model.named_parameters()]
    difference = sum((one - two).square().sum().item() for one, two in pairs)
    size = sum(two.square().sum().item() for _, two in pairs)
    return loss, (difference / size) ** 0.5


def _cuda_clock() -> float:
    import time

    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
