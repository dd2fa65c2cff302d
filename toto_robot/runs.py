"""A run's folder: who may write into it, and what it was asked for."""

import json
from pathlib import Path

from .config import to_dict
from .files import write_json


def claim(out: Path, config: object) -> None:
    """Write what the run in ``out`` is, or check that the run that is there is this one.

    Raises:
        ValueError: ``out`` holds a run with another config; the message names what differs.
    """
    path, data = out / "config.json", to_dict(config)
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, data)
        return
    before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(data)))
    lines = [
        f"{name}: {before.get(name, 'not there')!r} != {now.get(name, 'not there')!r}"
        for name in sorted({*before, *now})
        if before.get(name, path) != now.get(name, path)
    ]
    if lines:
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(lines)
        )


def _flat(data: object, at: str = "") -> dict[str, object]:
    if not isinstance(data, dict) or not data:
        return {at: data}
    return {
        name: value
        for key, item in data.items()
        for name, value in _flat(item, f"{at}.{key}" if at else str(key)).items()
    }
