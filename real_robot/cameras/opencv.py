"""Import OpenCV when a function needs it, because it is an optional dependency."""

from types import ModuleType
from typing import Any


def opencv(user: str) -> Any:
    """Return the module `cv2`.

    Args:
        user: plural name of the feature that needs OpenCV, for the error message; for example
            "cameras".

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"{user} need OpenCV: pip install 'toto-robot[real]'") from error
    module: ModuleType = cv2
    return module
