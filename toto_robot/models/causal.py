"""The base class of all causal models over visual tokens: order of the tokens, next-token loss.

    start_video | codes of frame 1 | codes of frame 2 | ... | end

Shapes: b batch, t time (tokens), n tokens of a flat batch, d width, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import linear

from .attention import in_product_precision

__all__ = [
    "CausalModel",
    "SequenceLayout",
    "check_sizes",
    "layer_index",
    "linear_cross_entropy",
    "require_causal",
]

SPECIAL_TOKENS = 3
LOSS_ROWS = (
    256  # number of tokens whose logits are in memory at a time; on a GPU four times as many
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceLayout:
    """The token ids and the length of a sequence (paper section 3.4).

    Attributes:
        codes: number of codes of the tokenizer, whose ids are 0 to codes - 1. Three special ids
            follow: ``start_video = codes``, ``end = codes + 1``, ``start_image = codes + 2``. (The
            paper's special ids ``[1] [2] [3]`` would collide with codes 1 to 3.)
        tokens_per_frame: number of tokens of a frame, 256 for frames of 128 px.
        frames: number of frames in a training sequence, 16 in the paper.
    """

    codes: int
    tokens_per_frame: int
    frames: int

    def __post_init__(self) -> None:
        """Check that all sizes are at least 1."""
        check_sizes(self, "codes", "tokens_per_frame", "frames")

    @property
    def start_video(self) -> int:
        """Id of the start token of a video."""
        return self.codes

    @property
    def end(self) -> int:
        """Id of the token at the end of every sequence."""
        return self.codes + 1

    @property
    def start_image(self) -> int:
        """Id of the start token of a sequence of unrelated images."""
        return self.codes + 2

    @property
    def vocab_size(self) -> int:
        """Number of codes and special tokens."""
        return self.codes + SPECIAL_TOKENS

    @property
    def context(self) -> int:
        """Length of a training sequence, tokens: start token, all frames and end token."""
        return self.frames * self.tokens_per_frame + 2


def layer_index(layer: int, depth: int) -> int:
    """Convert a layer number, which may be negative, to the number counted from layer 0.

    Raises:
        ValueError: the layer does not exist in a model of `depth` blocks. The message lists the
            existing layers.
    """
    index = layer + depth + 1 if layer < 0 else layer
    if not 0 <= index <= depth:
        raise ValueError(
            f"layer {layer} does not exist; 0 (embedding) to {depth} (last), or -1 for the last"
        )
    return index


def check_sizes(config: object, *names: str) -> None:
    """Check that sizes are at least 1.

    Raises:
        ValueError: a size is below 1. The message has its name and value.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def require_causal(config: object, purpose: str) -> None:
    """Check that the attention of a model is causal.

    Args:
        config: config of the model.
        purpose: what needs causal attention, for the message, such as "a stream".

    Raises:
        ValueError: the attention is not causal.
    """
    attention = getattr(config, "attention", "causal")  # only a LLaMA has another attention
    if attention != "causal":
        raise ValueError(
            f"{purpose} needs causal attention, but this Toto was fine-tuned with "
            f"attention={attention}: use it for single frames and clips, or fine-tune with "
            "attention=causal"
        )


class CausalModel(nn.Module):
    """A model whose output at each token depends only on this token and earlier tokens.

    Attributes:
        config: sizes of the model, and ids of the special tokens.
        embed_tokens: the token embedding.
        layers: the blocks, the first block first. Training shards, compiles and recomputes each
            block separately.
        lm_head: the output projection. None if the token embedding is also the output projection.
    """

    config: Any
    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    lm_head: nn.Linear | None

    def features(
        self, ids: Int64[Tensor, "b t"], layers: Sequence[int], cache: Any = None
    ) -> tuple[Float[Tensor, "b t d"], ...]:
        """Return the residual stream after each of the given layers.

        Blocks after the deepest given layer are not run, to save time. No norm is applied.

        Args:
            ids: token ids. Without a cache, the first id must be a start token.
            layers: numbers of the layers. 0 is the embedding, k is the output of block k, and -1
                is the output of the last block.
            cache: cache of the tokens before ``ids``, made by `new_memory`. The call adds ``ids``
                to the cache. Every call with the same cache must use the same deepest layer. None
                runs the model without earlier tokens.

        Raises:
            ValueError: a layer does not exist.
        """
        wanted = [self.layer_index(layer) for layer in layers]
        hidden, inputs = self.embed(ids, cache)
        outputs = {0: hidden}
        for k in range(1, max(wanted, default=0) + 1):
            block = self.layers[k - 1]
            # without a cache all blocks have equal arguments, so torch.compile compiles only once
            memory = () if cache is None else (cache, k - 1)
            hidden = block(hidden, *inputs, *memory)
            outputs[k] = hidden
        if cache is not None:
            cache.advance(ids.shape[1])
        return tuple(outputs[k] for k in wanted)

    def embed(
        self, ids: Int64[Tensor, "b t"], cache: Any
    ) -> tuple[Float[Tensor, "b t d"], tuple[Any, ...]]:
        """Return layer 0 (the embedded tokens), and the further inputs that every block needs."""
        raise NotImplementedError

    def new_memory(self, size: int) -> Any:
        """Return an empty cache with memory for ``size`` tokens, to pass as ``cache``."""
        raise NotImplementedError

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise all weights."""
        raise NotImplementedError

    def head_input(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Compute the input of the output projection from the output of the last block."""
        raise NotImplementedError

    def forward(self, ids: Int64[Tensor, "b t"], cache: Any = None) -> Float[Tensor, "b t v"]:
        """Return the logits of the token after each of the t given tokens."""
        (hidden,) = self.features(ids, layers=(-1,), cache=cache)
        return self.logits(hidden)

    def logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """Return the next-token logits from the output of the last block."""
        return linear(self.head_input(hidden), self.head_weight)

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        """The weight matrix of the output projection."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def layer_index(self, layer: int) -> int:
        """Convert a layer number, which may be negative, to the number counted from layer 0.

        Raises:
            ValueError: the layer does not exist. The message lists the existing layers.
        """
        return layer_index(layer, self.config.layers)

    def loss(self, ids: Int64[Tensor, "b t"]) -> Float[Tensor, ""]:
        """Return the mean next-token negative log-likelihood, nats (paper equation 2)."""
        (hidden,) = self.features(ids[:, :-1], layers=(-1,))
        return self.next_token_loss(hidden, ids)

    def next_token_loss(
        self, hidden: Float[Tensor, "b t d"], ids: Int64[Tensor, "b t+1"]
    ) -> Float[Tensor, ""]:
        """Return what `loss` returns, from the output of the last block for ``ids[:, :-1]``."""
        return linear_cross_entropy(
            self.head_input(hidden).flatten(0, 1), self.head_weight, ids[:, 1:].flatten()
        )


def linear_cross_entropy(
    hidden: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean cross entropy, nats, of ``targets`` under logits ``hidden @ weight.T``.

    The result equals `torch.nn.functional.cross_entropy` of these logits, but needs less memory:
    tokens are processed in chunks, so not all logits are in memory at once. The gradient of a chunk
    is computed together with its logits. Therefore second derivatives are not supported.
    """
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()  # so that no gradient is computed
    return _LinearCrossEntropy.apply(hidden, weight, targets)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.dtypes = hidden.dtype, weight.dtype
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        hidden, weight = in_product_precision(hidden), in_product_precision(weight)
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        size = LOSS_ROWS if hidden.device.type == "cpu" else 4 * LOSS_ROWS
        for start in range(0, len(targets), size):
            rows = hidden[start : start + size]
            wanted = targets[start : start + size, None]
            logits = (rows @ weight.T).float()
            chosen = logits.gather(1, wanted)
            # softmax, in place
            greatest = logits.amax(dim=1, keepdim=True)
            shares = logits.sub_(greatest).exp_()
            sums = shares.sum(dim=1, keepdim=True)
            total += (sums.log() + greatest - chosen).sum()
            if hidden_gradient is None and weight_gradient is None:
                continue
            shares.div_(sums * len(targets))
            shares.scatter_add_(1, wanted, torch.full_like(chosen, -1 / len(targets)))
            gradient = shares.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[start : start + size] = gradient @ weight
            if weight_gradient is not None:
                if gradient.dtype == weight_gradient.dtype:
                    weight_gradient.addmm_(gradient.T, rows)
                else:
                    weight_gradient += gradient.T @ rows
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (scale,) = outputs
        hidden, weight = (
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return hidden, weight, None
