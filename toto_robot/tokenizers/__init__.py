"""Frames to tokens and back."""

from .dvae import DalleConfig, DalleDVae, LightConfig, LightDVae
from .tokenizer import Tokenizer
from .winograd import WinogradDalle

__all__ = [
    "AnyTokenizer",
    "DalleConfig",
    "DalleDVae",
    "LightConfig",
    "LightDVae",
    "Tokenizer",
    "TokenizerConfig",
    "WinogradDalle",
]

TokenizerConfig = LightConfig | DalleConfig
AnyTokenizer = LightDVae | DalleDVae | WinogradDalle
