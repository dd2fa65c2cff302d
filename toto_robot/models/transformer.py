"""Toto's causal transformer, told in one file (paper section 3.2: LLaMA-style).

Pre-norm RMSNorm, SwiGLU, rotary positions, causal attention, next-token loss, key-value cache. The
parameter names and the half-split rotary layout are those of Hugging Face's ``LlamaModel``, so
weights go over by renaming alone (`llama_state_dict`).

Shapes: b batch, t time (tokens), d width, h heads, k head width, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu

__all__ = [
    "KeyValueCache",
    "Memory",
    "TotoConfig",
    "TotoTransformer",
    "llama_config",
    "llama_state_dict",
]

SPECIAL_TOKENS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoConfig:
    """Sizes of the transformer and the rules of its sequences (paper sections 3.2 and 3.4).

    Attributes:
        codes: vocabulary of the tokenizer. Its ids come first; the three special ids follow (the
            paper's ``[1] [2] [3]`` would collide with codes 1 to 3): ``start_video = codes``,
            ``end = codes + 1``, ``start_image = codes + 2``.
        dim: width of the residual stream.
        layers: number of blocks.
        heads: attention heads; ``dim`` is a multiple of ``2 * heads``.
        mlp_hidden: hidden width of SwiGLU. The paper's sizes use different ratios to ``dim``.
        tie_embeddings: share the input embedding with the output projection.
        tokens_per_frame: tokens of one frame, 256 at 128 px.
        frames: frames of one training sequence, 16 in the paper.
        rope_base: base of the rotary angles; 10000, or 50000 at 32 x 32 tokens (Table 4).
        norm_eps: epsilon of RMSNorm.
    """

    codes: int
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    tie_embeddings: bool
    tokens_per_frame: int
    frames: int
    rope_base: float
    norm_eps: float

    def __post_init__(self) -> None:
        """Refuse sizes that no attention head can have."""
        for name in ("codes", "dim", "layers", "heads", "mlp_hidden", "tokens_per_frame", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of 2 * heads = {2 * self.heads}, got {self.dim}"
            )

    @property
    def start_video(self) -> int:
        """Id of the token that starts a sequence of video frames."""
        return self.codes

    @property
    def end(self) -> int:
        """Id of the token that ends every sequence."""
        return self.codes + 1

    @property
    def start_image(self) -> int:
        """Id of the token that starts a sequence of unrelated images."""
        return self.codes + 2

    @property
    def vocab_size(self) -> int:
        """Codes and special tokens."""
        return self.codes + SPECIAL_TOKENS

    @property
    def context(self) -> int:
        """Trained length: start token, all frames and the end token."""
        return self.frames * self.tokens_per_frame + 2

    def build(self) -> "TotoTransformer":
        """Return the module with fresh weights."""
        return TotoTransformer(self)


class TotoTransformer(nn.Module):
    """Causal transformer over visual tokens."""

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.lm_head = (
            None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        )
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights.

        Embeddings and all matrices from N(0, 0.02); the two matrices of a block that write into the
        residual stream from N(0, 0.02 / sqrt(2 * layers)) (GPT-2's rule); norms are one.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / (2 * self.config.layers) ** 0.5 if writes else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)

    def forward(
        self, ids: Int64[Tensor, "b t"], cache: "Memory | None" = None
    ) -> Float[Tensor, "b t v"]:
        """Return next-token logits; with ``cache``, of the new tokens after those already in it."""
        (hidden,) = self.features(ids, layers=(-1,), cache=cache)
        return self.logits(hidden)

    def logits(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b t v"]:
        """Return the next-token logits of the last block's output."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return linear(self.norm(hidden), weight)

    def features(
        self, ids: Int64[Tensor, "b t"], layers: Sequence[int], cache: "Memory | None" = None
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream after the layers asked for, and stop at the deepest of them.

        Args:
            ids: token ids, starting with a start token.
            layers: 0 is the token embedding, k the output of block k, -1 the last block. No norm
                is applied.
            cache: keys and values of the tokens before ``ids``; it is extended by ``ids``. Every
                call on one cache must reach the same depth.

        Raises:
            ValueError: a layer that does not exist.
        """
        wanted = [self.layer_index(layer) for layer in layers]
        hidden = self.embed_tokens(ids)  # b t d
        memory = _Causal() if cache is None else cache
        angles = memory.angles(self.config, ids.shape[1], hidden.device)
        outputs = {0: hidden}
        for k in range(1, max(wanted, default=0) + 1):
            hidden = self.layers[k - 1](hidden, angles, memory, k - 1)
            outputs[k] = hidden
        memory.advance(ids.shape[1])
        return tuple(outputs[k] for k in wanted)

    def layer_index(self, layer: int) -> int:
        """Return ``layer`` counted from 0, or say which layers exist."""
        depth = self.config.layers
        index = layer + depth + 1 if layer < 0 else layer
        if not 0 <= index <= depth:
            raise ValueError(
                f"layer {layer} does not exist; 0 (embedding) to {depth} (last), or -1 for the last"
            )
        return index

    def loss(self, ids: Int64[Tensor, "b t"]) -> Float[Tensor, ""]:
        """Return the mean next-token negative log-likelihood, nats (paper equation 2)."""
        logits = self(ids[:, :-1])
        return cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@runtime_checkable
class Memory(Protocol):
    """What new tokens attend to beside themselves."""

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines [t k] of the new tokens' positions."""
        ...

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return what one block's new tokens [b h t k] make of all that they may see."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Note that all blocks asked for have seen the new tokens."""
        ...


class _Causal:
    """No past: tokens see each other, causally."""

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return rope_angles(config, 0, num_tokens, device)

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    def advance(self, num_tokens: int) -> None:
        pass


class KeyValueCache:
    """Keys and values of the tokens seen so far, one pair a block; they grow with each call."""

    def __init__(self) -> None:
        self.length = 0
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the rotary angles of the positions after those already seen."""
        return rope_angles(config, self.length, num_tokens, device)

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to the whole past and, causally, to the new tokens; and remember them."""
        num_new = q.shape[2]
        if block in self._pairs:
            old_k, old_v = self._pairs[block]
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        self._pairs[block] = (k, v)
        mask = None
        if self.length and num_new > 1:
            mask = q.new_ones(num_new, k.shape[2], dtype=torch.bool).tril(self.length)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not self.length)

    def advance(self, num_tokens: int) -> None:
        """Count the new tokens."""
        self.length += num_tokens


class _Block(nn.Module):
    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = _SwiGLU(config)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], memory: Memory, index: int
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles, memory, index)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], memory: Memory, index: int
    ) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b h t k
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = memory.attend(index, rotate(q, angles), rotate(k, angles), v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class _SwiGLU(nn.Module):
    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.mlp_hidden, bias=False)
        self.up_proj = nn.Linear(config.dim, config.mlp_hidden, bias=False)
        self.down_proj = nn.Linear(config.mlp_hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(silu(gate) * up)
        return self.down_proj(silu(gate, inplace=True).mul_(up))  # spares two of the widest tensors


def rope_angles(
    config: TotoConfig, start: int | Tensor, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [*b t k] of positions ``start`` [*b] to ``start + length - 1``.

    Angles are computed in float64: in float32 they would be off by 1e-3 after some 10,000 tokens.
    """
    width = config.dim // config.heads
    exponents = -torch.arange(0, width, 2, device=device, dtype=torch.float64) / width
    starts = torch.as_tensor(start, device=device, dtype=torch.float64)
    positions = starts[..., None] + torch.arange(length, device=device, dtype=torch.float64)
    angles = positions[..., None] * config.rope_base**exponents
    angles = torch.cat([angles, angles], dim=-1)  # half-split layout
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys [b h t k] by rotary angles."""
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
    """Return the weights under the names of Hugging Face's ``LlamaForCausalLM``."""
    names = {
        name: name if name.startswith("lm_head") else f"model.{name}" for name in model.state_dict()
    }
    return {names[name]: tensor for name, tensor in model.state_dict().items()}
