"""``python -m toto_robot.training.pretrain``: train a transformer to predict the next token."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..cli import command
from ..data.mixture import SequenceMixture, split
from ..data.shards import Shard, tokenize_shard
from ..encoder import load_tokenizer, save_encoder
from ..models import TotoConfig, TotoTransformer
from .run import (
    OptimizerConfig,
    RunLog,
    build_optimizer,
    claim,
    descend,
    keep,
    resume,
)
from .tokenizer import DataConfig

__all__ = ["PretrainConfig", "Stage", "pretrain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Some steps with sequences of one length.

    Attributes:
        steps: optimizer steps.
        frames: frames of a sequence, at most the model's.
        batch: sequences a step.
    """

    steps: int
    frames: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """What to train on what.

    Attributes:
        model: the transformer.
        tokenizer: checkpoint folder of a tokenizer.
        data: the mixture; data sets that are not tokenised yet are.
        optimizer: AdamW and its schedule over the steps of all stages.
        stages: one after the other; the paper has one, of 16 frames.
        log_every: steps between lines of the log.
        keep_every: steps between checkpoints.
        frame_interval_s: seconds between the frames of the training videos, which the encoder tells
            its users; null if they differ much.
        golden_frames: how many held-out frames go into the encoder's golden vectors, beside the
            drawn pattern; they can be seen by all who get the checkpoint.
        validation_sequences: held-out sequences of each data set that are scored for a line of the
            log.
        seed: of weights and batches.
    """

    model: TotoConfig
    tokenizer: Path
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    stages: tuple[Stage, ...]
    log_every: int
    keep_every: int
    validation_sequences: int
    frame_interval_s: float | None
    golden_frames: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse sequences that the model is not made for."""
        if not self.stages or not self.data:
            raise ValueError("stages and data must each have an entry")
        for stage in self.stages:
            if not 1 <= stage.frames <= self.model.frames:
                raise ValueError(
                    f"stages: frames must be 1 to model.frames = {self.model.frames}, "
                    f"got {stage.frames}"
                )
        if self.golden_frames < 0:
            raise ValueError(f"golden_frames must not be negative, got {self.golden_frames}")


def pretrain(config: PretrainConfig, out: Path) -> Path:
    """Train, going on from the last checkpoint under ``out``, and return the folder of the encoder.

    The encoder's folder, ``out/encoder``, holds the tokenizer and the transformer: what
    `load_encoder` opens.
    """
    claim(out, config)
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.tokenizer)
    if (
        config.model.codes != tokenizer.vocab_size
        or config.model.tokens_per_frame != tokenizer.tokens_per_frame
    ):
        raise ValueError(
            f"model.codes and model.tokens_per_frame are {config.model.codes} and "
            f"{config.model.tokens_per_frame}, "
            f"the tokenizer's {tokenizer.vocab_size} and {tokenizer.tokens_per_frame}"
        )
    shards = [Shard.open(data.path) for data in config.data]
    for shard in shards:
        tokenize_shard(shard, tokenizer, batch=32)
    weights = [data.weight for data in config.data]
    model = config.model.build()
    optimizer = build_optimizer(model, config.optimizer)
    start = resume(out, model, optimizer, "transformer")
    log = RunLog(out, start)
    steps = sum(stage.steps for stage in config.stages)
    ends = list(itertools.accumulate(stage.steps for stage in config.stages))
    tokens = sum(
        min(max(start - end + stage.steps, 0), stage.steps) * _tokens(stage, config)
        for stage, end in zip(config.stages, ends, strict=True)
    )
    progress = tqdm(total=steps, initial=start, desc="pretrain", unit="step")
    keep(out, "transformer", config.model, model, optimizer, start)
    for stage, end in zip(config.stages, ends, strict=True):
        training = SequenceMixture(
            shards,
            weights,
            tokenizer,
            config.model,
            stage.frames,
            validation=False,
            seed=config.seed,
        )
        held_out = {
            shard.name: SequenceMixture(
                [shard],
                [1.0],
                tokenizer,
                config.model,
                stage.frames,
                validation=True,
                seed=config.seed,
            )
            for shard in shards
            if split(shard, validation=True)
        }
        for step in range(max(start, end - stage.steps), end):
            loss = model.loss(
                torch.from_numpy(
                    training.rows((step - end + stage.steps) * stage.batch, stage.batch)
                )
            )
            lr = config.optimizer.lr_at(step, steps)
            norm = descend(model, optimizer, loss, config.optimizer.clip_norm, lr)
            tokens += _tokens(stage, config)
            done = step + 1
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if done % config.log_every == 0 or done == steps:
                scores = {
                    f"validation/{name}": _score(model, data, config)
                    for name, data in held_out.items()
                }
                scores["validation_loss"] = float(np.mean(list(scores.values())))
                log.add(done, loss=loss.item(), tokens=tokens, gradient_norm=norm, **scores)
            if done % config.keep_every == 0 or done == steps:
                keep(out, "transformer", config.model, model, optimizer, done)
    progress.close()
    log.close("next-token loss, nats", ("loss", "validation_loss"))
    folder = out / "encoder"
    save_encoder(
        folder,
        tokenizer,
        model,
        layer=model.config.layers // 2,
        pool="grid4",
        golden_frames=_golden_frames(shards, config.golden_frames),
        frame_interval_s=config.frame_interval_s,
    )
    print(f"encoder {folder}\ncurve   {out / 'curve.png'}\ntokens  {tokens}")
    return folder


def _tokens(stage: Stage, config: PretrainConfig) -> int:
    return stage.batch * stage.frames * config.model.tokens_per_frame


def _golden_frames(shards: Sequence[Shard], number: int) -> list[np.ndarray]:
    """Return held-out frames of the data sets in turn, the middle one of a clip each.

    A data set of too few files to hold any out gives of what it was trained on: golden vectors say
    that an encoder computes as it did, not how good it is.
    """
    clips = [split(shard, validation=True) or split(shard, validation=False) for shard in shards]
    turns = [
        (shard, mine[turn])
        for turn in range(max(len(mine) for mine in clips))
        for shard, mine in zip(shards, clips, strict=True)
        if turn < len(mine)
    ]
    # a copy: the file of frames is not to be kept open
    return [
        np.array(shard.frames()[start + length // 2]) for shard, (start, length) in turns[:number]
    ]


@torch.inference_mode()
def _score(model: TotoTransformer, held_out: SequenceMixture, config: PretrainConfig) -> float:
    losses = [
        model.loss(torch.from_numpy(held_out.rows(row, 1))).item()
        for row in range(config.validation_sequences)
    ]
    return float(np.mean(losses))


main = command("pretrain", PretrainConfig)(pretrain)

if __name__ == "__main__":
    main()
