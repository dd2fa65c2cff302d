"""``python -m toto_robot.analyses.reconstruction``: reconstruction quality of tokenizers.

The command measures, for each tokenizer or encoder and each data set:

    PSNR             PSNR of all pixels, dB, with a bootstrap interval over files
    saturated, rest  PSNR of the most saturated pixels, and of all other pixels, dB
    kept             saturation of the reconstruction divided by the saturation of the image, both
                     on the most saturated pixels
    perplexity       perplexity of the codes in each data set, and in the weighted mixture of all
    nats             next-token loss of an encoder, for the first frame and for later frames

The saturation of a pixel is its largest channel minus its smallest channel. Errors are computed on
uint8 images at the tokenizer's image size, and averaged over all pixels of a data set.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..cli import command
from ..data.mixture import distinct_names
from ..data.shards import Shard, split
from ..encoders.encoder import Encoder
from ..encoders.loading import load_encoder, load_tokenizer, shipped_encoders
from ..files import write_aside, write_csv, write_json
from ..tokenizers import AnyTokenizer
from .clips import Part
from .positions import token_losses
from .saturated_pixels import LEVELS, count_pixels, decibels, split_pixels
from .statistics import Array, grouped_means, interval

__all__ = ["MeasuredSet", "ReconstructionConfig", "reconstruction"]

TIMED = 20  # number of timed encodings of one frame


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSet:
    """A data set for the measurement.

    Attributes:
        path: folder of the data set, made by ``python -m toto_robot.data.decode``.
        part: the files to use: `held_out` files, `training` files, or `all` files.
        weight: share of the data set in the mixture whose perplexity is computed. 0 excludes the
            data set from the mixture.
    """

    path: Path
    part: Part
    weight: float

    def __post_init__(self) -> None:
        """Check that the weight is not negative."""
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionConfig:
    """Settings of `reconstruction`.

    Attributes:
        checkpoints: tokenizers or encoders. Each is the name of a shipped encoder, or a folder.
        data: the data sets.
        frames: maximum number of frames of each data set. If there are more, evenly spaced frames
            are used.
        saturated_share: share of the pixels that count as the most saturated, 0 to 1.
        sequences: maximum number of sequences of each video data set for the next-token loss. With
            0, this loss is not measured.
        sequence_frames: number of consecutive frames in a sequence.
        drawn_frames: number of frames of each data set in ``reconstruction.png``.
        batch: number of frames in a forward pass.
        resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap.
    """

    OLD_NAMES: ClassVar[dict[str, str]] = {"pictures": "drawn_frames"}
    checkpoints: tuple[str, ...]
    data: tuple[MeasuredSet, ...]
    frames: int
    saturated_share: float
    sequences: int
    sequence_frames: int
    drawn_frames: int
    batch: int
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Check that checkpoints and data are given, and that all numbers are in range."""
        if not self.checkpoints or not self.data:
            raise ValueError("checkpoints and data must each have an entry")
        if not 0 < self.saturated_share < 1:
            raise ValueError(f"saturated_share must be in (0, 1), got {self.saturated_share}")
        least = {"frames": 1, "sequences": 0, "sequence_frames": 2, "drawn_frames": 0, "batch": 1}
        for name, low in (least | {"resamples": 100}).items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")


def reconstruction(config: ReconstructionConfig, out: Path) -> None:
    """Measure all checkpoints, and write ``results.json``, ``results.csv`` and an image.

    The first row of ``reconstruction.png`` has the original frames. Each further row has the
    reconstructions of one checkpoint.

    Raises:
        ValueError: a data set does not exist, has no file of the chosen part, or has frames of
            another size. Also if a checkpoint is neither a tokenizer nor a Toto encoder.
    """
    sets = [Shard.open(item.path) for item in config.data]
    chosen = [
        _frames(shard, item.part, config) for shard, item in zip(sets, config.data, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    lines: list[NDArray[np.uint8]] = []
    for name in config.checkpoints:
        tokenizer, encoder = _open(name)
        mixture = np.zeros(tokenizer.vocab_size)
        found: dict[str, Any] = {}
        drawn: list[NDArray[np.uint8]] = []
        parts = zip(config.data, sets, chosen, distinct_names(sets), strict=True)
        for item, shard, (frames, files), title in parts:
            measured, counts, decoded = _measure(tokenizer, shard, frames, files, config)
            if encoder is not None and shard.kind == "video" and config.sequences:
                measured |= _next_token(encoder, shard, item.part, config)
            mixture += item.weight * counts / counts.sum()
            found[title] = measured
            rows.append({"checkpoint": name, "data": title} | measured)
            drawn.append(decoded)
        results[name] = {
            "mixture_perplexity": _perplexity(mixture) if mixture.any() else None,
            "encode_cpu_ms": _encode_ms(tokenizer, sets[0]),
            "data": found,
        }
        lines.append(np.concatenate(drawn))
    write_json(out / "results.json", {"saturated_share": config.saturated_share} | results)
    names = dict.fromkeys(key for row in rows for key in row)
    write_csv(out / "results.csv", [{key: row.get(key) for key in names} for row in rows])
    if config.drawn_frames:
        first = [
            shard.frames()[_spread(frames, config.drawn_frames)]
            for shard, (frames, _) in zip(sets, chosen, strict=True)
        ]
        _draw(out / "reconstruction.png", [np.concatenate(first), *lines])
    print(_table(results))
    print(f"results: {out / 'results.json'}, results.csv, reconstruction.png")


def _open(name: str) -> tuple[AnyTokenizer, Encoder | None]:
    """Return the tokenizer of a checkpoint, and the encoder (None if it is only a tokenizer)."""
    file = Path(name) / "config.json"
    kind = json.loads(file.read_text())["kind"] if file.is_file() else None
    if name not in shipped_encoders() and kind != "encoder":
        return load_tokenizer(name), None
    encoder = load_encoder(name, device="cpu")
    assert isinstance(encoder, Encoder)
    return encoder.tokenizer, encoder


def _clips(shard: Shard, part: Part) -> list[tuple[int, int, int]]:
    """Return three numbers for each clip of a part of the data set.

    They are the index of its first frame, the number of its frames, and the index of its file.
    """
    splits = {"held_out": (True,), "training": (False,), "all": (True, False)}[part]
    clips = sorted(clip for held_out in splits for clip in split(shard, held_out))
    if not clips:
        raise ValueError(f"{shard.folder} has no file in part {part!r}; choose part=all")
    names = {clip["start"]: clip["file"] for clip in shard.manifest["clips"]}
    files = {file: number for number, file in enumerate(sorted(set(names.values())))}
    return [(start, length, files[names[start]]) for start, length in clips]


def _frames(
    shard: Shard, part: Part, config: ReconstructionConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of n evenly spaced frames of the part [n], and of their files [n]."""
    clips = _clips(shard, part)
    rows = np.concatenate([np.arange(start, start + length) for start, length, _ in clips])
    files = np.concatenate([np.full(length, file) for _, length, file in clips])
    kept = _spread(np.arange(len(rows)), config.frames)
    return rows[kept], files[kept]


def _spread(items: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return items[np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(np.int64)]


@torch.inference_mode()
def _measure(
    tokenizer: AnyTokenizer,
    shard: Shard,
    frames: NDArray[np.int64],
    files: NDArray[np.int64],
    config: ReconstructionConfig,
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.uint8]]:
    """Measure a data set, and return the measures, the count of each code, and decoded frames."""
    images = shard.frames()
    if images.shape[1] != tokenizer.image_size:
        raise ValueError(
            f"{shard.folder} has frames of {images.shape[1]} px, the tokenizer needs "
            f"{tokenizer.image_size} px"
        )
    sums, counts = np.zeros((LEVELS, 3)), np.zeros(tokenizer.vocab_size, np.int64)
    errors: list[Array] = []
    for first in tqdm(range(0, len(frames), config.batch), desc=shard.name, unit="batch"):
        batch = np.asarray(images[frames[first : first + config.batch]])
        ids = tokenizer.encode(torch.from_numpy(batch))
        decoded = tokenizer.decode(ids).numpy()
        sums += count_pixels(batch, decoded)
        counts += np.bincount(ids.flatten().numpy(), minlength=tokenizer.vocab_size)
        errors.append(((batch.astype(np.float64) - decoded) ** 2).mean((1, 2, 3)))
    squared = np.concatenate(errors)
    generator = np.random.default_rng(config.seed)
    spread = interval(grouped_means(squared, files, config.resamples, generator))
    saturated = split_pixels(sums, config.saturated_share)
    measured = {
        "frames": len(frames),
        "files": len(np.unique(files)),
        "psnr_db": decibels(squared.mean()),
        "psnr_low_db": decibels(spread[1]),
        "psnr_high_db": decibels(spread[0]),
        "saturated_psnr_db": saturated.psnr_db,
        "rest_psnr_db": saturated.psnr_rest_db,
        "saturation_kept": saturated.kept,
        "saturation_threshold": saturated.threshold,
        "perplexity": _perplexity(counts),
        "codes_used": int((counts > 0).sum()),
    }
    shown = torch.from_numpy(images[_spread(frames, config.drawn_frames)])
    return measured, counts, tokenizer.decode(tokenizer.encode(shown)).numpy()


def _next_token(
    encoder: Encoder, shard: Shard, part: Part, config: ReconstructionConfig
) -> dict[str, float]:
    """Return the mean token loss in nats, with intervals: all frames, first frame, later frames."""
    count, layout = config.sequence_frames, encoder.transformer.config
    starts = np.array(
        [
            (first, file)
            for start, length, file in _clips(shard, part)
            for first in range(start, start + length - count + 1, count)
        ]
    )
    if not len(starts):
        raise ValueError(f"{shard.folder} has no clip of {count} frames")
    starts = starts[_spread(np.arange(len(starts)), config.sequences)]
    losses: list[Array] = []
    for first in tqdm(starts[:, 0], desc=f"{shard.name}, next token", unit="sequence"):
        frames = torch.from_numpy(shard.frames()[first : first + count].copy())
        with torch.inference_mode():
            ids = encoder.tokenizer.encode(frames).reshape(1, -1)
            ids = torch.cat([ids.new_full((1, 1), layout.start_video), ids], dim=1)
            paid = token_losses(encoder.transformer, ids).reshape(count, -1).mean(1)
        losses.append(paid.double().numpy())
    paid = np.stack(losses)  # s f
    values = np.stack([paid.mean(1), paid[:, 0], paid[:, 1:].mean(1)], axis=1)
    generator = np.random.default_rng(config.seed)
    low, high = interval(grouped_means(values, starts[:, 1], config.resamples, generator))
    named = zip(("all", "first", "later"), values.mean(0), low, high, strict=True)
    return {
        f"nats_{name}{end}": float(value)
        for name, mean, below, above in named
        for end, value in (("", mean), ("_low", below), ("_high", above))
    } | {"sequences": len(paid)}


@torch.inference_mode()
def _encode_ms(tokenizer: AnyTokenizer, shard: Shard) -> float:
    """Encode one frame several times, and return the shortest CPU time of an encoding, ms."""
    frame, times = torch.from_numpy(shard.frames()[:1].copy()), []
    for _ in range(TIMED):
        begun = time.process_time()
        tokenizer.encode(frame)
        times.append(time.process_time() - begun)
    return 1000 * min(times)


def _perplexity(counts: NDArray[Any]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _draw(path: Path, lines: Sequence[NDArray[np.uint8]]) -> None:
    import cv2

    image = np.concatenate([np.concatenate(list(line), axis=1) for line in lines])
    write_aside(path, cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def _table(results: dict[str, Any]) -> str:
    head = ("data", "PSNR dB", "saturated", "the rest", "kept", "perplexity", "nats", "first/later")
    lines: list[str] = []
    for name, found in results.items():
        mixture = found["mixture_perplexity"]
        lines += [
            f"\n{name}: {found['encode_cpu_ms']:.1f} ms a frame"
            + ("" if mixture is None else f", perplexity over the mixture {mixture:.0f}"),
            "".join(f"{word:>12}" for word in head),
        ]
        for data, row in found["data"].items():
            cells = [
                f"{row['psnr_db']:.2f}",
                f"{row['saturated_psnr_db']:.2f}",
                f"{row['rest_psnr_db']:.2f}",
                f"{row['saturation_kept']:.2f}",
                f"{row['perplexity']:.0f}",
            ]
            if "nats_all" in row:
                cells += [
                    f"{row['nats_all']:.2f}",
                    f"{row['nats_first']:.2f}/{row['nats_later']:.2f}",
                ]
            lines.append(f"{data:>12}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


main = command("reconstruction", ReconstructionConfig)(reconstruction)

if __name__ == "__main__":
    main()
