"""Safety layer: it checks and limits every target before the target is sent to the arm."""

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
