"""Which encoder a command uses: the configs of the group `encoder`, the same in every command.

    encoder=nano | mae_nano | stream | random | none | mvp encoder.name_or_path=FILE | FOLDER

The untrained encoder has the same architecture and so the same cost; a policy without vision has
proprioception only. They are the controls of every claim about the trained one.
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
    """A trained encoder.

    Attributes:
        name_or_path: a shipped name or a checkpoint folder.
        layer: which layer; None: the checkpoint's own choice.
        pool: how its tokens become one embedding; None: the checkpoint's own choice.
        repeat_frame: whether each frame is fed twice, so that its tokens see all of it.
        stream: how each camera's past is kept; None: each frame by itself.
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
    """The same architecture with random weights, tokenizer and transformer.

    Attributes:
        name_or_path: whose architecture.
        layer: as for `TotoVision`.
        pool: as for `TotoVision`.
        seed: of the weights.
    """

    kind: ClassVar[str] = "random"
    name_or_path: str
    layer: int | None
    pool: str | None
    seed: int

    def build(self, device: torch.device) -> FrameEncoder:
        """Build the architecture with random weights."""
        trained = load_encoder(self.name_or_path, self.layer, self.pool)
        return trained.untrained(self.seed).to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Proprioception alone; no image is rendered."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Return nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitVision:
    """A vision transformer: a published file (MAE, MVP, DINOv2 and others), or one of our own.

    Attributes:
        name_or_path: the file; of our own: a shipped name or a checkpoint folder.
        format: the file's family, one of `encoders.vit_files.FORMATS`; None: one of our own.
        layer: which layer; None: the last.
        pool: how its tokens become one embedding; None: as the family does it.
        heads: attention heads; None: those of the published model of this width.
        image_size: side that frames are resized to, pixels; None: the one trained with.
        statistics: of the images, `imagenet` or `half`; None: the family's.
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
    """Open the Toto of a config, for a command that needs tokens and layers.

    Args:
        vision: the config.
        device: where it runs.
        dtype: of its weights; None: float32.
        whole: the command runs all layers, so that a layer or a pool has no effect.
        streams: the command reads `vision.stream` itself.
        verify: whether its golden vectors are checked.

    Raises:
        ValueError: the checkpoint is no Toto, or a stream, a layer or a pool has no effect; and
            what `load_toto` raises.
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
        raise ValueError("encoder.stream has no effect on this command; encoder.stream=null")
    return load_toto(
        vision.name_or_path, vision.layer, vision.pool, device, dtype,
        repeat_frame=vision.repeat_frame, verify=verify,
    )  # fmt: skip
