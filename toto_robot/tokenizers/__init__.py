"""Tokenizers, which convert frames to tokens (integers) and tokens to frames."""

from .dvae import DalleConfig, DalleDVae, LightConfig, LightDVae
from .tokenizer import Tokenizer
from .vqgan import Vqgan, VqganConfig

__all__ = [
    "AnyTokenizer",
    "DalleConfig",
    "DalleDVae",
    "LightConfig",
    "LightDVae",
    "Tokenizer",
    "TokenizerConfig",
    "Vqgan",
    "VqganConfig",
]

TokenizerConfig = LightConfig | DalleConfig | VqganConfig
AnyTokenizer = LightDVae | DalleDVae | Vqgan
