"""A run's folder: who may write into it, and what it was asked for."""

import contextlib
import json
from pathlib import Path

from .config import differences, from_dict, to_dict
from .files import write_json


def claim(out: Path, config: object) -> None:
    """Write what the run in ``out`` is, or check that the run that is there is this one.

    A run that began before a setting was added has that setting's default.

    Raises:
        ValueError: ``out`` holds a run with another config; the message names what differs.
    """
    path = out / "config.json"
    if not path.exists():
        write_json(path, to_dict(config))
        return
    there = json.loads(path.read_text())
    with contextlib.suppress(ValueError):  # settings that are unknown now are among those named
        there = to_dict(from_dict(type(config), there))
    if lines := differences(there, config):
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(lines)
        )
