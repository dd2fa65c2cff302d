"""Read and write the tokens of large collections, in flat, memory-mapped files (shards).

A data set is a folder::

    manifest.json                 the settings, and the number of shards
    records.jsonl                 the input files, one line each, in the order of the shards
    NAME-00042-of-01024.u16       tokens of a shard, uint16 [frames tokens_per_frame], no header
    NAME-00042-of-01024.json      side file: clip lengths, sha256, errors of the input files
    report.json                   the inputs that were left out, by name and reason

    A shard holds the training clips first, then the held-out clips. It has no start and end tokens,
    because `SequenceMixture` adds them. All rows have equal size: a frame of 256 tokens takes 512
    bytes. So the position of a frame follows from its number, and a sequence is one read without an
    index. `toto_robot.data.tokenise` writes the files.
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
from ..files import sha256_of, write_json
from ..tokenizers import AnyTokenizer
from .shards import Shard, encode_runs, read_manifest

__all__ = ["FORMAT", "ShardWriter", "ShardedTokens", "TokenShards", "digests", "open_data"]

FORMAT = "tokens 1"


def open_data(folder: Path) -> "Shard | TokenShards":
    """Open the data set of a folder, which has frames, frames and tokens, or only tokens.

    Raises:
        ValueError: the folder has no data set, or its frames or its shards of tokens are
            incomplete.
    """
    is_tokens = read_manifest(folder).get("format") == FORMAT
    return TokenShards.open(folder) if is_tokens else Shard.open(folder)


def digests(sets: "Sequence[Shard | TokenShards]") -> dict[str, str]:
    """Return a dictionary from the folder of each data set to a sha256 of its content.

    It is computed from the manifest and from the hashes of shards of tokens, not from all frames.
    """
    found = {}
    for data in sets:
        digest = hashlib.sha256((data.folder / "manifest.json").read_bytes())
        for side in data.sides if isinstance(data, TokenShards) else ():
            digest.update(side["sha256"].encode())
        found[str(data.folder)] = digest.hexdigest()
    return found


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
        """Return the clips of the training files, or with ``validation`` of the held-out files.

        The clips are in the run-length encoding of `encode_runs`.
        """
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
        """Return the tokens of all n frames, [n tokens_per_frame], after a check of the tokenizer.

        Raises:
            ValueError: the tokens were made with other weights or at another resolution.
        """
        made_by = self.manifest["tokenizer"]
        found = (made_by["sha256"][:12], made_by["tokens_per_frame"])
        needed = (weights_hash(tokenizer)[:12], tokenizer.tokens_per_frame)
        if found != needed:
            raise ValueError(
                f"{self.folder} was tokenised with weights {found[0]} at {found[1]} tokens a "
                f"frame, needed {needed[0]} at {needed[1]}; tokenise the frames again, or use the "
                "tokenizer of these tokens (CHANGELOG.md says where the weights of earlier "
                "versions are)"
            )
        return self.all_tokens()

    def all_tokens(self) -> "ShardedTokens":
        """Return the tokens of all n frames, [n tokens_per_frame], made by any tokenizer."""
        files = [
            self.folder / f"{shard_name(self.manifest, number)}.u16"
            for number in range(len(self.sides))
        ]
        counts = [side["frames"] for side in self.sides]
        return ShardedTokens(files, counts, self.manifest["tokenizer"]["tokens_per_frame"])

    def damaged(self) -> list[str]:
        """Read all shards, and return the names of the shards whose sha256 is wrong."""
        names = [f"{shard_name(self.manifest, number)}.u16" for number in range(len(self.sides))]
        return [
            name
            for name, side in zip(names, self.sides, strict=True)
            if sha256_of(self.folder / name) != side["sha256"]
        ]


class ShardedTokens:
    """The tokens of all shards, which can be indexed as one array [n tokens_per_frame].

    A shard is mapped into memory when it is first read, and then stays mapped.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], tokens_per_frame: int) -> None:
        """Store the files, the number of frames in each file, and the tokens per frame."""
        self._files, self._counts = files, counts
        self._ends = np.cumsum(counts)
        self._maps: list[np.ndarray | None] = [None] * len(files)
        self._lock = threading.Lock()
        self.shape = (int(self._ends[-1]) if len(counts) else 0, tokens_per_frame)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        """Return the tokens uint16 [f tokens_per_frame] of the frames with indices int64 [f]."""
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
                # np.memmap is not used: it would keep a file descriptor open for each shard, and
                # there may be thousands of shards.
                flat = torch.from_file(
                    str(self._files[number]),
                    shared=False,
                    size=self._counts[number] * self.shape[1],
                    dtype=torch.uint16,
                )
                mapped = self._maps[number] = flat.numpy().reshape(-1, self.shape[1])
        return mapped


class ShardWriter:
    """A writer of one shard. The file has a temporary name until the shard is complete."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Open a temporary file that is unique to this process."""
        self._folder, self._stem = folder, stem
        self._aside = folder / f".{stem}.{os.uname().nodename}-{os.getpid()}.part"
        self._file = self._aside.open("wb")
        self._digest = hashlib.sha256()
        self._frames = 0

    def write(self, tokens: np.ndarray) -> None:
        """Append the tokens of f frames, uint16 [f tokens_per_frame]."""
        data = np.ascontiguousarray(tokens, "<u2").tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._frames += len(tokens)

    def close(
        self, training: Sequence[int], held_out: Sequence[int], **notes: object
    ) -> dict[str, Any]:
        """Rename the shard to its final name, write its side file, and return the side file's data.

        Args:
            training: number of frames in each training clip, in the order in the shard.
            held_out: number of frames in each held-out clip. Held-out clips follow the training
                clips.
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
        # written last, because a shard counts as complete when its side file exists
        write_json(self._folder / f"{self._stem}.json", side, shared=True)
        return side

    def abandon(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


def shard_name(manifest: dict[str, Any], number: int) -> str:
    """Return the file name, without suffix, of the shard with this number."""
    return f"{manifest['name']}-{number:05}-of-{manifest['shards']:05}"


def read_side(folder: Path, stem: str, row_bytes: int) -> dict[str, Any] | None:
    """Return the content of the JSON file beside a shard, or None if the shard is incomplete."""
    try:
        side = json.loads((folder / f"{stem}.json").read_text())
        whole = (folder / f"{stem}.u16").stat().st_size == side["frames"] * row_bytes
    except (OSError, json.JSONDecodeError):
        return None
    return side if whole else None


def _lengths(clips: Sequence[int]) -> list[list[int]]:
    """Compress a list of clip lengths to pairs of a length and its number of repetitions."""
    starts = np.cumsum([0, *clips])[:-1]
    runs = encode_runs([(int(start), length) for start, length in zip(starts, clips, strict=True)])
    return runs[:, 1:].tolist()
