"""Measure a pre-training step, forward and backward, against Hugging Face's Llama.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step

The baseline is the Llama of the package `transformers` (extra `dev`). Both models have the same
weights, batch, precision and loss, and both use scaled_dot_product_attention. They run alternately.
The printed ratio is the time of the baseline divided by the time of Toto.

On a GPU, both models use bfloat16 products and compiled blocks. The output has the tokens/s of the
sizes base, large and 1b, and the model-FLOPs utilisation (MFU) of Toto.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import cpu_clock, least_seconds
from toto_robot.config import from_dict
from toto_robot.models import TotoConfig, TotoTransformer, count_parameters, model_flops
from toto_robot.models.transformer import llama_config, llama_state_dict
from toto_robot.training.throughput import peak_flops

MODELS = Path(__file__).parents[1] / "toto_robot" / "configs" / "model"
# name of the model, number of blocks, frames in a sequence, sequences in a batch
ON_CPU = (("nano", 8, 1, 4), ("nano", 8, 4, 1), ("nano", 8, 16, 1), ("base", 2, 4, 1))
ON_CUDA = (("base", 12, 16, 16), ("large", 16, 16, 8), ("1b", 22, 16, 4))


def main() -> None:
    """Print the times of a training step of both models, and their ratio."""
    on_gpu = torch.cuda.is_available()
    print(f"{'model':>6}{'blocks':>7}{'million':>8}{'tokens':>14}", end="")
    print(f"{'tokens/s':>10}{'Llama':>8}{'ratio':>7}{'loss differs':>14}{'gradient':>10}", end="")
    print(f"{'MFU':>7}")
    for name, layers, frames, sequences in ON_CUDA if on_gpu else ON_CPU:
        config = from_dict(TotoConfig, yaml.safe_load((MODELS / f"{name}.yaml").read_text()))
        _compare(name, replace(config, layers=layers), frames, sequences)


def _compare(name: str, config: TotoConfig, frames: int, sequences: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = config.build().to(device)
    sizes: dict[str, Any] = llama_config(config) | {"attn_implementation": "sdpa"}
    llama: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    llama.load_state_dict(llama_state_dict(model), strict=False)
    llama.to(device)
    ids = torch.randint(
        0, config.codes, (sequences, frames * config.tokens_per_frame + 1), device=device
    )
    ours = _step(device, model, lambda: model.loss(ids))
    theirs = _step(device, llama, lambda: _loss(llama, ids))
    differences = _differences(model, llama, ours, theirs)
    if device.type == "cuda":
        for blocks in (model.layers, llama.model.layers):
            for block in blocks:
                block.compile()
    rounds = 3 if device.type == "cpu" else 10
    clock = cpu_clock() if device.type == "cpu" else _cuda_clock
    seconds = least_seconds({"ours": ours, "Llama": theirs}, rounds, clock)
    tokens = sequences * frames * config.tokens_per_frame
    mfu = "-"
    if device.type == "cuda":
        achieved = tokens * model_flops(config, frames) / seconds["ours"]
        mfu = f"{achieved / peak_flops(device, 'bfloat16'):.1%}"
    print(
        f"{name:>6}{config.layers:>7}{count_parameters(config) / 1e6:>8.1f}"
        f"{f'{sequences} x {tokens // sequences}':>14}"
        f"{tokens / seconds['ours']:>10.0f}{tokens / seconds['Llama']:>8.0f}"
        f"{seconds['Llama'] / seconds['ours']:>6.2f}x{differences[0]:>14.1e}{differences[1]:>10.1e}"
        f"{mfu:>7}",
        flush=True,
    )


def _step(device: torch.device, model: Any, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
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
