"""Plain vision transformers behind the encoder's contract: what a Toto is compared with.

    encoder = load_encoder("mae_pretrain_egosoup_vit_base.pth", format="mvp")
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]

frames -> resize, statistics -> patches -> transformer, stopped at a layer -> norm -> pool ->
embedding

Preprocessing belongs to the encoder: a whole frame of any size is resized to a square by
antialiased bicubic interpolation, without a crop, and gets the statistics that the model wants.
The transformer is that of Dosovitskiy et al. (arXiv 2010.11929), with what its descendants added:
layer scale, registers (arXiv 2309.16588) and rotary positions (DINOv3, arXiv 2508.10104).

Shapes: b batch, t tokens (CLS, registers, patches), n patches, d width, r head width.
"""

import argparse
import hashlib
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

from .checkpoint import weights_hash
from .config import to_dict
from .pooling import AttentionPool, build_pool
from .tokenizers.tokenizer import check_frames

__all__ = ["FORMATS", "STATISTICS", "VisionTransformer", "VitConfig", "VitEncoder", "load_vit"]

Channels = tuple[float, float, float]

# mean and standard deviation of red, green and blue in [0, 1]
STATISTICS: Mapping[str, tuple[Channels, Channels]] = MappingProxyType(
    {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's documentation
        "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # AugReg's and SigLIP's weights in timm
    }
)

# heads of the published ViTs of these widths; 384 is missing, since two counts were published
HEADS = MappingProxyType({192: 3, 768: 12, 1024: 16, 1280: 16})

ROPE_BASE = 100.0  # DINOv3, arXiv 2508.10104

VIT_POOLS = "cls, cls_before_norm, mean, attention, grid<k> (grid2: 2 x 2 cells)"


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """Sizes of a vision transformer, and the pictures that it wants.

    Attributes:
        image_size: side of the square that a frame is resized to, pixels.
        patch_size: side of a patch, pixels.
        dim: width of the residual stream.
        layers: number of blocks.
        heads: attention heads. The weights do not tell.
        mlp_hidden: hidden width of the MLP.
        norm_eps: epsilon of LayerNorm.
        registers: tokens between CLS and the patches.
        layer_scale: whether each branch is scaled by learned gains.
        positions: learned and added, or rotary (DINOv3), on patches alone.
        norm_after_pool: whether the last norm is that of averages (MAE's fine-tuned `fc_norm`).
        mean: of red, green and blue in [0, 1], subtracted.
        std: of red, green and blue in [0, 1], divided by.
    """

    image_size: int
    patch_size: int
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    norm_eps: float
    registers: int
    layer_scale: bool
    positions: Literal["learned", "rotary"]
    norm_after_pool: bool
    mean: Channels
    std: Channels

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit one another."""
        for name in ("image_size", "patch_size", "dim", "layers", "heads", "mlp_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of the patch size {self.patch_size}, "
                f"got {self.image_size}"
            )
        divisor = self.heads * (4 if self.positions == "rotary" else 1)
        if self.dim % divisor:
            raise ValueError(
                f"{self.heads} heads do not divide the width {self.dim}"
                + (" into multiples of 4, as rotary positions need" if divisor > self.heads else "")
            )

    @property
    def side(self) -> int:
        """Patches along a side of the picture."""
        return self.image_size // self.patch_size

    def build(self) -> "VisionTransformer":
        """Return the module with fresh weights."""
        return VisionTransformer(self)


class VisionTransformer(nn.Module):
    """Pre-norm transformer over the patches of one picture.

    Parameters have the names of the released files (timm's). `pos_embed` has a slot for each token:
    CLS, registers, patches; slots that a file does not have are zero.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        dim, size = config.dim, config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, dim))
        tokens = 1 + config.registers + config.side**2
        self.pos_embed = (
            nn.Parameter(torch.empty(1, tokens, dim)) if config.positions == "learned" else None
        )
        self.patch_embed = _PatchEmbed(dim, size)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw fresh weights: tokens, positions and matrices from N(0, 0.02), biases zero."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def hidden(
        self, images: Float[Tensor, "b 3 s s"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream after the layers asked for, and stop at the deepest of them.

        Args:
            images: of side `image_size`, with the model's statistics.
            layers: 0 is the embedding with its positions, k the output of block k, -1 the last
                block. No norm is applied.

        Raises:
            ValueError: a layer that does not exist.
        """
        wanted = [self.layer_index(layer) for layer in layers]
        patches = self.patch_embed(images)  # b n d
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(images), -1, -1)
        x = torch.cat([prefix, patches], dim=1)  # b t d
        angles = None
        if self.pos_embed is None:
            angles = _angles(self.config, x.device)
        else:
            x = x + self.pos_embed
        outputs = {0: x}
        for k in range(1, max(wanted, default=0) + 1):
            x = self.blocks[k - 1](x, angles)
            outputs[k] = x
        return tuple(outputs[k] for k in wanted)

    def layer_index(self, layer: int) -> int:
        """Return `layer` counted from 0, or say which layers exist."""
        depth = self.config.layers
        index = layer + depth + 1 if layer < 0 else layer
        if not 0 <= index <= depth:
            raise ValueError(
                f"layer {layer} does not exist; 0 (embedding) to {depth} (last), or -1 for the last"
            )
        return index


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attn = _Attention(config)
        self.ls1 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = _Mlp(config)
        self.ls2 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), angles))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # b t 3 h r
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each b h t r
        if angles is not None:
            q, k = _rotate(q, angles), _rotate(k, angles)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_hidden)
        self.fc2 = nn.Linear(config.mlp_hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _periods(head_dim: int) -> Tensor:
    """Return the rotary periods [r/4] of DINOv3."""
    return ROPE_BASE ** (torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim / 4))


def _angles(config: VitConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [n r] of the patches' rotations, in float32.

    The centres of the patches lie in [-1, 1]; half of a head's pairs turn with the row, half with
    the column.
    """
    centres = (torch.arange(config.side, device=device) + 0.5) / config.side * 2 - 1
    grid = torch.cartesian_prod(centres, centres)  # n 2
    periods = _periods(config.dim // config.heads).to(device)
    angles = (2 * math.pi * grid[:, :, None] / periods).flatten(1).tile(2)  # n r
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the patches of queries or keys [b h t r]; CLS and registers, before them, stay."""
    cos, sin = angles
    prefix = x.shape[2] - len(cos)
    patches = x[:, :, prefix:].float()
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([x[:, :, :prefix], turned.to(x.dtype)], dim=2)


class VitEncoder(nn.Module):
    """Frozen first `layer` blocks of a vision transformer, its last norm, and a pool.

    The model's own last norm is applied to features of any layer (as DINOv2's
    `get_intermediate_layers` does), except by the pool `cls_before_norm`. Deeper blocks are not
    run. It is always in eval mode and has no gradients, except those of an attention pool's own
    parameters.

    Attributes:
        dim: width e of the embedding.
        layer: layer that is pooled, counted from 0.
        pool: name of the pool: `cls` (MVP's policies), `cls_before_norm` (what MVP's rollouts
            keep), `mean` of the patches (RPT), `grid<k>` of them, or `attention` over them.
        num_layers: blocks of the whole transformer.
        image_size: side that frames are resized to, pixels.
        tokens_per_frame: patches of one frame, in raster order.
        weights_hash: sha256 of all weights, and of the sizes and statistics that go with them.
        fingerprint: sha256 of that, layer and pool: equal for encoders whose embeddings are
            interchangeable.
    """

    def __init__(self, transformer: VisionTransformer, layer: int, pool: str) -> None:
        super().__init__()
        config = transformer.config
        self.num_layers = config.layers
        self.layer = transformer.layer_index(layer)
        self.pool = pool
        self.image_size = config.image_size
        self.tokens_per_frame = config.side**2
        self.transformer = transformer.requires_grad_(False)
        self.weights_hash = hashlib.sha256(
            (json.dumps(to_dict(config)) + weights_hash(transformer)).encode()
        ).hexdigest()
        self.pooling = _build_pool(pool, config)
        self.dim = config.dim if self.pooling is None else self.pooling.dim
        self.eval()

    @property
    def fingerprint(self) -> str:
        """Hash that two encoders share if their embeddings are interchangeable."""
        parts = f"{self.weights_hash} {self.layer} {self.pool}"
        if isinstance(self.pooling, AttentionPool):
            parts += weights_hash(self.pooling)
        return hashlib.sha256(parts.encode()).hexdigest()

    def train(self, mode: bool = True) -> "VitEncoder":
        """Stay in eval mode, except for the pool: the encoder is frozen."""
        super().train(False)
        if self.pooling is not None:
            self.pooling.train(mode)
        return self

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: neither a numpy array nor a tensor.
            ValueError: wrong dtype, range, channels or number of dimensions; the message says
            which.
        """
        (hidden,) = self.hidden(frames, (self.layer,))
        if self.pooling is None:
            with torch.no_grad():
                cls = hidden[:, 0]
                return (
                    cls if self.pool == "cls_before_norm" else self.transformer.norm(cls)
                ).float()
        pooled = self.pooling(self._patches(hidden))
        if self.transformer.config.norm_after_pool:
            with torch.no_grad():
                cells = pooled.unflatten(1, (-1, self.transformer.config.dim))
                pooled = self.transformer.norm(cells).flatten(1)
        return pooled.float()

    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the patches' features of `layers` (default: the encoder's own), before pooling.

        They have been through the last norm, unless that comes after the pool.
        """
        hidden = self.hidden(frames, (self.layer,) if layers is None else layers)
        return tuple(self._patches(one) for one in hidden)

    @torch.no_grad()
    def hidden(
        self, frames: np.ndarray | Tensor, layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream of all tokens after `layers`: CLS, registers, patches."""
        return self.transformer.hidden(self.preprocess(frames), layers)

    @torch.no_grad()
    def preprocess(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b 3 s s"]:
        """Return what the transformer is given of uint8 RGB frames [b h w 3]."""
        config, weight = self.transformer.config, self.transformer.cls_token
        images = _resize(check_frames(frames).to(weight.device), config.image_size)
        for channel, (mean, std) in enumerate(zip(config.mean, config.std, strict=True)):
            images[:, channel].sub_(mean).div_(std)
        return images.to(weight.dtype)

    def untrained(self, seed: int = 0) -> "VitEncoder":
        """Return the same architecture with fresh random weights: the control of every claim."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return VitEncoder(self.transformer.config.build(), self.layer, self.pool)

    @torch.no_grad()
    def _patches(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b n d"]:
        config = self.transformer.config
        patches = hidden[:, 1 + config.registers :]
        return patches if config.norm_after_pool else self.transformer.norm(patches)


def _resize(frames: UInt8[Tensor, "b h w 3"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Resize as Pillow's antialiased bicubic filter does, and scale to [0, 1]."""
    images = frames.permute(0, 3, 1, 2).float() / 255
    if len(images) == 0:
        return images.new_empty(0, 3, size, size)  # torch's resize refuses an empty batch
    if images.shape[-2:] != (size, size):
        images = interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return images.clamp(0, 1)  # bicubic weights are negative in places


def _build_pool(pool: str, config: VitConfig) -> nn.Module | None:
    """Return the pool over patches; None for those that take CLS."""
    if config.norm_after_pool and pool in ("cls", "attention"):
        raise ValueError(
            f"pool {pool!r}: this model has no norm for single tokens, it was fine-tuned with the "
            "average of its patches (fc_norm); possible: mean, grid<k>, cls_before_norm"
        )
    if pool in ("cls", "cls_before_norm"):
        return None
    if pool == "last" or not re.fullmatch(r"mean|attention|grid[1-9][0-9]*", pool):
        raise ValueError(f"unknown pool {pool!r}; known: {VIT_POOLS}")
    return build_pool(pool, config.dim, config.side**2)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Format:
    """What is known of a family of files.

    Attributes:
        dropped: keys that begin so have no part in features.
        renamed: keys of registers, to ours.
        pool: default pool.
        image_size: default side, pixels; None: that of the position embedding.
        statistics: key of `STATISTICS`; None: the files do not agree, so the caller must say.
        norm_eps: epsilon of LayerNorm.
        head_dim: width of every head; None: it depends on the model.
        resize: how its own code resizes the position embedding to another number of patches.
        positions: learned or rotary.
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


FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        # github.com/facebookresearch/mae: encoder only, whole, in training, or fine-tuned
        "mae": _Format(
            dropped=("mask_token", "decoder_", "decoder.", "head."),
            renamed={},
            pool="mean",
            image_size=None,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=None,
            resize="bicubic",
            positions="learned",
        ),
        # github.com/ir413/mvp: MAE's encoders and one supervised model
        "mvp": _Format(
            dropped=("head.",),
            renamed={},
            pool="cls",
            image_size=None,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=None,
            resize="bicubic",
            positions="learned",
        ),
        # github.com/facebookresearch/dinov2, with and without registers; 64 to a head in all sizes
        "dinov2": _Format(
            dropped=("mask_token",),
            renamed={"register_tokens": "reg_token"},
            pool="cls",
            image_size=224,
            statistics="imagenet",
            norm_eps=1e-6,
            head_dim=64,
            resize="dinov2",
            positions="learned",
        ),
        # github.com/facebookresearch/dinov3, ViT-S, B and L: GELU, 64 to a head, LayerNorm eps 1e-5
        "dinov3": _Format(
            dropped=("mask_token", "local_cls_norm."),  # the second is for local crops in training
            renamed={"storage_tokens": "reg_token"},
            pool="cls",
            image_size=224,
            statistics="imagenet",
            norm_eps=1e-5,
            head_dim=64,
            resize="bicubic",
            positions="rotary",
        ),
        # github.com/huggingface/pytorch-image-models, `VisionTransformer`; also DeiT and DINO
        "timm": _Format(
            dropped=("head.",),
            renamed={},
            pool="cls",
            image_size=None,
            statistics=None,
            norm_eps=1e-6,
            head_dim=None,
            resize="antialiased",
            positions="learned",
        ),
    }
)


def load_vit(
    path: str | Path,
    format: str,
    *,
    layer: int | None = None,
    pool: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VitEncoder:
    """Open a file of weights as it was published. Never touches the network.

    The names may be those of the authors' own files, or those of transformers' (ViTMAE, Dinov2 with
    and without registers, DINOv3ViT).
    Every key of the file is accounted for: it is a weight of the encoder, or it is dropped by name
    (decoder, mask token, classifier; optimizer, epoch, scaler and arguments of a training). A file
    that was cut after a block cannot be told from a shallower model.

    Args:
        path: `.safetensors`, or what `torch.save` wrote (`.pth`), read as data, never as code.
        format: one of `FORMATS`.
        layer: 0 (embedding) to the model's depth, or -1; default: the last.
        pool: see `VitEncoder`; default: `cls`, for MAE `mean`.
        heads: attention heads, which the weights do not tell; default: those of the published
            model of this width, where there is only one.
        image_size: side that frames are resized to, pixels; default: the one trained with, and 224
            for DINOv2 and DINOv3. The position embedding is resized as the format's own code does.
        statistics: `imagenet` or `half`; default: the format's. timm's files need it.
        device: where to run; default: the CPU.
        dtype: of the weights and the computation; default float32. Embeddings are float32 always.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing or unexpected key, or one of the wrong shape (the message lists all),
            a file that holds more than data, or an argument that does not fit.
    """
    file = Path(path)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    rules = FORMATS[format]
    statistics = rules.statistics if statistics is None else statistics
    if statistics not in STATISTICS:
        raise ValueError(
            f"statistics must be one of {list(STATISTICS)}, got {statistics!r}"
            + (f"; files of format {format!r} do not tell" if statistics is None else "")
        )
    weights = _encoder_weights(file, _read(file), rules)
    norm_after_pool = "norm.weight" not in weights and "fc_norm.weight" in weights
    if norm_after_pool:
        weights |= {f"norm.{one}": weights.pop(f"fc_norm.{one}") for one in ("weight", "bias")}
    layers = _check_names(file, format, weights, rules)

    for name, axes in (("patch_embed.proj.weight", 4), ("cls_token", 3), ("reg_token", 3)):
        if weights[name].ndim != axes:
            raise ValueError(f"{file}: {name} must have {axes} axes, got {weights[name].shape}")
    dim, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    registers = weights["reg_token"].shape[1]
    native = None
    if rules.positions == "learned":
        native = _positions_side(file, weights["pos_embed"].shape[1], registers, rules)
    if image_size is None:
        image_size = rules.image_size or (native or 0) * patch_size
    mean, std = STATISTICS[statistics]
    config = VitConfig(
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        layers=layers,
        heads=_heads(rules, dim) if heads is None else heads,
        mlp_hidden=weights["blocks.0.mlp.fc1.weight"].shape[0],
        norm_eps=rules.norm_eps,
        registers=registers,
        layer_scale="blocks.0.ls1.gamma" in weights,
        positions=rules.positions,
        norm_after_pool=norm_after_pool,
        mean=mean,
        std=std,
    )
    if native is not None:
        weights["pos_embed"] = _positions(weights["pos_embed"], native, config, rules)
    if "rope_embed.periods" in weights:
        _check_periods(file, weights.pop("rope_embed.periods"), config)
    with torch.device("meta"):
        transformer = config.build()
    _check_shapes(file, format, weights, transformer)
    transformer.load_state_dict(
        {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()},
        assign=True,  # a copy all the same: the file may be gone while the encoder lives
    )
    if pool is None:
        pool = "mean" if norm_after_pool else rules.pool
    encoder = VitEncoder(transformer, -1 if layer is None else layer, pool)
    return encoder.to(device=device, dtype=dtype)


def _read(file: Path) -> Mapping[str, Any]:
    """Return what a file holds; nothing in it is executed."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, or no file")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file ({error})") from error
    try:
        # MAE's trainings save their arguments as a Namespace: it only holds attributes, and has no
        # hook that unpickling could call; what is in it is still restricted to plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # mapped, so that an optimizer's state, twice the weights, is never read
            data = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a {found[1]}" if found else "something that is not plain data"
        raise ValueError(
            f"{file} holds {what}, which is not opened, since a pickled object may run any code; "
            "where you trust the file, save its state dict alone, as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{file} is not a readable torch file ({error})") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{file} holds a {type(data).__name__}, needed a dict of tensors")
    return data


def _encoder_weights(file: Path, data: Mapping[str, Any], rules: _Format) -> dict[str, Tensor]:
    """Return the encoder's tensors under our names; all else is dropped by name."""
    beside = ("optimizer", "epoch", "scaler", "args")
    state = data
    for container in ("model", "state_dict"):
        if isinstance(data.get(container), Mapping):
            state = data[container]
            if others := sorted(set(data) - {container, *beside}):
                raise ValueError(
                    f"{file}: beside {container!r} there is {others}; known: {list(beside)}"
                )
            break
    if strange := sorted(name for name, value in state.items() if not isinstance(value, Tensor)):
        raise ValueError(f"{file}: {strange} are no tensors; top-level keys: {sorted(data)}")
    weights = {
        rules.renamed.get(name, name): tensor
        for name, tensor in _from_transformers(state).items()
        if not name.startswith(rules.dropped)
    }
    if rules.positions == "rotary":
        for name in [name for name in weights if name.endswith("qkv.bias_mask")]:
            # DINOv3 trains without a key bias: the mask is one, and zero for the keys
            bias, mask = name.removesuffix("_mask"), weights.pop(name)
            if bias in weights:
                weights[bias] = torch.where(mask == 0, 0.0, weights[bias])
    if "cls_token" in weights and "reg_token" not in weights:
        weights["reg_token"] = weights["cls_token"].new_empty(1, 0, weights["cls_token"].shape[-1])
    return weights


# keys of transformers' files (ViTMAE, Dinov2, DINOv3ViT) without a leading `vit.`, to the released
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
    """Give the keys of a file that transformers wrote the released names; leave others alone."""
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


def _check_names(file: Path, format: str, weights: Mapping[str, Tensor], rules: _Format) -> int:
    """Return the number of blocks, or list what is missing and what is too much."""
    indices = [int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))]
    layers = max(indices, default=0) + 1
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
            f"{file} does not fit format {format!r}: missing {missing}, unexpected {unexpected}, "
            f"dropped by name {[f'{name}*' for name in rules.dropped]}{hint}"
        )
    return layers


def _check_shapes(
    file: Path, format: str, weights: Mapping[str, Tensor], transformer: VisionTransformer
) -> None:
    wrong = [
        f"{name} {tuple(weights[name].shape)}, needed {tuple(tensor.shape)}"
        for name, tensor in transformer.state_dict().items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"{file} does not fit format {format!r}: {'; '.join(wrong)}")


def _heads(rules: _Format, dim: int) -> int:
    if rules.head_dim is not None:
        return max(1, dim // rules.head_dim)
    if dim in HEADS:
        return HEADS[dim]
    known = ", ".join(f"{width}: {count}" for width, count in HEADS.items())
    says = (
        "MVP's code uses 12, its paper says 6, DeiT's and timm's ViT-S have 6"
        if dim == 384
        else f"the published models have {known}"
    )
    raise ValueError(f"say heads=: the weights do not tell it, and at width {dim} {says}")


def _positions_side(file: Path, slots: int, registers: int, rules: _Format) -> int:
    """Return the patches along a side for which a position embedding was made."""
    for prefix in _prefixes(registers, rules):
        side = math.isqrt(max(0, slots - prefix))
        if side and side**2 == slots - prefix:
            return side
    raise ValueError(f"{file}: pos_embed has {slots} slots, which is no square of patches and CLS")


def _prefixes(registers: int, rules: _Format) -> tuple[int, ...]:
    """Return how many slots there may be before those of patches; timm's models differ."""
    return tuple(dict.fromkeys((1, 1 + registers, 0))) if rules is FORMATS["timm"] else (1,)


def _positions(
    embedding: Float[Tensor, "1 p d"], native: int, config: VitConfig, rules: _Format
) -> Float[Tensor, "1 t d"]:
    """Return a slot for every token, with the patches' grid resized to the picture's."""
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
            # DINOv2 without registers was trained and released with this offset of 0.1 patches
            grid = interpolate(grid, scale_factor=(side + 0.1) / native, mode="bicubic")
    return torch.cat([slots, grid.flatten(2).transpose(1, 2)], dim=1)


def _check_periods(file: Path, periods: Tensor, config: VitConfig) -> None:
    expected = _periods(config.dim // config.heads)
    # 1 %: files may hold them in bfloat16
    if periods.shape != expected.shape or not torch.allclose(periods.float(), expected, rtol=0.01):
        raise ValueError(
            f"{file}: the rotary periods are not those of {config.heads} heads and base "
            f"{ROPE_BASE:g}: {periods.tolist()}, needed {expected.tolist()}"
        )
