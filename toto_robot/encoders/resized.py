"""Use an encoder at another image size than that of its training, with the same weights.

    encoder = at_image_size(load_encoder("toto-nano"), 512, rope_base=50_000.0)
    (features,) = encoder.features(frames)          # 64 x 64 tokens per frame instead of 16 x 16

Convolutional tokenizers make more tokens of a larger image. Rotary positions then exceed those of
the training; a larger base of the angles slows the rotation down (paper Table 4: 50,000 for frames
of 32 x 32 tokens).
"""

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import interpolate

from ..device import float32_default
from .encoder import Encoder
from .frozen import FrozenEncoder
from .patches import PatchEncoder
from .vit import VitEncoder

__all__ = ["PatchedEncoder", "at_image_size"]

PatchedEncoder = Encoder | VitEncoder | PatchEncoder


def at_image_size(
    encoder: PatchedEncoder, image_size: int, rope_base: float | None = None
) -> PatchedEncoder:
    """Return a copy of an encoder for another image size. Its pool is `mean`.

    Learned position embeddings are resized by bicubic interpolation.

    Args:
        encoder: the encoder; it is not changed.
        image_size: side of the square to which frames are resized, pixels.
        rope_base: base of the rotary angles; None: as in training.

    Raises:
        ValueError: the image size is not a multiple of the patch size, or `rope_base` is given, but
            is not above 1 or the model has no rotary positions with a base.
    """
    if rope_base is not None and not rope_base > 1:
        raise ValueError(f"rope_base must be above 1, got {rope_base}")
    config: Any = encoder.transformer.config
    changes = {} if rope_base is None else {"rope_base": rope_base}
    if changes and not hasattr(config, "rope_base"):
        raise ValueError(
            f"rope_base has no effect on this model ({type(config).__name__}), which has no rotary "
            "positions with a base; set rope_base=null"
        )
    device = next(encoder.parameters()).device
    if isinstance(encoder, FrozenEncoder):
        model = _copy(replace(config, image_size=image_size, **changes), encoder.transformer)
        return type(encoder)(model, encoder.layer, "mean", encoder.pca).to(device)
    tokenizer = _copy(replace(encoder.tokenizer.config, image_size=image_size), encoder.tokenizer)
    changed = changes | {"image_size": image_size}
    trained = {"rope_base": getattr(config, "rope_base", None), "image_size": encoder.image_size}
    variant = "".join(f" {name} {new}" for name, new in changed.items() if new != trained[name])
    changes["tokens_per_frame"] = tokenizer.tokens_per_frame
    transformer = _copy(replace(config, **changes), encoder.transformer)
    variant = encoder.variant + variant
    return encoder.rebuilt(tokenizer, transformer, pool="mean", variant=variant).to(device)


@float32_default()
def _copy(config: Any, trained: Any) -> Any:
    """Build a model from `config` with the weights of `trained`, and resize learned positions."""
    model = config.build()
    weights = dict(trained.state_dict())
    if "pos_embed" in weights:
        weights["pos_embed"] = _resize_positions(
            weights["pos_embed"], trained.config.side, config.side, 1 + config.registers
        )
    model.load_state_dict(weights)
    return model.to(next(trained.parameters()).dtype)


def _resize_positions(positions: torch.Tensor, native: int, side: int, prefix: int) -> torch.Tensor:
    """Resize position embeddings [1 t d] from native x native to side x side patches."""
    if side == native:
        return positions
    grid = positions[:, prefix:].transpose(1, 2).unflatten(2, (native, native))  # 1 d i j
    grid = interpolate(grid.float(), size=(side, side), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)
