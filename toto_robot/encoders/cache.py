"""A cache of embeddings on disk, so that each image is encoded only once.

    cache = FeatureCache(Path("features"), load_encoder("toto-nano"), max_bytes=2**30)
    env = TotoObservation(env, cache)              # a cache is used like an encoder

An embedding is found by its key. The key is a hash of the frame's pixels and of everything else
that determines the embedding: weights, resize method, layer, pool, the precision of computation and
storage, and the kind of device. Keys contain neither file names nor frame numbers. Therefore two
data sets that contain the same frame share its embedding.

The folder contains one SQLite database with a write-ahead log. Several processes on one machine may
use the folder, but not over a network file system (NFS). A process that is killed loses only the
embeddings that it was writing.

The cache saves time if the same frames are encoded again, as in training on stored frames or in
evaluation on the same seeds. The frames of a running robot are always new, so there the cache only
costs time.
"""

import hashlib
import json
import os
import sqlite3
import weakref
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..device import own_precision
from ..locks import lock
from ..tokenizers.tokenizer import check_frames
from .contract import CodeFormat, Codes, FrameEncoder, FrameStreams

__all__ = ["CacheableEncoder", "CachedEncoder", "FeatureCache"]

FORMAT = 2  # format 1 was a folder of segments
FILE = "features.sqlite"
LEAST_RECORDS = 32
CHECKSUM_BYTES = 8
_PAGE = 4096  # bytes; SQLite's default
_LEAST_PAGES = 16


@runtime_checkable
class CacheableEncoder(Protocol):
    """The methods and attributes that the cache needs; all encoders of this package have them.

    The cache rejects an encoder in training mode, because training changes the embeddings. An
    `nn.Module` is rejected only if one of its modules in training mode has trainable parameters.

    Attributes:
        dim: number e of values in an embedding.
        image_size: side of the square to which frames are resized, pixels.
    """

    dim: int
    image_size: int

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        ...

    def __call__(self, frames: Tensor, /) -> Tensor:
        """Return the embeddings float32 [b e] of frames uint8 [b h w 3]."""
        ...


class FeatureCache:
    """An encoder that reads embeddings from a cache, and encodes only missing frames.

    An embedding from the cache is bit-identical to the embedding that was computed and stored. The
    missing frames of a call are encoded as one batch, in which each frame occurs once. The last
    bits of an embedding depend on the size of this batch. The embeddings have no gradients. A copy
    of the object, also in another process, uses the same folder.

    Attributes:
        dim: number e of values in an embedding.
        hits: number of frames that were in the cache, or that occurred before in the same call.
        misses: number of frames that were encoded.
    """

    def __init__(
        self, folder: Path, encoder: CacheableEncoder, max_bytes: int, dtype: str = "float32"
    ) -> None:
        """Open the cache in ``folder``; create it if it does not exist.

        Args:
            folder: folder of the cache; several processes and encoders may share it.
            encoder: the encoder for missing frames.
            max_bytes: maximum size of the database, for all processes together; its log adds a few
                MB. When the database is full, the oldest eighth of the embeddings is deleted.
            dtype: stored precision, `float32` or `float16`. `float16` halves the size of the cache.
                All returned embeddings are then rounded to float16, also those just computed.

        Raises:
            ValueError: the dtype is unknown, the database is damaged or has another format, or
                ``max_bytes`` is too small for a useful number of embeddings.
        """
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")
        self.dim = encoder.dim
        self.hits = self.misses = 0
        self._encoder = encoder
        self._dtype = np.dtype(dtype)
        self._pages = _pages_of(self.dim * self._dtype.itemsize)
        least = _PAGE * (_LEAST_PAGES + LEAST_RECORDS * self._pages)
        if max_bytes < least:
            raise ValueError(
                f"max_bytes must hold {LEAST_RECORDS} embeddings, {least} bytes; got {max_bytes}"
            )
        self._max_pages = max_bytes // _PAGE
        self._file = folder / FILE
        self._start_without_connection()
        if (folder / "cache.json").exists():
            raise ValueError(
                f"{folder} holds a feature cache of format 1, which this version does not read; "
                "delete it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # SQLite does not wait if another process sets the mode of a new database
            with lock(folder, wait=True):
                self._create()
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self._file} cannot be opened ({error}); if it is damaged, delete it"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle, without the connections to the database."""
        return {name: one for name, one in self.__dict__.items() if name != "_connections"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which opens its own connection to the database when it needs it."""
        self.__dict__.update(state)
        self._start_without_connection()

    @property
    def num_bytes(self) -> int:
        """Size of the database, bytes."""
        return self._query("PRAGMA page_count") * _PAGE

    def __len__(self) -> int:
        """Return the number of embeddings of all encoders that share the folder."""
        return self._query("SELECT COUNT(*) FROM embeddings")

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return the embeddings float32 [b e] of uint8 frames [b h w 3], on the CPU.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: the frames are invalid, or the encoder is in training mode.
        """
        pixels = check_frames(frames).cpu().contiguous()
        keys = self._keys(pixels)
        found = {key: self._get(key) for key in keys}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            first = {key: row for row, key in reversed(list(enumerate(keys)))}
            with own_precision():  # autocast is not part of the key
                embeddings = self._encoder(pixels[[first[key] for key in missing]])
            stored = embeddings.detach().cpu().float().numpy().astype(self._dtype)
            made = {key: one.tobytes() for key, one in zip(missing, stored, strict=True)}
            self._put(made)
            found |= made
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        rows = np.frombuffer(b"".join(found[key] or b"" for key in keys), self._dtype)
        return torch.from_numpy(rows.reshape(len(keys), self.dim).astype(np.float32))

    def _start_without_connection(self) -> None:
        self._connections: dict[int, sqlite3.Connection] = {}
        weakref.finalize(self, _close, self._connections)

    @property
    def _database(self) -> sqlite3.Connection:
        """The database connection of this process; a forked process needs a new connection."""
        process = os.getpid()
        if process not in self._connections:
            database = sqlite3.connect(self._file, timeout=60, check_same_thread=False)
            self._connections[process] = database
            database.execute(f"PRAGMA page_size = {_PAGE}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
        return self._connections[process]

    def _create(self) -> None:
        """Create the table if it does not exist."""
        version = self._query("PRAGMA user_version")
        if version not in (0, FORMAT):
            raise ValueError(f"{self._file} has format {version}; this version reads {FORMAT}")
        if version == 0:
            with self._database as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings "
                    "(number INTEGER PRIMARY KEY, key BLOB UNIQUE, value BLOB)"
                )
                database.execute(f"PRAGMA user_version = {FORMAT}")

    def _query(self, query: str) -> int:
        return self._database.execute(query).fetchone()[0]

    def _get(self, key: bytes) -> bytes | None:
        """Return the bytes of the embedding with this key; None if it is missing or damaged."""
        row = self._database.execute(
            "SELECT value FROM embeddings WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        payload, checksum = row[0][:-CHECKSUM_BYTES], row[0][-CHECKSUM_BYTES:]
        return payload if checksum == _checksum(key, payload) else None

    def _put(self, made: dict[bytes, bytes]) -> None:
        """Store embeddings; delete the oldest embeddings if there is not enough room."""
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            for key, payload in made.items():
                used = self._query("PRAGMA page_count") - self._query("PRAGMA freelist_count")
                if used + self._pages > self._max_pages:
                    database.execute(
                        "DELETE FROM embeddings WHERE number <= "
                        "(SELECT MIN(number) + (MAX(number) - MIN(number)) / 8 FROM embeddings)"
                    )
                database.execute(
                    "REPLACE INTO embeddings (key, value) VALUES (?, ?)",
                    (key, payload + _checksum(key, payload)),
                )

    def _keys(self, pixels: Tensor) -> list[bytes]:
        if self._is_training():
            raise ValueError(
                "the encoder is in training mode: its embeddings change, so they cannot be cached; "
                "call encoder.eval() first"
            )
        device, dtype = _place(self._encoder)
        facts = [FORMAT, self._encoder.fingerprint, self._encoder.image_size, self.dim]
        facts += [device, dtype, self._dtype.name, list(pixels.shape[1:])]
        made_by = hashlib.blake2b(json.dumps(facts).encode(), digest_size=32)
        keys = []
        for frame in pixels.numpy():
            one = made_by.copy()
            one.update(frame.data)
            keys.append(one.digest())
        return keys

    def _is_training(self) -> bool:
        if isinstance(self._encoder, nn.Module):
            # in a frozen encoder, only the parameters of the pool can be trained
            return any(
                module.training and any(p.requires_grad for p in module.parameters())
                for module in self._encoder.modules()
            )
        return bool(getattr(self._encoder, "training", False))


def _close(connections: dict[int, sqlite3.Connection]) -> None:
    """Close the connection of this process, but not those that a fork copied from its parent."""
    database = connections.pop(os.getpid(), None)
    if database is not None:
        database.close()


class CachedEncoder(FeatureCache):
    """An encoder with a `FeatureCache`, which has all methods of `FrameEncoder`.

    Only calls of the object itself, `cached(frames)`, use the cache. `compress`, `embed` and
    streams call the encoder directly.

    Attributes:
        layer: number of the encoder's layer whose features are pooled.
        pool: pool of the encoder.
        image_size: side of the square to which the encoder resizes frames, pixels.
        weights_hash: sha256 of the encoder's weights.
        past: text that describes the earlier frames on which an embedding depends.
    """

    def __init__(
        self, folder: Path, encoder: FrameEncoder, max_bytes: int, dtype: str = "float32"
    ) -> None:
        super().__init__(folder, encoder, max_bytes, dtype)
        self._whole = encoder
        self.layer, self.pool, self.image_size = encoder.layer, encoder.pool, encoder.image_size
        self.weights_hash, self.past = encoder.weights_hash, encoder.past

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        return self._whole.fingerprint

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns."""
        return self._whole.codes

    def compress(self, frames: np.ndarray | Tensor) -> Codes:
        """Return the codes [b n] of b frames [b h w 3], n codes per frame."""
        return self._whole.compress(frames)

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of frames from their codes [b n]."""
        return self._whole.embed(codes)

    def open_streams(self, num_streams: int) -> FrameStreams:
        """Return new streams of the encoder, each at the beginning of an episode."""
        return self._whole.open_streams(num_streams)


def _pages_of(num_bytes: int) -> int:
    """Return the maximum number of database pages that an embedding of this size needs."""
    # its own pages and, where a page of keys or of the table is full, a new page at each level
    return num_bytes // (_PAGE - 4) + 1 + 4


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=CHECKSUM_BYTES).digest()


def _place(encoder: CacheableEncoder) -> tuple[str, str]:
    """Return the kind of device on which an encoder computes, and its precision."""
    if isinstance(encoder, nn.Module):
        weight = next(encoder.parameters())
        return weight.device.type, str(weight.dtype)
    device, dtype = getattr(encoder, "device", "cpu"), getattr(encoder, "dtype", torch.float32)
    return torch.device(device).type, str(dtype)
