"""Warn of environments whose images are known to be upside down.

`make compat` found them (docs/compatibility.md): robosuite's renderer returns the bottom row first,
and four cameras of Meta-World hang upside down.
"""

import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

__all__ = ["known_flip", "warn_upside_down"]


def warn_upside_down(envs: Any, flip: str | Mapping[str, str] | None) -> None:
    """Warn if the images of environments are known to be upside down and `flip` is not set.

    Args:
        envs: an environment, or several in one process; environments in other processes are not
            examined.
        flip: the user's setting; an empty mapping leaves the images as they are, without a warning.
    """
    several = getattr(envs.unwrapped, "envs", None)
    first = several[0] if isinstance(several, list | tuple) and several else envs
    env = first if hasattr(first, "unwrapped") else envs  # a simulation may list handles
    needed = known_flip(env.unwrapped) if flip is None else None
    if needed is not None:
        warnings.warn(
            f"the images of {type(env.unwrapped).__name__} are upside down: add flip={needed!r}, "
            "or flip={} if they have been turned before",
            UserWarning,
            stacklevel=3,  # the caller of the wrapper
        )


def known_flip(env: Any) -> str | None:
    """Return the `flip` that an unwrapped environment is known to need; None if none is known."""
    package = type(env).__module__.partition(".")[0]
    macros = sys.modules.get("robosuite.macros")
    if package == "robosuite" and getattr(macros, "IMAGE_CONVENTION", "") == "opengl":
        return "vertical"
    camera = getattr(env, "camera_name", None)
    if package == "metaworld" and re.fullmatch("corner[234]?", str(camera)):
        return "rotate180"  # not "vertical", which would swap left and right
    return None
