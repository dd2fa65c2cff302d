"""Causal models over visual tokens."""

from .causal import CausalModel, SequenceLayout
from .transformer import TotoConfig, TotoTransformer

__all__ = ["CausalModel", "ModelConfig", "SequenceLayout", "TotoConfig", "TotoTransformer"]

ModelConfig = TotoConfig
