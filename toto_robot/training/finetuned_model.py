"""A Toto with classification heads, as fine-tuning trains it (paper sections 4.2, A.2 and A.3).

Shapes: b batch, t tokens of a sequence, l layers with a head, n tokens of a frame, d width.
"""

import copy

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..encoders.pooling import normalise
from ..models import CausalModel
from ..models.adapters import merge_adapters
from ..probing.heads import LayerHeads

__all__ = ["FineTunedModel"]


class FineTunedModel(nn.Module):
    """A Toto that learns to predict the next token and, with heads, the classes of images.

    The total loss is the next-token loss times `next_token_weight`, plus the cross entropy of each
    head. With causal attention, one forward pass computes both. Otherwise the next-token loss has a
    second pass with causal attention, because in the first pass a token sees the tokens that are to
    be predicted.

    Args:
        transformer: the Toto. Only weights with `requires_grad` are trained.
        heads: heads of the layers `head_layers`. None trains without labels.
        head_layers: numbers of the layers with a head.
        next_token_weight: factor of the next-token loss.
        stop_gradient: true if the heads do not change the transformer, as in the paper.
        layer_decay: the learning rate of a block is this factor times that of the next block. The
            token embedding counts as a block before the first block.
        transformer_lr: learning rate of the last norm and of a separate output projection, relative
            to that of the heads.
        ema_decay: decay per step of an average of the transformer's weights. None keeps no average.
    """

    def __init__(
        self,
        transformer: CausalModel,
        heads: LayerHeads | None,
        head_layers: tuple[int, ...],
        *,
        next_token_weight: float,
        stop_gradient: bool,
        layer_decay: float,
        transformer_lr: float,
        ema_decay: float | None,
    ) -> None:
        super().__init__()
        self.transformer, self.heads, self.head_layers = transformer, heads, head_layers
        self.next_token_weight, self.stop_gradient = next_token_weight, stop_gradient
        self._layer_decay, self._transformer_lr = layer_decay, transformer_lr
        if next_token_weight == 0:  # the blocks after the last head have no gradient
            for block in list(transformer.layers)[max(head_layers, default=0) :]:
                block.requires_grad_(False)
            for name, parameter in transformer.named_parameters():
                if not name.startswith(("layers.", "embed")):
                    parameter.requires_grad_(False)
        self._ema_decay = ema_decay
        self.average = None
        if ema_decay is not None:
            self.average = copy.deepcopy(transformer).requires_grad_(False)

    @property
    def config(self) -> object:
        """Config of the transformer, for the parameter groups."""
        return self.transformer.config

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of the transformer. Training shards, compiles and recomputes each of them."""
        return self.transformer.layers

    def loss(
        self,
        ids: Int64[Tensor, "b t"],
        labels: Int64[Tensor, " b"] | None = None,
        prefix: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the total loss, nats.

        Args:
            ids: start token, tokens of frames, and end token.
            labels: class of each image. The sequences then have one frame.
            prefix: number of tokens at the start that the next-token loss does not predict; see
                `TotoTransformer.loss`. None: no such tokens.
        """
        arguments = (ids,) if prefix is None else (ids, prefix)
        if self.heads is None or labels is None:
            return self.next_token_weight * self.transformer.loss(*arguments)
        if getattr(self.config, "attention", "causal") != "causal" or self.next_token_weight == 0:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stop_gradient):
                features = self.transformer.features(ids[:, :-1], self.head_layers)
            task = self._task_loss(features, labels)
            if self.next_token_weight == 0:
                return task
            return task + self.next_token_weight * self.transformer.loss(*arguments)
        *features, last = self.transformer.features(ids[:, :-1], (*self.head_layers, -1))
        task = self._task_loss(tuple(features), labels)
        return task + self.next_token_weight * self.transformer.next_token_loss(last, ids)

    def _task_loss(self, features: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        assert self.heads is not None
        return self.heads.loss(self.head_input(features), labels)

    def head_input(self, features: tuple[Tensor, ...]) -> Float[Tensor, "b l n d"]:
        """Return the input of the heads, from the features of the start token and one frame."""
        stacked = torch.stack([normalise(one[:, 1:]) for one in features], dim=1).float()
        return stacked.detach() if self.stop_gradient else stacked

    def lr_scale(self, name: str) -> float:
        """Return the factor of a parameter's learning rate, for `parameter_groups`."""
        part, _, rest = name.partition(".")
        if part != "transformer":
            return 1.0
        blocks = len(self.layers)
        if rest.startswith("layers."):
            distance = blocks - int(rest.split(".")[1])
        else:
            distance = blocks + 1 if rest.startswith("embed") else 0
        return self._transformer_lr * self._layer_decay**distance

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average of the weights towards the new weights."""
        if self.average is None or self._ema_decay is None:
            return
        pairs = zip(self.average.parameters(), self.transformer.parameters(), strict=True)
        for mean, new in pairs:
            mean.lerp_(new.detach(), 1 - self._ema_decay)

    def result(self) -> CausalModel:
        """Return the transformer without adapters, with averaged weights if there is an average."""
        chosen = self.transformer if self.average is None else self.average
        merge_adapters(chosen)
        return chosen
