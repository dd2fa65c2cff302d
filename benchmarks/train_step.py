"""Measure a pre-training step against Hugging Face's Llama with the same weights.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step

Forward, backward and AdamW on one sequence of toto-nano's size; `transformers` (extra `dev`) is
the baseline.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

from toto_robot import load_encoder
from toto_robot.models.transformer import TotoTransformer, llama_config, llama_state_dict

FRAMES = (1, 4, 16)
REPEATS = 3


def main() -> None:
    """Print one table."""
    model = load_encoder("toto-nano").transformer.requires_grad_(True)
    assert isinstance(model, TotoTransformer)
    config = model.config
    llama = LlamaForCausalLM(LlamaConfig(**llama_config(config)))
    llama.load_state_dict(llama_state_dict(model), strict=False)
    print(f"{'frames':>6}{'tokens/s':>10}{'Llama tokens/s':>16}{'ratio':>7}{'loss difference':>17}")
    for frames in FRAMES:
        ids = torch.randint(0, config.codes, (1, frames * config.tokens_per_frame + 1))
        difference = abs(model.loss(ids).item() - llama(ids, labels=ids).loss.item())
        ours = _tokens_per_s(
            lambda ids=ids: model.loss(ids), AdamW(model.parameters(), lr=0.0), ids
        )
        theirs = _tokens_per_s(
            lambda ids=ids: llama(ids, labels=ids).loss, AdamW(llama.parameters(), lr=0.0), ids
        )
        print(f"{frames:>6}{ours:>10.0f}{theirs:>16.0f}{ours / theirs:>6.2f}x{difference:>17.1e}")


def _tokens_per_s(loss: Callable[[], torch.Tensor], optimizer: AdamW, ids: torch.Tensor) -> float:
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return ids.numel() / statistics.median(times[1:])


if __name__ == "__main__":
    main()
