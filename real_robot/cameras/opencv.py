"""Import OpenCV, an optional dependency, only where it is needed."""

from types import ModuleType
from typing import Any


def opencv(user: str) -> Any:
    """Return the module `cv2`.

    Args:
        user: the feature that needs OpenCV, in the plural, for the error message.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"{user} need OpenCV: pip install 'toto-robot[real]'") from error
    module: ModuleType = cv2
    return module
