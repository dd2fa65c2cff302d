"""Files that are whole or not there; for what must also run where torch is not installed."""

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
