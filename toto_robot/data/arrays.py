"""Read NumPy's `.npz` archives safely, also from untrusted sources, without importing torch."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import with_disguise
from .walk import require_regular

__all__ = ["read_npz"]


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file by name.

    Pickled objects are refused, because they can run code.

    Raises:
        ValueError: the file does not exist, is not an npz archive, is damaged, or holds pickled
            objects.
    """
    require_regular(path)
    if not zipfile.is_zipfile(path):
        reason = with_disguise(path, "not an npz archive, or truncated")
        raise ValueError(f"{path} is damaged: {reason}")
    try:
        # opened here, because NumPy does not close the file of a damaged archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    # zipfile, zlib and NumPy raise many kinds of errors, and MemoryError for a false shape
    except Exception as error:
        raise ValueError(f"{path} is damaged, or holds pickled objects: {error!r}") from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{path} is damaged: {others} are not arrays")
    return arrays
