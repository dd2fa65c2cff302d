"""The safety layer: between a policy and an arm, every target goes through it."""

from .config import SafetyConfig, Watchdog
from .layer import Ages, Decision, Intervention, RecoveryRefusedError, SafetyLayer, UnsafeStartError

__all__ = [
    "Ages",
    "Decision",
    "Intervention",
    "RecoveryRefusedError",
    "SafetyConfig",
    "SafetyLayer",
    "UnsafeStartError",
    "Watchdog",
]
