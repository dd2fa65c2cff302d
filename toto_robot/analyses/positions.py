"""`python -m toto_robot.analyses.positions`: next-token loss by position (paper Fig. 10).

The paper's figure shows a high loss in the first frame and a lower loss in all later frames. The
paper explains the difference by the redundancy of video. Control sequences test this explanation:

    video      frames of one clip in their order
    shuffled   the same frames in random order. Frames are as similar, but motion is lost.
    unrelated  frames of other clips. Without redundancy, the loss of later frames should not fall.
    images     unrelated frames after the start token of images, as in training on images
    repeated   the first frame, repeated. Later frames are known, so their loss should be lowest.

Confidence intervals come from a bootstrap over files. It draws all sequences of a file together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ..cli import command
from ..encoders.encoder import Encoder
from ..encoders.vision import AnyToto, build_toto
from ..files import write_aside, write_csv
from ..models import CausalModel
from ..models.causal import require_causal
from ..plots import drawing
from .clips import Part, TokenClips, open_clips
from .orders import ORDERS, Windows, arrange, cut_windows, possible_orders
from .statistics import Array, grouped_means, interval

__all__ = ["ORDERS", "PositionsConfig", "positions", "token_losses"]

ALL = "all"  # name of all data sets together
LOGITS_AT_ONCE = 1024  # number of tokens whose logits are in memory at the same time


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionsConfig:
    """Settings of `positions`.

    Attributes:
        encoder: a Toto encoder. The analysis runs all its layers.
        data: folders of video data sets that have tokens of the encoder's tokenizer.
        part: the files to use: `held_out` files, `training` files, or `all` files.
        frames: number of frames in a sequence, at most the number for which the model was trained.
        strides: distances between two frames of a sequence, in frames of the data set. The loss is
            measured with each stride. The controls are measured only with the first stride.
        sequences: maximum number of sequences of each data set and stride. Sequences do not
            overlap. If there are more, evenly spaced sequences are used.
        batch: number of sequences in a forward pass.
        device: device of the model: `cpu` or `cuda`.
        resamples: number of bootstrap resamples.
        seed: random seed of the controls and the bootstrap.
    """

    encoder: AnyToto
    data: tuple[Path, ...]
    part: Part
    frames: int
    strides: tuple[int, ...]
    sequences: int
    batch: int
    device: str
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Check that data and strides are given, and that all numbers are in range."""
        if not self.data or not self.strides:
            raise ValueError("data and strides must each have an entry")
        for name, least in (("frames", 2), ("sequences", 1), ("batch", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if min(self.strides) < 1:
            raise ValueError(f"strides must be at least 1, got {list(self.strides)}")


def positions(config: PositionsConfig, out: Path) -> None:
    """Measure the loss at each position, and write `frames.csv`, `tokens.csv`, `positions.png`.

    Losses are kept in `out/losses`, with one file for each stride and order, so that an interrupted
    run can resume.

    Raises:
        ValueError: a data set does not exist, has images and no videos, or has tokens of another
            tokenizer. Also if it has no file of the chosen part, or only clips that are too short.
    """
    encoder = build_toto(config.encoder, config.device, whole=True)
    trained = encoder.transformer.config.frames
    if config.frames > trained:
        raise ValueError(f"frames must be at most the model's {trained}, got {config.frames}")
    sets = [open_clips(folder, encoder.tokenizer, config.part) for folder in config.data]
    if images := [item.name for item in sets if item.kind != "video"]:
        raise ValueError(f"{images} are data sets of images; positions needs videos")
    rows: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    maps: list[Array] = []
    for turn, stride in enumerate(config.strides):
        windows = cut_windows(sets, config.frames, stride, config.sequences)
        mine: list[dict[str, Any]] = []
        measured: dict[str, NDArray[np.float32]] = {}
        for order in possible_orders(windows) if turn == 0 else ORDERS[:1]:
            ids, sources = arrange(
                windows, order, encoder, np.random.default_rng((config.seed, stride))
            )
            losses = np.empty((*sources.shape, encoder.tokens_per_frame), np.float32)
            # assign the loss of each frame to its source sequence: orders are compared in pairs
            losses[sources, np.arange(config.frames)] = _measure(
                encoder, ids, config, out, f"{order}, stride {stride}"
            )
            measured[order] = losses
            for name, chosen in _parts(windows, sets):
                files = windows.files[chosen]
                mine += _frame_rows(
                    losses[chosen], measured[ORDERS[0]][chosen], files, config, order, stride, name
                )
            per_place = losses.mean(axis=0, dtype=np.float64)  # f n
            tokens += [
                {"order": order, "stride": stride, "frame": f + 1, "place": n, "nats": value}
                for (f, n), value in np.ndenumerate(per_place)
            ]
            if not maps:
                maps = [per_place[0], per_place[1:].mean(axis=0)]
        print(_table(mine), flush=True)
        rows += mine
    write_csv(out / "frames.csv", rows)
    write_csv(out / "tokens.csv", tokens)
    _draw(out / "positions.png", rows, maps, config)
    print(f"results: {out / 'frames.csv'}, tokens.csv, positions.png")


@torch.no_grad()
def token_losses(transformer: CausalModel, ids: Int64[Tensor, "b t"]) -> Float[Tensor, "b t-1"]:
    """Return the cross-entropy of each token except the first, in nats.

    The model predicts each token from all tokens before it. b is the batch, t the number of tokens.
    """
    require_causal(transformer.config, "a next-token loss")
    (hidden,) = transformer.features(ids[:, :-1], (-1,))
    losses = [
        cross_entropy(transformer.logits(part).float().transpose(1, 2), targets, reduction="none")
        for part, targets in zip(
            hidden.split(LOGITS_AT_ONCE, dim=1),
            ids[:, 1:].split(LOGITS_AT_ONCE, dim=1),
            strict=True,
        )
    ]
    return torch.cat(losses, dim=1)


def _measure(
    encoder: Encoder, ids: NDArray[np.int64], config: PositionsConfig, out: Path, what: str
) -> NDArray[np.float32]:
    """Return the loss of each token in nats, shape [s f n]. A file of an earlier run is reused.

    s is the number of sequences, f of frames in a sequence, and n of tokens in a frame.
    """
    digest = hashlib.sha256(f"{encoder.weights_hash} {ids.shape}".encode() + ids.tobytes())
    path = out / "losses" / f"{digest.hexdigest()[:16]}.f32"
    shape = (len(ids), config.frames, encoder.tokens_per_frame)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = range(0, len(ids), config.batch)
        device = encoder.transformer.embed_tokens.weight.device
        losses = [
            token_losses(
                encoder.transformer,
                torch.from_numpy(ids[first : first + config.batch]).to(device),
            )
            .cpu()
            .numpy()
            for first in tqdm(batches, desc=what, unit="batch")
        ]
        write_aside(path, np.concatenate(losses).astype(np.float32).tobytes())
    return np.fromfile(path, np.float32).reshape(shape)


def _parts(windows: Windows, sets: Sequence[TokenClips]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return a name and a boolean mask over sequences, for all data sets together and for each."""
    parts = [(ALL, np.ones(len(windows.sets), dtype=bool))]
    if len(sets) > 1:
        parts += [(item.name, windows.sets == number) for number, item in enumerate(sets)]
    return parts


def _frame_rows(
    losses: NDArray[np.float32],
    video: NDArray[np.float32],
    files: NDArray[np.int64],
    config: PositionsConfig,
    order: str,
    stride: int,
    name: str,
) -> list[dict[str, Any]]:
    """Return a table row for each frame, and a row for the mean of all frames after the first.

    `against_first` is the loss minus that of the first frame, and `against_video` is this
    difference minus that of the same sequences in their order (`video`).
    """
    (values, changes), (_, in_order) = _changes(losses), _changes(video)
    both = np.stack([values, changes, changes - in_order], axis=1)
    replicates = grouped_means(both, files, config.resamples, np.random.default_rng(config.seed))
    bounds = interval(replicates)  # axes: low or high, which value, frame
    if len(np.unique(files)) < 2:
        bounds[:] = np.nan  # a bootstrap over files needs at least two files
    return [
        {
            "order": order,
            "stride": stride,
            "data": name,
            "frame": frame,
            "nats": both[:, 0, k].mean(),
            "low": bounds[0, 0, k],
            "high": bounds[1, 0, k],
            "against_first": both[:, 1, k].mean(),
            "against_first_low": bounds[0, 1, k],
            "against_first_high": bounds[1, 1, k],
            "against_video": both[:, 2, k].mean(),
            "against_video_low": bounds[0, 2, k],
            "against_video_high": bounds[1, 2, k],
            "sequences": len(files),
            "files": len(np.unique(files)),
        }
        for k, frame in enumerate([*range(1, config.frames + 1), "later"])
    ]


def _changes(losses: NDArray[np.float32]) -> tuple[Array, Array]:
    """Return the loss of each frame and of all later frames, and the same minus the first frame.

    Both have the shape [s f+1], for losses [s f n].
    """
    means = losses.mean(axis=2, dtype=np.float64)  # s f
    values = np.concatenate([means, means[:, 1:].mean(axis=1, keepdims=True)], axis=1)
    return values, values - means[:, :1]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the losses of one stride as a text table."""
    lines = [
        f"nats a token, stride {rows[0]['stride']}: {rows[0]['sequences']} sequences of "
        f"{rows[0]['files']} files; in brackets the 95 % interval over files",
        f"{'order':<12}{'data':<22}{'frame 1':>9}{'frame 2':>9}{'later':>9}{'later - frame 1':>26}",
    ]
    groups: dict[tuple[str, str], dict[object, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["order"], row["data"]), {})[row["frame"]] = row
    for (order, name), group in groups.items():
        shown = "".join(f"{group[frame]['nats']:>9.3f}" for frame in (1, 2, "later"))
        change, low, high = (
            group["later"][f"against_first{bound}"] for bound in ("", "_low", "_high")
        )
        text = f"{change:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"{order:<12}{name:<22}{shown}{text:>26}")
    return "\n".join(lines)


def _draw(
    path: Path, rows: Sequence[dict[str, Any]], maps: Sequence[Array], config: PositionsConfig
) -> None:
    curves: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["data"] == ALL and row["frame"] != "later":
            curves.setdefault((row["order"], row["stride"]), []).append(row)
    with drawing(path, columns=4, width=19.0, height=4.5) as (figure, panels):
        levels, changes, *grids = panels
        for (order, stride), mine in curves.items():
            frames = [row["frame"] for row in mine]
            dashed = "-" if stride == config.strides[0] else "--"
            label = f"{order}, stride {stride}"
            levels.plot(frames, [row["nats"] for row in mine], dashed, marker=".", label=label)
            (line,) = changes.plot(frames, [row["against_first"] for row in mine], dashed)
            changes.fill_between(
                frames,
                [row["against_first_low"] for row in mine],
                [row["against_first_high"] for row in mine],
                color=line.get_color(),
                alpha=0.12,
                linewidth=0,
            )
        levels.set(xlabel="frame", ylabel="nats a token", title=config.part)
        levels.legend(fontsize="small")
        changes.set(xlabel="frame", title="against the first frame, 95 % over files")
        for axes in (levels, changes):
            axes.grid(alpha=0.3)
        side = round(len(maps[0]) ** 0.5)
        highest = max(float(values.max()) for values in maps)
        for axes, values, title in zip(
            grids, maps, ("first frame", "mean of the later frames"), strict=True
        ):
            grid = values.reshape(side, side) if side * side == len(values) else values[None]
            shown = axes.imshow(grid, vmin=0, vmax=highest, cmap="magma")
            axes.set(title=f"{title}, nats at each position", xticks=[], yticks=[])
        figure.colorbar(shown, ax=grids, shrink=0.8)


main = command("positions", PositionsConfig)(positions)

if __name__ == "__main__":
    main()
