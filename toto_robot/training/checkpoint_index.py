"""Read `torch.distributed.checkpoint` files safely: no code in the files is run.

The index ``.metadata`` is a pickle, and the values that are not tensors are pickles too. A pickle
can call any function. This reader allows only the few classes that an index needs.
"""

import json
import pickle
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

__all__ = ["DataPlanner", "DataReader", "read_whole"]

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    _METADATA: {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
}
_PATHS = {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"}


class DataReader(FileSystemReader):
    """A reader of a checkpoint folder that runs no code from the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index ``.metadata`` of the checkpoint."""
        del args
        metadata = _read_index(Path(self._get_metadata_path(kwargs.get("rank"))))
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class DataPlanner(DefaultLoadPlanner):
    """A load planner that accepts only plain data for values that are not tensors."""

    def load_bytes(self, read_item: Any, value: BytesIO) -> None:
        """Check that the bytes hold only plain data, and then read them."""
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def read_whole(folder: Path) -> dict[str, Any]:
    """Check that no file of a checkpoint is missing or truncated, and return its `state.json`.

    Raises:
        ValueError: the checkpoint is damaged. The message describes the damage.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"state.json cannot be read: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise ValueError("state.json has no step")
    ends: dict[str, int] = {}
    for place in _read_index(folder / ".metadata").storage_data.values():
        ends[place.relative_path] = max(
            ends.get(place.relative_path, 0), place.offset + place.length
        )
    for name, end in ends.items():
        if Path(name).name != name:
            raise ValueError(f".metadata names a file outside the folder: {name!r}")
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None or size < end:
            found = "is missing" if size is None else f"has {size} bytes"
            raise ValueError(f"{name} {found}, needed {end}")
    return state


def _read_index(path: Path) -> Metadata:
    try:
        metadata = _Index(BytesIO(path.read_bytes())).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path.name} cannot be read: {error or type(error).__name__}") from error
    if not isinstance(metadata, Metadata):
        raise ValueError(f"{path.name} holds a {type(metadata).__name__}, not an index")
    return metadata


class _Index(pickle.Unpickler):
    """An unpickler that allows only the classes of an index, and refuses all other classes."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function with this name if it is allowed."""
        if module.startswith("pathlib") and name in _PATHS:
            return PurePosixPath
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no index needs; it is not loaded, because a pickle "
            "can run any code"
        )
