"""`python -m toto_robot.recognition.cater data=FOLDER`: find a hidden object in videos of CATER.

Object permanence as in the paper's Table 12: localisation of CATER's snitch (Girdhar and Ramanan
2019, arXiv 1910.04744). The class of a video is the cell, of 6 x 6 cells of the table, in which the
snitch is at the end. A cone may cover it. One probe is trained per layer on frozen features.

    data/videos/<name>                      the videos (AVI, MP4, ...)
    data/lists/localize/train.txt, val.txt  `<name> <cell>`; cell = 6 y + x, in 0..35

`python -m envs.cater_videos` renders videos in this layout.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from ..analyses.statistics import grouped_means, interval
from ..cli import command
from ..config import to_dict
from ..encoders.encoder import Encoder
from ..encoders.vision import VisionConfig
from ..files import files_digest
from ..probing.layer_features import LayerSource, cache_array, open_layers
from ..runs import claim
from ..training.engine import EngineConfig
from ..training.parallel import Ranks, join_ranks
from .cater_videos import SIDE, CaterVideos, clip_numbers, read_cater_clips, read_list
from .probe import Examples, Probe, ProbeConfig
from .scores import RESAMPLES, LayerScores, best_layer, score_layers, write_scores

__all__ = [
    "CaterConfig",
    "cater",
    "grid_distance",
]

PART = 4  # clips whose features of all tokens are in memory together


@dataclass(frozen=True, kw_only=True, slots=True)
class CaterConfig:
    """Settings of the command `cater`.

    Attributes:
        data: folder with `videos` and `lists/localize`.
        frames: number of frames of a clip, evenly spaced over the whole video; the paper has 16
            and 32.
        num_clips: number of clips per video. All clips have frames of the whole video, at different
            times. The class probabilities of the clips of a video are averaged.
        separate: true to encode each frame by itself; false so that the features of a Toto also
            depend on the earlier frames of the clip.
        read_frames: the probes read the features of the last frames of a clip, this number of
            them; null: of all frames. With 1, the features of a Toto must contain what the probe
            needs of the earlier frames.
        layers: numbers of the layers that are probed, 0 for the token embedding; null: all layers.
        cells: the features of a frame are averaged over `cells` x `cells` parts of the frame.
        subset: name of a list such as `hidden` (`hidden.txt` in `lists/localize`) of some of the
            test videos, whose scores are also reported; null: none.
        encoder: the encoder; `none` probes raw 16 x 16 pixels.
        probe: settings of the probes.
        engine: settings of the training loop; its device is also the encoder's.
    """

    data: Path
    frames: int
    num_clips: int
    separate: bool
    read_frames: int | None
    layers: tuple[int, ...] | None
    cells: int
    subset: str | None
    encoder: VisionConfig
    probe: ProbeConfig
    engine: EngineConfig

    def __post_init__(self) -> None:
        """Check that the numbers are positive."""
        for name in ("frames", "num_clips", "cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.layers == ():
            raise ValueError("layers must name at least one layer, or be null for all")
        if self.read_frames is not None and not 1 <= self.read_frames <= self.frames:
            raise ValueError(
                f"read_frames must be in [1, frames={self.frames}], got {self.read_frames}"
            )


def cater(config: CaterConfig, out: Path) -> LayerScores | None:
    """Train and score the probes; write `results.json`, `layers.csv`, `layers.png`, `correct.npz`.

    Tokens and features of the videos are kept in `out/cache`, which may be deleted. An interrupted
    run resumes. Returns None if the run was asked to stop, and on all ranks except the first.

    Raises:
        ValueError: a list is missing or damaged, a video is missing, unreadable or too short, or
            the encoder cannot encode clips of this length; the message names the file.
    """
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        videos = _list_videos(config)
        if ranks.first:
            claim(out, config)
            kind = "separately" if config.separate else "together"
            print(
                f"{videos.summary()}; {config.num_clips} clips per video of {config.frames} "
                f"frames, which are encoded {kind}",
                flush=True,
            )
        ranks.wait()
        source = _open_source(config, ranks)
        examples = _examples(config, videos, source, source.image_size, out / "cache", ranks)
        probe = Probe(source, examples, config.probe, out / "cache", ranks)
        train = np.flatnonzero(np.repeat(~videos.is_test, config.num_clips))
        test = np.flatnonzero(np.repeat(videos.is_test, config.num_clips))
        heads = probe.train(train, config.engine, out / "probe", ranks)
        if heads is None or not ranks.first:
            return None
        shares = probe.predict(heads, test).softmax(-1)
        means = shares.unflatten(1, (-1, config.num_clips)).mean(2).numpy()  # l n c
        return _write(config, out, videos, source.layers, means)


def grid_distance(one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the L1 distance of cells, the sum of the differences of rows and of columns."""
    return np.abs(one // SIDE - two // SIDE) + np.abs(one % SIDE - two % SIDE)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Videos:
    """Videos with their cells: first the training videos, then the test videos."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    chosen: NDArray[np.bool_]  # those of the test videos that are in the subset

    def summary(self) -> str:
        """Return one line about the data."""
        return f"{int((~self.is_test).sum())} training and {int(self.is_test.sum())} test videos"


def _list_videos(config: CaterConfig) -> _Videos:
    """Read the lists, and check that all videos exist."""
    found = CaterVideos(path=config.data).listing()
    assert found.is_test is not None
    tested = [
        file.relative_to(config.data / "videos").as_posix()
        for file, is_test in zip(found.files, found.is_test, strict=True)
        if is_test
    ]
    path = config.data / "lists" / "localize" / f"{config.subset}.txt"
    subset = {} if config.subset is None else read_list(path)
    if unknown := [name for name in subset if name not in tested]:
        raise ValueError(f"{path.name} has videos that are not in val.txt: {unknown[:5]}")
    return _Videos(
        files=found.files,
        labels=found.labels,
        is_test=found.is_test,
        chosen=np.array([name in subset for name in tested]),
    )


def _open_source(config: CaterConfig, ranks: Ranks) -> "CellLayers":
    """Return the source of features."""
    encoder = config.encoder.build(ranks.device)
    if isinstance(encoder, Encoder) and not config.separate:
        most = encoder.transformer.config.frames
        if config.frames > most:
            raise ValueError(
                f"frames={config.frames}, but the encoder was trained on clips of at most {most} "
                "frames; choose fewer frames, or separate=true"
            )
    source = open_layers(encoder)
    if config.layers is not None:
        if unknown := [number for number in config.layers if number not in source.layers]:
            raise ValueError(
                f"layers: {unknown} do not exist; this encoder has 0 to {source.layers[-1]}"
            )
        source.layers = config.layers
    return CellLayers(
        source,
        frames=config.frames,
        read_frames=config.read_frames or config.frames,
        cells=config.cells,
        separate=config.separate,
    )


class CellLayers:
    """The features of another source, averaged over `cells` x `cells` parts of each frame.

    Only the last `read_frames` of the `frames` of a clip have features. The frame, the row and the
    column of each part are appended to its features as one-hot codes. Without them, a head that
    averages tokens cannot know their positions.
    """

    def __init__(
        self, source: LayerSource, *, frames: int, read_frames: int, cells: int, separate: bool
    ) -> None:
        self._source, self._separate = source, separate
        self._frames, self._read = frames, read_frames
        self.image_size = size = source.image_size
        blank = source.features(source.compress(np.zeros((1, 1, size, size, 3), np.uint8)))
        self._side = round(blank.shape[2] ** 0.5)
        if self._side**2 != blank.shape[2]:
            raise ValueError(f"the {blank.shape[2]} tokens of a frame are not a square")
        cells = min(cells, self._side)
        where = torch.cartesian_prod(*map(torch.arange, (read_frames, cells, cells)))
        codes = [one_hot(axis, int(axis.max()) + 1) for axis in where.unbind(1)]
        self._cells, self._where = cells, torch.cat(codes, dim=1).float()  # n e
        self.layers = source.layers
        self.dim = source.dim + self._where.shape[1]
        parts = (source.fingerprint, separate, frames, read_frames, cells, *source.layers)
        self.fingerprint = " ".join(map(str, parts))

    def compress(self, clips: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert clips [b t h w 3] to a smaller array for the disk."""
        return self._source.compress(clips)

    def features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        """Return the features of all layers and of the parts of all frames."""
        parts = [self._features(inputs[i : i + PART]) for i in range(0, len(inputs), PART)]
        pooled = torch.cat(parts)
        where = self._where.expand(*pooled.shape[:2], -1, -1)
        return torch.cat([pooled, where], dim=-1)

    def _features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        clips = inputs
        if self._separate:
            clips = inputs[:, -self._read :].reshape(-1, 1, *inputs.shape[2:])
        tokens = self._source.features(clips).cpu()
        if self._separate:
            tokens = tokens.unflatten(0, (-1, self._read)).transpose(1, 2).flatten(2, 3)
        grid = tokens.unflatten(2, (-1, self._side, self._side))[:, :, -self._read :].movedim(-1, 3)
        pooled = adaptive_avg_pool2d(grid.flatten(0, 2), self._cells)  # (b l t) d y x
        return pooled.unflatten(0, grid.shape[:3]).movedim(3, -1).flatten(2, 4)


def _examples(
    config: CaterConfig,
    videos: _Videos,
    source: CellLayers,
    size: int,
    cache: Path,
    ranks: Ranks,
) -> Examples:
    """Return the clips of all videos."""
    facts = {
        "source": source.fingerprint,
        "videos": files_digest(videos.files),
        "clips": config.num_clips,
    }

    def read(rows: range) -> NDArray[Any]:
        clips = [
            read_cater_clips(
                videos.files[row],
                lambda length: clip_numbers(length, config.frames, config.num_clips),
                config.frames,
                size,
            )[0]
            for row in rows
        ]
        inputs = source.compress(np.concatenate(clips))
        return inputs.reshape(len(rows), config.num_clips, *inputs.shape[1:])

    inputs = ranks.first_then_others(
        lambda: cache_array(cache / "inputs.npy", len(videos.files), read, facts, "read videos")
    )
    return Examples(
        inputs=inputs.reshape(-1, *inputs.shape[2:]),
        labels=np.repeat(videos.labels, config.num_clips),
        groups=np.repeat(np.arange(len(videos.files)), config.num_clips),
        classes=tuple(map(str, range(SIDE**2))),
        fingerprint=str(facts),
    )


def _write(
    config: CaterConfig,
    out: Path,
    videos: _Videos,
    layers: tuple[int, ...],
    shares: NDArray[np.floating[Any]],
) -> LayerScores:
    """Write and print the results."""
    labels = videos.labels[videos.is_test]
    counts = np.bincount(videos.labels[~videos.is_test], minlength=SIDE**2)
    constant = np.tile(counts.astype(np.float64), (1, len(labels), 1))
    scores = score_layers(shares, labels, np.arange(len(labels)), layers)
    parts: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(labels), bool)}
    if config.subset is not None:
        parts |= {config.subset: videos.chosen, f"not {config.subset}": ~videos.chosen}
    rows = {}
    for name, chosen in parts.items():
        if chosen.any():
            rows[name] = _rows(shares[:, chosen], labels[chosen], layers)
            rows[f"{name}, majority"] = _rows(constant[:, chosen], labels[chosen], (0,))
    notes: dict[str, object] = {"videos": videos.summary(), "settings": to_dict(config)}
    notes |= {"distances": rows}
    title = f"snitch localisation, {config.frames} frames, {config.probe.head} probe"
    print(write_scores(out, scores, notes, title))
    best, _ = best_layer(scores)
    for name, found in rows.items():
        row = next((one for one in found if one["layer"] == best), found[0])
        texts = [
            f"{text} {row[key]:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})"
            for key, text in (("top1", "top-1"), ("top5", "top-5"), ("l1", "L1"))
        ]
        print(f"{name}, layer {row['layer']}, {row['videos']} videos: {', '.join(texts)}")
    return scores


def _rows(
    shares: NDArray[np.floating[Any]], labels: NDArray[np.int64], layers: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return top-1 and top-5 accuracy and the mean L1 distance at each layer, with intervals."""
    groups = np.arange(len(labels))
    rows = score_layers(shares, labels, groups, layers).rows()
    distances = grid_distance(shares.argmax(-1), labels).astype(np.float64)  # l n
    low, high = interval(grouped_means(distances.T, groups, RESAMPLES, np.random.default_rng(0)))
    for i, row in enumerate(rows):
        row |= {"l1": float(distances[i].mean()), "l1_low": float(low[i])}
        row |= {"l1_high": float(high[i]), "videos": len(labels)}
    return rows


main = command("cater", CaterConfig)(cater)

if __name__ == "__main__":
    main()
