"""``python -m toto_robot.training.patches``: train a Toto on image patches (paper Table 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import weights_hash
from ..cli import command
from ..data.mixture import (
    FrameSequenceMixture,
    SequenceMixture,
    announce_held_out,
    held_out,
    require_clips,
)
from ..data.shards import Shard, tokenize_shard
from ..data.token_shards import digests
from ..encoders.frozen import save_frozen
from ..encoders.loading import load_tokenizer
from ..encoders.patches import PatchEncoder, PatchEncoderConfig
from ..models import SequenceLayout
from ..models.patches import PatchConfig, patch_flops
from ..runs import claim
from ..tokenizers import AnyTokenizer
from .components import check_pool, require_pca_frames, trained_components
from .engine import EngineConfig, fit
from .optimizer import OptimizerConfig
from .parallel import Ranks, join_ranks
from .phase import Phase, Rows
from .tokenizer import DataConfig

__all__ = ["PatchTrainingConfig", "train_patches"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTrainingConfig:
    """Settings of `train_patches`.

    Attributes:
        model: config of the transformer.
        targets_from: tokenizer whose codes are predicted. It is the checkpoint folder of a
            tokenizer or an encoder, or the name of a shipped encoder. null predicts the pixels of
            the patches instead.
        data: the data sets and their weights.
        optimizer: settings of AdamW and of its learning-rate schedule.
        steps: number of optimizer steps.
        frames: number of frames in a sequence, at most `model.frames`.
        batch: number of sequences in a step, over all ranks.
        part: number of sequences in a forward pass of a rank. The gradients of several forward
            passes are accumulated for a step.
        engine: settings of the training loop: device, precision, ranks, log, checkpoints.
        validation_sequences: number of held-out sequences of each data set for each validation.
        pool: default pooling of tokens to an embedding. `PatchEncoder` lists the names.
        seed: random seed of weights and sequences.
        pca_frames: number of training frames to which the principal components of the pools
            `pca<k>` are fitted at the end; 0: none. 16 of these frames are stored in the
            checkpoint, so every user of the checkpoint can see them.
    """

    model: PatchConfig
    targets_from: str | None
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    steps: int
    frames: int
    batch: int
    part: int
    engine: EngineConfig
    validation_sequences: int
    pool: str
    seed: int
    pca_frames: int = 0

    def __post_init__(self) -> None:
        """Check that targets, sequence length and model fit each other."""
        if not self.data:
            raise ValueError("data must have an entry")
        require_pca_frames(self.pca_frames)
        if (self.targets_from is None) != (self.model.target_codes is None):
            raise ValueError(
                "targets_from and model.target_codes must both be null or both be given, got "
                f"{self.targets_from} and {self.model.target_codes}"
            )
        if not 1 <= self.frames <= self.model.frames:
            raise ValueError(
                f"frames must be 1 to model.frames = {self.model.frames}, got {self.frames}"
            )


def train_patches(config: PatchTrainingConfig, out: Path) -> Path:
    """Train a transformer over patches, and return the folder of the encoder.

    Training resumes from the newest checkpoint under ``out``. `load_encoder` opens the encoder in
    ``out/encoder`` as a `PatchEncoder`.

    Raises:
        ValueError: the tokenizer does not have one code for each patch of the model, or the encoder
            has no pool `pool`.
    """
    check_pool(PatchEncoder, config.model, config.pool, config.pca_frames)
    tokenizer = None
    if config.targets_from is not None:
        tokenizer = load_tokenizer(config.targets_from)
        theirs = (tokenizer.vocab_size, tokenizer.tokens_per_frame)
        ours = (config.model.target_codes, config.model.tokens_per_frame)
        if ours != theirs:
            raise ValueError(
                f"model has {ours[0]} target codes and {ours[1]} patches, but "
                f"{config.targets_from} has {theirs[0]} codes and {theirs[1]} tokens a frame"
            )
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        return _train(config, out, tokenizer, ranks)


def _train(
    config: PatchTrainingConfig, out: Path, tokenizer: AnyTokenizer | None, ranks: Ranks
) -> Path:
    shards = [Shard.open(data.path) for data in config.data]
    require_clips(shards, config.frames, validation=False)
    if ranks.first:
        targets = {} if tokenizer is None else {str(config.targets_from): weights_hash(tokenizer)}
        claim(out, config, digests(shards) | targets)
        if config.validation_sequences:
            announce_held_out(shards, [config.frames])
        if tokenizer is not None:
            for shard in shards:
                tokenize_shard(shard, tokenizer, batch=32)
    ranks.wait()
    validated = held_out(shards, config.frames)
    torch.manual_seed(config.seed)
    patches = config.frames * config.model.tokens_per_frame
    weights = [data.weight for data in config.data]
    phase = Phase(
        steps=config.steps,
        batch=config.batch,
        part=config.part,
        rows=_rows(config, shards, weights, tokenizer, validation=False),
        tokens_per_row=patches,
        flops_per_row=patch_flops(config.model, config.frames) * patches,
        validation={
            name: _rows(config, [shard], [1.0], tokenizer, validation=True)
            for name, shard in validated.items()
        },
        validation_rows=config.validation_sequences,
    )
    result = fit(
        config.model.build(),
        [phase],
        config.optimizer,
        config.engine,
        out,
        ranks,
        title="squared error of the next patch" if tokenizer is None else "next code, nats",
    )
    folder = out / "encoder"
    if not ranks.first:
        return folder
    print(f"curve   {out / 'curve.png'}", flush=True)
    if not result.finished:
        print(result.stopped())
        return folder
    model = config.model.build()
    model.load_state_dict(result.weights)
    pca = trained_components(
        PatchEncoder(model, 0, "mean"), shards, weights, config.pca_frames, config.seed
    )
    save_frozen(
        folder,
        "patches",
        PatchEncoderConfig(
            transformer=config.model, layer=config.model.layers // 2, pool=config.pool
        ),
        result.weights,
        result.notes(config) | {"tokens": result.tokens},
        pca,
    )
    print(f"encoder {folder}")
    return folder


def _rows(
    config: PatchTrainingConfig,
    shards: Sequence[Shard],
    weights: Sequence[float],
    tokenizer: AnyTokenizer | None,
    *,
    validation: bool,
) -> Rows:
    """Return a function that returns the frames of rows, and their codes if these are predicted."""
    frames = FrameSequenceMixture(
        shards, weights, config.frames, validation=validation, seed=config.seed
    )
    if tokenizer is None:
        return lambda first, count: (torch.from_numpy(frames.rows(first, count)),)
    layout = SequenceLayout(
        codes=tokenizer.vocab_size,
        tokens_per_frame=tokenizer.tokens_per_frame,
        frames=config.frames,
    )
    tokens = SequenceMixture(
        shards,
        weights,
        tokenizer,
        layout,
        config.frames,
        validation=validation,
        seed=config.seed,
    )

    def rows(first: int, count: int) -> tuple[Tensor, ...]:
        codes = torch.from_numpy(tokens.rows(first, count))[:, 1:-1]  # without start and end
        return torch.from_numpy(frames.rows(first, count)), codes

    return rows


main = command("patches", PatchTrainingConfig)(train_patches)

if __name__ == "__main__":
    main()
