"""Choose the encoder of a command: the configs of the group `encoder`, the same in every command.

    encoder=nano | mae_nano | stream | random | none | mvp encoder.name_or_path=FILE | FOLDER

Two choices are controls for every result with the trained encoder: `random`, the same architecture
without training and so with the same cost, and `none`, proprioception without images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .contract import FrameEncoder
from .encoder import Encoder
from .loading import load_encoder, load_toto
from .streamed import StreamedEncoder
from .streaming import StreamConfig
from .vit_files import load_vit

__all__ = [
    "AnyToto",
    "NoVision",
    "RandomVision",
    "TotoVision",
    "VisionConfig",
    "VitVision",
    "build_toto",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoVision:
    """Settings of a trained Toto encoder.

    Attributes:
        name_or_path: a shipped name or a checkpoint folder.
        layer: layer to pool; null: the checkpoint's default.
        pool: how the layer's tokens are combined into one embedding; null: the checkpoint's
            default.
        repeat_frame: read each frame twice, so that pooled tokens depend on the whole frame.
        stream: settings of the cameras' streams; null: embeddings ignore earlier frames.
    """

    kind: ClassVar[str] = "toto"
    name_or_path: str
    layer: int | None
    pool: str | None
    repeat_frame: bool
    stream: StreamConfig | None

    def build(self, device: torch.device) -> FrameEncoder:
        """Load the encoder."""
        if self.stream is None and not self.repeat_frame:
            return load_encoder(self.name_or_path, self.layer, self.pool, device)
        encoder = load_toto(
            self.name_or_path, self.layer, self.pool, device, repeat_frame=self.repeat_frame
        )
        return encoder if self.stream is None else StreamedEncoder(encoder, self.stream)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomVision:
    """Settings of an untrained Toto: tokenizer and transformer with random weights.

    Attributes:
        name_or_path: shipped name or checkpoint folder of the encoder with the same architecture.
        layer: layer to pool; null: the checkpoint's default.
        pool: how the layer's tokens are combined into one embedding; null: the checkpoint's
            default.
        seed: seed of the random weights.
    """

    kind: ClassVar[str] = "random"
    name_or_path: str
    layer: int | None
    pool: str | None
    seed: int

    def build(self, device: torch.device) -> FrameEncoder:
        """Build the encoder with random weights."""
        trained = load_encoder(self.name_or_path, self.layer, self.pool)
        return trained.untrained(self.seed).to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Settings for a policy without vision: only proprioception; no images are rendered."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Return None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitVision:
    """Settings of a vision transformer: a published file (MAE, MVP, DINOv2, ...) or one of ours.

    Attributes:
        name_or_path: a published file; with `format` null, a shipped name or a checkpoint folder.
        format: family of the published file, one of `encoders.vit_files.FORMATS`; null: one of
            ours.
        layer: layer to pool; null: the last.
        pool: how the layer's tokens are combined into one embedding; null: the family's default.
        heads: number of attention heads; null: as in the published model of this width.
        image_size: side that frames are resized to, pixels; null: as in training.
        statistics: image statistics for normalisation, `imagenet` or `half`; null: the family's.
    """

    kind: ClassVar[str] = "vit"
    name_or_path: str
    format: str | None
    layer: int | None
    pool: str | None
    heads: int | None
    image_size: int | None
    statistics: str | None

    def build(self, device: torch.device) -> FrameEncoder:
        """Load the encoder."""
        if self.format is None:
            return load_encoder(self.name_or_path, self.layer, self.pool, device)
        return load_vit(
            self.name_or_path,
            self.format,
            layer=self.layer,
            pool=self.pool,
            device=device,
            heads=self.heads,
            image_size=self.image_size,
            statistics=self.statistics,
        )


AnyToto = TotoVision | RandomVision  # for commands that need tokens and layers
VisionConfig = AnyToto | VitVision | NoVision


def build_toto(
    vision: AnyToto,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    *,
    whole: bool = False,
    streams: bool = False,
    verify: bool = True,
) -> Encoder:
    """Load the Toto of a config, for a command that needs tokens and layers.

    Args:
        vision: the config.
        device: device to run on.
        dtype: precision of the weights; None: float32.
        whole: true if the command runs all layers: then `layer` and `pool` must not be set.
        streams: true if the command uses `vision.stream`; otherwise it must not be set.
        verify: compare with the checkpoint's golden vectors.

    Raises:
        ValueError: the checkpoint is not a Toto, or a stream, a layer or a pool is set that has no
            effect; and the errors of `load_toto`.
    """
    if whole and (vision.layer is not None or vision.pool is not None):
        raise ValueError(
            "encoder.layer and encoder.pool have no effect on this command, which runs the whole "
            f"model; got {vision.layer} and {vision.pool}"
        )
    if isinstance(vision, RandomVision):
        trained = load_toto(vision.name_or_path, vision.layer, vision.pool, dtype=dtype)
        return trained.untrained(vision.seed).to(device)
    if vision.stream is not None and not streams:
        raise ValueError("encoder.stream has no effect on this command; set encoder.stream=null")
    return load_toto(
        vision.name_or_path, vision.layer, vision.pool, device, dtype,
        repeat_frame=vision.repeat_frame, verify=verify,
    )  # fmt: skip
