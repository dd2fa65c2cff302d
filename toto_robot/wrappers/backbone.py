"""Use an encoder as a module of a PyTorch network: images [b 3 h w] to features [b e].

    backbone = TotoBackbone("toto-nano")                    # frozen
    backbone = TotoBackbone("toto-nano", trainable=True)    # the transformer is fine-tuned
    features = backbone(images)

Tokens are integers, through which gradients cannot pass. So fine-tuning trains the token
embeddings, the blocks of the transformer up to the encoder's layer, and the pool if it has weights.
The tokenizer stays frozen, and there are no gradients with respect to the images.
"""

import copy
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ..encoders.contract import (
    FrameEmbedder,
    check_embeddings,
    require_embedder,
    require_no_past,
)
from ..encoders.encoder import Encoder
from ..encoders.loading import load_encoder
from ..encoders.pooling import join_layers
from ..models import CausalModel

__all__ = ["TotoBackbone", "rgb_frames"]


class TotoBackbone(nn.Module):
    """A Toto, or another encoder of this package, as an `nn.Module`.

    Args:
        encoder: an encoder, or a name or folder that `load_encoder` accepts.
        trainable: true to fine-tune a copy of the weights after the tokenizer; only for an
            `Encoder`. The given encoder is not changed.
        channels: position of the colour channels: `first` for images [b 3 h w], as usual in
            PyTorch, or `last` for [b h w 3].

    Attributes:
        dim: number e of features of an image.

    Raises:
        ValueError: `channels` is neither `first` nor `last`, the encoder cannot be trained, or it
            is a `StreamedEncoder`.
        TypeError: the encoder has no `dim`, or cannot be called.
    """

    def __init__(
        self,
        encoder: FrameEmbedder | str | Path,
        *,
        trainable: bool = False,
        channels: Literal["first", "last"] = "first",
    ) -> None:
        super().__init__()
        if channels not in ("first", "last"):
            raise ValueError(f"channels must be 'first' or 'last', got {channels!r}")
        opened = load_encoder(encoder) if isinstance(encoder, (str, Path)) else encoder
        require_embedder(opened)
        require_no_past(opened, "the encoder itself, because images have no order here")
        self.encoder = opened
        self.dim = opened.dim
        self.trainable = trainable
        self.channels: Literal["first", "last"] = channels
        self.transformer: CausalModel | None = None
        self.pooling: nn.Module | None = None
        if trainable:
            if not isinstance(opened, Encoder):
                raise ValueError(
                    f"trainable=True needs a Toto's Encoder, got {type(opened).__name__}"
                )
            self.transformer = _trained_part(opened)
            self.pooling = copy.deepcopy(opened.pooling).requires_grad_(True)

    def forward(self, images: Tensor) -> Float[Tensor, "b e"]:
        """Return the features [b e] of b images.

        Args:
            images: uint8 in 0..255 or floats in [0, 1], RGB, of any size.

        Raises:
            ValueError: the dtype or the shape is wrong, or floats are outside [0, 1]; or the
                encoder does not return embeddings [b dim].
        """
        frames = rgb_frames(images, self.channels)
        encoder = self.encoder
        if self.transformer is None or self.pooling is None:
            with torch.no_grad():
                embeddings = encoder(frames)
            check_embeddings(embeddings, encoder, len(frames))
            return torch.as_tensor(embeddings).float()
        assert isinstance(encoder, Encoder)
        ids = encoder.tokenize(frames)
        features = encoder.frame_features(self.transformer, ids, encoder.layers)
        return self.pooling(join_layers(features)).float()


def rgb_frames(images: Tensor, channels: Literal["first", "last"]) -> UInt8[Tensor, "b h w 3"]:
    """Return images as uint8 frames [b h w 3].

    Args:
        images: uint8 in 0..255 or floats in [0, 1], RGB, of any size.
        channels: `first` for [b 3 h w], `last` for [b h w 3].

    Raises:
        ValueError: dtype or shape are wrong, or floats are outside [0, 1].
    """
    axis = 1 if channels == "first" else 3
    if images.ndim != 4 or images.shape[axis] != 3:
        expected = "[b 3 h w]" if channels == "first" else "[b h w 3]"
        raise ValueError(f"images must be RGB {expected}, got {list(images.shape)}")
    if images.dtype.is_floating_point:
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"floats must be in [0, 1], got [{images.min():.3g}, {images.max():.3g}]; undo "
                "a normalisation by mean and standard deviation first"
            )
        images = (images.detach() * 255).round().to(torch.uint8)
    elif images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
    return images.permute(0, 2, 3, 1) if channels == "first" else images


def _trained_part(encoder: Encoder) -> CausalModel:
    """Return a copy of the transformer, in which the weights that are used have gradients."""
    transformer = copy.deepcopy(encoder.transformer).requires_grad_(False)
    for module in (transformer.embed_tokens, *transformer.layers[: max(encoder.layers)]):
        module.requires_grad_(True)
    return transformer
