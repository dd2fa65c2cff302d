"""Read HDF5 files of other projects, which are not trusted.

An HDF5 file can refer to data in any other file, such as `/etc/passwd`. Such data are refused.
"""

from pathlib import Path
from typing import Any

__all__ = ["member", "open_hdf5", "read_tree", "to_text"]


def open_hdf5(path: Path, extra: str) -> Any:
    """Open an HDF5 file for reading.

    Args:
        path: the file.
        extra: name of the extra of this package that installs h5py, for the message.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: h5py is not installed.
        ValueError: the file is not HDF5, or is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{extra} files need h5py: pip install 'toto-robot[{extra}]'", name="h5py"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}") from error


def member(group: Any, name: str, place: str, *, is_group: bool = False) -> Any:
    """Return a member of an HDF5 group: an array on disk, or a group.

    Args:
        group: the HDF5 group.
        name: name of the member.
        place: name of the group, for messages.
        is_group: True if the member must be a group.

    Raises:
        ValueError: the group has no such member, or it has another kind or is in another file.
    """
    import h5py

    if name not in group:
        raise ValueError(f"{place} lacks {name}; it has {', '.join(sorted(group))}")
    found = group[name]
    if not isinstance(found, h5py.Group if is_group else h5py.Dataset):
        raise ValueError(f"{place}: {name} is a {type(found).__name__}")
    outside = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
    if outside or found.file.filename != group.file.filename:
        raise ValueError(f"{place}: {name} is stored in another file, which is not read")
    return found


def read_tree(group: Any, place: str, depth: int = 8) -> dict[str, Any]:
    """Return all arrays of an HDF5 group, and of its groups as dictionaries, by name.

    Args:
        group: the HDF5 group.
        place: name of the group, for messages.
        depth: highest number of groups in groups; a damaged file may contain a group in itself.

    Raises:
        ValueError: a member is in another file, has another kind, or is in too many groups.
    """
    import h5py

    if depth < 0:
        raise ValueError(f"{place}: too many groups in groups")
    found: dict[str, Any] = {}
    for name in group:
        is_group = isinstance(group[name], h5py.Group)
        one = member(group, name, place, is_group=is_group)
        found[name] = read_tree(one, f"{place}/{name}", depth - 1) if is_group else one[()]
    return found


def to_text(value: Any) -> str:
    """Return an attribute of an HDF5 file as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
