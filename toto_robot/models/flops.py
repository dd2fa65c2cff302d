"""What a training step costs, counted: for model-FLOPs utilisation and for the cost of a plan."""

import torch

from .causal import CausalModel
from .gpt2 import Gpt2Config
from .mamba import MambaConfig
from .transformer import TotoConfig

__all__ = ["count_parameters", "model_flops"]


def count_parameters(config: TotoConfig | Gpt2Config | MambaConfig) -> int:
    """Return the number of parameters; nothing is allocated."""
    return sum(parameter.numel() for parameter in _shape_of(config).parameters())


def model_flops(config: TotoConfig | Gpt2Config | MambaConfig, frames: int) -> float:
    """Return the floating-point operations of training, forward and backward, per token.

    Six for each weight of a matrix that a token goes through (a multiplication and an addition,
    once forward and twice backward), the output projection included and the look-up of the
    embedding not; and causal attention, of which half of the products are needed, or Mamba's
    recurrence. Norms, gates and whatever is computed twice to save memory are not counted (PaLM,
    appendix B).

    Args:
        config: of the model.
        frames: of a training sequence; attention grows with it.
    """
    model = _shape_of(config)
    weights = sum(p.numel() for p in model.layers.parameters() if p.ndim > 1)
    weights += config.vocab_size * config.dim
    tokens = frames * config.tokens_per_frame + 1
    if isinstance(config, MambaConfig):
        # forward: the rate's product, its exponential counted as one, what is kept, what enters
        # (two products and a sum), and what leaves (a product and a sum)
        mixing = 3 * 8 * config.layers * config.inner * config.state
    else:
        mixing = 6 * config.layers * config.dim * tokens  # 3 x 2 products x 2 operations, halved
    return float(6 * weights + mixing)


def _shape_of(config: TotoConfig | Gpt2Config | MambaConfig) -> CausalModel:
    with torch.device("meta"):
        return config.build()
