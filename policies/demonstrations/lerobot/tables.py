"""Parquet tables to NumPy and back: the one file that needs pyarrow, and imports it when used."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .demonstration import Array

_WORDS = "__index_level_0__"  # pandas' name of an index without one


def read_columns(path: Path) -> dict[str, Array]:
    """Give a table's columns, each [t] or [t k]; words as objects.

    Raises:
        ValueError: it cannot be read, or a column's rows have unequal lengths.
    """
    pyarrow = _pyarrow()
    table = _read(path, None)
    found: dict[str, Array] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        types = pyarrow.types
        if types.is_string(column.type) or types.is_large_string(column.type):
            found[name] = np.array(column.to_pylist(), dtype=object)
        elif types.is_fixed_size_list(column.type) or types.is_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            if len(values) % max(1, len(table)):
                raise ValueError(f"{path}: the rows of {name!r} have unequal lengths")
            found[name] = values.reshape(len(table), -1)
        else:
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


def read_rows(path: Path, leave_out: str | None = None) -> list[dict[str, Any]]:
    """Give a table's rows as plain data, without the columns that begin with `leave_out`.

    Raises:
        ValueError: it cannot be read.
    """
    return _read(path, leave_out).to_pylist()


def read_tasks(path: Path) -> list[str]:
    """Give the tasks in the order of their numbers.

    Raises:
        ValueError: it cannot be read, or is no such table.
    """
    rows = read_rows(path)
    try:
        # LeRobot names the column of words in one of two ways
        words = [name for name in (rows[0] if rows else {}) if name != "task_index"]
        return [str(row[words[0]]) for row in sorted(rows, key=lambda row: row["task_index"])]
    except (IndexError, KeyError) as error:
        raise ValueError(f"{path} is damaged: no tasks with their numbers") from error


def of_columns(columns: Mapping[str, Array]) -> bytes:
    """Give a Parquet file of columns [t] or [t k]; objects are words."""
    pyarrow = _pyarrow()
    arrays: dict[str, Any] = {}
    for name, column in columns.items():
        if column.dtype == object:
            arrays[name] = pyarrow.array([str(one) for one in column], pyarrow.string())
            continue
        flat = pyarrow.array(np.ascontiguousarray(column.reshape(-1)))
        arrays[name] = flat
        if column.ndim == 2:
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, column.shape[1])
    return _bytes(pyarrow.table(arrays))


def of_row(row: Mapping[str, Any]) -> bytes:
    """Give a Parquet file of one row of plain data."""
    return _bytes(_pyarrow().Table.from_pylist([dict(row)]))


def of_tasks(tasks: Sequence[str]) -> bytes:
    """Give the tasks as pandas would write them, with their words as the index."""
    pyarrow = _pyarrow()
    number = {
        "name": "task_index",
        "field_name": "task_index",
        "pandas_type": "int64",
        "numpy_type": "int64",
        "metadata": None,
    }
    words = {
        "name": None,
        "field_name": _WORDS,
        "pandas_type": "unicode",
        "numpy_type": "object",
        "metadata": None,
    }
    about = {
        "index_columns": [_WORDS],
        "column_indexes": [],
        "columns": [number, words],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.3.0",
    }
    columns = {
        "task_index": np.arange(len(tasks)),
        _WORDS: pyarrow.array(tasks, pyarrow.large_string()),
    }
    table = pyarrow.table(columns).replace_schema_metadata({"pandas": json.dumps(about)})
    return _bytes(table)


def _read(path: Path, leave_out: str | None) -> Any:
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if leave_out is not None:
                names = [name for name in names if not name.startswith(leave_out)]
            return file.read(columns=names, use_threads=False)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _bytes(table: Any) -> bytes:
    buffer = io.BytesIO()
    _pyarrow().parquet.write_table(table, buffer)
    return buffer.getvalue()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "a LeRobot data set's tables are Parquet: pip install 'toto-robot[lerobot]'"
        ) from error
    return pyarrow
