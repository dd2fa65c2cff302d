"""Memory of a GPU that two processes share: CUDA's inter-process communication.

The worker allocates a buffer and sends a handle; the client opens it. The functions of the driver
(libcuda) are called directly, because the versions of torch in the two processes differ, and their
own ways to share a tensor differ too. Only the worker writes into the buffer.
"""

from __future__ import annotations

import ctypes
from typing import Any, Sequence

import torch

_HANDLE_BYTES = 64
_LAZY_ENABLE_PEER_ACCESS = 1


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_byte * _HANDLE_BYTES),)


class _Buffer:
    """Memory of a GPU, described by the CUDA array interface, from which torch makes a tensor."""

    def __init__(self, address: int, shape: Sequence[int]) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(shape),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def allocate(shape: Sequence[int], device: int = 0) -> tuple[Any, str]:
    """Return a uint8 tensor of a shape on a GPU, and the handle with which to open it."""
    cuda = _driver(device)
    size = 1
    for edge in shape:
        size *= edge
    address, handle = ctypes.c_uint64(), _Handle()
    _check(cuda, cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
    _check(cuda, cuda.cuIpcGetMemHandle(ctypes.byref(handle), address))
    return _tensor(address.value, shape, device), bytes(handle).hex()


def open_handle(handle: str, shape: Sequence[int], device: int = 0) -> tuple[Any, int]:
    """Return the uint8 tensor of a handle that another process sent, and its address."""
    cuda = _driver(device)
    address, received = ctypes.c_uint64(), _Handle.from_buffer_copy(bytes.fromhex(handle))
    flags = ctypes.c_uint(_LAZY_ENABLE_PEER_ACCESS)
    _check(cuda, cuda.cuIpcOpenMemHandle_v2(ctypes.byref(address), received, flags))
    return _tensor(address.value, shape, device), address.value


def copy_rows(tensor: Any, rows: Sequence[int]) -> Any:
    """Return a copy of some rows of a shared tensor, made before the other process writes again."""
    copied = tensor[list(rows)].clone()
    torch.cuda.synchronize(tensor.device)
    return copied


def close_handle(address: int, device: int = 0) -> None:
    """Detach a buffer that `open_handle` attached; its tensor must not be used afterwards."""
    cuda = _driver(device)
    _check(cuda, cuda.cuIpcCloseMemHandle(ctypes.c_uint64(address)))


def _driver(device: int) -> Any:
    """Return the driver; the context of torch's device is current in this thread."""
    torch.cuda.set_device(device)
    torch.cuda.synchronize()  # creates the context if there is none
    return ctypes.CDLL("libcuda.so.1")


def _tensor(address: int, shape: Sequence[int], device: int) -> Any:
    return torch.as_tensor(_Buffer(address, shape), device=f"cuda:{device}")


def _check(cuda: Any, status: int) -> None:
    if status:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"CUDA cannot share memory: {(name.value or b'?').decode()}")
