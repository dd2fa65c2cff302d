"""The networks: causal models over visual tokens (LLaMA, GPT-2, Mamba), and vision transformers.

The paper's Toto is the LLaMA.
"""

from .causal import CausalModel, SequenceLayout
from .flops import count_parameters, model_flops
from .gpt2 import Gpt2Config, Gpt2Transformer
from .mamba import MambaConfig, MambaModel
from .mup import parameter_groups
from .transformer import TotoConfig, TotoTransformer

__all__ = [
    "CausalModel",
    "Gpt2Config",
    "Gpt2Transformer",
    "MambaConfig",
    "MambaModel",
    "ModelConfig",
    "SequenceLayout",
    "TotoConfig",
    "TotoTransformer",
    "count_parameters",
    "model_flops",
    "parameter_groups",
]

ModelConfig = TotoConfig | Gpt2Config | MambaConfig
