"""Tokens of large collections in flat, memory-mapped files of fixed row size.

A data set is a folder::

    manifest.json                 the settings, and the number of shards
    records.jsonl                 the planned files, one line each, in the order of the shards
    NAME-00042-of-01024.u16       uint16 [frames tokens_per_frame], no header
    NAME-00042-of-01024.json      its clips, its sha256, and the problems of its files
    report.json                   everything that was left out, by name and reason

    A shard holds the training clips first, then the held-out clips; `SequenceMixture` adds start
    and end tokens. A frame of 256 tokens takes 512 bytes at an offset that follows from its number,
    so a sequence is one read without an index. `toto_robot.data.tokenise` writes the files.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import weights_hash
from ..files import write_json
from ..tokenizers import AnyTokenizer
from .shards import Shard, encode_runs

__all__ = ["FORMAT", "ShardWriter", "ShardedTokens", "TokenShards", "open_data"]

FORMAT = "tokens 1"


def open_data(folder: Path) -> "Shard | TokenShards":
    """Open the data set of a folder: frames with or without tokens, or tokens alone.

    Raises:
        ValueError: the folder has no data set.
    """
    shard = Shard.open(folder)
    return TokenShards.open(folder) if shard.manifest.get("format") == FORMAT else shard


@dataclass(frozen=True, slots=True)
class TokenShards:
    """An opened data set of tokens without frames."""

    folder: Path
    manifest: dict[str, Any]
    sides: tuple[dict[str, Any], ...]

    @staticmethod
    def open(folder: Path) -> "TokenShards":
        """Open a data set.

        Raises:
            ValueError: the folder has no data set of tokens, or it is incomplete.
        """
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text()) if path.is_file() else {}
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{folder} holds no tokens of format {FORMAT!r}; "
                "python -m toto_robot.data.tokenise makes them"
            )
        stems = [shard_name(manifest, number) for number in range(manifest["shards"])]
        row_bytes = 2 * manifest["tokenizer"]["tokens_per_frame"]
        incomplete = [stem for stem in stems if read_side(folder, stem, row_bytes) is None]
        if incomplete:
            raise ValueError(
                f"{folder}: {len(incomplete)} of {len(stems)} shards are missing or of wrong size, "
                f"the first is {incomplete[0]}.u16; run the same tokenise command again"
            )
        sides = [json.loads((folder / f"{stem}.json").read_text()) for stem in stems]
        return TokenShards(folder, manifest, tuple(sides))

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.manifest["name"]

    @property
    def kind(self) -> str:
        """``video`` or ``image``."""
        return self.manifest["kind"]

    def runs(self, validation: bool) -> np.ndarray:
        """Return the clips of the training files or of the held-out files; see `encode_runs`."""
        runs: list[tuple[int, int, int]] = []
        start = 0
        for side in self.sides:
            for part in ("training", "held_out"):
                for length, count in side[part]:
                    if (part == "held_out") == validation:
                        runs.append((start, length, count))
                    start += length * count
        return np.array(runs, np.int64).reshape(-1, 3)

    def tokens(self, tokenizer: AnyTokenizer) -> "ShardedTokens":
        """Return all tokens, [n tokens_per_frame].

        Raises:
            ValueError: the tokens were made with other weights or at another resolution.
        """
        made_by = self.manifest["tokenizer"]
        found = (made_by["sha256"][:12], made_by["tokens_per_frame"])
        needed = (weights_hash(tokenizer)[:12], tokenizer.tokens_per_frame)
        if found != needed:
            raise ValueError(
                f"{self.folder} was tokenised with weights {found[0]} at {found[1]} tokens a "
                f"frame, needed {needed[0]} at {needed[1]}"
            )
        return self.all_tokens()

    def all_tokens(self) -> "ShardedTokens":
        """Return all tokens, of any tokenizer, [n tokens_per_frame]."""
        files = [
            self.folder / f"{shard_name(self.manifest, number)}.u16"
            for number in range(len(self.sides))
        ]
        counts = [side["frames"] for side in self.sides]
        return ShardedTokens(files, counts, self.manifest["tokenizer"]["tokens_per_frame"])

    def damaged(self) -> list[str]:
        """Read every shard and return the names of those with a wrong sha256."""
        names = [f"{shard_name(self.manifest, number)}.u16" for number in range(len(self.sides))]
        return [
            name
            for name, side in zip(names, self.sides, strict=True)
            if _sha256(self.folder / name) != side["sha256"]
        ]


class ShardedTokens:
    """The tokens of all shards as one memory-mapped array [n tokens_per_frame].

    Each shard is mapped when it is first read, and stays mapped.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], tokens_per_frame: int) -> None:
        """Store the files, the number of frames in each, and the tokens per frame."""
        self._files, self._counts = files, counts
        self._ends = np.cumsum(counts)
        self._maps: list[np.ndarray | None] = [None] * len(files)
        self._lock = threading.Lock()
        self.shape = (int(self._ends[-1]) if len(counts) else 0, tokens_per_frame)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        """Return the tokens of frames, int64 [f] -> uint16 [f tokens_per_frame]."""
        shards = np.searchsorted(self._ends, frames, side="right")
        within = frames - self._ends[shards] + np.asarray(self._counts)[shards]
        if (shards == shards[0]).all():  # always the case for a video sequence
            return self._map(int(shards[0]))[within]
        rows = [self._map(int(s))[row] for s, row in zip(shards, within, strict=True)]
        return np.stack(rows)

    def _map(self, number: int) -> np.ndarray:
        mapped = self._maps[number]
        if mapped is None:
            with self._lock:
                # Not np.memmap, which keeps a file descriptor open for each of thousands of shards.
                flat = torch.from_file(
                    str(self._files[number]),
                    shared=False,
                    size=self._counts[number] * self.shape[1],
                    dtype=torch.uint16,
                )
                mapped = self._maps[number] = flat.numpy().reshape(-1, self.shape[1])
        return mapped


class ShardWriter:
    """A writer of one shard under a temporary name, renamed when the shard is complete."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Open a temporary file that is unique to this process."""
        self._folder, self._stem = folder, stem
        self._aside = folder / f".{stem}.{os.uname().nodename}-{os.getpid()}.part"
        self._file = self._aside.open("wb")
        self._digest = hashlib.sha256()
        self._frames = 0

    def write(self, tokens: np.ndarray) -> None:
        """Append uint16 [f tokens_per_frame]."""
        data = np.ascontiguousarray(tokens, "<u2").tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._frames += len(tokens)

    def close(
        self, training: Sequence[int], held_out: Sequence[int], **notes: object
    ) -> dict[str, Any]:
        """Rename the shard to its final name, write its side file, and return that content.

        Args:
            training: lengths of the training clips, in the order of the frames.
            held_out: lengths of the held-out clips, which follow them.
            notes: further entries of the side file.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        side = {
            "frames": self._frames,
            "sha256": self._digest.hexdigest(),
            "training": _lengths(training),
            "held_out": _lengths(held_out),
            **notes,
        }
        os.replace(self._aside, self._folder / f"{self._stem}.u16")
        # written last: a shard is complete when its side file exists
        write_json(self._folder / f"{self._stem}.json", side)
        return side

    def abandon(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


def shard_name(manifest: dict[str, Any], number: int) -> str:
    """Return a shard's file name without suffix."""
    return f"{manifest['name']}-{number:05}-of-{manifest['shards']:05}"


def read_side(folder: Path, stem: str, row_bytes: int) -> dict[str, Any] | None:
    """Return the content of a shard's side file, or None if the shard is incomplete."""
    try:
        side = json.loads((folder / f"{stem}.json").read_text())
        whole = (folder / f"{stem}.u16").stat().st_size == side["frames"] * row_bytes
    except (OSError, json.JSONDecodeError):
        return None
    return side if whole else None


def _lengths(clips: Sequence[int]) -> list[list[int]]:
    """Return lengths in run-length encoding: length and number of repetitions."""
    starts = np.cumsum([0, *clips])[:-1]
    runs = encode_runs([(int(start), length) for start, length in zip(starts, clips, strict=True)])
    return runs[:, 1:].tolist()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
