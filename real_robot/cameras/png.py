"""Write an image as a PNG file."""

from pathlib import Path
from typing import Any

from .camera import Image
from .opencv import opencv


def write_png(path: Path, image: Image) -> None:
    """Write an image [h w 3], uint8 RGB, as PNG."""
    cv2: Any = opencv("images")
    written, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert written
    path.write_bytes(data.tobytes())
