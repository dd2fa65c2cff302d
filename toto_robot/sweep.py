"""`python -m toto_robot.sweep data=<demonstrations>`: compare layers and pools on your own task.

The command computes the features of all layers and pools in one pass over the frames. For each
layer and pool, a probe (a ridge regression) predicts the action, the state or a label on held-out
episodes. This repeats the robot panel of the paper's Fig. 8 on your own data, with confidence
intervals. Each probe is also fitted to embeddings and proprioception together. For comparison,
there are also controls: proprioception alone, no input at all, an untrained transformer and an
untrained tokenizer.

`toto_robot.probing.episodes` reads the data, and `toto_robot.probing.ridge` fits the probes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from tqdm import tqdm

from .cli import command
from .config import to_dict
from .encoders.contract import BATCH, compress_in_batches
from .encoders.encoder import Encoder
from .encoders.pca import PrincipalComponents, build_pools
from .encoders.pooling import Pool, is_attention, needs_components
from .encoders.streaming import StreamConfig
from .encoders.vision import AnyToto, TotoVision, build_toto
from .files import write_aside
from .probing.episodes import (
    Array,
    Demonstrations,
    Kind,
    check_tokenizer,
    read_demonstrations,
    read_frames,
)
from .probing.layer_features import small_pixels
from .probing.report import (
    CONSTANT,
    PIXELS,
    PROPRIOCEPTION,
    RANDOM,
    TRAINED,
    UNTRAINED,
    Cell,
    advise,
    table,
    write_report,
)
from .probing.ridge import ProbeEvaluation, rotate, standardise

__all__ = ["SweepConfig", "sweep"]

SWEEP_RENAMED = {
    "repeat_frame": "encoder.repeat_frame",
    "context": "encoder.stream.context",
    "mode": "encoder.stream.mode",
    "frame_skip": "encoder.stream.frame_skip",
}
PROPRIO_FLOOR = 1e-6  # relative to its standard deviation; it is stored in full precision


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Settings of the command `sweep`.

    Attributes:
        data: a folder of episodes, a demonstration store (folder of tokenised episodes) of
            `policies.train`, or a LeRobot data set. A folder of episodes has `.npz` or
            `.safetensors` files with uint8 `frames` [t c h w 3] (t steps, c cameras, height, width)
            and `labels` [t-1 a] (actions of a values), `state` or `proprio`; see
            docs/wrap_your_own_robot.md.
        target: quantity that the probes predict: `action` or `state`, scored by R2, or `label`,
            scored by accuracy.
        array: name of the array with the target; null: the name that belongs to `target` (see
            `toto_robot.probing.episodes`).
        columns: prefixes of names of target columns; only columns with one of these prefixes are
            predicted. null: all columns.
        encoder: Toto encoder to examine. Its `layer` and `pool` have no effect, because all are
            compared. With a `stream`, features also depend on earlier frames of the episode, and
            therefore all frames are encoded.
        device: device of the encoder: `cpu`, `cuda`, or `auto`.
        pools: pools without parameters to compare: mean, last, grid<g>, pca<k>, pca<k>grid<g>.
        stride: distance between two used frames of an episode, in frames; each episode starts at a
            different frame.
        episodes: number of episodes to use, spaced evenly over the list of all episodes; null: all.
        folds: number of cross-validation folds over episodes, at least 3.
        width: maximum number of inputs of a probe. Embeddings with more values are first projected
            to this number of principal components, which limits memory and time.
        penalties: penalties of the ridge regression, relative to the mean variance of the inputs.
            One of them is chosen for each fold, on the data of the other folds.
        resamples: number of bootstrap resamples over episodes.
        seed: seed of folds and bootstrap.
    """

    data: Path
    target: Kind
    array: str | None
    columns: tuple[str, ...] | None
    encoder: AnyToto
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
        if any(map(is_attention, self.pools)) or not self.pools:
            raise ValueError(
                "pools must be pools without parameters (mean, last, grid<g>, pca<k>, "
                f"pca<k>grid<g>), got {self.pools}"
            )
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3 to choose a penalty, got {self.folds}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be positive, got {self.penalties}")
        for name, least in (("stride", 1), ("width", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def stream(self) -> StreamConfig | None:
        """Settings of the streams; None if embeddings do not depend on earlier frames."""
        return self.encoder.stream if isinstance(self.encoder, TotoVision) else None


def sweep(config: SweepConfig, out: Path) -> None:
    """Compare layers and pools, print a table, and write `sweep.json`, `.csv` and `.png`.

    The embeddings of each episode are saved in a file in `out/embeddings-*`. Therefore an
    interrupted run resumes, and a run with another target does not encode frames again. You may
    delete these files.

    Raises:
        FileNotFoundError: there are no episodes in `data`.
        ValueError: an episode is damaged, lacks an array or was recorded with another tokenizer
            (the message names the file and its content), the stream config is invalid, or there are
            fewer episodes than folds.
    """
    encoder = build_toto(config.encoder, config.device, whole=True, streams=True)
    for pool in config.pools:  # an unknown pool fails before any data is read
        dim = encoder.transformer.config.dim
        build_pools(pool, dim, encoder.tokens_per_frame, (0,), encoder.pca)
    if config.stream is not None:  # an invalid stream fails before any data is read
        config.stream.open(encoder, 1)
    data = read_demonstrations(
        config.data, config.target, config.array, config.columns, config.stride, config.episodes
    )
    if data.view == "tokens":
        check_tokenizer(config.data, encoder)
    num_episodes = int(data.episode.max()) + 1
    if num_episodes < config.folds:
        raise ValueError(
            f"{config.folds} folds need at least as many episodes, {config.data} has {num_episodes}"
        )
    cells = _probe_all(config, data, encoder, out)
    advice = advise(cells, encoder.num_layers, num_episodes)
    print(table(data, cells, config.pools, config.folds, config.width))
    notes = {
        "data": str(config.data),
        "encoder": to_dict(config.encoder),
        "target": config.target,
        "advice": advice,
    }
    write_report(out, data, cells, config.pools, encoder.num_layers, notes)
    print(f"results: {out / 'sweep.json'}, sweep.csv, sweep.png")
    print(advice["words"])


def _probe_all(
    config: SweepConfig, data: Demonstrations, encoder: Encoder, out: Path
) -> list[Cell]:
    """Fit and score the probes of all layers and pools, and of all controls and baselines."""
    evaluation = ProbeEvaluation(
        data.target,
        data.episode,
        is_label=data.is_label,
        folds=config.folds,
        resamples=config.resamples,
        penalties=config.penalties,
        seed=config.seed,
    )
    variants = _variants(config, encoder, data.view == "tokens")
    files, pixels = _embed(config, data, variants, out)
    nothing = np.zeros((len(data.target), 0))
    cells = [_probe(config, data, evaluation, nothing, source=CONSTANT)]
    if data.proprio is not None:
        cells.append(_probe(config, data, evaluation, nothing, source=PROPRIOCEPTION))
    if pixels is not None:
        cells.append(_probe(config, data, evaluation, pixels, source=PIXELS))
    todo = [
        (source, pool, layer)
        for source in variants
        for pool in config.pools
        for layer in range(encoder.num_layers + 1)
    ]
    for source, pool, layer in tqdm(todo, desc="probe", unit="probe"):
        inputs = _load(files[source], data.counts, f"{pool}-{layer}")
        cells.append(
            _probe(config, data, evaluation, inputs, source=source, layer=layer, pool=pool)
        )
    return cells


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Variant:
    """A pair of encoders: one provides the tokenizer, the other the transformer.

    `pca` are the principal components of the features of this pair.
    """

    tokens: Encoder
    features: Encoder
    pca: PrincipalComponents | None


def _variants(config: SweepConfig, trained: Encoder, has_tokens: bool) -> dict[str, _Variant]:
    """Return the trained encoder and its untrained copies, by name.

    The principal components of each copy are fitted to its own features.
    """
    untrained = trained.untrained(0).to(trained.transformer.embed_tokens.weight.device)
    layers = range(trained.num_layers + 1)

    def variant(tokens: Encoder) -> _Variant:
        pca = trained.pca if any(map(needs_components, config.pools)) else None
        if pca is not None:
            pca = pca.refit(lambda x: untrained.token_features(tokens.tokenize(x), layers))
        return _Variant(tokens=tokens, features=untrained, pca=pca)

    variants = {TRAINED: _Variant(tokens=trained, features=trained, pca=trained.pca)}
    variants[UNTRAINED] = variant(trained)
    return variants if has_tokens else variants | {RANDOM: variant(untrained)}


def _probe(
    config: SweepConfig,
    data: Demonstrations,
    evaluation: ProbeEvaluation,
    inputs: Array,
    *,
    source: str,
    layer: int | None = None,
    pool: str | None = None,
) -> Cell:
    """Fit and score a probe on embeddings [r p], alone and combined with proprioception.

    There are r frames, with p values each. `source`, `layer` and `pool` name the embeddings in the
    result.
    """
    joints = None if data.proprio is None else standardise(data.proprio, PROPRIO_FLOOR)
    rotated, kept = rotate(standardise(inputs), config.width)
    beside = None
    is_vision = layer is not None or source == PIXELS
    if joints is not None and is_vision:
        beside = evaluation.score(np.concatenate([rotated, joints], axis=1), joints.shape[1])
    if source == PROPRIOCEPTION:
        assert joints is not None
        rotated = joints
    return Cell(
        source=source,
        layer=layer,
        pool=pool,
        width=inputs.shape[1] if is_vision else rotated.shape[1],
        kept=kept,
        alone=evaluation.score(rotated),
        beside=beside,
    )


def _embed(
    config: SweepConfig, data: Demonstrations, variants: dict[str, _Variant], out: Path
) -> tuple[dict[str, list[Path]], Array | None]:
    """Compute and save the embeddings of the episodes whose files do not exist yet.

    Returns:
        The files of each variant, one per episode, and the pixels of the images as the input of a
        baseline. A file has an array float16 [r c*e] for each pool and layer, named
        `<pool>-<layer>`: r frames, c cameras, e values per embedding. The pixels are [r c*768]
        (768: 16 x 16 pixels, 3 colours), or None if the episodes contain only tokens.
    """
    folders, files, pixels = {}, {name: [] for name in variants}, []
    for name, variant in variants.items():
        facts = [variant.features.weights_hash, config.pools, variant.features.repeat_frame]
        stream = config.stream
        facts += [stream.context, stream.mode, stream.frame_skip] if stream else []
        facts += [variant.tokens.weights_hash] if data.view != "tokens" else []
        if any(map(needs_components, config.pools)) and variant.pca is not None:
            facts.append(variant.pca.identity)
        key = hashlib.sha256(f"2 {facts}".encode()).hexdigest()[:16]
        folders[name] = out / f"embeddings-{key}"
        folders[name].mkdir(parents=True, exist_ok=True)
    pairs = list(zip(data.paths, data.rows, strict=True))
    for path, rows in tqdm(pairs, desc="encode", unit="episode"):
        # a stream also needs the earlier frames
        needed = rows if config.stream is None else np.arange(rows[-1] + 1)
        frames = read_frames(path, data.view)
        # if the images of cameras differ in size, the frames are a list of arrays
        parts = frames if isinstance(frames, list) else [frames]
        parts = [np.ascontiguousarray(part[needed]) for part in parts]
        if data.view != "tokens":
            count = data.counts[len(pixels)]
            chosen = rows[:count] if config.stream is not None else np.arange(count)
            pixels.append(np.concatenate([_pixels(part[chosen]) for part in parts], axis=1))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(repr((part.shape, rows.tolist())).encode() + part.tobytes())
        places = {
            name: folder / f"{path.stem}-{digest.hexdigest()[:16]}.safetensors"
            for name, folder in folders.items()
        }
        tokens: dict[int, Tensor] = {}  # of each tokenizer, computed once
        for name, variant in variants.items():
            files[name].append(places[name])
            if places[name].exists():
                continue
            try:
                if id(variant.tokens) not in tokens:
                    tokens[id(variant.tokens)] = _tokens(variant.tokens, parts, data.view)
                features = _features(config, variant, tokens[id(variant.tokens)], rows)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            write_aside(places[name], save(features))
    return files, np.concatenate(pixels) if pixels else None


def _pixels(frames: Array) -> Array:
    """Resize images of c cameras, [r c h w 3] or [r h w 3], to 16 x 16: [r c*768] in [0, 1]."""
    return small_pixels(frames).reshape(len(frames), -1).astype(np.float64)


def _tokens(encoder: Encoder, parts: Sequence[Array], view: str) -> Tensor:
    """Return the tokens [t c n] of t frames of c cameras, n tokens each."""
    if view == "tokens":
        ids = parts[0]
    elif len(parts) > 1:
        ids = np.stack([compress_in_batches(encoder, part) for part in parts], axis=1)
    else:
        times, cameras, *size = parts[0].shape
        flat = compress_in_batches(encoder, parts[0].reshape(-1, *size))
        ids = flat.reshape(times, cameras, -1)
    return torch.from_numpy(ids.astype(np.int64))


def _features(config: SweepConfig, variant: _Variant, ids: Tensor, rows: Array) -> dict[str, Array]:
    """Return the embeddings of tokens [t c n] for all pools and layers, named `<pool>-<layer>`.

    The tokens are those of t frames of c cameras. `rows` are the numbers of the r frames whose
    embeddings are returned, [r c*e] for each pool and layer.
    """
    encoder = variant.features
    layers = range(encoder.num_layers + 1)
    num_cameras = ids.shape[1]
    device = encoder.transformer.embed_tokens.weight.device
    pools = {
        (name, layer): _pool(name, variant, layer).to(device)
        for name in config.pools
        for layer in layers
    }
    if config.stream is None:
        batches = ids.flatten(0, 1).split(BATCH)
        steps = (encoder.token_features(batch, layers) for batch in batches)
    else:
        stream = encoder.stream(
            num_cameras,
            config.stream.context,
            mode=config.stream.mode,
            frame_skip=config.stream.frame_skip,
            layers=layers,
        )
        seen = (stream.token_features(frame) for frame in ids)
        steps = (one for row, one in enumerate(seen) if row in rows)
    # pooled at once: the features of a whole episode and all layers need too much memory
    pooled: dict[str, list[Tensor]] = {f"{name}-{layer}": [] for name, layer in pools}
    for features in steps:
        for (name, layer), pool in pools.items():
            pooled[f"{name}-{layer}"].append(pool(features[layer]).half().cpu())
    return {
        key: torch.cat(parts).unflatten(0, (-1, num_cameras)).flatten(1).contiguous().numpy()
        for key, parts in pooled.items()
    }


def _pool(name: str, variant: _Variant, layer: int) -> Pool:
    encoder = variant.features
    dim = encoder.transformer.config.dim
    return build_pools(name, dim, encoder.tokens_per_frame, (layer,), variant.pca)


def _load(files: Sequence[Path], counts: Sequence[int], name: str) -> Array:
    parts = []
    for file, count in zip(files, counts, strict=True):
        try:
            with safe_open(file, framework="numpy") as opened:
                parts.append(opened.get_tensor(name)[:count])
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); delete it") from error
    return np.concatenate(parts).astype(np.float64)


main = command("sweep", SweepConfig, SWEEP_RENAMED)(sweep)

if __name__ == "__main__":
    main()
