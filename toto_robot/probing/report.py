"""Report the results of a layer sweep, which scores a probe on each layer and pool of an encoder.

The report is a table, advice on the layer and pool to use, result files, and a plot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_csv, write_json
from ..plots import drawing
from .episodes import Demonstrations
from .ridge import Score, difference

__all__ = ["Cell", "advise", "table", "write_report"]

MIN_EPISODES = 10  # with fewer episodes, the bootstrap intervals are much too narrow
TRAINED, UNTRAINED, RANDOM = SOURCES = ("trained", "untrained", "random")
PROPRIOCEPTION, CONSTANT, PIXELS = "proprioception", "constant", "pixels 16 x 16"
DESCRIPTIONS = {
    UNTRAINED: "the untrained transformer on the trained tokenizer",
    RANDOM: "the untrained transformer on an untrained tokenizer",
}
WITHOUT_ENCODER = {  # text of the advice if no layer is clearly better than a baseline
    CONSTANT: "no layer is clearly better than a constant: record more episodes, or another target",
    PIXELS: "no layer is clearly better than raw 16 x 16 pixels",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """The result of one probe, which is one cell of the printed table.

    Attributes:
        source: input of the probe. `trained` is an embedding of the encoder. All other
            inputs are controls, for comparison. There are controls with an encoder: in `untrained`,
            the transformer is untrained and the tokenizer is trained. In `random`, both are
            untrained. There are controls without an encoder: `pixels 16 x 16` (the images, resized
            to that size), `proprioception`, and `constant` (no input).
        layer: layer of the encoder that was pooled. None for a control without an encoder.
        pool: name of the pooling method. None for a control without an encoder.
        width: number of values in the embedding of all cameras.
        kept: share of the embedding's variance that remains after its reduction to principal
            components, 0 to 1.
        alone: score of a probe whose input is only the embedding.
        beside: score of a probe whose input is the embedding and the proprioception. None if the
            episodes have no proprioception.
    """

    source: str
    layer: int | None
    pool: str | None
    width: int
    kept: float
    alone: Score
    beside: Score | None


def table(
    data: Demonstrations, cells: Sequence[Cell], pools: Sequence[str], folds: int, width: int
) -> str:
    """Return a text table of the scores, with a row per source and layer and a column per pool.

    Args:
        data: the episodes on which the probes were trained and scored.
        cells: the results of all probes.
        pools: names of the pooling methods, in the order of the columns.
        folds: number of cross-validation folds.
        width: largest number of values in an embedding. Wider embeddings are reduced to this
            number of principal components.
    """
    measure = "accuracy" if data.is_label else "R2"
    lines = [
        f"{measure} of {data.array} on held-out episodes: "
        f"{len(data.target)} frames of {int(data.episode.max()) + 1} episodes, {len(data.names)} "
        f"{'classes' if data.is_label else 'targets'}, {folds} folds",
        "in brackets the 95 % interval over episodes; after it, how often the layer is the best of "
        "its pool",
        f"{TRAINED}: the encoder; {UNTRAINED}: {DESCRIPTIONS[UNTRAINED]}; {RANDOM}: "
        f"{DESCRIPTIONS[RANDOM]}; {CONSTANT}: the mean of the training episodes",
    ]
    if data.dropped:
        lines.append(f"left out, because they are constant: {', '.join(data.dropped)}")
    head = f"{'':<16}{'layer':>6}" + "".join(f"{pool:>28}" for pool in pools)
    lines.append(head)
    best = best_shares(cells)
    for source, layer in _rows(cells):
        texts = []
        for pool in pools:
            share = f"{best[layer, pool]:>5.0%}" if source == TRAINED else ""
            texts.append(f"{_interval(find(cells, source, layer, pool).alone)}{share:<5}")
        lines.append(f"{source:<16}{layer:>6}" + "".join(f"{text:>28}" for text in texts))
    lines += [
        f"{cell.source:<22}{_interval(cell.alone) + ' ' * 5:>28}"
        for cell in cells
        if cell.layer is None
    ]
    lines += [f"what the layers add to the token embedding, paired: {measure} minus layer 0", head]
    for layer in sorted({cell.layer for cell in cells if cell.source == TRAINED and cell.layer}):
        gains = [over_tokens(cells, find(cells, TRAINED, layer, pool)) for pool in pools]
        texts = [_signed(one) + " " * 5 for one in gains]
        lines.append(f"{TRAINED:<16}{layer:>6}" + "".join(f"{text:>28}" for text in texts))
    joints = proprioception(cells)
    if joints is not None:
        lines += [
            f"what vision adds to proprioception, paired: {measure} of both minus "
            f"{joints.score:.3f}",
            head,
        ]
        for source, layer in _rows(cells):
            gains = [gain(find(cells, source, layer, pool), joints) for pool in pools]
            texts = [_signed(one) + " " * 5 for one in gains]
            lines.append(f"{source:<16}{layer:>6}" + "".join(f"{text:>28}" for text in texts))
        lines += [
            f"{cell.source:<22}{_signed(gain(cell, joints)) + ' ' * 5:>28}"
            for cell in cells
            if cell.source == PIXELS
        ]
    cut = min(cell.kept for cell in cells)
    if cut < 0.9995:
        lines.append(
            f"wide embeddings were projected to {width} components (or one per frame), which "
            f"keep at least {cut:.1%} of their variance"
        )
    if data.view == "tokens":
        lines.append(
            "no row with an untrained tokenizer: these episodes hold tokens, and that control "
            "needs images (`frames` or videos; python -m policies.redraw renders "
            "those of a simulator's store again)"
        )
    return "\n".join(lines)


def advise(cells: Sequence[Cell], num_layers: int, num_episodes: int) -> dict[str, Any]:
    """Choose a layer and a pool, and return them with the reasons, as text and as numbers.

    The chosen layer is the shallowest layer whose score is not clearly below the best score. With
    fewer than `MIN_EPISODES` episodes, the intervals are too narrow for a choice. Then the text
    asks for more episodes.

    Args:
        cells: the results of all probes.
        num_layers: number of layers of the encoder.
        num_episodes: number of episodes in the data.
    """
    trained = [cell for cell in cells if cell.source == TRAINED]
    best = max(trained, key=lambda cell: cell.alone.score)
    same_pool = [cell for cell in trained if cell.pool == best.pool]
    # a shallow layer is cheap, because deeper blocks need not be run
    enough = next(cell for cell in same_pool if difference(best.alone, cell.alone)["low"] <= 0)
    others = {
        "the last layer": find(cells, TRAINED, num_layers, best.pool),
        "layer 0": find(cells, TRAINED, 0, best.pool),
    }
    sources = {cell.source for cell in cells}
    others |= {
        words: find(cells, source, best.layer, best.pool)
        for source, words in DESCRIPTIONS.items()
        if source in sources
    }
    others |= {cell.source: cell for cell in cells if cell.layer is None}
    best_other_pool = [cell for cell in trained if cell.pool != best.pool]
    if best_other_pool:
        other = max(best_other_pool, key=lambda cell: cell.alone.score)
        others[f"the next pool ({other.pool}, layer {other.layer})"] = other
    differences = {
        name: difference(best.alone, cell.alone)
        for name, cell in others.items()
        if cell is not best
    }
    share = best_shares(cells)[best.layer, best.pool]
    parts = [f"{name} {_signed(one)}{clearness(one)}" for name, one in differences.items()]
    doubts = [
        words
        for source, words in WITHOUT_ENCODER.items()
        if source in differences and differences[source]["low"] <= 0
    ]
    if enough is not best:
        why = (
            f"but layer {enough.layer} ({enough.alone.score:.3f}) is not clearly worse and cheaper"
        )
    elif best.layer == 0:
        why = "and is the cheapest"
    else:
        why = "and every shallower layer is clearly worse"
    use = (
        f"use layer {enough.layer}, pool {enough.pool}: layer {best.layer} scores best "
        f"({best.alone.score:.3f}, the best layer in {share:.0%} of resamples), {why}"
    )
    if doubts:
        use = f"{'; '.join(doubts)}; if at all, {use}"
    words, added = f"{use}; the best compared with {'; '.join(parts)}", None
    joints = proprioception(cells)
    if joints is not None:
        # the gain of the chosen cell, because the largest gain of all cells is biased upwards
        added = gain(enough, joints)
        words += (
            f"; what layer {enough.layer}, pool {enough.pool} adds to proprioception "
            f"{_signed(added)}{clearness(added)}"
        )
    if num_episodes < MIN_EPISODES:
        words = (
            f"{num_episodes} episodes do not support a choice of layer and pool: use at least "
            f"{MIN_EPISODES}; layer {best.layer}, pool {best.pool} scores best "
            f"({best.alone.score:.3f}), which may change with other episodes"
        )
    return {
        "supported": num_episodes >= MIN_EPISODES,
        "layer": enough.layer,
        "pool": enough.pool,
        "best_layer": best.layer,
        "best_share": share,
        "differences_of_the_best": differences,
        "added_to_proprioception": added,
        "words": words,
    }


def write_report(
    out: Path,
    data: Demonstrations,
    cells: Sequence[Cell],
    pools: Sequence[str],
    num_layers: int,
    notes: dict[str, Any],
) -> None:
    """Write the results of the sweep to `sweep.json`, `sweep.csv` and `sweep.png`.

    Args:
        out: folder of the files.
        data: the episodes on which the probes were trained and scored.
        cells: the results of all probes.
        pools: names of the pooling methods.
        num_layers: number of layers of the encoder.
        notes: further entries of `sweep.json`.
    """
    best, joints = best_shares(cells), proprioception(cells)
    rows = []
    for cell in cells:
        row: dict[str, Any] = {
            "source": cell.source,
            "layer": cell.layer,
            "pool": cell.pool,
            "width": cell.width,
            "kept": cell.kept,
            "score": cell.alone.score,
            "low": cell.alone.low,
            "high": cell.alone.high,
            "best_share": best[cell.layer, cell.pool] if cell.source == TRAINED else None,
        }
        added = None if joints is None or cell.beside is None else gain(cell, joints)
        depth = over_tokens(cells, cell) if cell.source == TRAINED else None
        for name, one in (("added", added), ("over_layer_0", depth)):
            for end in ("score", "low", "high"):
                row[f"{name}_{end}"] = None if one is None else one[end]
        rows.append(row)
    measure = "accuracy" if data.is_label else "R2"
    result = notes | {
        "measure": measure.lower(),
        "array": data.array,
        "view": data.view,
        "num_frames": len(data.target),
        "num_episodes": int(data.episode.max()) + 1,
        "columns": data.names,
        "constant_columns": data.dropped,
        "cells": [
            row | {"each": cell.alone.each, "penalties": cell.alone.penalties}
            for row, cell in zip(rows, cells, strict=True)
        ],
    }
    write_json(out / "sweep.json", result)
    write_csv(out / "sweep.csv", rows)
    words = f"{measure} of {data.array}, held-out episodes"
    _plot(out / "sweep.png", cells, pools, num_layers, words)


def proprioception(cells: Sequence[Cell]) -> Score | None:
    """Return the score of the probe on proprioception alone. None if there is no such probe."""
    return next((cell.alone for cell in cells if cell.source == PROPRIOCEPTION), None)


def gain(cell: Cell, joints: Score) -> dict[str, float]:
    """Return how much the embedding of a cell improves the score, with a 95 % interval.

    The gain is the score with embedding and proprioception, minus the score with proprioception
    alone.

    Args:
        cell: the result with the embedding.
        joints: the score with proprioception alone.
    """
    assert cell.beside is not None
    return difference(cell.beside, joints)


def over_tokens(cells: Sequence[Cell], cell: Cell) -> dict[str, float]:
    """Return the score of a cell minus that of layer 0, same source and pool, with an interval."""
    return difference(cell.alone, find(cells, cell.source, 0, cell.pool).alone)


def find(cells: Sequence[Cell], source: str, layer: int | None, pool: str | None) -> Cell:
    """Return the only cell with the given source, layer and pool."""
    (cell,) = [c for c in cells if (c.source, c.layer, c.pool) == (source, layer, pool)]
    return cell


def best_shares(cells: Sequence[Cell]) -> dict[tuple[int | None, str | None], float]:
    """Return, for each layer and pool, the share of resamples in which the layer is the best.

    A layer is compared with the other layers of the same pool.
    """
    shares = {}
    for pool in {cell.pool for cell in cells if cell.source == TRAINED}:
        mine = [cell for cell in cells if cell.source == TRAINED and cell.pool == pool]
        wins = np.stack([cell.alone.draws for cell in mine]).argmax(0)
        shares |= {(cell.layer, pool): float((wins == i).mean()) for i, cell in enumerate(mine)}
    return shares


def clearness(difference: dict[str, float]) -> str:
    """Return text on whether a difference is clear, that is, whether its interval excludes 0."""
    if difference["low"] > 0:
        return " (clearly better)"
    return " (clearly worse)" if difference["high"] < 0 else " (no clear difference)"


def _rows(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    return [
        (source, layer)
        for source in SOURCES
        for layer in sorted({c.layer for c in cells if c.source == source and c.layer is not None})
    ]


def _interval(score: Score) -> str:
    return f"{score.score:.3f} [{score.low:.3f} {score.high:.3f}]"


def _signed(one: dict[str, float]) -> str:
    return f"{one['score']:+.3f} [{one['low']:+.3f} {one['high']:+.3f}]"


def _plot(
    path: Path, cells: Sequence[Cell], pools: Sequence[str], num_layers: int, words: str
) -> None:
    """Plot the score of each layer against its relative depth, as in the paper's Fig. 8.

    If there is proprioception, a second panel shows the gains over proprioception alone.
    """
    joints = proprioception(cells)
    number = 1 if joints is None else 2
    with drawing(path, columns=number, width=3 + 5.5 * number, height=4.5) as (figure, panels):
        for index, pool in enumerate(pools):
            for source, style in zip(SOURCES, ("-", ":", "--"), strict=True):
                mine = [cell for cell in cells if (cell.source, cell.pool) == (source, pool)]
                if not mine:
                    continue
                # pools are shifted horizontally, so that their intervals do not overlap
                depth = np.array([(cell.layer or 0) / num_layers for cell in mine]) + 0.004 * index
                shown = [[(c.alone.score, c.alone.low, c.alone.high) for c in mine]]
                if joints is not None:
                    gains = [gain(cell, joints) for cell in mine]
                    shown.append([(one["score"], one["low"], one["high"]) for one in gains])
                for panel, values in zip(panels, shown, strict=True):
                    score, low, high = np.array(values).T
                    label = f"{pool}, {source}" if panel is panels[0] else None
                    panel.plot(depth, score, style, color=f"C{index}", label=label)
                    if source == TRAINED:
                        panel.vlines(depth, low, high, color=f"C{index}", alpha=0.5)
        others = [cell for cell in cells if cell.layer is None]
        for cell, style in zip(others, ("--", "-.", ":"), strict=False):
            panels[0].axhline(cell.alone.score, color="gray", linestyle=style, label=cell.source)
        for panel in panels:
            panel.set_xlabel("layer / number of layers")
        panels[0].set_ylabel(words)
        if joints is not None:
            panels[1].axhline(0, color="gray")
            panels[1].set_ylabel("gain over proprioception")
        figure.legend(loc="outside right upper", fontsize="small")
