"""Read Parquet tables, as lists of rows or as NumPy arrays of columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..downloads import with_disguise
from .walk import require_regular

__all__ = ["column_array", "read_rows", "read_table", "require_pyarrow"]


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table, each a dictionary from column name to value.

    If `columns` is None, all columns are read.

    Raises:
        ValueError: the table cannot be read, or lacks a column. The message names the file.
    """
    return read_table(path, columns).to_pylist()


def read_table(path: Path, columns: Sequence[str] | None, optional: Sequence[str] = ()) -> Any:
    """Return a table with the given columns, and with the optional columns if the file has them.

    If `columns` is None, all columns are read.

    Raises:
        ImportError: pyarrow, which reads the table, is not installed.
        ValueError: the table cannot be read, or lacks one of `columns`. The message names the file.
    """
    pyarrow = require_pyarrow("reading a LeRobot data set's Parquet tables needs")
    require_regular(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = there if columns is None else [*columns]
            names += [name for name in optional if name in there and name not in names]
            if lacking := [name for name in names if name not in there]:
                raise ValueError(f"{path} lacks the columns {', '.join(lacking)}")
            return file.read(columns=names, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {with_disguise(path, error)}") from error


def require_pyarrow(needs: str, instead: str = "") -> Any:
    """Return the module pyarrow, with its modules for Parquet and for Arrow's own file format.

    Args:
        needs: the beginning of the error message: what needs pyarrow, and the verb.
        instead: the end of the error message: what to do without pyarrow.

    Raises:
        ImportError: pyarrow is not installed; the message says how to install it.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{needs} pyarrow: pip install 'toto-robot[lerobot]'{instead}") from error
    return pyarrow


def column_array(column: Any) -> NDArray[Any]:
    """Convert a column of t rows to an array [t], or [t k] if each row is a list of k numbers.

    Strings and bytes become an array of objects.

    Raises:
        ValueError: a row is empty or lacks a number, rows have unequal lengths, or the rows are
            lists of lists.
    """
    import pyarrow
    from pyarrow import compute

    column, types = column.combine_chunks(), pyarrow.types
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"row {row} is empty")
    if not (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or types.is_fixed_size_list(column.type)
    ):
        if types.is_primitive(column.type):
            return column.to_numpy(zero_copy_only=False)
        return np.array(column.to_pylist(), dtype=object)
    # pyrefly: ignore  # pyarrow defines its functions at import
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    others = np.bincount(lengths).argmax()
    if len(odd := np.flatnonzero(lengths != others)):
        raise ValueError(f"row {odd[0]} has {lengths[odd[0]]} numbers, others have {others}")
    values = column.flatten()
    if values.null_count:
        row = values.is_null().to_pylist().index(True) // int(lengths[0])
        raise ValueError(f"row {row} lacks a number")
    if types.is_nested(values.type):
        raise ValueError("lists of lists are not read")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
