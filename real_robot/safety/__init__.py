"""The safety layer: it checks and limits every target between a policy and an arm."""

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
