"""Write files whole: aside first, then renamed."""

import json
import os
from pathlib import Path


def write_aside(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, whenever the process or the machine dies."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_json(path: Path, data: object) -> None:
    """Write JSON aside and rename it."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(aside, path)
