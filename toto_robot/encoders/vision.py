"""Settings of the encoder of a command: the group `encoder`, the same in all commands.

    encoder=nano | mae_nano | stream | random | pixels | none | FOLDER
    encoder=mvp encoder.name_or_path=FILE
    encoder=FILE encoder.format=timm encoder.heads=3 encoder.statistics=imagenet

Three choices are controls, with which results of the trained encoder are compared. `random` has
the same architecture and cost, but random weights. `pixels` is the frame at 16 x 16 pixels. `none`
uses proprioception only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from ..device import choose_device
from .contract import FrameEncoder
from .encoder import Encoder
from .loading import load_encoder, load_toto
from .pixels import PixelEncoder
from .streamed import StreamedEncoder
from .streaming import StreamConfig

__all__ = [
    "AnyToto",
    "NoVision",
    "PixelVision",
    "RandomVision",
    "TotoVision",
    "VisionConfig",
    "VitVision",
    "build_toto",
    "title",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoVision:
    """Settings of a trained Toto encoder.

    Attributes:
        name_or_path: name of an encoder in the package, or a checkpoint folder.
        layer: number of the layer whose features are pooled, 0 for the token embedding; a list such
            as `[0,4]`: the embeddings of several layers are concatenated; null: the default in the
            checkpoint.
        pool: method that combines the features of all tokens to one embedding, such as `grid4` or
            `pca8`; null: the default in the checkpoint.
        repeat_frame: true to read each frame twice and to pool the second copy, so that each pooled
            token depends on the whole frame.
        stream: settings of streams, with which embeddings also depend on earlier frames of the
            episode; null: embeddings depend on one frame only.
    """

    kind: ClassVar[str] = "toto"
    name_or_path: str
    layer: int | tuple[int, ...] | None
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
        name_or_path: name or checkpoint folder of a trained encoder, whose architecture is used.
        layer: number of the layer whose features are pooled, 0 for the token embedding; a list such
            as `[0,4]`: the embeddings of several layers are concatenated; null: the default in the
            checkpoint.
        pool: method that combines the features of all tokens to one embedding, such as `grid4` or
            `pca8`; null: the default in the checkpoint.
        seed: seed of the random weights.
    """

    kind: ClassVar[str] = "random"
    name_or_path: str
    layer: int | tuple[int, ...] | None
    pool: str | None
    seed: int

    def build(self, device: torch.device) -> FrameEncoder:
        """Build the encoder with random weights."""
        trained = load_encoder(self.name_or_path, self.layer, self.pool)
        return trained.untrained(self.seed).to(choose_device(str(device)))


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelVision:
    """Settings of the baseline of raw pixels: each frame at 16 x 16 pixels, without a model."""

    kind: ClassVar[str] = "pixels"

    def build(self, device: torch.device) -> FrameEncoder:
        """Return the encoder, which always computes on the CPU."""
        del device
        return PixelEncoder()


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Settings for a policy whose input is only proprioception; no images are rendered."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Return None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitVision:
    """Settings of a vision transformer, from a published file or from a checkpoint of this package.

    Attributes:
        name_or_path: a published file (MAE, MVP, DINOv2, ...); if `format` is null, the name of an
            encoder in the package or a checkpoint folder.
        format: format of the published file, one of `encoders.vit_files.FORMATS`; null:
            `name_or_path` is not a published file.
        layer: number of the layer whose features are pooled, or a list of several layers; null: the
            last layer of a published file, or the default in the checkpoint.
        pool: method that combines the features of all tokens to one embedding; null: the default of
            the format or in the checkpoint.
        heads: number of attention heads; null: the number in the published model of this width.
            `heads`, `image_size` and `statistics` must be null if `format` is null.
        image_size: side of the square to which frames are resized, pixels; null: as in training.
        statistics: mean and standard deviation for the normalisation of images, `imagenet` or
            `half` (0.5); null: those of the format.
    """

    kind: ClassVar[str] = "vit"
    name_or_path: str
    format: str | None
    layer: int | tuple[int, ...] | None
    pool: str | None
    heads: int | None
    image_size: int | None
    statistics: str | None

    def build(self, device: torch.device) -> FrameEncoder:
        """Load the encoder.

        Raises:
            ValueError: `format` is null, but `heads`, `image_size` or `statistics` is set. The
                errors of `load_encoder` are also possible.
        """
        names = ("heads", "image_size", "statistics")
        options = {name: one for name in names if (one := getattr(self, name)) is not None}
        return load_encoder(
            self.name_or_path, self.layer, self.pool, device, format=self.format, **options
        )


AnyToto = TotoVision | RandomVision  # for commands that need tokens and layers
VisionConfig = AnyToto | VitVision | PixelVision | NoVision


def build_toto(
    vision: AnyToto,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    *,
    whole: bool = False,
    streams: bool = False,
    verify: bool = True,
) -> Encoder:
    """Load a Toto from its settings, for a command that needs tokens or features of layers.

    Args:
        vision: settings of the encoder.
        device: device for the computation, such as `cuda`, or `auto`.
        dtype: precision of the weights; None: float32.
        whole: true if the command uses all layers; then `layer` and `pool` must not be set.
        streams: true if the command uses `vision.stream`; otherwise `stream` must not be set.
        verify: true to compare the outputs with the checkpoint's golden vectors.

    Raises:
        ValueError: the checkpoint is not a Toto, a layer, a pool or a stream is set that would have
            no effect, or an untrained encoder is to have int8 weights. The errors of `load_toto`
            are also possible.
    """
    if whole and (vision.layer is not None or vision.pool is not None):
        raise ValueError(
            "encoder.layer and encoder.pool have no effect on this command, which runs the whole "
            f"model; got {vision.layer} and {vision.pool}"
        )
    if isinstance(vision, RandomVision):
        if dtype == torch.int8:
            raise ValueError("int8 weights are only for trained encoders; choose another dtype")
        trained = load_toto(vision.name_or_path, vision.layer, vision.pool, verify=verify)
        return trained.untrained(vision.seed).to(choose_device(str(device)), dtype)
    if vision.stream is not None and not streams:
        raise ValueError("encoder.stream has no effect on this command; set encoder.stream=null")
    return load_toto(
        vision.name_or_path, vision.layer, vision.pool, device, dtype,
        repeat_frame=vision.repeat_frame, verify=verify,
    )  # fmt: skip


def title(name_or_path: str) -> str:
    """Return the name of an encoder in tables and file names.

    It is the last part of the path, but `mine` for `runs/mine/encoder`: each training calls the
    folder of its encoder so.
    """
    path = Path(name_or_path)
    return path.parent.name if path.name == "encoder" and path.parent.name else path.name
