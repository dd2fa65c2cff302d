"""Embeddings on disk, found again by what was in the picture: nothing is encoded twice.

    cache = FeatureCache(Path("features"), load_encoder("toto-nano"), max_bytes=2**30)
    env = TotoObservation(env, cache)              # wherever an encoder is expected
    cache = FeatureCache(Path("features"), EncoderOnDemand("toto-nano"), max_bytes=2**30)

An embedding's key is the hash of the frame's pixels and of all that made it: weights, resize,
layer, pool, the precision of the computation and of what is stored, and the kind of device. No file
name, no index: a store that is recorded again, or two stores with the same frames, share them.

    <folder>/lock             held while one process appends or evicts; released when it dies
    <folder>/000000000007.segment    records, one behind the other; the oldest segment goes first

A record is a header (magic, length, key), the embedding and a checksum. Readers take no lock: they
see whole records only, since a record counts once all its bytes are there, and one whose checksum
is wrong counts as not there. What a killed process left half written is cut off by the next that
appends. So several processes may use one folder, on one machine (not over NFS).

It serves what is seen again: training on stored frames, evaluation on the same seeds. Frames of a
running robot never come twice; there it only costs.
"""

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import read_config
from ..tokenizers.tokenizer import check_frames
from .encoder import Encoder
from .loading import WEIGHTS, encoder_config, load_encoder, shipped_encoders
from .pooling import build_pool

__all__ = ["CacheableEncoder", "EncoderOnDemand", "FeatureCache"]

FORMAT = 1
MAGIC = b"TFC1"
HEADER = struct.Struct("<4sI32s")  # magic, bytes of the embedding, key
CHECKSUM_BYTES = 8
SEGMENTS = 8  # of which the oldest is thrown away when the cache is full
LEAST_RECORDS = 4 * SEGMENTS


@runtime_checkable
class CacheableEncoder(Protocol):
    """What the cache needs of an encoder; `Encoder`, `VitEncoder` and `EncoderOnDemand` have it.

    Attributes:
        dim: width e of the embedding.
        image_size: side that frames are resized to, pixels.
        training: whether it is being trained: its embeddings must not be kept then.
    """

    dim: int
    image_size: int
    training: bool

    @property
    def fingerprint(self) -> str:
        """Hash that two encoders share if their embeddings are interchangeable."""
        ...

    def __call__(self, frames: Tensor, /) -> Tensor:
        """Turn frames uint8 [b h w 3] into float32 [b e]."""
        ...


class EncoderOnDemand:
    """An encoder that is opened at the first frame it must encode: hits need no transformer.

    Its fingerprint comes from the checkpoint's `config.json`, which holds the hash of the weights,
    and is another than that of the opened `Encoder`: they share no embeddings.

    Attributes:
        dim: width e of the embedding.
        image_size: side that frames are resized to, pixels.
        fingerprint: hash of the checkpoint, layer and pool.
        device: where it will run.
        dtype: of its weights and its computation.
        training: False.
    """

    training = False

    def __init__(
        self,
        name_or_path: str | Path,
        layer: int | None = None,
        pool: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Read what the checkpoint says of itself.

        Args:
            name_or_path: a shipped name or a checkpoint folder.
            layer: None for the checkpoint's own choice.
            pool: likewise. Not `attention`: its parameters may be in training, and their values are
                part of the fingerprint, which must be known before anything is opened.
            device: where to run.
            dtype: of the weights and the computation.

        Raises:
            FileNotFoundError: no checkpoint there.
            ValueError: of another kind, or a pool that does not exist.
        """
        shipped = str(name_or_path) in shipped_encoders()
        folder = WEIGHTS / str(name_or_path) if shipped else Path(name_or_path)
        data = read_config(folder, "encoder")
        config = encoder_config(data["config"])
        depth = config.transformer.layers
        chosen = config.layer if layer is None else layer
        if not -depth - 1 <= chosen <= depth:
            raise ValueError(f"layer {chosen} does not exist; 0 to {depth}, or -1 for the last")
        self._folder, self._pool = folder, config.pool if pool is None else pool
        if self._pool == "attention":
            raise ValueError("pool 'attention' has parameters of its own: use an opened encoder")
        self._layer = chosen % (depth + 1)
        tokens = config.transformer.tokens_per_frame
        self.dim: int = build_pool(self._pool, config.transformer.dim, tokens).dim
        self.image_size = config.tokenizer.image_size
        facts = ["on demand", data["sha256"], data["config"], self._layer, self._pool]
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.device, self.dtype = torch.device(device), dtype
        self._opened: Encoder | None = None

    @property
    def is_open(self) -> bool:
        """Say whether it had to be opened."""
        return self._opened is not None

    def __call__(self, frames: Tensor, /) -> Tensor:
        """Turn frames uint8 [b h w 3] into float32 [b e]."""
        if self._opened is None:
            self._opened = load_encoder(
                self._folder, self._layer, self._pool, self.device, self.dtype
            )
        return self._opened(frames)


class FeatureCache:
    """Stand in for an encoder: look its embeddings up, and encode only what is not there.

    A hit gives to the bit what the miss gave. (The last bits of an encoder depend on the size of
    the batch; the misses of a call are one batch, each picture once.) Gradients do not pass.

    Attributes:
        dim: width e of the embedding.
        hits: frames that were found, or were in a call twice.
        misses: frames that were encoded.
    """

    def __init__(
        self,
        folder: Path,
        encoder: CacheableEncoder,
        max_bytes: int,
        dtype: str = "float32",
    ) -> None:
        """Open the cache in ``folder``, making it if there is none.

        Args:
            folder: may be shared by processes and by encoders.
            encoder: what encodes the misses.
            max_bytes: the segments are never more than this, whichever process writes. When it is
                reached, the oldest eighth goes.
            dtype: what is stored, `float32` or `float16`, which halves it and rounds every
                embedding, hit or miss.

        Raises:
            ValueError: a dtype that is not possible, a folder of another format, or so few bytes
                that the cache would hold next to nothing.
        """
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")
        self.dim = encoder.dim
        self.hits = self.misses = 0
        self._encoder = encoder
        self._dtype = np.dtype(dtype)
        record = HEADER.size + self.dim * self._dtype.itemsize + CHECKSUM_BYTES
        if max_bytes < LEAST_RECORDS * record:
            raise ValueError(
                f"max_bytes must hold {LEAST_RECORDS} embeddings of {record} bytes, "
                f"{LEAST_RECORDS * record}; got {max_bytes}"
            )
        self._segments = _Segments(folder, max_bytes)

    @property
    def num_bytes(self) -> int:
        """Give the bytes that all embeddings take on disk."""
        return sum(size for _, _, size in self._segments.listed())

    def __len__(self) -> int:
        """Count the embeddings that are known here, of all encoders that share the folder."""
        return len(self._segments.places)

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return the embeddings float32 [b e] of uint8 frames [b h w 3], on the CPU.

        Raises:
            TypeError: neither a numpy array nor a tensor.
            ValueError: frames that no encoder takes, or the encoder is in training mode.
        """
        pixels = check_frames(frames).cpu().contiguous()
        keys = self._keys(pixels)
        found = {key: self._segments.get(key) for key in keys}
        if None in found.values():
            self._segments.refresh()  # another process may have written it since
            found = {k: self._segments.get(k) if v is None else v for k, v in found.items()}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            first = {key: row for row, key in reversed(list(enumerate(keys)))}
            embeddings = self._encoder(pixels[[first[key] for key in missing]])
            stored = embeddings.detach().cpu().float().numpy().astype(self._dtype)
            made = {key: one.tobytes() for key, one in zip(missing, stored, strict=True)}
            self._segments.append(made)
            found |= made
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        rows = np.frombuffer(b"".join(found[key] or b"" for key in keys), self._dtype)
        return torch.from_numpy(rows.reshape(len(keys), self.dim).astype(np.float32))

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
            # of a frozen encoder only the pool can be trained, if it has parameters
            return any(
                module.training and any(p.requires_grad for p in module.parameters())
                for module in self._encoder.modules()
            )
        return self._encoder.training


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Say where a record's embedding begins."""

    segment: int
    offset: int
    length: int


@dataclass(kw_only=True, slots=True)
class _Open:
    """A segment that this process reads: a file may be gone from the folder and still be read.

    Attributes:
        handle: file descriptor.
        inode: tells it from another file of the same name.
        end: where the last whole record that was seen ends.
    """

    handle: int
    inode: int
    end: int


class _Segments:
    """Records in append-only files of bounded size, with an index in memory."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.places: dict[bytes, _Place] = {}
        self._folder = folder
        self._max_bytes = max_bytes
        self._open: dict[int, _Open] = {}
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            path = folder / "cache.json"
            if not path.exists():
                aside = folder / ".cache.json.part"
                aside.write_text(json.dumps({"kind": "feature cache", "format": FORMAT}) + "\n")
                aside.replace(path)
            if json.loads(path.read_text()) != {"kind": "feature cache", "format": FORMAT}:
                raise ValueError(f"{path}: no feature cache of format {FORMAT}")
        self.refresh()

    def __del__(self) -> None:
        for one in getattr(self, "_open", {}).values():
            os.close(one.handle)

    def get(self, key: bytes) -> bytes | None:
        """Return an embedding's bytes, or None if it is not there or not whole."""
        place = self.places.get(key)
        if place is None:
            return None
        handle = self._open[place.segment].handle
        data = os.pread(handle, place.length + CHECKSUM_BYTES, place.offset)
        payload = data[: place.length]
        if data[place.length :] != _checksum(key, payload):
            del self.places[key]
            return None
        return payload

    def refresh(self) -> None:
        """Learn what other processes have written and thrown away."""
        listed = {number: (path, size) for number, path, size in self.listed()}
        for number in [n for n in self._open if n not in listed]:
            self._forget(number)
        for number, (path, size) in sorted(listed.items()):
            known = self._open.get(number)
            if known is None or size > known.end:
                self._scan(number, path)

    def append(self, records: dict[bytes, bytes]) -> None:
        """Write records, throwing the oldest segments away when there is no room."""
        with self._lock():
            self.refresh()
            for key, payload in records.items():
                if key in self.places:  # another process was quicker
                    continue
                record = HEADER.pack(MAGIC, len(payload), key) + payload + _checksum(key, payload)
                self._write(record)
            self.refresh()

    def listed(self) -> list[tuple[int, Path, int]]:
        """Return number, path and size of each segment, the oldest first."""
        found = []
        for path in self._folder.glob("*.segment"):
            try:
                found.append((int(path.stem), path, path.stat().st_size))
            except FileNotFoundError:  # thrown away by another process just now
                continue
        return sorted(found)

    def _write(self, record: bytes) -> None:
        """Append one record; the lock is held."""
        listed = self.listed()
        total = sum(size for _, _, size in listed)
        while listed and total + len(record) > self._max_bytes:
            _, path, size = listed.pop(0)
            path.unlink()
            total -= size
        full = self._max_bytes // SEGMENTS
        if listed and listed[-1][2] + len(record) <= full:
            number, path, _ = listed[-1]
        else:
            # never the number of a segment that was there: readers may still hold that one
            number = max([number for number, _, _ in listed] + [*self._open, 0]) + 1
            path = self._folder / f"{number:012d}.segment"
        known = self._open.get(number)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = known.end if known and known.inode == os.fstat(handle).st_ino else 0
            if end < os.fstat(handle).st_size:
                os.ftruncate(handle, end)  # half a record, of a process that was killed
            os.pwrite(handle, record, end)
        finally:
            os.close(handle)
        self._scan(number, path)

    def _scan(self, number: int, path: Path) -> None:
        """Index the records of a segment that were not yet seen, as far as they are whole."""
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            return
        if number in self._open and self._open[number].inode != inode:
            self._forget(number)
        if number not in self._open:
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return
            self._open[number] = _Open(handle=handle, inode=os.fstat(handle).st_ino, end=0)
        one = self._open[number]
        size = os.fstat(one.handle).st_size
        while one.end + HEADER.size <= size:
            header = os.pread(one.handle, HEADER.size, one.end)
            if len(header) < HEADER.size:
                return
            magic, length, key = HEADER.unpack(header)
            stop = one.end + HEADER.size + length + CHECKSUM_BYTES
            if magic != MAGIC or stop > size:
                return
            self.places[key] = _Place(segment=number, offset=one.end + HEADER.size, length=length)
            one.end = stop

    def _forget(self, number: int) -> None:
        os.close(self._open.pop(number).handle)
        self.places = {k: place for k, place in self.places.items() if place.segment != number}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # releases the lock


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=CHECKSUM_BYTES).digest()


def _place(encoder: CacheableEncoder) -> tuple[str, str]:
    """Return the kind of device and the precision that an encoder computes with."""
    if isinstance(encoder, nn.Module):
        weight = next(encoder.parameters())
        return weight.device.type, str(weight.dtype)
    device, dtype = getattr(encoder, "device", "cpu"), getattr(encoder, "dtype", torch.float32)
    return torch.device(device).type, str(dtype)
