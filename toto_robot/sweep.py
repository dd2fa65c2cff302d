"""`python -m toto_robot.sweep data=<demonstrations>`: which layer and pool serve *your* task.

One forward a frame gives every layer and every pool; a closed-form ridge probe of each predicts the
action, the state or a label on episodes that it has not seen. The robot panel of the paper's Fig. 8
for your own data, with intervals, and with what joints alone, no input at all and an untrained
transformer reach.

Data is a folder of episodes, one file each, `*.safetensors` or `*.npz`, in it or in its
`episodes/`; the demonstration store of `policies.store` is one:

    tokens    uint16 [t c n], the frames of c cameras as this encoder's codes; or
    frames    uint8 [t c h w 3], the frames themselves
    labels    [t a] or [t-1 a], the expert's actions            target=action
    proprio   [t p], joints                                     target=state
    success   [t] or one for the episode, whole numbers         target=label

`array=<name>` names another array of the target's kind, for instance a privileged state. A scalar
may also lie in the JSON of the metadata entry `episode`, where the store has `success` and `seed`.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from tqdm import tqdm

from .checkpoint import weights_hash
from .cli import command
from .encoder import Encoder, load_encoder
from .pooling import build_pool

__all__ = ["Ridge", "SweepConfig", "fit_ridge", "sweep"]

Array = NDArray[Any]
ARRAYS = {"action": "labels", "state": "proprio", "label": "success"}
VIEWS = {"tokens": 3, "frames": 5}  # and their dimensions
FLOOR = 1e-2  # of a feature's standard deviation: below it is what half precision leaves
BLOCK = 1024  # rows whose products are summed at once
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Say what to compare, on what.

    Attributes:
        data: folder of episodes.
        target: `action` and `state` are scored by R2, `label` by accuracy.
        array: name of the target's array; None for the usual one (see the module).
        encoder: a shipped name or a checkpoint folder.
        device: where the encoder runs.
        pools: pools without parameters.
        stride: every how many frames one is used; each episode starts at another.
        episodes: how many to use, spread evenly; None for all.
        folds: parts into which episodes are split, at least 3.
        width: embeddings that are wider are first rotated to this many principal directions, which
            bounds memory and time.
        penalties: of ridge regression, relative to the mean variance of the inputs; each fold's is
            chosen on the other folds.
        resamples: of the bootstrap over episodes.
        seed: of folds and bootstrap.
    """

    data: Path
    target: Literal["action", "state", "label"]
    array: str | None
    encoder: str
    device: str
    pools: tuple[str, ...]
    stride: int
    episodes: int | None
    folds: int
    width: int
    penalties: tuple[float, ...]
    resamples: int
    seed: int

    def __post_init__(self) -> None:
        if "attention" in self.pools or not self.pools:
            raise ValueError(
                f"pools must be some without parameters (mean, last, grid<k>), got {self.pools}"
            )
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3 to choose a penalty, got {self.folds}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be positive, got {self.penalties}")
        for name, least in (("stride", 1), ("width", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Data:
    """What is to be told: rows are the frames used.

    Attributes:
        paths: files of the episodes.
        rows: frames of each that are encoded, whatever the target.
        counts: how many of them, from the first, have a target: an episode may have one frame more.
        view: `tokens` or `frames`.
        target: float64 [r k]; of labels one-hot.
        names: of the target's columns.
        dropped: names of columns that never change, which no score can tell about.
        proprio: float64 [r p]; None where there is none, or it is the target.
        episode: [r], numbered from 0; episodes of the same seed show the same scene and are one.
        is_label: whether columns are classes.
    """

    paths: list[Path]
    rows: list[Array]
    counts: list[int]
    view: str
    target: Array
    names: list[str]
    dropped: list[str]
    proprio: Array | None
    episode: Array
    is_label: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ridge:
    """What a probe says of episodes that it was not fitted to.

    Attributes:
        predictions: [r k].
        penalties: what each fold chose.
    """

    predictions: Array
    penalties: list[float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cell:
    """One row of the table.

    Attributes:
        source: `trained`, `untrained`, `proprioception` or `constant`.
        layer: None for what is no encoder.
        pool: likewise.
        width: of the embedding, all cameras.
        kept: share of its variance that the rotation kept.
        score: R2 or accuracy.
        draws: the score in each resample.
        each: R2 of each target; empty for labels.
        penalties: chosen, one a fold.
    """

    source: str
    layer: int | None
    pool: str | None
    width: int
    kept: float
    score: float
    draws: Array
    each: list[float]
    penalties: list[float]

    @property
    def low(self) -> float:
        return float(np.percentile(self.draws, INTERVAL[0]))

    @property
    def high(self) -> float:
        return float(np.percentile(self.draws, INTERVAL[1]))


def sweep(config: SweepConfig, out: Path) -> None:
    """Encode, probe, print the table; write `sweep.json`, `sweep.csv` and `sweep.png`.

    Embeddings lie in `out/embeddings-*`, one file an episode: a run that died goes on there, and
    one with another target encodes nothing. They may be deleted.

    Raises:
        FileNotFoundError: no episodes in `data`.
        ValueError: an episode that is damaged, lacks an array or was recorded with another
            tokenizer; the message names the file and what it holds.
    """
    encoder = load_encoder(config.encoder, device=config.device)
    data = _read(config)
    if data.view == "tokens":
        _check_tokenizer(config.data, encoder)
    num_episodes = int(data.episode.max()) + 1
    if num_episodes < config.folds:
        raise ValueError(
            f"{config.folds} folds need as many episodes, {config.data} has {num_episodes}"
        )
    rng = np.random.default_rng(config.seed)
    fold = (rng.permutation(num_episodes) % config.folds)[data.episode]
    chances = np.full(num_episodes, 1 / num_episodes)
    weights = rng.multinomial(num_episodes, chances, config.resamples).astype(np.float64)
    untrained = encoder.untrained(0).to(config.device)
    folders = {
        name: _embed(config, data, one, out / "embeddings")
        for name, one in (("trained", encoder), ("untrained", untrained))
    }
    cells = [_probe(config, data, fold, weights, np.zeros((len(fold), 0)), source="constant")]
    if data.proprio is not None:
        cells.append(
            _probe(config, data, fold, weights, data.proprio, source="proprioception", floor=1e-6)
        )
    todo = [
        (source, pool, layer)
        for source in folders
        for pool in config.pools
        for layer in range(encoder.num_layers + 1)
    ]
    for source, pool, layer in tqdm(todo, desc="probe", unit="probe"):
        inputs = _load(folders[source], data.counts, f"{pool}-{layer}")
        cells.append(
            _probe(config, data, fold, weights, inputs, source=source, layer=layer, pool=pool)
        )
    table, advice = _table(config, data, cells, num_episodes), _advise(cells, encoder.num_layers)
    print(table)
    _write(config, data, cells, advice, encoder.num_layers, out)
    print(f"results: {out / 'sweep.json'}, sweep.csv, sweep.png")
    print(advice["words"])


def fit_ridge(
    inputs: Array, target: Array, fold: Array, penalties: Sequence[float], weigh: Array
) -> Ridge:
    """Predict every row by a ridge regression fitted to the other folds, in closed form.

    Sums over rows are made once for each fold; those of the rows that a probe is fitted to are the
    total less the folds left out. Each fold's penalty is the one with the least squared error on
    each of the other folds in turn, by probes fitted to neither.

    Args:
        inputs: [r p].
        target: [r k].
        fold: [r], numbered from 0.
        penalties: to choose from, relative to the mean variance of the inputs.
        weigh: [k], what a squared error of each target counts.
    """
    num_folds = int(fold.max()) + 1
    # a column of ones beside the inputs and the targets: one product holds all sums
    whole = torch.from_numpy(np.concatenate([inputs, np.ones((len(inputs), 1)), target], axis=1))
    moments = torch.zeros(num_folds, whole.shape[1], whole.shape[1], dtype=torch.float64)
    folds = torch.from_numpy(fold)
    for k in range(num_folds):
        for block in whole[folds == k].split(BLOCK):
            moments[k] += block.T @ block
    total, width = moments.sum(0), inputs.shape[1]
    errors = np.zeros((num_folds, len(penalties)))
    for one, two in combinations(range(num_folds), 2):
        for j, maps in enumerate(_solve(total - moments[one] - moments[two], width, penalties)):
            errors[one, j] += _squared_error(moments[two], maps, width) @ weigh
            errors[two, j] += _squared_error(moments[one], maps, width) @ weigh
    chosen = [float(penalties[j]) for j in errors.argmin(1)]
    predictions = np.empty_like(target, dtype=np.float64)
    for k, penalty in enumerate(chosen):
        (maps,) = _solve(total - moments[k], width, [penalty])
        predictions[fold == k] = (whole[folds == k, : width + 1] @ maps).numpy()
    return Ridge(predictions=predictions, penalties=chosen)


def _solve(moments: Tensor, width: int, penalties: Sequence[float]) -> list[Tensor]:
    """Return, for each penalty, the map [p+1 k] from inputs and one to targets."""
    count = moments[width, width]
    mean = moments[width] / count  # of inputs, one, targets
    centred = moments - count * torch.outer(mean, mean)
    gram, cross = centred[:width, :width], centred[:width, width + 1 :]
    scale = gram.diagonal().mean().clamp(min=1e-12) if width else 0
    maps = []
    for penalty in penalties:
        slope = cross
        if width:
            ridge = gram + penalty * scale * torch.eye(width, dtype=torch.float64)
            slope = torch.cholesky_solve(cross, torch.linalg.cholesky(ridge))
        offset = mean[width + 1 :] - mean[:width] @ slope
        maps.append(torch.cat([slope, offset[None]]))
    return maps


def _squared_error(moments: Tensor, maps: Tensor, width: int) -> Array:
    """Return the summed squared error [k] of a map, from a fold's sums alone."""
    gram, cross = moments[: width + 1, : width + 1], moments[: width + 1, width + 1 :]
    square = moments[width + 1 :, width + 1 :].diagonal()
    error = square - 2 * (maps * cross).sum(0) + (maps * (gram @ maps)).sum(0)
    return error.clamp(min=0).numpy()


def _probe(
    config: SweepConfig,
    data: _Data,
    fold: Array,
    weights: Array,
    inputs: Array,
    *,
    source: str,
    layer: int | None = None,
    pool: str | None = None,
    floor: float = FLOOR,
) -> _Cell:
    std = inputs.std(0)
    inputs = (inputs - inputs.mean(0)) / np.maximum(std, floor)
    rotated, kept = _rotate(inputs, config.width)
    spread = np.ones(data.target.shape[1]) if data.is_label else data.target.var(0)
    ridge = fit_ridge(rotated, data.target, fold, config.penalties, 1 / spread)
    each, draws = _score(data, ridge.predictions, np.ones((1, weights.shape[1])), weights)
    return _Cell(
        source=source,
        layer=layer,
        pool=pool,
        width=inputs.shape[1],
        kept=kept,
        score=float(each.mean()),
        draws=draws,
        each=[] if data.is_label else [float(one) for one in each],
        penalties=ridge.penalties,
    )


def _rotate(inputs: Array, width: int) -> tuple[Array, float]:
    """Return the inputs' principal components, at most ``width``, and their share of the variance.

    Ridge regression does not feel a rotation, so that without a cut this changes nothing. The
    directions are those of at most 2 * width rows, spread evenly; targets play no part.
    """
    if inputs.shape[1] <= width:
        return inputs, 1.0
    some = inputs[np.unique(np.linspace(0, len(inputs) - 1, 2 * width).astype(int))]
    rows = torch.from_numpy(some)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rank = min(width, int((values > 1e-9 * values[0]).sum()))
    directions = rows.T @ (vectors[:, :rank] / values[:rank].sqrt())  # p k
    components = np.concatenate(
        [inputs[i : i + BLOCK] @ directions.numpy() for i in range(0, len(inputs), BLOCK)]
    )
    return components, float(np.square(components).sum() / np.square(inputs).sum())


def _score(data: _Data, predictions: Array, once: Array, weights: Array) -> tuple[Array, Array]:
    """Return the scores of each target (of labels: one), and the mean score of each resample.

    Everything is a sum over an episode's rows, so that a resample is a weighing of episodes. Probes
    are not fitted again: the interval is that of the test episodes.
    """
    number = weights.shape[1]

    def per_episode(values: Array) -> Array:
        sums = np.zeros((number, *values.shape[1:]))
        np.add.at(sums, data.episode, values)
        return sums

    counts = per_episode(np.ones((len(predictions), 1)))
    if data.is_label:
        right = predictions.argmax(1) == data.target.argmax(1)
        hits = per_episode(right[:, None].astype(np.float64))
        return (once @ hits / (once @ counts))[0], (weights @ hits / (weights @ counts))[:, 0]
    centred = data.target - data.target.mean(0)
    errors = per_episode(np.square(data.target - predictions))
    sums, squares = per_episode(centred), per_episode(np.square(centred))

    def r2(weighing: Array) -> Array:
        variance = weighing @ squares - np.square(weighing @ sums) / (weighing @ counts)
        # a target can be constant in a resample: it then says nothing there
        told = variance > 1e-9 * squares.sum(0)
        return np.where(told, 1 - weighing @ errors / np.where(told, variance, 1), np.nan)

    return r2(once)[0], np.nanmean(r2(weights), axis=1)


def _read(config: SweepConfig) -> _Data:
    paths = _episode_files(config.data)
    if config.episodes is not None:
        chosen = np.linspace(0, len(paths) - 1, min(config.episodes, len(paths)))
        paths = [paths[i] for i in np.unique(chosen.astype(int))]
    name = config.array or ARRAYS[config.target]
    rows, counts, targets, proprio, scenes, views = [], [], [], [], [], []
    for number, path in enumerate(tqdm(paths, desc="read", unit="episode", leave=False)):
        arrays = _open(path)
        view = _view(path, arrays)
        if name not in arrays:
            raise ValueError(
                f"{path} has no {name!r} for target={config.target}; it has {sorted(arrays)} "
                "(choose one by array=)"
            )
        length, target = len(arrays[view]), arrays[name]
        if target.ndim == 0:
            target = np.full(length, target)
        if len(target) not in (length, length - 1):
            raise ValueError(f"{path}: {length} {view} but {len(target)} {name}")
        rows.append(np.arange(number % min(config.stride, length), length, config.stride))
        used = rows[-1][rows[-1] < len(target)]
        counts.append(len(used))
        views.append(view)
        targets.append(target[used].reshape(len(used), -1))
        if "proprio" in arrays and name != "proprio":
            proprio.append(arrays["proprio"][used])
        scenes += [str(arrays.get("seed", path.stem))] * len(used)
    if len({one.shape[1] for one in targets}) > 1 or len(set(views)) > 1:
        raise ValueError(f"the episodes in {config.data} differ in {name} or in tokens and frames")
    if not scenes:
        raise ValueError(f"stride={config.stride} leaves no frame of the episodes in {config.data}")
    target, names, dropped = _columns(config, name, np.concatenate(targets))
    return _Data(
        paths=paths,
        rows=rows,
        counts=counts,
        view=views[0],
        target=target,
        names=names,
        dropped=dropped,
        proprio=np.concatenate(proprio).astype(np.float64) if len(proprio) == len(rows) else None,
        episode=np.unique(scenes, return_inverse=True)[1],
        is_label=config.target == "label",
    )


def _columns(config: SweepConfig, name: str, target: Array) -> tuple[Array, list[str], list[str]]:
    """Return the target's columns, their names, and the names of those that never change."""
    if config.target == "label":
        if target.shape[1] != 1 or target.dtype.kind not in "iub":
            raise ValueError(
                f"target=label: {name} must be one whole number a frame or episode, got "
                f"{target.dtype} with {target.shape[1]} columns"
            )
        classes, index = np.unique(target[:, 0], return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"target=label: {name} is {classes[0]} everywhere: nothing to tell")
        return np.eye(len(classes))[index], [f"{name}={one}" for one in classes], []
    if target.dtype.kind not in "fiu" or not np.isfinite(target).all():
        raise ValueError(f"target={config.target}: {name} must be finite numbers")
    target = target.astype(np.float64)
    changes = target.std(0) > 1e-6 * np.maximum(1, np.abs(target).max(0))
    if not changes.any():
        raise ValueError(f"target={config.target}: {name} never changes: nothing to tell")
    names = [f"{name}[{i}]" for i in range(target.shape[1])]
    return (
        target[:, changes],
        [one for one, moves in zip(names, changes, strict=True) if moves],
        [one for one, moves in zip(names, changes, strict=True) if not moves],
    )


def _episode_files(folder: Path) -> list[Path]:
    for place in (folder / "episodes", folder):
        found = [path for path in place.glob("[!.]*") if path.suffix in (".safetensors", ".npz")]
        if found:
            return sorted(found)
    raise FileNotFoundError(f"no episodes (*.safetensors, *.npz) in {folder} or its episodes/")


def _open(path: Path) -> dict[str, Array]:
    """Read an episode's arrays, and the scalars of its metadata."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as opened:
                return dict(opened)
        with safe_open(path, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts = json.loads((opened.metadata() or {}).get("episode", "{}"))
            scalars = {k: np.asarray(v) for k, v in facts.items() if isinstance(v, (bool, int))}
            return scalars | arrays
    except (SafetensorError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _view(path: Path, arrays: dict[str, Array]) -> str:
    """Return whether an episode has `tokens` or `frames`, or say what is wrong with them."""
    for view, ndim in VIEWS.items():
        if view in arrays:
            found = arrays[view]
            if found.ndim != ndim or found.dtype.kind != "u" or 0 in found.shape:
                raise ValueError(
                    f"{path}: {view} must be unsigned with {ndim} dimensions and a camera, got "
                    f"{found.dtype} {found.shape}"
                )
            return view
    raise ValueError(f"{path} has neither tokens nor frames; it has {sorted(arrays)}")


def _check_tokenizer(folder: Path, encoder: Encoder) -> None:
    """Refuse a store whose header says that another tokenizer made its tokens."""
    path = folder / "store.json"
    if not path.is_file():
        return
    made_by = json.loads(path.read_text()).get("tokenizer_hash")
    ours = weights_hash(encoder.tokenizer)
    if made_by is not None and made_by != ours:
        raise ValueError(
            f"{folder} was recorded with another tokenizer (hash {made_by[:12]}, this encoder's "
            f"{ours[:12]}): its tokens mean nothing here; sweep the encoder it was recorded with"
        )


def _embed(config: SweepConfig, data: _Data, encoder: Encoder, folder: Path) -> list[Path]:
    """Encode the episodes that are not yet there; give the file of each.

    A file holds float16 [r c*e] for each pool and layer, by the name `<pool>-<layer>`. Tokens are
    the trained tokenizer's for the untrained transformer, too: they are all that a store has.
    """
    pools = {
        name: build_pool(name, encoder.transformer.config.dim, encoder.tokens_per_frame)
        for name in config.pools
    }
    key = hashlib.sha256(f"1 {encoder.weights_hash} {config.pools}".encode()).hexdigest()[:16]
    folder = folder.with_name(f"{folder.name}-{key}")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    pairs = list(zip(data.paths, data.rows, strict=True))
    for path, rows in tqdm(pairs, desc="encode", unit="episode"):
        frames = np.ascontiguousarray(_open(path)[data.view][rows])
        digest = hashlib.sha256(repr(frames.shape).encode() + frames.tobytes()).hexdigest()[:16]
        file = folder / f"{path.stem}-{digest}.safetensors"
        files.append(file)
        if file.exists():
            continue
        flat = torch.from_numpy(frames).flatten(0, 1)  # r*c ...
        ids = flat.long() if data.view == "tokens" else encoder.tokenize(flat)
        try:
            layers = encoder.token_features(ids, range(encoder.num_layers + 1))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        embeddings = {
            f"{name}-{layer}": pool(features).unflatten(0, frames.shape[:2]).flatten(1).half()
            for layer, features in enumerate(layers)
            for name, pool in pools.items()
        }
        arrays = {name: one.cpu().contiguous().numpy() for name, one in embeddings.items()}
        _write_aside(file, save(arrays))
    return files


def _load(files: Sequence[Path], counts: Sequence[int], name: str) -> Array:
    parts = []
    for file, count in zip(files, counts, strict=True):
        try:
            with safe_open(file, framework="numpy") as opened:
                parts.append(opened.get_tensor(name)[:count])
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); delete it") from error
    return np.concatenate(parts).astype(np.float64)


def _table(config: SweepConfig, data: _Data, cells: list[_Cell], num_episodes: int) -> str:
    measure = "accuracy" if data.is_label else "R2"
    lines = [
        f"{measure} of {config.array or ARRAYS[config.target]} on held-out episodes: "
        f"{len(data.target)} frames of {num_episodes} episodes, {len(data.names)} "
        f"{'classes' if data.is_label else 'targets'}, {config.folds} folds",
        "in brackets the 95 % interval over episodes; behind it how often the layer is that pool's "
        "best",
    ]
    if data.dropped:
        lines.append(f"left out, since they never change: {', '.join(data.dropped)}")
    lines.append(f"{'':<16}{'layer':>6}" + "".join(f"{pool:>28}" for pool in config.pools))
    best = _best_shares(cells)
    for source in ("trained", "untrained"):
        for layer in sorted({c.layer for c in cells if c.source == source and c.layer is not None}):
            texts = []
            for pool in config.pools:
                cell = _find_cell(cells, source, layer, pool)
                share = f"{best[layer, pool]:>5.0%}" if source == "trained" else ""
                texts.append(f"{_interval(cell)}{share:<5}")
            lines.append(f"{source:<16}{layer:>6}" + "".join(f"{text:>28}" for text in texts))
    lines += [
        f"{cell.source:<22}{_interval(cell) + ' ' * 5:>28}" for cell in cells if cell.layer is None
    ]
    cut = min(cell.kept for cell in cells)
    if cut < 0.9995:
        lines.append(
            f"wide embeddings were cut to {config.width} directions, which keep at least "
            f"{cut:.1%} of their variance"
        )
    return "\n".join(lines)


def _interval(cell: _Cell) -> str:
    return f"{cell.score:.3f} [{cell.low:.3f} {cell.high:.3f}]"


def _find_cell(cells: list[_Cell], source: str, layer: int, pool: str | None) -> _Cell:
    (cell,) = [c for c in cells if (c.source, c.layer, c.pool) == (source, layer, pool)]
    return cell


def _best_shares(cells: list[_Cell]) -> dict[tuple[int | None, str | None], float]:
    """Return how often each layer is its pool's best, over the resamples."""
    shares = {}
    for pool in {cell.pool for cell in cells if cell.source == "trained"}:
        mine = [cell for cell in cells if cell.source == "trained" and cell.pool == pool]
        wins = np.stack([cell.draws for cell in mine]).argmax(0)
        shares |= {(cell.layer, pool): float((wins == i).mean()) for i, cell in enumerate(mine)}
    return shares


def _difference(one: _Cell, two: _Cell) -> dict[str, float]:
    """Return the paired difference of two scores, with its interval."""
    low, high = np.percentile(one.draws - two.draws, INTERVAL)
    return {"score": one.score - two.score, "low": float(low), "high": float(high)}


def _clearness(difference: dict[str, float]) -> str:
    if difference["low"] > 0:
        return " (clearly better)"
    return " (clearly worse)" if difference["high"] < 0 else " (no clear difference)"


def _advise(cells: list[_Cell], num_layers: int) -> dict[str, Any]:
    """Say in words which layer and pool to use, and whether that matters."""
    trained = [cell for cell in cells if cell.source == "trained"]
    best = max(trained, key=lambda cell: cell.score)
    same_pool = [cell for cell in trained if cell.pool == best.pool]
    # the shallowest that is not clearly worse costs least: deeper blocks are not run
    enough = next(cell for cell in same_pool if _difference(best, cell)["low"] <= 0)
    others = {
        "the last layer": _find_cell(cells, "trained", num_layers, best.pool),
        "layer 0": _find_cell(cells, "trained", 0, best.pool),
        "the untrained transformer": _find_cell(cells, "untrained", best.layer or 0, best.pool),
    }
    others |= {cell.source: cell for cell in cells if cell.layer is None}
    best_other_pool = [cell for cell in trained if cell.pool != best.pool]
    if best_other_pool:
        other = max(best_other_pool, key=lambda cell: cell.score)
        others[f"the next pool ({other.pool}, layer {other.layer})"] = other
    differences = {n: _difference(best, cell) for n, cell in others.items() if cell is not best}
    share = _best_shares(cells)[best.layer, best.pool]
    parts = [
        f"{name} {one['score']:+.3f} [{one['low']:+.3f} {one['high']:+.3f}]" + _clearness(one)
        for name, one in differences.items()
    ]
    use = (
        f"use layer {enough.layer}, pool {enough.pool}: "
        f"layer {best.layer} scores best ({best.score:.3f}, the best layer in {share:.0%} of "
        "resamples), "
        + (
            ("and costs least" if best.layer == 0 else "and every shallower layer is clearly worse")
            if enough is best
            else f"but layer {enough.layer} ({enough.score:.3f}) is not clearly worse and cheaper"
        )
    )
    return {
        "layer": enough.layer,
        "pool": enough.pool,
        "best_layer": best.layer,
        "best_share": share,
        "differences_of_the_best": differences,
        "words": f"{use}; the best against {'; '.join(parts)}",
    }


def _write(
    config: SweepConfig,
    data: _Data,
    cells: list[_Cell],
    advice: dict[str, Any],
    num_layers: int,
    out: Path,
) -> None:
    best = _best_shares(cells)
    rows = [
        {
            "source": cell.source,
            "layer": cell.layer,
            "pool": cell.pool,
            "width": cell.width,
            "kept": cell.kept,
            "score": cell.score,
            "low": cell.low,
            "high": cell.high,
            "best_share": best[cell.layer, cell.pool] if cell.source == "trained" else None,
        }
        for cell in cells
    ]
    result = {
        "measure": "accuracy" if data.is_label else "r2",
        "data": str(config.data),
        "encoder": config.encoder,
        "target": config.target,
        "array": config.array or ARRAYS[config.target],
        "num_frames": len(data.target),
        "num_episodes": int(data.episode.max()) + 1,
        "columns": data.names,
        "constant_columns": data.dropped,
        "advice": advice,
        "cells": [
            row | {"each": cell.each, "penalties": cell.penalties}
            for row, cell in zip(rows, cells, strict=True)
        ],
    }
    _write_aside(out / "sweep.json", (json.dumps(result, indent=1) + "\n").encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_aside(out / "sweep.csv", text.getvalue().encode())
    _write_aside(out / "sweep.png", _plot(config, result["measure"], cells, num_layers))


def _plot(config: SweepConfig, measure: str, cells: list[_Cell], num_layers: int) -> bytes:
    """Draw the score against relative depth, as the paper's Fig. 8 does."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, pool in enumerate(config.pools):
        for source, style in (("trained", "-"), ("untrained", ":")):
            mine = [cell for cell in cells if (cell.source, cell.pool) == (source, pool)]
            # side by side, so that the intervals can be told apart
            depth = np.array([(cell.layer or 0) / num_layers for cell in mine]) + 0.004 * index
            score = np.array([cell.score for cell in mine])
            axes.plot(depth, score, style, color=f"C{index}", label=f"{pool}, {source}")
            if source == "trained":
                low, high = (np.array([getattr(c, end) for c in mine]) for end in ("low", "high"))
                axes.vlines(depth, low, high, color=f"C{index}", alpha=0.5)
    for cell, style in zip([c for c in cells if c.layer is None], ("--", "-."), strict=False):
        axes.axhline(cell.score, color="gray", linestyle=style, label=cell.source)
    axes.set_xlabel("layer / number of layers")
    name = config.array or ARRAYS[config.target]
    axes.set_ylabel(f"{'R2' if measure == 'r2' else measure} of {name}, held-out episodes")
    figure.legend(loc="outside right upper", fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def _write_aside(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(data)
    aside.replace(path)


main = command("sweep", SweepConfig)(sweep)

if __name__ == "__main__":
    main()
