"""Write NumPy arrays as Parquet tables, which `toto_robot.data.tables` reads."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toto_robot.data.tables import require_pyarrow

from .demonstration import Array

_WORDS = "__index_level_0__"  # pandas' name of an unnamed index


def of_columns(columns: Mapping[str, Array]) -> bytes:
    """Return the bytes of a Parquet file with these columns; each array has shape [t] or [t k].

    Arrays of dtype object are written as strings.
    """
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
    """Return the bytes of a Parquet file with one row; the values are plain Python data."""
    return _bytes(_pyarrow().Table.from_pylist([dict(row)]))


def of_tasks(tasks: Sequence[str]) -> bytes:
    """Return the bytes of the Parquet file of tasks, in the form in which pandas writes it.

    The texts of the tasks are the index of the table, as LeRobot requires.
    """
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


def _bytes(table: Any) -> bytes:
    buffer = io.BytesIO()
    _pyarrow().parquet.write_table(table, buffer)
    return buffer.getvalue()


def _pyarrow() -> Any:
    return require_pyarrow("LeRobot data sets need")
