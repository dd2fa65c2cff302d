"""A run's folder: who may write into it, and what it was asked for."""

import json
from pathlib import Path

from .config import differences, to_dict
from .files import write_json


def claim(out: Path, config: object) -> None:
    """Write what the run in ``out`` is, or check that the run that is there is this one.

    Raises:
        ValueError: ``out`` holds a run with another config; the message names what differs.
    """
    path = out / "config.json"
    if not path.exists():
        write_json(path, to_dict(config))
    elif lines := differences(json.loads(path.read_text()), config):
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(lines)
        )
