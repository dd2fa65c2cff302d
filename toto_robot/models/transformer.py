"""Toto's causal transformer in one file (paper section 3.2: LLaMA-style).

The blocks have RMSNorm before each sublayer, SwiGLU, rotary positions and causal attention. A
key-value cache of earlier tokens is optional. Parameter names and the order of rotary pairs (the
two halves of a head) are the same as in Hugging Face's ``LlamaModel``. `llama_state_dict` converts
the weights to ``LlamaForCausalLM``: it adds the prefix ``model.`` to their names, and multiplies
them by the factors of the maximal update parametrisation (muP).

Shapes: b batch, t time (tokens), d width, h heads, k head width, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from .attention import causal_attention, in_product_precision
from .causal import CausalModel, SequenceLayout, check_sizes, linear_cross_entropy, require_causal

__all__ = [
    "Attention",
    "Block",
    "KeyValueCache",
    "Masked",
    "Memory",
    "SequenceLayout",
    "TotoConfig",
    "TotoTransformer",
    "attention_mask",
    "llama_config",
    "llama_state_dict",
]


Attention = Literal["causal", "prefix", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoConfig(SequenceLayout):
    """Sizes of the transformer (paper section 3.2).

    Attributes:
        dim: width of the residual stream.
        layers: number of blocks.
        heads: number of attention heads. ``dim`` must be a multiple of ``2 * heads``.
        mlp_hidden: hidden width of the SwiGLU MLP. In the paper, the ratio to ``dim`` differs
            between the sizes.
        tie_embeddings: true uses the token embedding also as the output projection.
        rope_base: base of the rotary angles. The paper has 10000, and 50000 for frames of 32 x 32
            tokens (Table 4).
        norm_eps: epsilon of RMSNorm.
        mup_base_dim: width for which the learning rate was tuned. It enables the maximal update
            parametrisation (`models.mup`). null uses the standard parametrisation.
        attention: the tokens to which a token attends in `features`. `causal`: itself and earlier
            tokens. `full`: all tokens of its frame and of earlier frames. `prefix`: all tokens.
            `full` and `prefix` are for fine-tuned models (paper A.2). For a sequence of
            one frame, `full` and `prefix` have equal features. `loss` does not use this setting.
    """

    kind: ClassVar[str] = "llama"
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    tie_embeddings: bool
    rope_base: float
    norm_eps: float
    mup_base_dim: int | None = None
    attention: Attention = "causal"

    def __post_init__(self) -> None:
        """Check that the sizes are consistent."""
        SequenceLayout.__post_init__(self)
        check_sizes(self, "dim", "layers", "heads", "mlp_hidden")
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of 2 * heads = {2 * self.heads}, got {self.dim}"
            )
        if self.mup_base_dim is not None:
            check_sizes(self, "mup_base_dim")

    @property
    def width_factor(self) -> float:
        """Ratio of the width to the muP base width. It is 1 in the standard parametrisation."""
        return self.dim / (self.mup_base_dim or self.dim)

    def build(self) -> "TotoTransformer":
        """Build the model with initialised weights."""
        return TotoTransformer(self)


class TotoTransformer(CausalModel):
    """A causal transformer over visual tokens."""

    config: TotoConfig

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.lm_head = (
            None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        )
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise all weights with the rules of GPT-2.

        Embeddings and matrices are drawn from a normal distribution with standard deviation 0.02.
        In each block, the two matrices that write to the residual stream have a standard deviation
        of 0.02 / sqrt(2 * layers). Norm weights are 1. With muP, the matrices of blocks are divided
        by the square root of `width_factor`, and a separate output projection is zero.
        """
        factor = self.config.width_factor
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
                continue
            if name == "lm_head.weight" and self.config.mup_base_dim is not None:
                nn.init.zeros_(parameter)
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / (2 * self.config.layers) ** 0.5 if writes else 0.02
            if name.startswith("layers."):
                std /= factor**0.5
            nn.init.normal_(parameter, std=std, generator=generator)

    def head_input(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return the normalised output of the last block, divided by `width_factor` (muP)."""
        normed, factor = self.norm(hidden), self.config.width_factor
        return normed if factor == 1 else normed / factor

    def new_memory(self, size: int) -> "KeyValueCache":
        """Return an empty key-value cache with memory for ``size`` tokens.

        Raises:
            ValueError: the attention of the model is not causal.
        """
        require_causal(self.config, "a cache of earlier tokens")
        return KeyValueCache(size)

    def features(
        self, ids: Int64[Tensor, "b t"], layers: Sequence[int], cache: "Memory | None" = None
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream after each of the given layers; see `CausalModel.features`.

        Without a cache, `TotoConfig.attention` determines the tokens to which a token attends.
        """
        if cache is None and self.config.attention != "causal":
            cache = Masked(attention_mask(self.config, ids.shape[1], ids.device))
        return super().features(ids, layers, cache)

    def loss(
        self, ids: Int64[Tensor, "b t"], prefix: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean next-token negative log-likelihood, nats (paper equation 2).

        `TotoConfig.attention` is not used, because its values `full` and `prefix` let a token
        attend to the tokens to be predicted. Attention is causal, except among the first p tokens
        if the argument `prefix` is given.

        Args:
            ids: token ids. The first id is a start token.
            prefix: number p, below t. Each of the first p tokens of a sequence attends to all of
                these p tokens, and none of them is predicted (as in AIM, arXiv 2401.08541). None:
                no such tokens.
        """
        inputs, targets = ids[:, :-1], ids[:, 1:]
        if prefix is None:
            (hidden,) = super().features(inputs, (-1,))
            return self.next_token_loss(hidden, ids)
        place = torch.arange(inputs.shape[1], device=ids.device)
        mask = (place <= place[:, None]) | (place < prefix[:, None, None])  # b query key
        (hidden,) = super().features(inputs, (-1,), Masked(mask[:, None]))
        is_predicted = place >= prefix[:, None] - 1
        return linear_cross_entropy(
            self.head_input(hidden)[is_predicted], self.head_weight, targets[is_predicted]
        )

    def embed(
        self, ids: Int64[Tensor, "b t"], cache: "Memory | None"
    ) -> tuple[Float[Tensor, "b t d"], tuple[tuple[Tensor, Tensor]]]:
        """Return the embedded tokens, and the rotary angles of their positions."""
        hidden = self.embed_tokens(ids)
        if cache is None:
            return hidden, (rope_angles(self.config, 0, ids.shape[1], hidden.device),)
        return hidden, (cache.angles(self.config, ids.shape[1], hidden.device),)


@runtime_checkable
class Memory(Protocol):
    """A cache of earlier tokens, to which new tokens attend."""

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines [t k] and sines [t k] for the positions of t new tokens."""
        ...

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the causal attention of a block.

        Each new token attends to itself and to all tokens before it, both old and new tokens.
        The output is [b h t k], for t new tokens. The new keys and values are stored.
        """
        ...

    def advance(self, num_tokens: int) -> None:
        """Add the new tokens to the number of tokens that all blocks have processed."""
        ...


class KeyValueCache:
    """The keys and values of all processed tokens, for each block.

    Args:
        size: number of tokens for which memory is allocated at first. None allocates memory for
            twice the tokens of the first call. The memory is doubled when it is full.

    Attributes:
        length: number of processed tokens.
    """

    def __init__(self, size: int | None = None) -> None:
        self.length = 0
        self._size = size
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines [t k] and sines [t k] for the positions of t new tokens."""
        return rope_angles(config, self.length, num_tokens, device)

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the attention of a block, and store the new keys and values.

        Each new token attends to itself and to all tokens before it, both old and new tokens.
        The output is [b h t k], for t new tokens.
        """
        num_new, end = q.shape[2], self.length + q.shape[2]
        keys, values = self._allocate(block, k, v, end)
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        keys, values = keys[:, :, :end], values[:, :, :end]
        mask = None
        if self.length and num_new > 1:
            mask = q.new_ones(num_new, end, dtype=torch.bool).tril(self.length)
        return scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, is_causal=not self.length
        )

    def advance(self, num_tokens: int) -> None:
        """Add the new tokens to the length."""
        self.length += num_tokens

    def _allocate(self, block: int, k: Tensor, v: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a block, after allocating memory for ``end`` tokens."""
        pair = self._pairs.get(block)
        if pair is None or pair[0].shape[2] < end:
            size = max(end, self._size or 2 * end) if pair is None else 2 * end
            shape = (*k.shape[:2], size, k.shape[3])
            larger = (k.new_empty(shape), v.new_empty(shape))
            if pair is not None:
                for new, old in zip(larger, pair, strict=True):
                    new[:, :, : self.length] = old[:, :, : self.length]
            self._pairs[block] = pair = larger
        return pair


class Masked:
    """A memory without earlier tokens. A mask replaces causal attention between the tokens.

    Args:
        mask: bool, broadcastable to [b h t t]: whether a token (third dimension) attends to another
            (fourth dimension). None: all attend to all.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = mask

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines [t k] and sines [t k] of a sequence of t tokens."""
        return rope_angles(config, 0, num_tokens, device)

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the attention with the mask; nothing is stored."""
        return scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    def advance(self, num_tokens: int) -> None:
        """Do nothing, because nothing is stored."""


def attention_mask(config: TotoConfig, num_tokens: int, device: torch.device) -> Tensor | None:
    """Return the attention mask of t tokens, bool [t t], or None if all attend to all.

    The entry in row i and column j is True if token i attends to token j.

    The start token, which is one of the t tokens, belongs to the first frame. The attention of the
    config must be `full` or `prefix`.
    """
    if config.attention == "prefix" or num_tokens <= 1 + config.tokens_per_frame:
        return None
    frame = (torch.arange(num_tokens, device=device) - 1).clamp(min=0) // config.tokens_per_frame
    return frame[:, None] >= frame


class Block(nn.Module):
    """A block of attention and a SwiGLU MLP.

    Each of the two reads the normalised tokens, and adds its output to the tokens.
    """

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = _SwiGLU(config)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        memory: Memory | None = None,
        index: int = 0,
    ) -> Tensor:
        """Return the tokens [b t d] after this block.

        Args:
            x: the tokens before this block, [b t d].
            angles: cosines and sines of the rotary positions.
            memory: cache of earlier tokens. None processes ``x`` without earlier tokens.
            index: index of this block in ``memory``.
        """
        x = x + self.self_attn(self.input_layernorm(x), angles, memory, index)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        # With muP, scores fall with the width of a head, and not with its square root.
        self.query_scale = config.width_factor**-0.5
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        memory: Memory | None = None,
        index: int = 0,
    ) -> Tensor:
        x = in_product_precision(x)
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b h t k
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, angles), rotate(k, angles)
        if self.query_scale != 1:
            q = q * self.query_scale
        out = causal_attention(q, k, v) if memory is None else memory.attend(index, q, k, v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class _SwiGLU(nn.Module):
    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.mlp_hidden, bias=False)
        self.up_proj = nn.Linear(config.dim, config.mlp_hidden, bias=False)
        self.down_proj = nn.Linear(config.mlp_hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = in_product_precision(x)
        gate, up = self.gate_proj(x), self.up_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(silu(gate) * up)
        return self.down_proj(
            silu(gate, inplace=True).mul_(up)
        )  # avoids two of the largest tensors


def rope_angles(
    config: TotoConfig, start: int | Tensor, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the rotary cosines and sines of ``length`` positions, from ``start`` on.

    ``start`` is one number, or one number for each sequence of a batch [*b]. Cosines and sines are
    [*b t k]. Angles are computed in float64, because in float32 the error would reach 1e-3 after
    about 10,000 tokens.
    """
    width = config.dim // config.heads
    exponents = -torch.arange(0, width, 2, device=device, dtype=torch.float64) / width
    starts = torch.as_tensor(start, device=device, dtype=torch.float64)
    positions = starts[..., None] + torch.arange(length, device=device, dtype=torch.float64)
    angles = positions[..., None] * config.rope_base**exponents
    angles = torch.cat([angles, angles], dim=-1)  # half-split layout
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys [b h t k] by rotary angles, given as cosines and sines."""
    cos, sin = (a.to(x.dtype) for a in angles)
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def llama_config(config: TotoConfig) -> dict[str, Any]:
    """Return the arguments of Hugging Face's ``LlamaConfig`` for the same architecture."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tie_embeddings,
    }


def llama_state_dict(model: TotoTransformer) -> dict[str, Tensor]:
    """Return the weights under the names of Hugging Face's ``LlamaForCausalLM``.

    ``LlamaForCausalLM`` has no muP. Therefore the weights of the queries and of the last norm are
    multiplied by the factors of muP.
    """
    factor = model.config.width_factor
    weights = {}
    for name, tensor in model.state_dict().items():
        if factor != 1 and name.endswith("q_proj.weight"):
            tensor = tensor * factor**-0.5
        if factor != 1 and name == "norm.weight":
            tensor = tensor / factor
        weights[name if name.startswith("lm_head") else f"model.{name}"] = tensor
    return weights
