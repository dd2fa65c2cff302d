"""Toto: autoregressive video pre-training as a perception backbone for robots (arXiv 2501.05453).

The public names, such as `load_encoder`, are imported when they are used for the first time.
Therefore a robot's computer without torch can import parts such as `toto_robot.config`.
"""

import importlib
from typing import TYPE_CHECKING

from .moved import keep_old_paths

if TYPE_CHECKING:
    from .encoders.contract import FrameEncoder
    from .encoders.encoder import Encoder
    from .encoders.loading import load_encoder, load_toto, save_encoder, shipped_encoders
    from .encoders.streaming import StreamConfig
    from .encoders.vit_files import load_vit
    from .integrations.sb3 import TotoFeaturesExtractor
    from .models import TotoConfig, TotoTransformer
    from .tokenizers import DalleDVae, LightDVae, Tokenizer
    from .wrappers import TotoObservation, TotoVecEnv, TotoVectorObservation
    from .wrappers.backbone import TotoBackbone

_PLACES = {
    "DalleDVae": "tokenizers",
    "Encoder": "encoders.encoder",
    "FrameEncoder": "encoders.contract",
    "LightDVae": "tokenizers",
    "StreamConfig": "encoders.streaming",
    "Tokenizer": "tokenizers",
    "TotoBackbone": "wrappers.backbone",
    "TotoConfig": "models",
    "TotoFeaturesExtractor": "integrations.sb3",
    "TotoObservation": "wrappers",
    "TotoTransformer": "models",
    "TotoVecEnv": "wrappers",
    "TotoVectorObservation": "wrappers",
    "load_encoder": "encoders.loading",
    "load_toto": "encoders.loading",
    "load_vit": "encoders.vit_files",
    "save_encoder": "encoders.loading",
    "shipped_encoders": "encoders.loading",
}

__all__ = [
    "DalleDVae",
    "Encoder",
    "FrameEncoder",
    "LightDVae",
    "StreamConfig",
    "Tokenizer",
    "TotoBackbone",
    "TotoConfig",
    "TotoFeaturesExtractor",
    "TotoObservation",
    "TotoTransformer",
    "TotoVecEnv",
    "TotoVectorObservation",
    "load_encoder",
    "load_toto",
    "load_vit",
    "save_encoder",
    "shipped_encoders",
]


def __getattr__(name: str) -> object:
    """Import and return a public name; Python calls this function at its first use (PEP 562).

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of the package, including those that are not imported yet."""
    return sorted({*globals(), *__all__})


keep_old_paths(
    __name__,
    {
        "baselines": "encoders.vit",
        "cache": "encoders.cache",
        "conformal": "monitoring.conformal",
        "demonstrations": "probing.episodes",
        "encoder": "encoders.encoder encoders.loading",
        "eyes": "wrappers.embedder",
        "foresight": "generation.preview",
        "frozen": "encoders.frozen",
        "golden": "encoders.golden",
        "int8": "encoders.int8",
        "monitor": "monitoring.monitor",
        "onnx_runtime": "encoders.onnx_runtime",
        "patch_encoder": "encoders.patches",
        "pooling": "encoders.pooling",
        "probes": "probing.ridge",
        "published": "encoders.vit_files",
        "streaming": "encoders.streaming",
        "surprise": "monitoring.scores",
        "sweep_report": "probing.report files",
        "unpickle": "tokenizers.unpickle",
    },
)
