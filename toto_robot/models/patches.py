"""A Toto whose input is image patches instead of discrete tokens, in one file (paper Table 3).

    start | patches of frame 1 | patches of frame 2 | ...

One linear layer embeds the pixels of each patch. There are two kinds of prediction. ``patch-patch``
predicts the normalised pixels of the next patch, with the mean squared error (as in AIM, El-Nouby
et al. 2024). ``patch-dVAE`` predicts the code that a discrete tokenizer assigns to the next patch,
with the cross entropy. The blocks are the same as in the Toto over discrete tokens.

Shapes: b batch, f frames, h and w height and width of a frame, n patches of a frame, m = f n
patches of a sequence, t = 1 + f n tokens, c values of a patch, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..tokenizers.patch import normalise_patches, to_patches
from ..tokenizers.tokenizer import frames_to_unit
from .causal import check_sizes, layer_index, linear_cross_entropy
from .transformer import Block, TotoConfig, rope_angles

__all__ = ["PatchConfig", "PatchTransformer", "patch_flops"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """Sizes of a transformer over patches.

    Attributes:
        image_size: side of the square to which a frame is resized, pixels.
        patch_size: side of a patch, pixels.
        frames: number of frames in a training sequence.
        target_codes: number of codes of the discrete tokenizer whose codes the model predicts. The
            tokenizer must have one token for each patch. null predicts normalised pixels instead.
        dim: width of the residual stream.
        layers: number of blocks.
        heads: number of attention heads. ``dim`` must be a multiple of ``2 * heads``.
        mlp_hidden: hidden width of the SwiGLU MLP.
        rope_base: base of the rotary angles.
        norm_eps: epsilon of RMSNorm.
    """

    image_size: int
    patch_size: int
    frames: int
    target_codes: int | None
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    rope_base: float
    norm_eps: float

    def __post_init__(self) -> None:
        """Check that the sizes are consistent."""
        check_sizes(self, "image_size", "patch_size", "frames")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of the patch size {self.patch_size}, "
                f"got {self.image_size}"
            )
        if self.target_codes is not None:
            check_sizes(self, "target_codes")
        _ = self.trunk  # checks the other sizes

    @property
    def tokens_per_frame(self) -> int:
        """Number of patches of a frame."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def numbers(self) -> int:
        """Number of values of a patch. Each pixel has three values: red, green and blue."""
        return 3 * self.patch_size**2

    @property
    def outputs(self) -> int:
        """Number of predicted values per patch: its pixel values, or one logit for each code."""
        return self.numbers if self.target_codes is None else self.target_codes

    @property
    def trunk(self) -> TotoConfig:
        """Sizes of the transformer blocks, which are the blocks of `TotoTransformer`."""
        return TotoConfig(
            codes=1,
            tokens_per_frame=self.tokens_per_frame,
            frames=self.frames,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            mlp_hidden=self.mlp_hidden,
            tie_embeddings=True,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
        )

    def build(self) -> "PatchTransformer":
        """Build the model with initialised weights."""
        return PatchTransformer(self)


class PatchTransformer(nn.Module):
    """A causal transformer over patches.

    Attributes:
        config: sizes of the model.
        layers: the blocks, the first block first. Training shards, compiles and recomputes each
            block separately.
    """

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.empty(config.dim))
        self.embed_patches = nn.Linear(config.numbers, config.dim)
        self.layers = nn.ModuleList(Block(config.trunk) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = nn.Linear(config.dim, config.outputs, bias=False)
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise all weights as in `TotoTransformer.init_weights`. Biases are zero."""
        for name, parameter in self.named_parameters():
            if name == "start":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * self.config.layers) ** 0.5 if writes else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)

    def features(
        self, frames: UInt8[Tensor, "b f h w 3"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream after each of the given layers. Token 0 is the start token.

        Blocks after the deepest given layer are not run, to save time. No norm is applied.

        Args:
            frames: frames of any height and width. They are resized to `image_size`.
            layers: numbers of the layers. 0 is the embedding, k is the output of block k, and -1
                is the output of the last block.

        Raises:
            ValueError: a layer does not exist, or there are more frames than in training.
        """
        return self._run(self._patches(frames), layers)

    def layer_index(self, layer: int) -> int:
        """Convert a layer number, which may be negative, to the number counted from layer 0.

        Raises:
            ValueError: the layer does not exist. The message lists the existing layers.
        """
        return layer_index(layer, self.config.layers)

    def loss(
        self, frames: UInt8[Tensor, "b f h w 3"], codes: Int64[Tensor, "b m"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the predicted next patch.

        The loss is a mean squared error if the model predicts pixels, and a cross entropy in nats
        if it predicts codes.

        Args:
            frames: frames of any height and width. They are resized to `image_size`.
            codes: code of each patch. None if the model predicts pixels.

        Raises:
            ValueError: ``codes`` is None although the model predicts codes, or ``codes`` is not
                None although the model predicts pixels.
        """
        if (codes is None) != (self.config.target_codes is None):
            raise ValueError(
                f"target_codes is {self.config.target_codes}: pass codes if and only if they are "
                "predicted"
            )
        patches = self._patches(frames)
        (hidden,) = self._run(patches[:, :-1], (-1,))
        found = self.norm(hidden)  # b m d
        if codes is None:
            return mse_loss(self.head(found).float(), normalise_patches(patches))
        return linear_cross_entropy(found.flatten(0, 1), self.head.weight, codes.flatten())

    def _patches(self, frames: Tensor) -> Float[Tensor, "b m c"]:
        """Return the pixel values of all patches of each sequence, in [-1, 1]."""
        if not 1 <= frames.shape[1] <= self.config.frames:
            raise ValueError(
                f"a sequence must have 1 to {self.config.frames} frames, as in training, "
                f"got {frames.shape[1]}"
            )
        images = frames_to_unit(frames.flatten(0, 1), self.config.image_size, torch.float32)
        patches = to_patches(images * 2 - 1, self.config.patch_size)
        return patches.unflatten(0, tuple(frames.shape[:2])).flatten(1, 2)

    def _run(self, patches: Float[Tensor, "b m c"], layers: Sequence[int]) -> tuple[Tensor, ...]:
        wanted = [self.layer_index(layer) for layer in layers]
        tokens = self.embed_patches(patches.to(self.embed_patches.weight.dtype))
        start = self.start.to(tokens.dtype).expand(len(tokens), 1, -1)
        x = torch.cat([start, tokens], dim=1)  # b t d
        angles = rope_angles(self.config.trunk, 0, x.shape[1], x.device)
        outputs = {0: x}
        for k in range(1, max(wanted, default=0) + 1):
            x = self.layers[k - 1](x, angles)
            outputs[k] = x
        return tuple(outputs[k] for k in wanted)


def patch_flops(config: PatchConfig, frames: int) -> float:
    """Return the floating-point operations per training patch, forward and backward.

    `model_flops` explains the rules of the count.
    """
    block = 4 * config.dim**2 + 3 * config.dim * config.mlp_hidden
    weights = config.layers * block + config.dim * (config.numbers + config.outputs)
    attention = 6 * config.layers * config.dim * frames * config.tokens_per_frame
    return float(6 * weights + attention)
