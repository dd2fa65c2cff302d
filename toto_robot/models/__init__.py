"""Causal models over visual tokens."""

from .causal import CausalModel, SequenceLayout
from .flops import count_parameters, model_flops
from .mup import parameter_groups
from .transformer import TotoConfig, TotoTransformer

__all__ = [
    "CausalModel",
    "ModelConfig",
    "SequenceLayout",
    "TotoConfig",
    "TotoTransformer",
    "count_parameters",
    "model_flops",
    "parameter_groups",
]

ModelConfig = TotoConfig
