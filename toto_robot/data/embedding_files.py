"""Write the embeddings of frames to one .npy or .parquet file.

While the command `encode` runs, it writes the embeddings to many small files (parts). So it can
resume after an interruption.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_aside, written_aside
from .frames import Batch, Place, Problem
from .tables import require_pyarrow

__all__ = ["SUFFIXES", "EmbeddingParts", "Part", "require_writer", "write_embeddings"]

SUFFIXES = (".npy", ".parquet")
_ARRAYS = ("embeddings", "files", "numbers", "times_s", "place")  # arrays in a part's file


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The embeddings of n consecutive frames.

    Attributes:
        embeddings: one row for each frame, e numbers wide, float32 [n e].
        files: for each frame, the index of its file in the list of encoded files, int64 [n].
        numbers: number of each frame in its file, from 0, int64 [n].
        times_s: presentation time of each frame, seconds, float64 [n]. NaN for an image.
        place: position from which to continue reading: file index and frame number, int64 [2].
        problems: reports of the files that could not be read completely. The report of a file is in
            the part in which its reading stopped.
    """

    embeddings: NDArray[np.float32]
    files: NDArray[np.int64]
    numbers: NDArray[np.int64]
    times_s: NDArray[np.float64]
    place: NDArray[np.int64]
    problems: tuple[Problem, ...]


class EmbeddingParts:
    """A folder of parts. Embeddings (rows) wait in memory until there are enough for a part.

    Attributes:
        num_rows: number of all rows, on disk and in memory.
    """

    def __init__(self, folder: Path, keep_every: int, *, whole_files: bool) -> None:
        """Open the folder, and find the parts that an interrupted command has written.

        Args:
            folder: folder of the parts.
            keep_every: number of rows in memory at which they are written to a part.
            whole_files: If True, resume only at the start of a file. Encoders with temporal context
                require this, because their embedding depends on all earlier frames of the file.
        """
        self._folder, self._keep_every = folder, keep_every
        self._paths = sorted(folder.glob("*.npz"))
        self._waiting: list[tuple[Batch, NDArray[np.float32]]] = []
        if whole_files:
            self._return_to_a_file()
        last = _load(self._paths[-1]).place if self._paths else (0, 0)
        self._kept: Place = (int(last[0]), int(last[1]))
        self.num_rows = sum(len(part.embeddings) for part in self)

    def __iter__(self) -> Iterator[Part]:
        """Yield the written parts in order."""
        yield from map(_load, self._paths)

    @property
    def place(self) -> Place:
        """Position from which to continue reading: file index and frame number."""
        return self._waiting[-1][0].place if self._waiting else self._kept

    def append(self, batch: Batch, embeddings: NDArray[np.float32]) -> None:
        """Append a batch of n frames and its embeddings [n e]. Write a part if there are enough."""
        self._waiting.append((batch, embeddings))
        self.num_rows += len(embeddings)
        if sum(len(rows) for _, rows in self._waiting) >= self._keep_every:
            self.keep()

    def keep(self) -> None:
        """Write the rows in memory to a part, if there are any."""
        if not self._waiting:
            return
        # cleared first, so that an interrupt cannot cause the same rows to be written twice
        waiting, self._waiting = self._waiting, []
        batches = [batch for batch, _ in waiting]
        self._write(
            Part(
                embeddings=np.concatenate([rows for _, rows in waiting]),
                files=np.array([one for batch in batches for one in batch.files], np.int64),
                numbers=np.array([one for batch in batches for one in batch.numbers], np.int64),
                times_s=np.array([one for batch in batches for one in batch.times_s], np.float64),
                place=np.array(batches[-1].place, np.int64),
                problems=tuple(one for batch in batches for one in batch.problems),
            )
        )
        self._kept = batches[-1].place

    def _write(self, part: Part) -> None:
        """Write a part, numbered after the existing parts of the folder."""
        data = io.BytesIO()
        arrays = {name: getattr(part, name) for name in _ARRAYS}
        problems = json.dumps([asdict(problem) for problem in part.problems])
        np.savez(data, **arrays, problems=np.array(problems))
        path = self._folder / f"{len(self._paths):08d}.npz"
        write_aside(path, data.getvalue())
        self._paths.append(path)

    def _return_to_a_file(self) -> None:
        """Remove the rows of the file that was encoded last, if it was encoded only partly."""
        index, number = _load(self._paths[-1]).place if self._paths else (0, 0)
        while number and self._paths:
            path = self._paths.pop()
            part = _load(path)
            before = part.files < index
            if not (before.any() or part.problems) and self._paths:
                path.unlink()
                continue
            rows = {name: getattr(part, name)[before] for name in _ARRAYS if name != "place"}
            self._write(replace(part, **rows, place=np.array((index, 0), np.int64)))
            return


def require_writer(out: Path) -> None:
    """Check that `write_embeddings` can write to ``out``, before anything is computed.

    Raises:
        ValueError: ``out`` is a folder, or ends in neither .npy nor .parquet.
        ImportError: pyarrow, which writes .parquet, is not installed.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out must be a file name that ends in {' or '.join(SUFFIXES)}, got {out}")
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; give the name of a file in it")
    if out.suffix.lower() == ".parquet":
        _pyarrow()


def write_embeddings(
    out: Path, parts: EmbeddingParts, names: Sequence[str], dim: int
) -> list[Path]:
    """Write all rows to one file, and return the paths of the written files.

    A .npy file has no space for the file name, the frame number and the time of each row, so these
    are written to a .csv file beside it.

    Args:
        out: the file to write, .npy or .parquet.
        parts: the parts that contain the rows.
        names: names of the encoded files. `Part.files` has indices into this list.
        dim: number of values in an embedding.
    """
    if out.suffix.lower() == ".parquet":
        _write_parquet(out, parts, names, dim)
        return [out]
    with written_aside(out) as aside, aside.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (parts.num_rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            part.embeddings.astype("<f4", copy=False).tofile(file)
    table = out.with_name(f"{out.name}.csv")
    with written_aside(table) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "frame", "time_s"))
        for part in parts:
            writer.writerows(
                (names[index], "", "") if np.isnan(time_s) else (names[index], number, time_s)
                for index, number, time_s in zip(
                    part.files.tolist(), part.numbers.tolist(), part.times_s.tolist(), strict=True
                )
            )
    return [out, table]


def _load(path: Path) -> Part:
    with np.load(path) as arrays:
        problems = tuple(Problem(**one) for one in json.loads(str(arrays["problems"])))
        return Part(**{name: arrays[name] for name in _ARRAYS}, problems=problems)


def _pyarrow() -> Any:
    return require_pyarrow("writing .parquet needs", ", or use out=NAME.npy")


def _write_parquet(out: Path, parts: EmbeddingParts, names: Sequence[str], dim: int) -> None:
    pyarrow = _pyarrow()
    kinds = {
        "name": pyarrow.string(),
        "frame": pyarrow.int64(),
        "time_s": pyarrow.float64(),
        "embedding": pyarrow.list_(pyarrow.float32(), dim),
    }
    schema = pyarrow.schema(list(kinds.items()))
    with written_aside(out) as aside, pyarrow.parquet.ParquetWriter(aside, schema) as writer:
        for part in parts:
            still = np.isnan(part.times_s)
            columns = [
                pyarrow.array([names[index] for index in part.files.tolist()], kinds["name"]),
                pyarrow.array(part.numbers, kinds["frame"], mask=still),
                pyarrow.array(part.times_s, kinds["time_s"], mask=still),
                pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(part.embeddings.ravel(), pyarrow.float32()), dim
                ),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
