"""`python -m toto_robot.finetune data=FOLDER`: fine-tune a Toto on your own images or videos.

    finetune data=<videos, images or demonstrations>      adapt a Toto to the frames of your camera
    finetune supervision=small data=<folders of classes>  next-token loss and classes of images
    finetune supervision=videos videos.path=<folder>      next-token loss and classes of videos
    finetune supervision=paper data=<ImageNet>            ImageNet with the paper's settings
    finetune supervision=kinetics videos.path=<folder>    Kinetics-400 with the paper's settings
    finetune supervision=cater videos.path=<folder>       CATER, the cell of a hidden object

The result is a checkpoint `encoder`, which `load_encoder` opens like a pre-trained Toto. With
labels, the folder `heads` has the classifiers of the layers, and `results.json` has their accuracy
(paper sections 4.2, 4.3 and 4.7). The paper's sections A.2 and A.3 describe the kinds of attention.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cli import command
from .data.mixture import SequenceMixture, TokenData, announce_held_out, held_out
from .data.token_shards import digests, open_data
from .encoders.encoder import Encoder
from .encoders.loading import load_tokenizer, load_toto, save_encoder
from .encoders.pca import PrincipalComponents, all_features, build_pools
from .encoders.pooling import default_pool, is_attention, needs_components
from .models import CausalModel, ModelConfig, TotoConfig, model_flops
from .models.adapters import Adaptation
from .models.transformer import Attention
from .probing.heads import LayerHeads
from .recognition.cater_videos import CaterVideos
from .recognition.labelled_clips import (
    LabelledClips,
    LabelsConfig,
    TokenClips,
    score_heads,
    sequences,
)
from .recognition.labelled_videos import AnyVideos
from .runs import claim
from .training.engine import EngineConfig, Fit, fit
from .training.finetune_data import prefix_lengths, tokenise_data
from .training.finetuned_model import FineTunedModel
from .training.optimizer import OptimizerConfig
from .training.parallel import Ranks, join_ranks
from .training.phase import Phase, Rows

__all__ = ["FinetuneConfig", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Settings of `finetune`.

    Attributes:
        data: without `labels`: a folder of videos or images, a folder of episodes such as a
            demonstration store, a LeRobot data set, or a data set of `decode` or `tokenise`. With
            `labels`: a folder with one subfolder of images per class, or with `train` and `val`.
            null: the data are `videos`.
        videos: labelled videos; see `toto_robot.recognition.labelled_videos`. null: none.
        labels: settings of the classes. null trains on the next-token loss only.
        start_from: name or checkpoint folder of the Toto.
        image_size: side of the resized frames, pixels. null uses the size of `start_from`.
        max_frames: number of frames that the fine-tuned model can encode together. null: a sequence
            has as many tokens as in `start_from`. The paper has 32 for Table 12.
        rope_base: base of the rotary angles. null uses the base of `start_from`. The paper has
            50000 for frames of 32 x 32 tokens.
        attention: attention of the fine-tuned model: `causal`, `full` (all tokens of a frame see
            each other, and earlier frames) or `prefix` (all tokens see each other; the next-token
            loss has a random prefix). A model with `full` or `prefix` cannot encode a video frame
            by frame as a stream, and cannot predict frames.
        stride: every `stride`-th frame of videos and episodes is used; 1 for images. Choose it so
            that the time between two frames is about the frame interval of `start_from`.
        adapt: the trained weights: low-rank adapters, the last blocks, or all.
        next_token_weight: factor of the next-token loss, relative to the loss of the classes.
        layer_decay: the learning rate of a block is this factor times that of the next block.
        transformer_lr: learning rate of the transformer, relative to that of the heads.
        ema_decay: decay per step of an average of the weights, which is saved instead of the last
            weights. null saves the last weights.
        optimizer: settings of AdamW and of its learning rate.
        steps: number of optimizer steps.
        frames: number of frames in a sequence; 1 for labelled images.
        batch: number of sequences in a step, over all ranks.
        part: number of sequences in a forward pass of a rank.
        validation_rows: maximum number of held-out sequences or test examples for each validation.
        engine: settings of the training loop.
        frame_interval_s: time between two used frames, seconds. The checkpoint records it. null:
            that of `start_from`.
        seed: random seed of the crops, of the division into training and test data, of the order of
            the sequences, and of the initial weights of adapters and heads.
    """

    data: Path | None
    videos: AnyVideos | CaterVideos | None
    labels: LabelsConfig | None
    start_from: str
    image_size: int | None
    max_frames: int | None
    rope_base: float | None
    attention: Attention
    stride: int
    adapt: Adaptation
    next_token_weight: float
    layer_decay: float
    transformer_lr: float
    ema_decay: float | None
    optimizer: OptimizerConfig
    steps: int
    frames: int
    batch: int
    part: int
    validation_rows: int
    engine: EngineConfig
    frame_interval_s: float | None
    seed: int

    def __post_init__(self) -> None:
        """Check numbers and combinations of settings."""
        for name in ("stride", "steps", "frames", "batch", "part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.next_token_weight < 0 or self.validation_rows < 0:
            raise ValueError("next_token_weight and validation_rows must not be negative")
        if not 0 < self.layer_decay <= 1 or not self.transformer_lr > 0:
            raise ValueError("layer_decay must be above 0 and at most 1, transformer_lr above 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1 or null, got {self.max_frames}")
        head = None if self.labels is None else self.labels.head
        if head == "batch_norm_linear" and self.part < 2:
            raise ValueError(f"labels.head={head} needs a part of at least 2 examples, got 1")
        if self.next_token_weight == 0 and (self.labels is None or self.labels.stop_gradient):
            raise ValueError(
                "next_token_weight=0 trains no weight of the transformer, unless there are labels "
                "with stop_gradient=false"
            )


def finetune(config: FinetuneConfig, out: Path) -> Path:
    """Fine-tune a Toto, and return the folder of the new encoder.

    An interrupted run resumes. The folder `out/encoder` has plain weights, into which adapters are
    merged. `out/tokens`, `out/frames` and `out/checkpoints` may then be deleted.

    Raises:
        ValueError: the data cannot be read, or a setting does not suit the Toto; the message names
            it.
    """
    if (config.data is None) == (config.videos is None):
        raise ValueError("set exactly one of data and videos; the other must be null")
    if config.videos is not None and config.labels is None:
        raise ValueError(
            "videos are labelled: set supervision=videos; unlabelled videos are data=FOLDER"
        )
    start = load_toto(config.start_from)
    clips = None
    if config.labels is not None:
        clips = LabelledClips(
            config.data, config.videos, config.labels, config.frames, config.stride, config.seed
        )
    model = _new_model(config, start, clips)
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        if ranks.first:
            claim(out, config, _data_digest(config))
            print(f"fine-tune {config.start_from} ({_trained(model)})", flush=True)
        ranks.wait()
        run = _Run(config, start, model.transformer.config, clips, out)
        return run.train(model, ranks)


def _data_digest(config: FinetuneConfig) -> dict[str, str]:
    """Return the sha256 of `data` by its path, if `data` is a data set of frames or tokens."""
    folder = config.data
    if config.labels is not None or folder is None or not (folder / "manifest.json").is_file():
        return {}
    return digests([open_data(folder)])


def _trained(model: FineTunedModel) -> str:
    weights = list(model.transformer.parameters())
    trained = sum(one.numel() for one in weights if one.requires_grad)
    return f"{trained:,} trained weights, {sum(one.numel() for one in weights):,} in all"


def _model_config(config: FinetuneConfig, start: Encoder) -> ModelConfig:
    """Return the config of the fine-tuned transformer.

    Raises:
        ValueError: `start_from` is not a LLaMA, but a setting needs one.
    """
    before = start.transformer.config
    changes: dict[str, Any] = {}
    if config.image_size is not None:
        tokens = load_tokenizer(config.start_from, config.image_size).tokens_per_frame
        frames = max(1, before.frames * before.tokens_per_frame // tokens)  # equal context
        changes = {"tokens_per_frame": tokens, "frames": frames}
    if config.max_frames is not None:
        changes["frames"] = config.max_frames
    if isinstance(before, TotoConfig):
        changes["attention"] = config.attention
        if config.rope_base is not None:
            changes["rope_base"] = config.rope_base
    elif config.attention != "causal" or config.rope_base is not None:
        raise ValueError(
            f"attention={config.attention} and rope_base={config.rope_base} need a model of kind "
            f"llama, but {config.start_from} is a {before.kind}"
        )
    after = dataclasses.replace(before, **changes)
    if config.frames > after.frames:
        raise ValueError(
            f"frames must be at most {after.frames}, the sequence of {config.start_from} at this "
            f"image size, or max_frames; got {config.frames}"
        )
    return after


def _new_model(
    config: FinetuneConfig, start: Encoder, clips: LabelledClips | None
) -> FineTunedModel:
    """Return the model before training."""
    transformer = _model_config(config, start).build()
    transformer.load_state_dict(start.transformer.state_dict())
    torch.manual_seed(config.seed)
    config.adapt.prepare(transformer)
    heads, layers = None, ()
    if config.labels is not None and clips is not None:
        depth = range(transformer.config.layers + 1)
        layers = tuple(map(transformer.layer_index, config.labels.layers or depth))
        sizes = (len(layers), transformer.config.dim, len(clips.classes))
        heads = LayerHeads(config.labels.head, *sizes)
    return FineTunedModel(
        transformer,
        heads,
        layers,
        next_token_weight=config.next_token_weight,
        stop_gradient=config.labels is not None and config.labels.stop_gradient,
        layer_decay=config.layer_decay,
        transformer_lr=config.transformer_lr,
        ema_decay=config.ema_decay,
    )


class _Run:
    """The state of one call of `finetune`."""

    def __init__(
        self,
        config: FinetuneConfig,
        start: Encoder,
        model_config: ModelConfig,
        clips: LabelledClips | None,
        out: Path,
    ) -> None:
        self._config, self._start, self._clips, self._out = config, start, clips, out
        self._model_config = model_config
        self._tokenizer = load_tokenizer(config.start_from, config.image_size)

    def train(self, model: FineTunedModel, ranks: Ranks) -> Path:
        config, out, folder = self._config, self._out, self._out / "encoder"
        test, clips = None, self._clips
        if clips is None:
            phase = self._video_phase(ranks)
        else:
            if ranks.first:
                print(clips.listing.summary(), flush=True)
            train, test = clips.tokenise(self._tokenizer, out, ranks)
            phase = self._labelled_phase(train, test)
        result = fit(
            model, [phase], config.optimizer, config.engine, out, ranks,
            title="next-token loss, nats" if test is None else "loss of tokens and classes, nats",
        )  # fmt: skip
        trained = _new_model(config, self._start, clips)
        if not result.load(trained, ranks) or not ranks.first:
            return folder
        trained.transformer = trained.result()
        self._save(trained.transformer, result, folder)
        if clips is not None and test is not None:
            score_heads(trained.eval().to(ranks.device), clips, test, config, out)
        print(f"curve   {out / 'curve.png'}\nencoder {folder}")
        return folder

    def _video_phase(self, ranks: Ranks) -> Phase:
        config, folder = self._config, self._config.data
        assert folder is not None
        encoder = Encoder(self._tokenizer, self._model_config.build(), 0, "mean")
        data = ranks.first_then_others(
            lambda: tokenise_data(
                folder, encoder, config.stride, config.frames, self._out, config.seed
            )
        )
        if ranks.first and config.validation_rows:
            announce_held_out([data], [config.frames])
        has_held_out = bool(held_out([data], config.frames))
        validation = {"held_out": self._video_rows(data, True)} if has_held_out else {}
        return self._phase(self._video_rows(data, False), validation, config.validation_rows)

    def _video_rows(self, data: TokenData, validation: bool) -> Rows:
        mixture = SequenceMixture(
            [data], [1.0], self._tokenizer, self._model_config, self._config.frames,
            validation=validation, seed=self._config.seed,
        )  # fmt: skip
        return lambda first, count: self._row(mixture.rows(first, count), None, first)

    def _row(
        self, ids: NDArray[np.int64], labels: NDArray[np.int64] | None, first: int
    ) -> tuple[Tensor, ...]:
        """Return the arguments of `FineTunedModel.loss`."""
        rows: list[Tensor] = [torch.from_numpy(ids)]
        if labels is not None:
            rows.append(torch.from_numpy(labels))
        if self._config.attention == "prefix":
            if labels is None:
                rows.append(torch.full((len(ids),), -1))  # no classes
            rows.append(prefix_lengths(first, len(ids), ids.shape[1], self._config.seed))
        return tuple(rows)

    def _labelled_phase(self, train: TokenClips, test: TokenClips) -> Phase:
        config = self._config

        def rows(clips: TokenClips) -> Rows:
            def read(first: int, count: int) -> tuple[Tensor, ...]:
                tokens, labels = clips.rows(first, count, config.seed)
                return self._row(sequences(tokens, self._model_config), labels, first)

            return read

        count = min(config.validation_rows, len(test))
        return self._phase(rows(train), {"test": rows(test)}, count)

    def _phase(self, rows: Rows, validation: dict[str, Rows], validation_rows: int) -> Phase:
        config = self._config
        tokens = config.frames * self._model_config.tokens_per_frame
        return Phase(
            steps=config.steps,
            batch=config.batch,
            part=config.part,
            rows=rows,
            tokens_per_row=tokens,
            flops_per_row=model_flops(self._model_config, config.frames) * tokens,
            validation=validation,
            validation_rows=validation_rows,
        )

    def _save(self, transformer: CausalModel, result: Fit, folder: Path) -> None:
        config, start = self._config, self._start
        interval_s = config.frame_interval_s
        pca = None
        if start.pca is not None and len(start.pca.frames):
            tuned = Encoder(self._tokenizer, transformer, 0, "mean")
            pca = start.pca.refit(all_features(tuned))
        save_encoder(
            folder,
            self._tokenizer,
            transformer,
            layer=start.layer,
            pool=_pool_of(start, pca, self._model_config),
            frame_interval_s=start.frame_interval_s if interval_s is None else interval_s,
            training={
                "fine_tuned_from": {"name": config.start_from, "weights": start.weights_hash},
                "tokens": result.tokens,
                **result.notes(config),
            },
            pca=pca,
        )


def _pool_of(start: Encoder, pca: PrincipalComponents | None, after: ModelConfig) -> str:
    """Return the default pool of the fine-tuned model: that of `start`, if it can be used."""
    if is_attention(start.pool) or (needs_components(start.pool) and pca is None):
        return "mean"
    try:
        build_pools(start.pool, after.dim, after.tokens_per_frame, start.layers, pca)
    except ValueError as error:
        pool = default_pool(after.tokens_per_frame)
        print(f"{error}; the default pool of the new encoder is {pool}")
        return pool
    return start.pool


main = command("finetune", FinetuneConfig)(finetune)

if __name__ == "__main__":
    main()
