"""Causal transformers over visual tokens."""

from .transformer import TotoConfig, TotoTransformer

__all__ = ["TotoConfig", "TotoTransformer"]
