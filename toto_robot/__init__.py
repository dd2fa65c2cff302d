"""Toto: autoregressive video pre-training as the eyes of robot policies (arXiv 2501.05453)."""

from .encoder import Encoder, load_encoder, save_encoder, shipped_encoders
from .models import TotoConfig, TotoTransformer
from .tokenizers import DalleDVae, LightDVae, Tokenizer

__all__ = [
    "DalleDVae",
    "Encoder",
    "LightDVae",
    "Tokenizer",
    "TotoConfig",
    "TotoTransformer",
    "load_encoder",
    "save_encoder",
    "shipped_encoders",
]
