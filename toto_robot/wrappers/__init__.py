"""Environment wrappers that replace camera images by embeddings: Gymnasium, vector, SB3."""

from .env import TotoObservation
from .sb3 import TotoVecEnv
from .vector import PartialSteps, TotoVectorObservation

__all__ = ["PartialSteps", "TotoObservation", "TotoVecEnv", "TotoVectorObservation"]
