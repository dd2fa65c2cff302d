"""Read tensors from pickle files without running any of their code.

A pickle file contains the names of functions, and Python's unpickling calls them. So an unknown
file can run any code. This module accepts only expected names of classes. For each of them it
creates an object that only stores data; nothing from the file is imported or called.

torch 1.6 and later writes zip files, which `torch.load(weights_only=True)` reads. Earlier versions
wrote several pickles one after another (a stream). `torch.load` rejects streams with
whole modules, so this module reads them with a restricted unpickler.
"""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..downloads import check_downloaded

__all__ = ["StandIn", "read_pickle", "read_state"]

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_STREAM_VERSION = 1001
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StandIn:
    """A replacement for an expected class, which only stores the data of the pickled object."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *args: object, **kwargs: object) -> "StandIn":
        """Create an object; the arguments in the pickle are ignored."""
        made = super().__new__(cls)
        made.attributes = {}  # unpickling need not call __init__
        return made

    def __setstate__(self, state: object) -> None:
        """Store the data of the pickled object, if they are a mapping."""
        if isinstance(state, Mapping):
            self.attributes = dict(state)


def read_pickle(file: Path, expected: Collection[str]) -> Any:
    """Return the content of a torch file; objects of `expected` classes become `StandIn`.

    Args:
        file: path of a torch file, which is either a zip file or a stream.
        expected: names of the allowed classes, such as ``dall_e.encoder.Encoder``; tensors and
            plain data are always allowed.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file contains the name of another class, cannot be read, or is a failed
            download (a Git LFS pointer or a web page).
    """
    check_downloaded(file)
    # new classes for each file, so that no file can affect the next
    classes = {name: type(name.rsplit(".", 1)[-1], (StandIn,), {}) for name in expected}
    try:
        if zipfile.is_zipfile(file):
            with torch.serialization.safe_globals([(c, name) for name, c in classes.items()]):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        with file.open("rb") as opened:
            return _read_stream(opened, file.stat().st_size, classes)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ValueError(f"{file} is not a readable torch file ({error})") from error
        raise ValueError(
            f"{file} names {found[1]}, which is not loaded, since a pickle may run any code; "
            f"known besides tensors: {sorted(expected)}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{file} is not a readable torch file ({error})") from error


def read_state(file: Path, expected: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Args:
        file: path of a safetensors file or a torch file. A torch file contains a state dict, a
            dictionary with a state dict as ``state_dict``, or a whole module.
        expected: names of the allowed classes, as in `read_pickle`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file cannot be read, or contains no state dict.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(check_downloaded(file))
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file ({error})") from error
    data = read_pickle(file, expected)
    if isinstance(data, StandIn):
        return _module_tensors(data, "")
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if not isinstance(data, Mapping):
        raise ValueError(f"{file} holds a {type(data).__name__}, expected a module or a state dict")
    if others := sorted(str(name) for name, item in data.items() if not isinstance(item, Tensor)):
        raise ValueError(f"{file}: {others} are not tensors; expected a state dict")
    return {str(name): tensor for name, tensor in data.items()}


def _module_tensors(module: StandIn, prefix: str) -> dict[str, Tensor]:
    """Return the parameters and buffers of a pickled `nn.Module`, named as in its state dict."""
    tensors: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (module.attributes.get(kind) or {}).items():
            if isinstance(tensor, Tensor):
                tensors[f"{prefix}{name}"] = tensor.detach()
    for name, child in (module.attributes.get("_modules") or {}).items():
        if isinstance(child, StandIn):
            tensors |= _module_tensors(child, f"{prefix}{name}.")
    return tensors


def _read_stream(opened: IO[bytes], size: int, classes: Mapping[str, type]) -> Any:
    """Return the content of a file from before torch 1.6.

    Such a file contains four pickles, followed by the values of the tensors (storages).
    """
    if _Reader(opened, {}, 0).load() != _STREAM_MAGIC:
        raise ValueError("the file is neither a zip nor a stream of torch")
    if (version := _Reader(opened, {}, 0).load()) != _STREAM_VERSION:
        raise ValueError(f"stream of version {version}, this version reads {_STREAM_VERSION}")
    if not _Reader(opened, {}, 0).load().get("little_endian", True):
        raise ValueError("numbers are big-endian")
    reader = _Reader(opened, classes, size)
    data = reader.load()
    for key in _Reader(opened, {}, 0).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", opened.read(8))
        raw = opened.read(storage.numel() * storage.element_size())
        if count != storage.numel() or len(raw) != storage.numel() * storage.element_size():
            raise ValueError(f"storage {key} is truncated")
        if raw:
            storage.copy_(torch.frombuffer(bytearray(raw), dtype=storage.dtype))
    return data


class _Reader(pickle.Unpickler):
    """An unpickler that accepts only expected classes, tensors, ordered dicts and plain data.

    Args:
        opened: file to read.
        classes: replacement of each expected class, by name.
        size: size of the file, bytes; all storages together cannot be larger.
    """

    def __init__(self, opened: IO[bytes], classes: Mapping[str, type], size: int) -> None:
        super().__init__(opened)
        self.storages: dict[str, Tensor] = {}
        self._bytes_left = size
        self._names: dict[str, Any] = {
            **classes,
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "__builtin__.set": set,
            "torch.device": lambda *name: name,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor": lambda data, *view: _view(data, *view[:3]),
            "torch._utils._rebuild_tensor_v2": lambda data, *view: _view(data, *view[:3]),
            "torch._utils._rebuild_parameter": lambda data, *how: data,
            **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of an expected class; nothing is imported."""
        if f"{module}.{name}" not in self._names:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        return self._names[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Any:
        """Return an empty storage, which is filled later, or a class.

        Old files contain the source text of a class beside its name. The text is ignored.
        """
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], torch.dtype) or pid[5] is not None:
            raise pickle.UnpicklingError(f"a persistent {pid[0]!r} of an unknown kind")
        _, dtype, key, _, count, _ = pid
        if key not in self.storages:
            self._bytes_left -= count * dtype.itemsize
            if count < 0 or self._bytes_left < 0:
                raise pickle.UnpicklingError(f"storage {key} is larger than the file")
            self.storages[key] = torch.empty(count, dtype=dtype)
        return self.storages[key]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return storage.as_strided(size, stride, offset)  # torch raises if this is out of bounds
