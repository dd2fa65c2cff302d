"""Measure the speed of reading tokens for training, against the library grain and a GPU's demand.

    OMP_NUM_THREADS=1 python -m benchmarks.token_pipeline [sequences of the largest data set]

Speeds are in sequences per second and core. `SequenceMixture` reads four data sets of random
tokens in sharded files. They are shuffled and mixed 20/10/10/60, as in the paper's section 3.3.
Sequences have a start and an end token, and are int64. The baseline is grain on the same files in
the same run, with `MapDataset.source(...).shuffle().repeat()` of each data set, then `mix` and
`batch`. The second table has the number of sequences per second that a GPU needs to train a model.
It assumes an H200 that reaches a given share of its peak (989 TFLOP/s, dense bfloat16), and the
operations of `model_flops`.
"""

import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import least_seconds
from toto_robot.checkpoint import weights_hash
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.data.loader import read_ahead
from toto_robot.data.mixture import SequenceMixture
from toto_robot.data.token_shards import FORMAT, ShardWriter, TokenShards, shard_name
from toto_robot.files import write_json
from toto_robot.models import ModelConfig, SequenceLayout, model_flops
from toto_robot.tokenizers import LightConfig

SOURCES = {"imagenet": 0.2, "ego4d": 0.1, "kinetics": 0.1, "howto100m": 0.6}
FRAMES, TOKENS, SHARDS = 16, 256, 4
BATCHES = (1, 8, 64, 256)
ROUNDS, ROWS = 5, 2000  # 2000 rows are two blocks, because the mixture draws whole blocks
H200_FLOPS = 989e12  # bfloat16 without sparsity (NVIDIA H200 datasheet)
UTILISATION = 0.5


def main() -> None:
    """Write the data sets, time both readers, and print the tables."""
    largest = int((*sys.argv[1:], "4000")[0])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = LightConfig(
            image_size=128,
            levels=(8, 8, 8, 4, 4),
            widths=(8, 8),
            blocks=(1, 1),
            decoder_widths=(8, 8, 8),
            decoder_blocks=(1, 1, 1),
        ).build()
        digest = weights_hash(tokenizer)
        sets = [write_set(Path(folder), name, largest, digest) for name in SOURCES]
        layout = SequenceLayout(codes=8192, tokens_per_frame=TOKENS, frames=FRAMES)
        mixture = SequenceMixture(
            sets,
            list(SOURCES.values()),
            tokenizer,
            layout,
            FRAMES,
            validation=False,
            seed=0,
        )
        found = np.bincount(mixture.rows(0, 1000)[:, 1] >> 11, minlength=len(sets)) / 1000
        print(f"shares of 1000 rows: {dict(zip(SOURCES, found.tolist(), strict=True))}")
        print(
            "\nsequences of 4098 ids per second and core: "
            f"minimum CPU time of {ROUNDS} rounds of {ROWS} new rows"
        )
        print(f"{'batch':>6}{'ours':>9}{'ours, 4 threads':>17}{'grain':>9}{'ratio':>8}")
        rates = {}
        for batch in BATCHES:
            reads: dict[str, Callable[[int], object]] = {
                "ours": lambda step, batch=batch: mixture.rows(step * batch, batch)
            }
            if grain := grain_reader(sets, batch):
                reads["grain"] = grain
            steps = ROWS // batch
            calls = {name: all_of(read, itertools.count(), steps) for name, read in reads.items()}
            later = itertools.count(steps * 2 * ROUNDS)
            calls["ahead"] = lambda read=reads["ours"], later=later, steps=steps: list(
                read_ahead(read, itertools.islice(later, steps), threads=4)
            )
            seconds = least_seconds(calls, ROUNDS, time.process_time)
            rates[batch] = {name: steps * batch / value for name, value in seconds.items()}
            ours, ahead, theirs = (
                rates[batch].get(name, np.nan) for name in ("ours", "ahead", "grain")
            )
            print(f"{batch:>6}{ours:>9.0f}{ahead:>17.0f}{theirs:>9.0f}{ours / theirs:>8.2f}")
    print(f"\nneed of an H200 at {UTILISATION:.0%} of {H200_FLOPS / 1e12:.0f} TFLOP/s, in cores")
    print(f"{'model':>6}{'GFLOP/token':>15}{'tokens/s':>12}{'sequences/s':>13}{'cores':>9}")
    for name in ("base", "large", "1b"):
        data = compose("pretrain", [f"model={name}"])[0]["model"]
        flops = model_flops(from_dict(ModelConfig, data), FRAMES)
        tokens = UTILISATION * H200_FLOPS / flops
        sequences = tokens / (FRAMES * TOKENS)
        print(
            f"{name:>6}{flops / 1e9:>15.2f}{tokens:>12,.0f}{sequences:>13.0f}"
            f"{sequences / rates[8]['ours']:>9.4f}"
        )


def write_set(folder: Path, name: str, largest: int, digest: str) -> TokenShards:
    """Write a data set of random tokens. Its size is proportional to its weight in the mixture."""
    path = folder / name
    path.mkdir()
    number = list(SOURCES).index(name)
    clips = round(largest * SOURCES[name] / max(SOURCES.values())) // SHARDS
    images = name == "imagenet"
    manifest = {
        "format": FORMAT,
        "name": name,
        "kind": "image" if images else "video",
        "shards": SHARDS,
        "tokenizer": {"sha256": digest, "tokens_per_frame": TOKENS},
    }
    write_json(path / "manifest.json", manifest)
    generator = np.random.default_rng(number)
    for shard in range(SHARDS):
        writer = ShardWriter(path, shard_name(manifest, shard))
        # each data set has a different range of codes, so that its rows can be identified
        codes = generator.integers(0, 2048, (clips * FRAMES, TOKENS)) + 2048 * number
        writer.write(codes.astype(np.uint16))
        writer.close([1] * clips * FRAMES if images else [FRAMES] * clips, [])
    return TokenShards.open(path)


def all_of(
    read: Callable[[int], object], numbers: Iterator[int], steps: int
) -> Callable[[], object]:
    """Return a function that reads the next ``steps`` batches."""
    return lambda: [read(number) for number in itertools.islice(numbers, steps)]


def grain_reader(sets: Sequence[TokenShards], batch: int) -> Callable[[int], object] | None:
    """Return a function that reads batches with grain, or None if grain is not installed."""
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        import grain
    except ImportError:
        return None
    parts = [
        grain.MapDataset.source(_Clips(data)).seed(number).shuffle().repeat()
        for number, data in enumerate(sets)
    ]
    mixed: Any = grain.MapDataset.mix(parts, list(SOURCES.values())).batch(batch)
    return lambda step: mixed[step]


class _Clips:
    """A list of the sequences of one data set, with the interface that grain needs."""

    def __init__(self, data: TokenShards) -> None:
        self._tokens = [
            np.memmap(path, np.uint16, "r").reshape(-1, FRAMES * TOKENS)
            for path in sorted(data.folder.glob("*.u16"))
        ]
        self._each = len(self._tokens[0])

    def __len__(self) -> int:
        return self._each * len(self._tokens)

    def __getitem__(self, index: int) -> np.ndarray:
        row = np.empty(FRAMES * TOKENS + 2, np.int64)
        row[0], row[-1] = 8192, 8193
        row[1:-1] = self._tokens[index // self._each][index % self._each]
        return row


if __name__ == "__main__":
    main()
