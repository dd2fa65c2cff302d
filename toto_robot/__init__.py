"""Toto: autoregressive video pre-training as the eyes of robot policies (arXiv 2501.05453)."""

from .encoder import Encoder, load_encoder, save_encoder, shipped_encoders
from .models import TotoConfig, TotoTransformer
from .streaming import StreamConfig
from .tokenizers import DalleDVae, LightDVae, Tokenizer
from .wrappers import TotoObservation, TotoVecEnv, TotoVectorObservation

__all__ = [
    "DalleDVae",
    "Encoder",
    "LightDVae",
    "StreamConfig",
    "Tokenizer",
    "TotoConfig",
    "TotoObservation",
    "TotoTransformer",
    "TotoVecEnv",
    "TotoVectorObservation",
    "load_encoder",
    "save_encoder",
    "shipped_encoders",
]
