"""Frames to tokens and back."""

from .dvae import DalleConfig, DalleDVae, LightConfig, LightDVae
from .tokenizer import Tokenizer

__all__ = [
    "AnyTokenizer",
    "DalleConfig",
    "DalleDVae",
    "LightConfig",
    "LightDVae",
    "Tokenizer",
    "TokenizerConfig",
]

TokenizerConfig = LightConfig | DalleConfig
AnyTokenizer = LightDVae | DalleDVae
