"""``python -m toto_robot.training.tokenizer``: train a tokenizer on frames.

    python -m toto_robot.training.tokenizer                # the small tokenizer `light`
    python -m toto_robot.training.tokenizer tokenizer=dalle recipe=dalle optimizer=dalle
    python -m toto_robot.training.tokenizer tokenizer=vqgan recipe=vqgan optimizer=vqgan

The command runs in one process. A killed run resumes from its newest checkpoint. On a CPU, the
resumed run is bit-identical to an uninterrupted run.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import load_weights, newest_whole, read_config, save_checkpoint
from ..cli import command
from ..config import to_dict
from ..data.loader import read_ahead
from ..data.mixture import FrameMixture
from ..data.shards import Shard
from ..data.token_shards import digests
from ..encoders.loading import load_tokenizer
from ..runs import claim, report_found
from ..tokenizers import DalleDVae, LightDVae, TokenizerConfig, Vqgan
from .dvae import DalleRecipe, DalleTrainer
from .optimizer import OptimizerConfig
from .parallel import Precision, join_ranks
from .reconstruction import LightRecipe, LightTrainer, Setting, Trained, Trainer
from .run import RunLog, generator_of
from .vqgan import VqganRecipe, VqganTrainer

__all__ = ["DataConfig", "Recipe", "TokenizerTrainingConfig", "train_tokenizer"]

Recipe = LightRecipe | DalleRecipe | VqganRecipe
SHOWN = 10  # number of held-out frames in reconstruction.png
KEPT = 2  # number of newest checkpoints that are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set of a mixture of data sets.

    Attributes:
        path: folder of the data set, made by ``python -m toto_robot.data.decode``.
        weight: share of the data set in the batches, relative to the sum of all weights.
    """

    path: Path
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainingConfig:
    """Settings of `train_tokenizer`.

    Attributes:
        tokenizer: architecture of the tokenizer.
        recipe: losses and schedules. The recipe must be for this architecture.
        data: the data sets and their weights.
        optimizer: settings of AdamW and of its learning-rate schedule.
        steps: number of optimizer steps.
        batch: number of crops in a step.
        crop: side of the training crops, pixels. It must be a multiple of the side of the image
            area of one token. In the `light` and the `dalle` tokenizer, a token depends only on a
            small area of the image, so small crops are sufficient.
        validation_frames: number of held-out frames, in full size, for each validation; 0: none,
            and no image of reconstructions.
        device: ``auto``, ``cpu`` or ``cuda``. ``auto`` uses a GPU if there is one.
        precision: precision of matrix products. Weights and losses are always float32.
        read_threads: number of threads that read batches in advance.
        log_every: number of steps between two lines of the log.
        keep_every: number of steps between two checkpoints. An image of reconstructions is written
            with each checkpoint.
        seed: random seed of weights and batches.
        encoder_from: checkpoint of a `light` tokenizer, or of an encoder with such a tokenizer. The
            encoder part of the tokenizer is copied and frozen, so its tokens stay the same, and
            only a new decoder is trained. null trains the encoder part and the decoder.
    """

    tokenizer: TokenizerConfig
    recipe: Recipe
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    steps: int
    batch: int
    crop: int
    validation_frames: int
    device: str
    precision: Precision
    read_threads: int
    log_every: int
    keep_every: int
    seed: int
    encoder_from: str | None = None

    def __post_init__(self) -> None:
        """Check the number of validation frames."""
        if self.validation_frames < 0:
            raise ValueError(
                f"validation_frames must not be negative, got {self.validation_frames}"
            )


def train_tokenizer(config: TokenizerTrainingConfig, out: Path) -> Path:
    """Train a tokenizer, and return its folder ``out/tokenizer``.

    Training resumes from the newest checkpoint under ``out``.

    Raises:
        ValueError: tokenizer, recipe, crop and frames do not fit each other, or ``out`` holds
            another run.
        FloatingPointError: a loss or gradient is not finite. All checkpoints are from
            earlier steps.
    """
    shards = [Shard.open(data.path) for data in config.data]
    weights = [data.weight for data in config.data]
    training = FrameMixture(shards, weights, validation=False, seed=config.seed)
    held_out = None
    if config.validation_frames:
        held_out = FrameMixture(shards, weights, validation=True, seed=config.seed)
    with join_ranks(config.device, None) as ranks:
        if ranks.world > 1:
            raise ValueError(
                f"a tokenizer is trained by one process, but torchrun started {ranks.world}"
            )
        torch.manual_seed(config.seed)
        module = config.tokenizer.build()
        _require_crop(config.crop, module)
        if held_out is not None and held_out.side < module.image_size:
            raise ValueError(
                f"validation needs frames of tokenizer.image_size={module.image_size} pixels, but "
                f"a data set has frames of {held_out.side}: write it with "
                f"size={module.image_size}, or set validation_frames=0"
            )
        if config.encoder_from is not None:
            _take_encoder(module, config.encoder_from)
        module.to(ranks.device)
        module.to(memory_format=torch.channels_last)  # pyrefly: ignore  torch's stub lacks this
        setting = Setting(optimizer=config.optimizer, ranks=ranks, precision=config.precision)
        trainer = _trainer(module, config.recipe, setting)
        claim(out, config, digests(shards))
        start = _resume(out, trainer)
        report_found(start, config.steps, "step")
        if note := config.optimizer.note(config.steps):
            print(note, flush=True)
        log = RunLog(out, start)
        _keep(out, trainer, start)
        batches = read_ahead(
            lambda step: training.rows(step * config.batch, config.batch, config.crop),
            range(start, config.steps),
            config.read_threads,
        )
        bar = tqdm(total=config.steps, initial=start, desc="tokenizer", unit="step")
        for step, frames in enumerate(batches, start):
            images = _unit(frames, ranks.device)
            lr = config.optimizer.lr_at(step, config.steps)
            noise = torch.Generator(ranks.device)
            noise.manual_seed(int(generator_of(config.seed, step).integers(2**63)))
            scalars = trainer.step(images, lr, step, noise)
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == config.steps:
                scores = {} if held_out is None else _score(trainer, held_out, config)
                log.add(done, **_plain(scalars), **scores)
            if done % config.keep_every == 0 or done == config.steps:
                _keep(out, trainer, done)
                if held_out is not None:
                    _draw(trainer.tokenizer, held_out, out / "reconstruction.png", config)
        bar.close()
    log.close(f"{config.tokenizer.kind} tokenizer", ("loss", "validation_loss"))
    folder = out / "tokenizer"
    tokenizer = trainer.tokenizer
    save_checkpoint(folder, "tokenizer", to_dict(tokenizer.config), tokenizer.state_dict())
    print(f"tokenizer {folder}\ncurve     {out / 'curve.png'}")
    if held_out is not None:
        print(f"image     {out / 'reconstruction.png'}")
    return folder


def _trainer(module: torch.nn.Module, recipe: Recipe, setting: Setting) -> Trainer:
    match module, recipe:
        case LightDVae(), LightRecipe():
            return LightTrainer(module, recipe, setting)
        case DalleDVae(), DalleRecipe():
            return DalleTrainer(module, recipe, setting)
        case Vqgan(), VqganRecipe():
            return VqganTrainer(module, recipe, setting)
    raise ValueError(
        f"recipe is for {recipe.kind!r}, the tokenizer is a {type(module).__name__}: choose "
        "recipe= of the same kind as tokenizer="
    )


def _require_crop(crop: int, module: Trained) -> None:
    cell = module.image_size // math.isqrt(module.tokens_per_frame)
    if crop < cell or crop % cell:
        raise ValueError(f"crop must be a multiple of {cell} pixels, a token's cell, got {crop}")


def _take_encoder(module: Trained, checkpoint: str) -> None:
    """Copy the encoder part of a `light` tokenizer into ``module``, and freeze it."""
    source = load_tokenizer(checkpoint)
    if not isinstance(source, LightDVae) or not isinstance(module, LightDVae):
        raise ValueError(
            "encoder_from needs a light tokenizer on both sides, got a "
            f"{type(source).__name__} for a {type(module).__name__}"
        )
    for name in ("levels", "widths", "blocks"):
        theirs, ours = getattr(source.config, name), getattr(module.config, name)
        if theirs != ours:
            raise ValueError(f"{checkpoint} has {name} {theirs}, tokenizer.{name} is {ours}")
    module.encoder.load_state_dict(source.encoder.state_dict())
    module.encoder.requires_grad_(False)


def _resume(out: Path, trainer: Trainer) -> int:
    """Load the newest checkpoint under ``out``, and return its step, or 0 without a checkpoint."""

    def read(folder: Path) -> tuple[int, Any, Any]:
        data = read_config(folder, "tokenizer")
        state = torch.load(folder / "train_state.pt", "cpu", weights_only=True)  # of any device
        return data["step"], load_weights(folder, data["sha256"]), state

    found = newest_whole((out / "checkpoints").glob("step-*"), read)
    if found is None:
        return 0
    step, weights, state = found[1]
    trainer.tokenizer.load_state_dict(weights)
    trainer.restore(state)
    return step


def _keep(out: Path, trainer: Trainer, step: int) -> None:
    """Write the checkpoint of ``step``, and remove old checkpoints."""
    folder, tokenizer = out / "checkpoints" / f"step-{step:07d}", trainer.tokenizer
    save_checkpoint(
        folder,
        "tokenizer",
        to_dict(tokenizer.config),
        tokenizer.state_dict(),
        trainer.state(),
        step=step,
    )
    for old in sorted(folder.parent.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def _unit(frames: np.ndarray, device: torch.device) -> Tensor:
    images = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)  # channels-last memory layout
    return images.to(torch.float32) / 255


def _plain(scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in scalars.items()}


@torch.inference_mode()
def _score(
    trainer: Trainer, held_out: FrameMixture, config: TokenizerTrainingConfig
) -> dict[str, float]:
    tokenizer = trainer.tokenizer
    frames = held_out.rows(0, config.validation_frames, tokenizer.image_size)
    images = _unit(frames, next(tokenizer.parameters()).device)
    loss, reconstruction, ids = trainer.reconstruct(images)
    share = torch.bincount(ids.flatten(), minlength=tokenizer.vocab_size) / ids.numel()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    mse = ((reconstruction.clamp(0, 1) - images) ** 2).mean()
    return {
        "validation_loss": loss.item(),
        "psnr_db": -10 * mse.log10().item(),
        "perplexity": entropy.exp().item(),
        "codes_used": int((share > 0).sum()),
    }


@torch.inference_mode()
def _draw(
    tokenizer: Trained, held_out: FrameMixture, path: Path, config: TokenizerTrainingConfig
) -> None:
    """Write an image with held-out frames, and their reconstructions from tokens below them."""
    import cv2

    rows = held_out.rows(config.validation_frames, SHOWN, tokenizer.image_size)
    frames = torch.from_numpy(rows)
    decoded = tokenizer.decode(tokenizer.encode(frames)).cpu()
    lines = [torch.cat(list(batch), dim=1) for batch in (frames, decoded)]
    cv2.imwrite(str(path), torch.cat(lines, dim=0).numpy()[..., ::-1])


main = command("tokenizer", TokenizerTrainingConfig)(train_tokenizer)

if __name__ == "__main__":
    main()
