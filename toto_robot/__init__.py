"""Toto: autoregressive video pre-training as the eyes of robot policies (arXiv 2501.05453)."""

from .encoders.encoder import Encoder
from .encoders.loading import load_encoder, save_encoder, shipped_encoders
from .encoders.streaming import StreamConfig
from .models import TotoConfig, TotoTransformer
from .tokenizers import DalleDVae, LightDVae, Tokenizer
from .wrappers.env import TotoObservation
from .wrappers.sb3 import TotoVecEnv
from .wrappers.vector import TotoVectorObservation

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
