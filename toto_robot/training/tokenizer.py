"""``python -m toto_robot.training.tokenizer``: train the light discrete VAE on frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import save_checkpoint
from ..cli import command
from ..config import to_dict
from ..data.mixture import FrameMixture
from ..data.shards import Shard
from ..tokenizers import LightConfig, LightDVae
from .run import (
    OptimizerConfig,
    RunLog,
    build_optimizer,
    claim,
    descend,
    keep,
    resume,
)

__all__ = ["DataConfig", "TokenizerTrainingConfig", "train_tokenizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """One data set of a mixture.

    Attributes:
        path: folder that ``python -m toto_robot.data.decode`` made.
        weight: its share of the batches, relative to the others'.
    """

    path: Path
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainingConfig:
    """What to train on what.

    Attributes:
        tokenizer: the layout.
        data: the mixture.
        optimizer: AdamW and its schedule.
        steps: optimizer steps.
        batch: crops a step.
        crop: side of the training crops, pixels, a multiple of 8: tokens are local, so small crops
            do.
        edge_weight: weight of the L1 loss on horizontal and vertical differences, which keeps
            edges sharp.
        log_every: steps between lines of the log.
        keep_every: steps between checkpoints.
        seed: of weights and batches.
    """

    tokenizer: LightConfig
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    steps: int
    batch: int
    crop: int
    edge_weight: float
    log_every: int
    keep_every: int
    seed: int


def train_tokenizer(config: TokenizerTrainingConfig, out: Path) -> Path:
    """Train, going on from the last checkpoint, and return the folder ``out/tokenizer``."""
    claim(out, config)
    torch.manual_seed(config.seed)
    module = config.tokenizer.build()
    module.to(memory_format=torch.channels_last)  # pyrefly: ignore  torch's stub lacks this overload
    optimizer = build_optimizer(module, config.optimizer)
    start = resume(out, module, optimizer, "tokenizer")
    shards = [Shard.open(data.path) for data in config.data]
    weights = [data.weight for data in config.data]
    training = FrameMixture(shards, weights, validation=False, seed=config.seed)
    held_out = FrameMixture(shards, weights, validation=True, seed=config.seed)
    log = RunLog(out, start)
    keep(out, "tokenizer", config.tokenizer, module, optimizer, start)
    for step in tqdm(
        range(start, config.steps), initial=start, total=config.steps, desc="tokenizer", unit="step"
    ):
        images = _unit(training.rows(step * config.batch, config.batch, config.crop))
        reconstruction, _ = module(images)
        loss = reconstruction_loss(reconstruction, images, config.edge_weight)
        lr = config.optimizer.lr_at(step, config.steps)
        norm = descend(module, optimizer, loss, config.optimizer.clip_norm, lr)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            scores = _score(module, held_out, config)
            log.add(
                done,
                loss=loss.item(),
                gradient_norm=norm,
                lr=lr,
                **scores,
            )
        if done % config.keep_every == 0 or done == config.steps:
            keep(out, "tokenizer", config.tokenizer, module, optimizer, done)
    log.close("tokenizer: L1 and edge loss", ("loss", "validation_loss"))
    draw_reconstructions(module, held_out, out / "reconstruction.png")
    folder = out / "tokenizer"
    save_checkpoint(folder, "tokenizer", to_dict(config.tokenizer), module.state_dict())
    print(
        f"tokenizer {folder}\ncurve     {out / 'curve.png'}\npicture   {out / 'reconstruction.png'}"
    )
    return folder


def reconstruction_loss(reconstruction: Tensor, images: Tensor, edge_weight: float) -> Tensor:
    """Return the mean absolute error of pixels and ``edge_weight`` times that of their differences.

    No perceptual loss: it would bring ImageNet labels in through its network (paper section 3.4).
    """
    error = reconstruction - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edge_weight * edges


def _unit(frames: np.ndarray) -> Tensor:
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)  # a channels-last view
    return images.to(torch.float32) / 255


@torch.inference_mode()
def _score(
    module: LightDVae, held_out: FrameMixture, config: TokenizerTrainingConfig
) -> dict[str, float]:
    images = _unit(held_out.rows(0, 16, config.tokenizer.image_size))
    reconstruction, codes = module(images)
    ids = (
        (codes.round().long() + (module.levels // 2)[:, None, None]) * module.basis[:, None, None]
    ).sum(1)
    share = torch.bincount(ids.flatten(), minlength=module.vocab_size) / ids.numel()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    mse = ((reconstruction.clamp(0, 1) - images) ** 2).mean()
    return {
        "validation_loss": reconstruction_loss(reconstruction, images, config.edge_weight).item(),
        "psnr_db": -10 * mse.log10().item(),
        "perplexity": entropy.exp().item(),
        "codes_used": (share > 0).sum().item(),
    }


@torch.inference_mode()
def draw_reconstructions(module: LightDVae, held_out: FrameMixture, path: Path) -> None:
    """Write a picture: held-out frames above, their reconstructions from tokens below."""
    import cv2

    frames = torch.from_numpy(held_out.rows(16, 10, module.image_size))
    decoded = module.decode(module.encode(frames))
    rows = [torch.cat(list(batch), dim=1) for batch in (frames, decoded)]
    cv2.imwrite(str(path), torch.cat(rows, dim=0).numpy()[..., ::-1])


main = command("tokenizer", TokenizerTrainingConfig)(train_tokenizer)

if __name__ == "__main__":
    main()
