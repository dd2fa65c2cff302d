"""Token embeddings that are computed, during training, from the digits of the tokens' codes.

The small tokenizer `light` rounds five channels of an image cell. The five rounded numbers are the
digits of a code. During training, the embedding of a code is a vector of its own, plus one vector
for each of its digits. So codes with common digits also train the embedding of a code that
is rare in the training data. After training, the sums are the rows of an ordinary embedding matrix.
Thus the model is the same as without this module.

Shapes: v vocabulary, n digits of all channels (their sum), d width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from .causal import CausalModel

__all__ = ["fold_digits", "use_digits"]


def use_digits(model: CausalModel, levels: Sequence[int]) -> None:
    """Compute the token embeddings of a model from digits, in place, until `fold_digits`.

    The digit vectors are zero at first, so the outputs of the model do not change. A separate
    output projection is computed in the same way, with digit vectors of its own.

    Args:
        model: the model.
        levels: number of values of each digit, the least significant digit first. Their product is
            the number of codes.
    """
    for module in _matrices(model):
        register_parametrization(module, "weight", _Digits(levels, *module.weight.shape))


def fold_digits(model: CausalModel) -> None:
    """Replace the sums that `use_digits` introduced by an ordinary matrix, in place."""
    for module in _matrices(model):
        remove_parametrizations(module, "weight", leave_parametrized=True)


def _matrices(model: CausalModel) -> list[nn.Embedding | nn.Linear]:
    return [module for module in (model.embed_tokens, model.lm_head) if module is not None]


class _Digits(nn.Module):
    """The sum of a matrix of vectors of codes, and of the vectors of the codes' digits."""

    one_hot: Tensor

    def __init__(self, levels: Sequence[int], rows: int, dim: int) -> None:
        super().__init__()
        columns, codes = [], torch.arange(rows)
        for level in levels:
            columns.append(nn.functional.one_hot(codes % level, level))
            codes = codes // level
        one_hot = torch.cat(columns, dim=1).float()  # v n
        one_hot[codes > 0] = 0  # special tokens have no digits
        self.register_buffer("one_hot", one_hot, persistent=False)
        self.vectors = nn.Parameter(torch.zeros(one_hot.shape[1], dim))

    def forward(self, own: Float[Tensor, "v d"]) -> Float[Tensor, "v d"]:
        with torch.autocast(own.device.type, enabled=False):
            return own + self.one_hot.to(own.dtype) @ self.vectors
