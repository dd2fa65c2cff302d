"""``python -m toto_robot.training.pretrain``: train a transformer to predict the next token.

python -m toto_robot.training.pretrain                                         # one process
torchrun --nproc-per-node 8 -m toto_robot.training.pretrain engine=cluster     # FSDP2
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import weights_hash
from ..cli import command
from ..config import differences, to_dict
from ..data.mixture import (
    SequenceMixture,
    TokenData,
    announce_held_out,
    distinct_names,
    held_out,
    require_clips,
    split,
)
from ..data.shards import Shard, tokenize_shard
from ..data.token_shards import digests, open_data
from ..encoders.encoder import Encoder
from ..encoders.loading import load_tokenizer, load_toto, save_encoder
from ..encoders.pooling import default_pool
from ..locks import hold
from ..models import CausalModel, ModelConfig, model_flops
from ..models.digits import fold_digits, use_digits
from ..runs import claim
from ..tokenizers import AnyTokenizer, LightDVae
from .components import require_pca_frames, trained_components
from .engine import EngineConfig, Fit, fit
from .optimizer import OptimizerConfig
from .parallel import Ranks, join_ranks
from .phase import Phase, Rows
from .run import UNSEEN
from .tokenizer import DataConfig

__all__ = ["PretrainConfig", "Stage", "data_digests", "pretrain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A training stage with sequences of one length.

    Attributes:
        steps: number of optimizer steps.
        frames: number of frames in a sequence, at most `model.frames`.
        batch: number of sequences in a step, over all ranks. For example, 256 sequences of 16
            frames with 256 tokens each are about a million tokens.
        part: number of sequences in a forward pass of a rank. The gradients of several forward
            passes are accumulated for a step.
    """

    steps: int
    frames: int
    batch: int
    part: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Settings of `pretrain`.

    Attributes:
        model: config of the transformer.
        tokenizer_from: checkpoint folder of a tokenizer or an encoder, or the name of a shipped
            encoder.
        image_size: side of the resized frames, pixels. null uses the image size of the tokenizer.
        start_from: encoder whose transformer has the initial weights, to continue its training at
            another resolution, number of frames or RoPE base (paper Table 4). null uses random
            initial weights.
        data: the data sets and their weights. Data sets without tokens are tokenised first.
        optimizer: settings of AdamW and of its learning rate over the steps of all stages.
        stages: the training stages, the first stage first. The paper has one stage, with sequences
            of 16 frames.
        engine: settings of the training loop: device, precision, ranks, log, checkpoints.
        validation_sequences: number of held-out sequences of each data set for each validation.
        frame_interval_s: time between two frames of the training videos, seconds. The checkpoint
            records it. null if it differs much between the data sets.
        golden_frames: number of held-out frames for the reference embeddings (golden vectors), in
            addition to a synthetic pattern. The frames are stored in the checkpoint, so every user
            of the checkpoint can see them.
        seed: random seed of weights and batches.
        digit_embeddings: true computes the token embeddings during training from the digits of the
            codes (see `models.digits`). It needs the tokenizer `light`. The saved encoder has plain
            embeddings.
        unseen: data sets that are not trained on, such as the videos of another laboratory. At each
            validation, the log gets their next-token loss, nats: ``unseen/<name>/all``, and with
            several frames also ``.../first`` (first frame) and ``.../later`` (other frames).
        pca_frames: number of training frames to which the principal components of the pools
            `pca<k>` are fitted at the end; 0: none. 16 of these frames are stored in the
            checkpoint, so every user of the checkpoint can see them.
    """

    model: ModelConfig
    tokenizer_from: str
    image_size: int | None
    start_from: str | None
    data: tuple[DataConfig, ...]
    optimizer: OptimizerConfig
    stages: tuple[Stage, ...]
    engine: EngineConfig
    validation_sequences: int
    frame_interval_s: float | None
    golden_frames: int
    seed: int
    digit_embeddings: bool = False
    unseen: tuple[Path, ...] = ()
    pca_frames: int = 0

    def __post_init__(self) -> None:
        """Check that there are stages and data, and that the sequences fit the model."""
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
        require_pca_frames(self.pca_frames)


def pretrain(
    config: PretrainConfig, out: Path, prepare: Callable[[], object] | None = None
) -> Path:
    """Train a transformer to predict the next token, and return the folder of the encoder.

    Training resumes from the newest checkpoint under ``out``. The folder ``out/encoder`` holds the
    tokenizer and the transformer, and `load_encoder` opens it. Its ``config.json`` holds this
    config, so ``python -m toto_robot.training.rerun`` can repeat the training. If a scheduler stops
    a run, the run has a checkpoint but no encoder yet. The same command resumes it.

    Args:
        config: the settings.
        out: folder of the run.
        prepare: function that writes the data sets. It is called on the first rank, which locks
            ``out`` before, while the other ranks wait. None: the data sets exist.
    """
    tokenizer = load_tokenizer(config.tokenizer_from, config.image_size)
    if (
        config.model.codes != tokenizer.vocab_size
        or config.model.tokens_per_frame != tokenizer.tokens_per_frame
    ):
        raise ValueError(
            f"model.codes and model.tokens_per_frame are {config.model.codes} and "
            f"{config.model.tokens_per_frame}, but the tokenizer has {tokenizer.vocab_size} codes "
            f"and {tokenizer.tokens_per_frame} tokens a frame"
        )
    if config.digit_embeddings and not isinstance(tokenizer, LightDVae):
        raise ValueError(
            "digit_embeddings needs the codes of a light tokenizer, which have digits; "
            f"{config.tokenizer_from} has a {type(tokenizer).__name__}: set digit_embeddings=false"
        )
    return _Pretraining(config, tokenizer, out).run(prepare)


@dataclass(frozen=True, slots=True)
class _Pretraining:
    """The state of one call of `pretrain`."""

    config: PretrainConfig
    tokenizer: AnyTokenizer
    out: Path

    def run(self, prepare: Callable[[], object] | None) -> Path:
        engine, folder = self.config.engine, self.out / "encoder"
        with join_ranks(engine.device, engine.shard_ranks) as ranks:
            # built first, so that config errors are raised before `out` is created
            model, start_hash = self._fresh_model()
            if prepare is not None:
                if ranks.first:
                    hold(self.out)
                    prepare()
                ranks.wait()
            shards = [open_data(data.path) for data in self.config.data]
            unseen = [open_data(folder) for folder in self.config.unseen]
            self._prepare(shards, unseen, ranks)
            result = fit(
                model,
                self._phases(shards, unseen),
                self.config.optimizer,
                engine,
                self.out,
                ranks,
                title="next-token loss, nats",
            )
            if ranks.first:
                print(f"curve   {self.out / 'curve.png'}\ntokens  {result.tokens}", flush=True)
                if result.finished:
                    self._save(result, shards, folder, start_hash)
                    print(f"encoder {folder}")
                else:
                    print(result.stopped())
            ranks.wait()  # on return, the encoder exists for all ranks
        return folder

    def _prepare(
        self, shards: Sequence[TokenData], unseen: Sequence[TokenData], ranks: Ranks
    ) -> None:
        """Check the lengths of the clips, and tokenise data sets without tokens."""
        lengths = {stage.frames for stage in self.config.stages}
        require_clips([*shards, *unseen], max(lengths), validation=False)
        if ranks.first:
            tokenizer = {self.config.tokenizer_from: weights_hash(self.tokenizer)}
            claim(self.out, self.config, digests([*shards, *unseen]) | tokenizer)
            if self.config.validation_sequences:
                announce_held_out(shards, lengths)
            for shard in (*shards, *unseen):
                if isinstance(shard, Shard):
                    tokenize_shard(shard, self.tokenizer, batch=32)
        ranks.wait()

    def _fresh_model(self) -> tuple[CausalModel, str | None]:
        """Return the initial model, and the hash of the weights of `start_from`, if any."""
        torch.manual_seed(self.config.seed)
        model, start_hash = self.config.model.build(), None
        if self.config.start_from is not None:
            start = load_toto(self.config.start_from, verify=False)
            _check_start(self.config.start_from, start, self.config.model, self.tokenizer)
            model.load_state_dict(start.transformer.state_dict())
            start_hash = start.weights_hash
        self._add_digits(model)
        return model, start_hash

    def _add_digits(self, model: CausalModel) -> None:
        if self.config.digit_embeddings:
            assert isinstance(self.tokenizer, LightDVae)
            use_digits(model, self.tokenizer.config.levels)

    def _phases(self, shards: Sequence[TokenData], unseen: Sequence[TokenData]) -> list[Phase]:
        """Return the phase of each stage. Two stages never train on the same row."""
        used: Counter[int] = Counter()  # rows of each length; rows of other lengths differ
        phases = []
        for stage in self.config.stages:
            phases.append(self._phase(stage, used[stage.frames], shards, unseen))
            used[stage.frames] += stage.steps * stage.batch
        return phases

    def _phase(
        self,
        stage: Stage,
        first_row: int,
        shards: Sequence[TokenData],
        unseen: Sequence[TokenData],
    ) -> Phase:
        config = self.config

        def rows(parts: Sequence[TokenData], weights: Sequence[float], validation: bool) -> Rows:
            mixture = SequenceMixture(
                parts,
                weights,
                self.tokenizer,
                config.model,
                stage.frames,
                validation=validation,
                seed=config.seed,
            )
            return lambda first, count: (torch.from_numpy(mixture.rows(first, count)),)

        per_frame = config.model.tokens_per_frame
        tokens = stage.frames * per_frame
        unseen_rows = {
            name: rows([shard], [1.0], False)
            for name, shard in zip(distinct_names(unseen), unseen, strict=True)
        }
        validated = held_out(shards, stage.frames)

        def measure(loss_of: Callable[[Rows], float]) -> dict[str, float]:
            found = {}
            for name, mine in unseen_rows.items():
                whole = loss_of(_cut(mine, tokens))  # without the end token
                found[f"{UNSEEN}{name}/all"] = whole
                if stage.frames > 1:
                    first = loss_of(_cut(mine, per_frame))
                    later = (tokens * whole - per_frame * first) / (tokens - per_frame)
                    found |= {f"{UNSEEN}{name}/first": first, f"{UNSEEN}{name}/later": later}
            return found

        return Phase(
            steps=stage.steps,
            batch=stage.batch,
            part=stage.part,
            rows=rows(shards, [data.weight for data in config.data], False),
            tokens_per_row=tokens,
            flops_per_row=model_flops(config.model, stage.frames) * tokens,
            validation={name: rows([shard], [1.0], True) for name, shard in validated.items()},
            validation_rows=config.validation_sequences,
            first_row=first_row,
            measure=measure if config.validation_sequences else None,
        )

    def _save(
        self, result: Fit, shards: Sequence[TokenData], folder: Path, start_hash: str | None
    ) -> None:
        config = self.config
        model = config.model.build()
        self._add_digits(model)
        model.load_state_dict(result.weights)
        if config.digit_embeddings:
            fold_digits(model)
        data = {"data": data_digests(config), "tokens": result.tokens, "start_from": start_hash}
        weights = [one.weight for one in config.data]
        pca = trained_components(
            Encoder(self.tokenizer, model, 0, "mean"),
            shards,
            weights,
            config.pca_frames,
            config.seed,
        )
        save_encoder(
            folder,
            self.tokenizer,
            model,
            layer=model.config.layers // 2,
            pool=default_pool(config.model.tokens_per_frame),
            golden_frames=_golden_frames(shards, config.golden_frames),
            frame_interval_s=config.frame_interval_s,
            training=result.notes(config) | data,
            pca=pca,
        )


def _cut(rows: Rows, tokens: int) -> Rows:
    """Return rows with only the start token and the first ``tokens`` tokens after it."""
    return lambda first, count: tuple(row[:, : tokens + 1] for row in rows(first, count))


def data_digests(config: PretrainConfig) -> dict[str, str]:
    """Return a dictionary from the folder of each data set to the sha256 of its manifest.

    Raises:
        ValueError: a data set does not exist.
    """
    missing = [
        str(data.path) for data in config.data if not (data.path / "manifest.json").is_file()
    ]
    if missing:
        raise ValueError(f"no data set in {', '.join(missing)}")
    return {
        str(data.path): hashlib.sha256((data.path / "manifest.json").read_bytes()).hexdigest()
        for data in config.data
    }


def _check_start(
    name_or_path: str, start: Encoder, model: ModelConfig, tokenizer: AnyTokenizer
) -> None:
    """Check that the transformer of an encoder fits as initial weights of ``model``.

    Raises:
        ValueError: the sizes of the encoder and of ``model`` differ (the message names the fields),
            or the encoder was trained on tokens of another tokenizer.
    """
    free = {"tokens_per_frame", "frames", "rope_base"}  # do not change the shape of any weight
    there, here = (
        {name: value for name, value in to_dict(one).items() if name not in free}
        for one in (start.transformer.config, model)
    )
    wrong = differences(there, here)
    if wrong:
        raise ValueError(
            f"start_from {name_or_path} has another model (there != here); only "
            f"{', '.join(sorted(free))} may differ:\n  " + "\n  ".join(wrong)
        )
    if weights_hash(start.tokenizer) != weights_hash(tokenizer):
        raise ValueError(
            f"start_from {name_or_path} was trained on tokens of another tokenizer than "
            f"tokenizer_from; set tokenizer_from={name_or_path}"
        )


def _golden_frames(shards: Sequence[TokenData], number: int) -> list[np.ndarray]:
    """Return held-out frames for the golden vectors (reference embeddings), from all data sets.

    Each frame is the middle frame of a clip. If a data set has no held-out files, training frames
    are used. This is acceptable, because golden vectors check that an encoder computes the same
    embeddings, and do not measure its quality. Data sets of tokens without frames are skipped.
    """
    with_frames = [shard for shard in shards if isinstance(shard, Shard)]
    clips = [
        split(shard, validation=True) or split(shard, validation=False) for shard in with_frames
    ]
    turns = [
        (shard, mine[turn])
        for turn in range(max(map(len, clips), default=0))
        for shard, mine in zip(with_frames, clips, strict=True)
        if turn < len(mine)
    ]
    # a copy, so that the file of frames can be closed
    return [
        np.array(shard.frames()[start + length // 2]) for shard, (start, length) in turns[:number]
    ]


main = command("pretrain", PretrainConfig)(pretrain)

if __name__ == "__main__":
    main()
