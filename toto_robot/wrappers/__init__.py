"""Environment wrappers that replace camera images by embeddings, for Gymnasium and SB3."""

from .env import TotoObservation
from .sb3 import TotoVecEnv
from .vector import TotoVectorObservation

__all__ = ["TotoObservation", "TotoVecEnv", "TotoVectorObservation"]
