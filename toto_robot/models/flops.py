"""Count parameters and the floating-point operations of a training step."""

import torch

from .causal import CausalModel
from .gpt2 import Gpt2Config
from .mamba import MambaConfig
from .transformer import TotoConfig

__all__ = ["count_parameters", "model_flops"]


def count_parameters(config: TotoConfig | Gpt2Config | MambaConfig) -> int:
    """Return the number of parameters of a model. No memory is allocated for them."""
    return sum(parameter.numel() for parameter in _shape_of(config).parameters())


def model_flops(config: TotoConfig | Gpt2Config | MambaConfig, frames: int) -> float:
    """Return the floating-point operations per training token, forward and backward.

    The count follows PaLM, appendix B. Each weight of a matrix counts as six operations: a
    multiplication and an addition, once forward and twice backward. The output projection counts,
    but not the look-up of the embedding. Attention counts with half of its products, because it is
    causal. Mamba's recurrence counts too. Norms, gates, and recomputation to save memory do not
    count.

    Args:
        config: config of the model.
        frames: number of frames in a training sequence. The cost of attention grows with it.
    """
    model = _shape_of(config)
    weights = sum(p.numel() for p in model.layers.parameters() if p.ndim > 1)
    weights += config.vocab_size * config.dim
    tokens = frames * config.tokens_per_frame + 1
    if isinstance(config, MambaConfig):
        # Operations forward: product with the rate, exponential (counted as one), product with the
        # old state, new input (two products and a sum), output (a product and a sum).
        mixing = 3 * 8 * config.layers * config.inner * config.state
    else:
        mixing = 6 * config.layers * config.dim * tokens  # 3 x 2 products x 2 operations, halved
    return float(6 * weights + mixing)


def _shape_of(config: TotoConfig | Gpt2Config | MambaConfig) -> CausalModel:
    with torch.device("meta"):
        return config.build()
