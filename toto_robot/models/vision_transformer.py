"""The vision transformer (arXiv 2010.11929) of the baseline encoders in one file.

It has a CLS token, norms before each sublayer, GELU, and biases in all projections. It also
supports later additions: layer scale (DINOv2, arXiv 2304.07193), registers (arXiv 2309.16588) and
rotary positions (DINOv3, arXiv 2508.10104).

Shapes: b batch, t tokens (CLS, registers, patches), n patches, d width, h heads, r head width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .causal import layer_index

__all__ = ["Block", "Channels", "VisionTransformer", "VitConfig", "rotary_periods"]

ROPE_BASE = 100.0  # DINOv3

Channels = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """Sizes of a vision transformer, and the size and colour statistics of its input images.

    Attributes:
        image_size: side of the square to which a frame is resized, pixels.
        patch_size: side of a patch, pixels.
        dim: width of the residual stream.
        layers: number of blocks.
        heads: number of attention heads. It cannot be derived from the shapes of the weights.
        mlp_hidden: hidden width of the MLP.
        norm_eps: epsilon of LayerNorm.
        registers: number of register tokens between CLS and the patches.
        layer_scale: true if learned gains scale the output of attention and of the MLP.
        positions: `learned` adds a learned vector to each token. `rotary` (DINOv3) rotates the
            queries and keys of the patches.
        norm_after_pool: true if the last norm is applied after pooling (`fc_norm` of fine-tuned
            MAEs).
        mean: values that are subtracted from the red, green and blue channels, which are in [0, 1].
        std: values by which the red, green and blue channels are divided after `mean` is
            subtracted.
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
        """Check that the sizes are consistent."""
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
        """Number of patches along a side of the image."""
        return self.image_size // self.patch_size

    def build(self) -> "VisionTransformer":
        """Build the model with initialised weights."""
        return VisionTransformer(self)


class VisionTransformer(nn.Module):
    """A pre-norm transformer over the patches of one image.

    Parameters have the same names as in the library timm, whose files can be loaded. `pos_embed`
    has an entry for each token: CLS, registers, patches. Entries that a file does not have are
    zero.
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
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all weights.

        Matrices, the CLS and register tokens and the positions are drawn from a normal distribution
        with standard deviation 0.02. Biases are 0. The weights of norms and layer scales are 1.
        """
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
        """Return the residual stream after each of the given layers.

        Blocks after the deepest given layer are not run, to save time. No norm is applied.

        Args:
            images: images of side s = `image_size`, normalised with `mean` and `std`.
            layers: numbers of the layers. 0 is the embedding with its positions, k is the output of
                block k, and -1 is the output of the last block.

        Raises:
            ValueError: a layer does not exist.
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
        """Convert a layer number, which may be negative, to the number counted from layer 0.

        Raises:
            ValueError: the layer does not exist. The message lists the existing layers.
        """
        return layer_index(layer, self.config.layers)


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """A block of attention and an MLP.

    Each of the two reads the normalised tokens, and adds its output to the tokens.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attn = _Attention(config)
        self.ls1 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = _Mlp(config)
        self.ls2 = _LayerScale(config.dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the tokens [b t d] after this block.

        Args:
            x: the tokens before this block, [b t d].
            angles: cosines and sines of the rotary positions of the patches. None: the positions
                are not rotary.
        """
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


def rotary_periods(head_dim: int) -> Tensor:
    """Return the periods of DINOv3's rotary positions, shape [r/4] for heads of width r."""
    return ROPE_BASE ** (torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim / 4))


def _angles(config: VitConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rotary cosines and sines [n r] of all n patches, in float32.

    Positions are the centres of the patches, in [-1, 1]. One half of the pairs of a head rotates
    with the row of the patch, and the other half rotates with the column.
    """
    centres = (torch.arange(config.side, device=device) + 0.5) / config.side * 2 - 1
    grid = torch.cartesian_prod(centres, centres)  # n 2
    periods = rotary_periods(config.dim // config.heads).to(device)
    angles = (2 * math.pi * grid[:, :, None] / periods).flatten(1).tile(2)  # n r
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the queries or keys [b h t r] of the patches. CLS and registers are unchanged."""
    cos, sin = angles
    prefix = x.shape[2] - len(cos)
    patches = x[:, :, prefix:].float()
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([x[:, :, :prefix], turned.to(x.dtype)], dim=2)
