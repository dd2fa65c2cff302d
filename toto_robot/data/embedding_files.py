"""Embeddings of frames on the disk: in parts while they are made, then as one .npy or .parquet."""

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

__all__ = ["SUFFIXES", "EmbeddingParts", "Part", "require_writer", "write_embeddings"]

SUFFIXES = (".npy", ".parquet")
_ARRAYS = ("embeddings", "files", "numbers", "times_s", "place")  # of a part


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Rows that follow one another.

    Attributes:
        embeddings: float32 [n e].
        files: int64 [n], the index of each row's file.
        numbers: int64 [n], the number of its frame in the file.
        times_s: float64 [n], when it is shown; NaN for an image.
        place: int64 [2], where the reading goes on.
        problems: of the files that ended meanwhile.
    """

    embeddings: NDArray[np.float32]
    files: NDArray[np.int64]
    numbers: NDArray[np.int64]
    times_s: NDArray[np.float64]
    place: NDArray[np.int64]
    problems: tuple[Problem, ...]


class EmbeddingParts:
    """The parts in a folder, each written whole when it has rows enough.

    Attributes:
        num_rows: rows that are kept, and those that wait.
    """

    def __init__(self, folder: Path, keep_every: int, *, whole_files: bool) -> None:
        """Find what a stopped command has kept.

        Args:
            folder: of the parts.
            keep_every: rows of a part, at least.
            whole_files: go on only where a file begins, as an encoder with a past must.
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
        """Yield the parts that are kept, in order."""
        yield from map(_load, self._paths)

    @property
    def place(self) -> Place:
        """Where the reading goes on."""
        return self._waiting[-1][0].place if self._waiting else self._kept

    def append(self, batch: Batch, embeddings: NDArray[np.float32]) -> None:
        """Take a batch and its embeddings [n e]."""
        self._waiting.append((batch, embeddings))
        self.num_rows += len(embeddings)
        if sum(len(rows) for _, rows in self._waiting) >= self._keep_every:
            self.keep()

    def keep(self) -> None:
        """Write what waits; nothing where nothing does."""
        if not self._waiting:
            return
        # taken first, so that nothing is written twice if this is interrupted
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
        """Write a part behind the others."""
        data = io.BytesIO()
        arrays = {name: getattr(part, name) for name in _ARRAYS}
        told = json.dumps([asdict(problem) for problem in part.problems])
        np.savez(data, **arrays, problems=np.array(told))
        path = self._folder / f"{len(self._paths):08d}.npz"
        write_aside(path, data.getvalue())
        self._paths.append(path)

    def _return_to_a_file(self) -> None:
        """Drop the rows of the file that was begun."""
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
    """Refuse what `write_embeddings` cannot write, before anything is computed.

    Raises:
        ValueError: neither .npy nor .parquet, or a folder.
        ImportError: what writes it is not installed; the message says how to install it.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out: a file's name that ends in {' or '.join(SUFFIXES)}, got {out}")
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; give the name of a file in it")
    if out.suffix.lower() == ".parquet":
        _pyarrow()


def write_embeddings(
    out: Path, parts: EmbeddingParts, names: Sequence[str], dim: int
) -> list[Path]:
    """Write all rows to one file, and beside a .npy their names to a .csv; return the files.

    Args:
        out: where to.
        parts: the rows.
        names: of the files.
        dim: width e of the embeddings.
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
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "a .parquet needs pyarrow: pip install 'toto-robot[lerobot]', or let out= end in .npy"
        ) from error
    return pyarrow


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
