"""``python -m toto_robot.training.mae``: train a masked autoencoder on frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cli import command
from ..data.mixture import FrameMixture, announce_held_out, held_out
from ..data.shards import Shard
from ..data.token_shards import digests
from ..encoders.frozen import save_frozen
from ..encoders.vit import VitEncoder, VitEncoderConfig
from ..models.mae import MaeConfig, MaskedAutoencoder, mae_flops
from ..runs import claim
from .components import check_pool, require_pca_frames, trained_components
from .engine import EngineConfig, fit
from .optimizer import OptimizerConfig
from .parallel import Ranks, join_ranks
from .phase import Phase, Rows
from .tokenizer import DataConfig

__all__ = ["MaeTrainingConfig", "train_mae"]

SHOWN = 10  # number of held-out frames in reconstructions.png


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeTrainingConfig:
    """Settings of `train_mae`.

    Attributes:
        model: config of the masked autoencoder.
        data: the data sets and their weights.
        optimizer: settings of AdamW and of its learning-rate schedule.
        steps: number of optimizer steps.
        batch: number of frames in a step, over all ranks.
        part: number of frames in a forward pass of a rank. The gradients of several forward passes
            are accumulated for a step.
        engine: settings of the training loop: device, precision, ranks, log, checkpoints.
        validation_frames: number of held-out frames of each data set for each validation.
        pool: default pooling of tokens to an embedding. `VitEncoder` lists the names.
        seed: random seed of weights, frames and masks.
        pca_frames: number of training frames to which the principal components of the pools
            `pca<k>` are fitted at the end; 0: none. 16 of these frames are stored in the
            checkpoint, so every user of the checkpoint can see them.
    """

    model: MaeConfig
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    steps: int
    batch: int
    part: int
    engine: EngineConfig
    validation_frames: int
    pool: str
    seed: int
    pca_frames: int = 0

    def __post_init__(self) -> None:
        """Check that there is a data set."""
        if not self.data:
            raise ValueError("data must have an entry")
        require_pca_frames(self.pca_frames)


def train_mae(config: MaeTrainingConfig, out: Path) -> Path:
    """Train a masked autoencoder, and return the folder of the encoder.

    Training resumes from the newest checkpoint under ``out``. The encoder in ``out/encoder`` is the
    autoencoder without its decoder. `load_encoder` opens it as a `VitEncoder`.

    Raises:
        ValueError: the encoder has no pool `pool`.
    """
    check_pool(VitEncoder, config.model.encoder, config.pool, config.pca_frames)
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        return _train(config, out, ranks)


def _train(config: MaeTrainingConfig, out: Path, ranks: Ranks) -> Path:
    shards = [Shard.open(data.path) for data in config.data]
    if ranks.first:
        claim(out, config, digests(shards))
        if config.validation_frames:
            announce_held_out(shards, [1])
    ranks.wait()
    validated = held_out(shards, 1)
    torch.manual_seed(config.seed)
    phase = Phase(
        steps=config.steps,
        batch=config.batch,
        part=config.part,
        rows=_rows(config, shards, [data.weight for data in config.data], validation=False),
        tokens_per_row=config.model.encoder.side**2,
        flops_per_row=mae_flops(config.model),
        validation={
            name: _rows(config, [shard], [1.0], validation=True)
            for name, shard in validated.items()
        },
        validation_rows=config.validation_frames,
    )
    result = fit(
        config.model.build(),
        [phase],
        config.optimizer,
        config.engine,
        out,
        ranks,
        title="squared error of hidden patches",
    )
    folder = out / "encoder"
    if not ranks.first:
        return folder
    print(f"curve   {out / 'curve.png'}", flush=True)
    model = config.model.build()
    if not result.load(model, ranks):
        return folder
    if validated:
        rows = _rows(config, [*validated.values()], [1.0] * len(validated), validation=True)
        frames, orders = rows(0, SHOWN)
        _draw(model.eval(), frames, orders, out / "reconstructions.png")
        print(f"image   {out / 'reconstructions.png'}")
    transformer = config.model.encoder.build()
    transformer.load_state_dict(model.encoder_weights())
    pca = trained_components(
        VitEncoder(transformer, 0, "mean"),
        shards,
        [data.weight for data in config.data],
        config.pca_frames,
        config.seed,
    )
    save_frozen(
        folder,
        "vit",
        VitEncoderConfig(
            transformer=config.model.encoder, layer=config.model.encoder.layers, pool=config.pool
        ),
        model.encoder_weights(),
        result.notes(config) | {"frames": config.batch * result.steps},
        pca,
    )
    print(f"encoder {folder}")
    return folder


def _rows(
    config: MaeTrainingConfig,
    shards: Sequence[Shard],
    weights: Sequence[float],
    *,
    validation: bool,
) -> Rows:
    """Return a function that returns the frames of rows, with a random patch order for each."""
    mixture = FrameMixture(shards, weights, validation=validation, seed=config.seed)
    encoder = config.model.encoder

    def rows(first: int, count: int) -> tuple[Tensor, ...]:
        orders = [
            np.random.default_rng((config.seed, int(validation), row)).permutation(encoder.side**2)
            for row in range(first, first + count)
        ]
        frames = mixture.rows(first, count, encoder.image_size)
        return torch.from_numpy(frames), torch.from_numpy(np.stack(orders))

    return rows


def _draw(model: MaskedAutoencoder, frames: Tensor, orders: Tensor, path: Path) -> None:
    """Write an image that shows held-out frames, their visible patches, and reconstructions."""
    import cv2

    rows = [torch.cat(list(one), dim=1) for one in (frames, *model.reconstruct(frames, orders))]
    cv2.imwrite(str(path), torch.cat(rows, dim=0).numpy()[..., ::-1])


main = command("mae", MaeTrainingConfig)(train_mae)

if __name__ == "__main__":
    main()
