"""NumPy's archives of arrays, as strangers may have written them. No torch."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import with_disguise
from .walk import require_regular

__all__ = ["read_npz"]


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file; none that holds pickled objects.

    Raises:
        ValueError: it is no such file, or damaged; the message names it and says what is wrong.
    """
    require_regular(path)
    if not zipfile.is_zipfile(path):
        reason = with_disguise(path, "no npz archive, or cut off")
        raise ValueError(f"{path} is damaged: {reason}")
    try:
        # opened here: of a damaged archive NumPy leaves the file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    # zipfile, zlib and NumPy raise errors of many kinds, and MemoryError for a shape that lies
    except Exception as error:
        raise ValueError(f"{path} is damaged, or holds pickled objects: {error!r}") from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{path} is damaged: {others} are no arrays")
    return arrays
