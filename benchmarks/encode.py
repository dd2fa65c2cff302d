"""Measure the time of the encoder in milliseconds per frame: tokenizer, transformer, and batches.

    OMP_NUM_THREADS=1 python -m benchmarks.encode

Each line has a ratio to a baseline of the same run. The small tokenizer is compared with the
architecture of the DALL-E tokenizer. The transformer up to its middle block is compared with all
blocks. A batch of frames is compared with one frame at a time.
"""

import statistics
import time
from collections.abc import Callable

import torch

from toto_robot import load_encoder
from toto_robot.tokenizers import DalleConfig

NAME = "toto-nano"
BATCH = 8
REPEATS = 9


def main() -> None:
    """Print the times of all parts of the encoder, with the ratios to their baselines."""
    encoder = load_encoder(NAME)
    frames = torch.randint(0, 256, (BATCH, 128, 128, 3), dtype=torch.uint8)
    ids = encoder.tokenize(frames)
    dalle = DalleConfig(
        image_size=128, hidden=256, decoder_init=128, blocks_per_group=2, vocab_size=8192
    ).build()
    print(
        f"{NAME}, layer {encoder.layer} of {encoder.num_layers}, {torch.get_num_threads()} threads"
    )
    print(f"{'what':<34}{'ms/frame':>9}{'baseline':>42}{'ms/frame':>9}{'ratio':>7}")
    with torch.no_grad():
        tokenize = _ms_per_frame(lambda: encoder.tokenize(frames), BATCH)
        _line(
            "tokenise",
            tokenize,
            "DALL-E layout, batch 1",
            _ms_per_frame(lambda: dalle.encode(frames[:1]), 1, 3),
        )
        early = _ms_per_frame(lambda: encoder.from_tokens(ids), BATCH)
        full = _ms_per_frame(lambda: encoder.transformer(ids), BATCH)
        _line(
            f"embed tokens, {encoder.layer} blocks",
            early,
            f"all {encoder.num_layers} blocks and logits",
            full,
        )
        whole = _ms_per_frame(lambda: encoder(frames), BATCH)
        single = _ms_per_frame(lambda: [encoder(frame[None]) for frame in frames], BATCH)
        _line(f"frames to embeddings, batch {BATCH}", whole, "one frame at a time", single)


def _ms_per_frame(call: Callable[[], object], frames: int, repeats: int = REPEATS) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / frames * 1e3


def _line(what: str, mine: float, baseline: str, other: float) -> None:
    print(f"{what:<34}{mine:>9.2f}{baseline:>42}{other:>9.2f}{other / mine:>6.1f}x")


if __name__ == "__main__":
    main()
