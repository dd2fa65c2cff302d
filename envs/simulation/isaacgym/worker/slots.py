"""Named arrays in one block of shared memory."""

from __future__ import annotations

import secrets
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Mapping

import numpy as np

PREFIX = "toto_isaacgym_"  # of the names in /dev/shm
_ALIGNMENT_BYTES = 64

Layout = Mapping[str, Any]  # by name: shape and dtype, as in {"targets": [[4, 9], "float32"]}


class Slots:
    """Named arrays in one block of shared memory, which client and worker both attach.

    Attributes:
        arrays: the arrays by name; they are valid until `close`.
    """

    def __init__(self, layout: Layout, name: str | None = None) -> None:
        """Allocate the memory, or attach memory that another process allocated.

        Args:
            layout: shape and dtype of each array, by name.
            name: name of the memory to attach; None: allocate new memory.
        """
        sizes = [
            int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
            for shape, kind in layout.values()
        ]
        padded = [-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes]
        offsets = np.cumsum([0, *padded])[:-1].tolist()
        self._linked = name is None
        name_or_new = name or PREFIX + secrets.token_hex(8)
        size = max(sum(padded), 1)
        self._memory = shared_memory.SharedMemory(name_or_new, self._linked, size)
        if name is not None:
            # Before 3.13, Python registers also attached memory, and would remove it a second time.
            resource_tracker.unregister(self._memory._name, "shared_memory")  # type: ignore[attr-defined]
        self.arrays = {
            key: np.ndarray(tuple(shape), np.dtype(kind), self._memory.buf, offset)
            for (key, (shape, kind)), offset in zip(layout.items(), offsets)
        }

    @property
    def name(self) -> str:
        """Name by which the other process attaches the memory."""
        return self._memory.name

    def unlink(self) -> None:
        """Remove the name of the memory, once; the memory is freed when both processes end."""
        if self._linked:
            self._linked = False
            self._memory.unlink()

    def close(self) -> None:
        """Detach the memory. The arrays must not be used afterwards."""
        self.arrays = {}
        self._memory.close()
