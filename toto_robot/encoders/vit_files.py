"""Load vision transformers from the files of their authors: MAE, MVP, DINOv2, DINOv3, timm.

`FORMATS` has one entry for each format. Each name in a file must be a known weight, or must be in
the format's list of names that are not needed. The number of attention heads and the mean and
standard deviation of images are not in the file; the format or the caller determines them.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ..device import float32_default
from ..models.vision_transformer import VisionTransformer, VitConfig, rotary_periods
from .training_files import encoder_state, read_data
from .vit import VitEncoder
from .vit_formats import FORMATS, HEADS, STATISTICS, Channels, Format

__all__ = ["FORMATS", "STATISTICS", "load_vit"]


@float32_default()
def load_vit(
    path: str | Path,
    format: str,
    *,
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VitEncoder:
    """Load a vision transformer from a published file; this never accesses the network.

    The names of the weights may be those of the authors' files, or those of the Hugging Face
    library `transformers` (ViTMAE, Dinov2 with and without registers, DINOv3ViT). Each name must be
    known. Parts that the encoder does not need are ignored: decoder, mask token, classifier, and
    the optimizer and other data of the training. If a file was saved during training and contains
    several copies of the model, or prefixes such as `module.`, `training_files` finds the encoder.
    If blocks at the end of the model are missing in the file, this cannot be detected.

    If the image size differs from that of the training, DINOv2's position embedding is resized as
    in DINOv2's own code. The library `transformers` resizes it in another way for models without
    registers, which changes features by up to 2 %.

    Args:
        path: a `.safetensors` file, a `.pth` file of `torch.save`, or the `.index.json` of a model
            in several files. Code in a `.pth` file is not run.
        format: name of the format, one of `FORMATS`.
        layer: number of the layer whose features are pooled, from 0 (embedding of the patches) to
            the number of blocks, or -1; default: the last.
        pool: name of the pool, see `VitEncoder`; default: `mean` for MAE and for models whose last
            norm follows the average of the patches (`fc_norm`), otherwise `cls`.
        heads: number of attention heads; default: the number in the published model of this width.
            Required if published models of this width differ.
        image_size: side of the square to which frames are resized, pixels; default: as in training,
            and 224 for DINOv2 and DINOv3. Position embeddings are resized as in the authors' code.
        statistics: mean and standard deviation for the normalisation of images, `imagenet` or
            `half` (0.5); default: those of the format. Required for timm.
        device: device for the computation; default: the CPU.
        dtype: precision of weights and computation; default: float32. Embeddings are always
            float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: weights are missing, unexpected or of the wrong shape (the message lists all),
            the file contains objects that are not plain data, or an argument is wrong for the file.
    """
    file = Path(path)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    mean, std = _statistics(format, statistics)
    transformer = _open(file, format, heads, image_size, mean, std)
    if pool is None:
        pool = "mean" if transformer.config.norm_after_pool else FORMATS[format].pool
    encoder = VitEncoder(transformer, -1 if layer is None else layer, pool)
    return encoder.to(device=device, dtype=dtype)


def _open(
    file: Path,
    format: str,
    heads: int | None,
    image_size: int | None,
    mean: Channels,
    std: Channels,
) -> VisionTransformer:
    """Read a file, check all its weights, and return the transformer with these weights."""
    rules = FORMATS[format]
    data = read_data(file)
    from_transformers = any(name.endswith("embeddings.cls_token") for name in data)
    weights = _encoder_weights(file, data, rules)
    norm_after_pool = "norm.weight" not in weights and "fc_norm.weight" in weights
    if norm_after_pool:
        weights |= {f"norm.{one}": weights.pop(f"fc_norm.{one}") for one in ("weight", "bias")}
    layers = _check_names(file, format, weights, rules)
    _check_layout(file, format, weights, rules)
    native = _check_axes(file, weights, rules)
    dim, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    if image_size is None:
        image_size = rules.image_size or (native or 0) * patch_size
    config = VitConfig(
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        layers=layers,
        heads=_heads(rules, dim) if heads is None else heads,
        mlp_hidden=weights["blocks.0.mlp.fc1.weight"].shape[0],
        norm_eps=rules.norm_eps,
        registers=weights["reg_token"].shape[1],
        layer_scale="blocks.0.ls1.gamma" in weights,
        positions=rules.positions,
        norm_after_pool=norm_after_pool,
        mean=mean,
        std=std,
    )
    if rules.resize == "dinov2" and from_transformers and not config.registers:
        _warn_of_resizing(file, native, config)
    if native is not None:
        weights["pos_embed"] = _positions(weights["pos_embed"], native, config, rules)
    if "rope_embed.periods" in weights:
        _check_periods(file, weights.pop("rope_embed.periods"), config)
    return _build(file, format, config, weights)


def _statistics(format: str, name: str | None) -> tuple[Channels, Channels]:
    """Return the mean and standard deviation with which images are normalised."""
    name = FORMATS[format].statistics if name is None else name
    if name not in STATISTICS:
        raise ValueError(
            f"statistics must be one of {list(STATISTICS)}, got {name!r}"
            + (f"; files of format {format!r} do not contain them" if name is None else "")
        )
    return STATISTICS[name]


def _encoder_weights(file: Path, data: Mapping[str, Any], rules: Format) -> dict[str, Tensor]:
    """Return the tensors of the encoder with our names; other known tensors are ignored."""
    state = encoder_state(file, data)
    weights = {
        rules.renamed.get(name, name): tensor
        for name, tensor in _from_transformers(state).items()
        if not name.startswith(rules.dropped)
    }
    if rules.positions == "rotary":
        for name in [name for name in weights if name.endswith("qkv.bias_mask")]:
            # DINOv3 trains without a key bias: the mask is zero for the keys and one elsewhere
            bias, mask = name.removesuffix("_mask"), weights.pop(name)
            if bias in weights:
                weights[bias] = torch.where(mask == 0, 0.0, weights[bias])
    if "cls_token" in weights and "reg_token" not in weights:
        weights["reg_token"] = weights["cls_token"].new_empty(1, 0, weights["cls_token"].shape[-1])
    return weights


# keys in files of transformers (ViTMAE, Dinov2, DINOv3ViT), without `vit.`, and the authors' names
_TRANSFORMERS = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?(\w+)", r"patch_embed.proj.\1"),
    (r"layer\.(\d+)\.(?:norm1|layernorm_before)\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"layer\.(\d+)\.(?:norm2|layernorm_after)\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.attention\.(?:attention\.query|q_proj)\.(\w+)", r"blocks.\1.attn.q.\2"),
    (r"layer\.(\d+)\.attention\.(?:attention\.key|k_proj)\.(\w+)", r"blocks.\1.attn.k.\2"),
    (r"layer\.(\d+)\.attention\.(?:attention\.value|v_proj)\.(\w+)", r"blocks.\1.attn.v.\2"),
    (r"layer\.(\d+)\.(?:intermediate\.dense|mlp\.(?:fc1|up_proj))\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.down_proj)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"(?:layernorm|norm)\.(\w+)", r"norm.\1"),
)  # fmt: skip


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from their names in the library `transformers` to the authors' names.

    Queries, keys and values are joined to one weight, as in the authors' files. Other names stay.
    """
    if not {"embeddings.cls_token", "vit.embeddings.cls_token"} & set(state):
        return dict(state)
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name.removeprefix("vit.").removeprefix("encoder.")
        for pattern, released in _TRANSFORMERS:
            if match := re.fullmatch(pattern, short):
                weights[match.expand(released)] = tensor
                break
        else:
            weights[name] = tensor
    for name in [name for name in weights if name.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        parts = [f"{block}{one}" for one in "qkv"]
        if f"{block}k.bias" not in weights and f"{block}q.bias" in weights:
            weights[f"{block}k.bias"] = torch.zeros_like(weights[f"{block}q.bias"])  # DINOv3
        for kind in ("weight", "bias"):
            if all(f"{part}.{kind}" in weights for part in parts):
                fused = [weights.pop(f"{part}.{kind}") for part in parts]
                weights[f"{block}qkv.{kind}"] = torch.cat(fused)
    return weights


def _check_names(file: Path, format: str, weights: Mapping[str, Tensor], rules: Format) -> int:
    """Check the names of the weights, and return the number of blocks.

    Raises:
        ValueError: weights are missing or unexpected; the message lists them.
    """
    indices = [int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))]
    layers = max(indices, default=0) + 1
    if layers > max(1, len(weights)):
        raise ValueError(f"{file} names a block {layers - 1}, and holds {len(weights)} weights")
    template = VitConfig(
        image_size=1, patch_size=1, dim=4, layers=layers, heads=1, mlp_hidden=1, norm_eps=1e-6,
        registers=0, layer_scale="blocks.0.ls1.gamma" in weights, positions=rules.positions,
        norm_after_pool=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    with torch.device("meta"):
        needed = set(template.build().state_dict())
    known = needed | ({"rope_embed.periods"} if rules.positions == "rotary" else set())
    missing, unexpected = sorted(needed - set(weights)), sorted(set(weights) - known)
    if missing or unexpected:
        hint = ""
        if any("mlp.w12" in name or "mlp.w1." in name for name in unexpected):
            hint = "; models with a gated MLP (SwiGLU) are not supported"
        raise ValueError(
            f"{file} does not match format {format!r}: missing {missing}, unexpected {unexpected}, "
            f"dropped by name {[f'{name}*' for name in rules.dropped]}{hint}"
        )
    return layers


def _check_layout(file: Path, format: str, weights: Mapping[str, Tensor], rules: Format) -> None:
    """Raise an error if the names match, but the architecture is that of another format."""
    scaled, registers = "blocks.0.ls1.gamma" in weights, weights["reg_token"].shape[1] > 0
    parts = []
    if rules.layer_scale is not None and scaled != rules.layer_scale:
        parts.append(f"{'with' if scaled else 'without'} layer scale (ls1, ls2)")
    if registers and not rules.registers:
        parts.append("with registers")
    if parts:
        rotary = rules.positions == "rotary"
        fitting = [
            name
            for name, other in FORMATS.items()
            if (other.positions == "rotary") == rotary
            and other.layer_scale in (scaled, None)
            and (other.registers or not registers)
        ]
        raise ValueError(
            f"{file} is not a file of format {format!r}: it is a transformer "
            f"{' and '.join(parts)}, which that family does not have. Its layout is that of "
            f"{', '.join(fitting)}: choose its publisher with format="
        )


def _check_axes(file: Path, weights: Mapping[str, Tensor], rules: Format) -> int | None:
    """Check the number of axes of weights, and return the number of patches per image side.

    This number is that of a learned position embedding; None if the embedding is not learned.
    """
    for name, axes in (("patch_embed.proj.weight", 4), ("cls_token", 3), ("reg_token", 3)):
        if weights[name].ndim != axes:
            raise ValueError(f"{file}: {name} must have {axes} axes, got {weights[name].shape}")
    if rules.positions != "learned":
        return None
    slots, registers = weights["pos_embed"].shape[1], weights["reg_token"].shape[1]
    return _positions_side(file, slots, registers, rules)


def _build(
    file: Path, format: str, config: VitConfig, weights: Mapping[str, Tensor]
) -> VisionTransformer:
    """Build the transformer, and load its weights.

    Raises:
        ValueError: weights have wrong shapes; the message lists them.
    """
    with torch.device("meta"):
        transformer = config.build()
    wrong = [
        f"{name} {tuple(weights[name].shape)}, needed {tuple(tensor.shape)}"
        for name, tensor in transformer.state_dict().items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"{file} does not match format {format!r}: {'; '.join(wrong)}")
    transformer.load_state_dict(
        {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()},
        assign=True,  # the tensors are copies: the mapped file may be deleted later
    )
    return transformer


def _heads(rules: Format, dim: int) -> int:
    if rules.head_dim is not None:
        return max(1, dim // rules.head_dim)
    if dim in HEADS:
        return HEADS[dim]
    known = ", ".join(f"{width}: {count}" for width, count in HEADS.items())
    counts = (
        "MVP's code uses 12, its paper says 6, DeiT's and timm's ViT-S have 6"
        if dim == 384
        else f"the published models have {known}"
    )
    raise ValueError(
        f"heads= is required: the weights do not determine it, and at width {dim} {counts}"
    )


def _positions_side(file: Path, slots: int, registers: int, rules: Format) -> int:
    """Return the number of patches per image side in a position embedding with `slots` rows."""
    for prefix in _prefixes(registers, rules):
        side = math.isqrt(max(0, slots - prefix))
        if side and side**2 == slots - prefix:
            return side
    raise ValueError(
        f"{file}: pos_embed has {slots} slots, which is not a square number of patches plus CLS"
    )


def _prefixes(registers: int, rules: Format) -> tuple[int, ...]:
    """Return the possible numbers of rows of a position embedding before those of patches.

    There are several, because timm's models differ.
    """
    return tuple(dict.fromkeys((1, 1 + registers, 0))) if rules is FORMATS["timm"] else (1,)


def _positions(
    embedding: Float[Tensor, "1 p d"], native: int, config: VitConfig, rules: Format
) -> Float[Tensor, "1 t d"]:
    """Return a position embedding for all t tokens, resized to the number of patches."""
    embedding = embedding.float()
    prefix = embedding.shape[1] - native**2
    slots = embedding.new_zeros(1, 1 + config.registers, config.dim)
    slots[:, :prefix] = embedding[:, :prefix]
    grid = embedding[:, prefix:].transpose(1, 2).unflatten(2, (native, native))  # 1 d i j
    side = config.side
    if side != native:
        size = (side, side)
        if rules.resize == "bicubic":
            grid = interpolate(grid, size=size, mode="bicubic")
        elif rules.resize == "antialiased" or config.registers:
            grid = interpolate(grid, size=size, mode="bicubic", antialias=True)
        else:
            # DINOv2 without registers was trained and published with this offset of 0.1 patches
            grid = interpolate(grid, scale_factor=(side + 0.1) / native, mode="bicubic")
    return torch.cat([slots, grid.flatten(2).transpose(1, 2)], dim=1)


def _warn_of_resizing(file: Path, native: int | None, config: VitConfig) -> None:
    if native != config.side:
        warnings.warn(
            f"{file} was trained on {native} x {native} patches and is used on {config.side} x "
            f"{config.side}: the positions are resized as in DINOv2's own code; transformers "
            "resizes them differently for models without registers, by up to 2 % of the features",
            UserWarning,
            stacklevel=3,
        )


def _check_periods(file: Path, periods: Tensor, config: VitConfig) -> None:
    expected = rotary_periods(config.dim // config.heads)
    # 1 %: files may hold them in bfloat16
    if periods.shape != expected.shape or not torch.allclose(periods.float(), expected, rtol=0.01):
        raise ValueError(
            f"{file}: the rotary periods do not match {config.heads} heads: "
            f"{periods.tolist()}, expected {expected.tolist()}"
        )
