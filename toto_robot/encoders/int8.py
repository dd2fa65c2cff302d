"""Compute the transformer blocks of an encoder with 8-bit integers on a CPU.

    encoder = load_encoder("toto-nano", dtype=torch.int8)

The features are nearly equal to those in float32. Large models become faster; toto-nano does not,
because it is too small. Numbers are converted to integers (quantised) by dividing them by a scale.
Weights are quantised once, with one scale per output channel. Inputs of matrix products are
quantised at each call, with one scale per token. Token embeddings, norms, attention and the
tokenizer stay in float32.

Before an int8 encoder is returned, its features are compared with those in float32, on images from
the checkpoint or from the caller. The fingerprint of an int8 encoder differs from that of the
float32 encoder. So a saved policy that was trained on float32 features rejects the int8 encoder.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..models import TotoConfig
from .encoder import Encoder
from .pooling import join_layers

__all__ = ["LEAST_COSINE", "Int8Linear", "feature_cosine", "to_int8"]

LEAST_COSINE = 0.99
_ZERO = 128  # the quantised value of zero in an input
_TINY = torch.finfo(torch.float32).tiny


class Int8Linear(nn.Module):
    """A linear layer without bias that multiplies 8-bit integers, and sums the products in 32 bits.

    Args:
        linear: the float32 layer that is replaced.
        rounder: object that quantises the input; layers with the same input share it.
    """

    def __init__(self, linear: nn.Linear, rounder: "_Rounder") -> None:
        super().__init__()
        # Without VNNI, two products are summed in 16 bits, which would overflow with 8-bit weights.
        levels = 127 if torch.cpu._is_vnni_supported() else 63
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(dim=1) / levels).clamp(min=_TINY)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self._rounder = rounder
        self._packed: Tensor | None = None

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the output of the layer, [*b o], for inputs [*b i]."""
        if not x.numel():  # oneDNN refuses an empty batch
            return x.new_zeros(*x.shape[:-1], len(self.scale))
        if self._packed is None:  # in oneDNN's memory format; not part of the state dict
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
            self._zeros = torch.zeros(len(self.scale), dtype=torch.int64)
        rounded, scale = self._rounder(x)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self.scale, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product.mul_(scale)

    def __getstate__(self) -> dict[str, object]:
        """Return the state for a copy or a pickle, without the packed weights."""
        return {**self.__dict__, "_packed": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._packed = None


class _Rounder:
    """A quantiser of inputs to 8 bits, with one scale per token.

    It stores the newest input and its result, because several layers have the same input.
    """

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._output: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def __reduce__(self) -> tuple[type["_Rounder"], tuple[()]]:
        """Copy and pickle without the newest input."""
        return _Rounder, ()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x is not self._input:
            scale = (x.abs().amax(dim=-1, keepdim=True) / 127).clamp_(min=_TINY)
            rounded = (x / scale).round_().add_(_ZERO).to(torch.uint8)
            self._input, self._output = x, (rounded, scale)
        return self._output


def to_int8(
    encoder: Encoder, frames: Sequence[np.ndarray | Tensor], least_cosine: float = LEAST_COSINE
) -> Encoder:
    """Return an encoder with the same tokenizer and with transformer blocks in 8 bits.

    Args:
        encoder: an encoder in float32 on the CPU.
        frames: uint8 images [h w 3] like those of the training data, for the comparison.
        least_cosine: minimum cosine similarity to the features in float32; see `feature_cosine`.

    Raises:
        ValueError: there are no images for the comparison, the encoder has another precision,
            device or architecture, or its features differ too much from float32; the message has
            the cosine.
    """
    weight = encoder.transformer.embed_tokens.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(
            f"int8 needs an encoder in float32 on the CPU, got {weight.dtype} on {weight.device}"
        )
    if not isinstance(encoder.transformer.config, TotoConfig):
        raise ValueError(
            "only a model of kind llama can be in int8, got "
            f"{encoder.transformer.config.kind}; use float32"
        )
    if not frames:
        raise ValueError(
            "int8 needs a few images to compare features; this checkpoint has none: "
            "save_encoder(..., golden_frames=...), or to_int8(encoder, frames)"
        )
    transformer = copy.deepcopy(encoder.transformer)
    for block in transformer.layers:
        for module, *groups in (
            (block.self_attn, ("q_proj", "k_proj", "v_proj"), ("o_proj",)),
            (block.mlp, ("gate_proj", "up_proj"), ("down_proj",)),
        ):
            for names in groups:
                rounder = _Rounder()
                for name in names:
                    setattr(module, name, Int8Linear(getattr(module, name), rounder))
    rounded = encoder.rebuilt(encoder.tokenizer, transformer)
    rounded.pooling.load_state_dict(encoder.pooling.state_dict())
    ids = torch.cat([encoder.tokenize(torch.as_tensor(frame)[None]) for frame in frames])
    tokens, pooled = feature_cosine(encoder, rounded, ids)
    if not min(tokens, pooled) >= least_cosine:  # written so that NaN also fails
        raise ValueError(
            f"in int8 the features of layer {encoder.layer} have a cosine of {tokens:.4f} with "
            f"those in float32 (pooled: {pooled:.4f}), needed {least_cosine}; use float32"
        )
    return rounded


@torch.no_grad()
def feature_cosine(encoder: Encoder, other: Encoder, ids: Tensor) -> tuple[float, float]:
    """Compare the features of two encoders for the same tokens [b n] of b frames.

    Returns:
        The cosine similarity of the two encoders' token features, as the mean over all tokens, and
        that of their embeddings, as the minimum over all frames.
    """
    one, two = (
        join_layers(model.token_features(ids, encoder.layers)) for model in (encoder, other)
    )
    pooled = cosine_similarity(encoder.pooling(one), other.pooling(two), dim=-1)
    return float(cosine_similarity(one, two, dim=-1).mean()), float(pooled.min())
