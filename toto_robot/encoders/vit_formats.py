"""The known formats of published vision transformers: `FORMATS` has one entry for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..models.vision_transformer import Channels

__all__ = ["FORMATS", "HEADS", "STATISTICS", "Format"]

# mean and standard deviation of red, green and blue in [0, 1]
STATISTICS: Mapping[str, tuple[Channels, Channels]] = MappingProxyType(
    {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's documentation
        "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # AugReg's weights in timm
    }
)

# heads of the published ViTs of these widths; 384 is missing, because two different numbers were
# published
HEADS = MappingProxyType({192: 3, 768: 12, 1024: 16, 1280: 16})


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """The properties of a format of published files.

    Attributes:
        dropped: prefixes of the names of weights that are not needed for features.
        renamed: maps the format's names of register tokens to our names.
        pool: name of the default pool, such as `grid4`.
        image_size: default side of the images, pixels; None: the side that the position embedding
            of the file has.
        statistics: name of the mean and standard deviation of images, a key of `STATISTICS`; None:
            files of this format differ, so the caller must choose.
        norm_eps: epsilon of LayerNorm.
        head_dim: width of each attention head; None: it depends on the model.
        resize: method with which the format's code resizes the position embedding to another number
            of patches.
        positions: type of the position embedding, learned or rotary.
        layer_scale: true if all files have learned scales of the outputs of attention and MLP,
            false if no file has them, None if files differ.
        registers: true if some files have register tokens.
    """

    dropped: tuple[str, ...]
    renamed: Mapping[str, str]
    pool: str
    image_size: int | None
    statistics: str | None
    norm_eps: float
    head_dim: int | None
    resize: Literal["bicubic", "antialiased", "dinov2"]
    positions: Literal["learned", "rotary"]
    layer_scale: bool | None
    registers: bool


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        # github.com/facebookresearch/mae: encoder only, whole, in training, or fine-tuned
        "mae": Format(
            dropped=("mask_token", "decoder_", "decoder.", "head."),
            renamed={},
            pool="mean",
            image_size=None,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=None,
            resize="bicubic",
            positions="learned",
            layer_scale=False,
            registers=False,
        ),
        # github.com/ir413/mvp: MAE's encoders and one supervised model
        "mvp": Format(
            dropped=("head.",),
            renamed={},
            pool="cls",
            image_size=None,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=None,
            resize="bicubic",
            positions="learned",
            layer_scale=False,
            registers=False,
        ),
        # github.com/facebookresearch/dinov2, with and without registers; head width 64 in all sizes
        "dinov2": Format(
            dropped=("mask_token",),
            renamed={"register_tokens": "reg_token"},
            pool="cls",
            image_size=224,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=64,
            resize="dinov2",
            positions="learned",
            layer_scale=True,
            registers=True,
        ),
        # github.com/facebookresearch/dinov3, ViT-S, B and L: GELU, head width 64, LayerNorm eps
        # 1e-5
        "dinov3": Format(
            dropped=("mask_token", "local_cls_norm."),  # the second is for local crops in training
            renamed={"storage_tokens": "reg_token"},
            pool="cls",
            image_size=224,
            statistics="imagenet",
            norm_eps=1e-5,
            head_dim=64,
            resize="bicubic",
            positions="rotary",
            layer_scale=True,
            registers=True,
        ),
        # github.com/huggingface/pytorch-image-models, `VisionTransformer`; also DeiT and DINO
        "timm": Format(
            dropped=("head.",),
            renamed={},
            pool="cls",
            image_size=None,
            statistics=None,
            norm_eps=1e-6,
            head_dim=None,
            resize="antialiased",
            positions="learned",
            layer_scale=None,
            registers=True,
        ),
    }
)
