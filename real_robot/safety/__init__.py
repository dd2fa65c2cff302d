"""The safety layer: between a policy and an arm, every target goes through it."""

from .layer import (
    Ages,
    Decision,
    Intervention,
    RecoveryRefusedError,
    SafetyConfig,
    SafetyLayer,
    UnsafeStartError,
    Watchdog,
)

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
