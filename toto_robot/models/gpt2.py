"""GPT-2 with fixed sine-cosine positions in one file (paper section 4.1, Table 6).

The blocks have LayerNorm before each sublayer, GELU and biases. Positions are absolute: the model
adds the sines and cosines of Vaswani et al. (2017) to the token embeddings. The sines and cosines
are not trained. Their scale equals the scale of the initial token embeddings.

Shapes: b batch, t time (tokens), d width, h heads, k head width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .causal import CausalModel, SequenceLayout, check_sizes
from .transformer import KeyValueCache

__all__ = ["Gpt2Config", "Gpt2Transformer", "sine_positions"]

STD = 0.02
POSITION_BASE = 10000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt2Config(SequenceLayout):
    """Sizes of a GPT-2. As in the original, the token embedding is also the output projection.

    Attributes:
        dim: width of the residual stream, even.
        layers: number of blocks.
        heads: number of attention heads, a divisor of ``dim``.
        mlp_hidden: hidden width of the MLP, 4 * dim in the original.
        norm_eps: epsilon of LayerNorm.
    """

    kind: ClassVar[str] = "gpt2"
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    norm_eps: float

    def __post_init__(self) -> None:
        """Check that the sizes are consistent."""
        SequenceLayout.__post_init__(self)
        check_sizes(self, "dim", "layers", "heads", "mlp_hidden")
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(
                f"dim must be even and a multiple of heads = {self.heads}, got {self.dim}"
            )

    def build(self) -> "Gpt2Transformer":
        """Build the model with initialised weights."""
        return Gpt2Transformer(self)


class Gpt2Transformer(CausalModel):
    """A GPT-2 over visual tokens."""

    config: Gpt2Config

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.lm_head = None
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise all weights with the rules of GPT-2.

        Embeddings and matrices are drawn from a normal distribution with standard deviation 0.02.
        In each block, the two matrices that write to the residual stream have a standard deviation
        of 0.02 / sqrt(2 * layers). Biases are 0, and norm weights are 1.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                writes = name.endswith("c_proj.weight")
                std = STD / (2 * self.config.layers) ** 0.5 if writes else STD
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def head_input(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the normalised output of the last block."""
        return self.norm(hidden)

    def new_memory(self, size: int) -> KeyValueCache:
        """Return an empty key-value cache with memory for ``size`` tokens."""
        return KeyValueCache(size)

    def embed(
        self, ids: Int64[Tensor, "b t"], cache: KeyValueCache | None
    ) -> tuple[Float[Tensor, "b t d"], tuple[()]]:
        """Return the sum of the embeddings of tokens and positions.

        Raises:
            ValueError: the sequence is longer than the sequences of the training.
        """
        start = 0 if cache is None else cache.length
        if start + ids.shape[1] > self.config.context:
            raise ValueError(
                f"positions are absolute: there are {self.config.context}, "
                f"asked for {start + ids.shape[1]}"
            )
        tokens = self.embed_tokens(ids)
        positions = sine_positions(start, ids.shape[1], self.config.dim, tokens.device)
        return tokens + positions.to(tokens.dtype), ()


class _Block(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attn = _Attention(config)
        self.ln_2 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, memory: KeyValueCache | None = None, index: int = 0) -> Tensor:
        x = x + self.attn(self.ln_1(x), memory, index)
        return x + self.mlp(self.ln_2(x))


class _Attention(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.dim, 3 * config.dim)
        self.c_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, memory: KeyValueCache | None, index: int) -> Tensor:
        qkv = self.c_attn(x).unflatten(-1, (3, self.heads, -1))  # b t 3 h k
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each b h t k
        if memory is None:
            out = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            out = memory.attend(index, q, k, v)
        return self.c_proj(out.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.dim, config.mlp_hidden)
        self.c_proj = nn.Linear(config.mlp_hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(gelu(self.c_fc(x), approximate="tanh"))


def sine_positions(start: int, length: int, dim: int, device: torch.device) -> Float[Tensor, "t d"]:
    """Return the position vectors of ``length`` tokens from position ``start`` on.

    A vector of width d has d/2 sines, then d/2 cosines. The root mean square of the vectors equals
    the standard deviation of the initial token embeddings.
    """
    rates = POSITION_BASE ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
    places = torch.arange(start, start + length, device=device, dtype=torch.float64)
    angles = places[:, None] * rates
    return (torch.cat([angles.sin(), angles.cos()], dim=1) * (STD * 2**0.5)).float()
