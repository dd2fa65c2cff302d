"""Save and load checkpoints: a folder with ``config.json`` and ``weights.safetensors``.

``config.json`` contains ``format``, ``kind``, the exact config, the sha256 of the weights file, the
versions of Python and torch, and (since version 0.2) a sha256 of the other content of
``config.json``. The folder is written under a temporary name and renamed, so it is complete or
absent. Loading a checkpoint never runs code from it.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .device import float32_default
from .downloads import check_downloaded
from .files import sha256_of, written_aside

__all__ = [
    "FORMAT",
    "build_module",
    "load_weights",
    "newest_whole",
    "read_config",
    "save_checkpoint",
    "weights_hash",
]

FORMAT = 1
CONFIG_HASH = "config_sha256"
# limit for tables that a module computes (angles, masks) and that are not in its weights file
TABLES_BYTES = 1 << 28

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def save_checkpoint(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    train_state: Mapping[str, Any] | None = None,
    **notes: object,
) -> None:
    """Write a checkpoint, and replace an existing checkpoint in the same folder.

    Args:
        folder: the checkpoint's folder.
        kind: type of the saved module, for example ``tokenizer``.
        config: settings of the module, as plain data, from which it can be built again.
        weights: the module's state dict.
        train_state: tensors and plain data that only a resumed training needs; written to
            ``train_state.pt``.
        notes: further plain data for ``config.json``, such as the training step and the losses.
    """
    with written_aside(folder) as aside:
        aside.mkdir()
        file = aside / "weights.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, file)
        file.chmod(0o644)  # safetensors makes the file readable only by its owner
        data = {
            "format": FORMAT,
            "kind": kind,
            "config": dict(config),
            "sha256": sha256_of(file),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **notes,
        }
        data[CONFIG_HASH] = _config_hash(data)
        (aside / "config.json").write_text(json.dumps(data, indent=1) + "\n")
        if train_state is not None:
            torch.save(dict(train_state), aside / "train_state.pt")


def read_config(folder: Path, *kinds: str) -> dict[str, Any]:
    """Return the content of a checkpoint's ``config.json``, as a dictionary.

    Args:
        folder: the checkpoint's folder.
        kinds: accepted kinds of checkpoint, such as ``encoder``.

    Raises:
        FileNotFoundError: the folder contains no checkpoint.
        ValueError: the checkpoint has another kind or a newer format, cannot be read, or was
            changed after it was saved. A change of a checkpoint from version 0.1 is not detected.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint in {folder}: config.json is missing")
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}); the checkpoint is damaged"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; the checkpoint is damaged")
    if data.get("kind") not in kinds:
        needed = " or ".join(map(repr, kinds))
        raise ValueError(f"{folder} holds a {data.get('kind')!r} checkpoint, needed {needed}")
    if data.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {data.get('format')!r}; this version reads {FORMAT}")
    for key, needed_type in (("config", dict), ("sha256", str)):
        if not isinstance(data.get(key), needed_type):
            raise ValueError(f"{path} has no valid {key!r}; the checkpoint is damaged")
    if data.get(CONFIG_HASH, _config_hash(data)) != _config_hash(data):
        raise ValueError(
            f"{path} was changed after it was saved: its content does not match its sha256; copy "
            f"the checkpoint again, or, if the change is intended, delete the line {CONFIG_HASH!r}"
        )
    return data


def load_weights(folder: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Check the sha256 of a checkpoint's weights file, and return its tensors by name.

    Raises:
        FileNotFoundError: the weights file is missing.
        ValueError: the file is damaged; the message names it.
    """
    file = check_downloaded(folder / "weights.safetensors")
    found = sha256_of(file)
    if found != expected_sha256:
        raise ValueError(
            f"{file} is damaged or was replaced: sha256 {found[:12]}, "
            f"config.json says {expected_sha256[:12]}; copy it again"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file ({error})") from error


@float32_default()
def build_module(build: Callable[[], M], weights: Mapping[str, Tensor], where: object) -> M:
    """Build the module that a config describes in float32, and load its weights.

    The module is first built on torch's meta device, which allocates no memory, and its names and
    shapes are compared with the weights. So a wrong config is rejected quickly, even if it
    describes a very large model.

    Args:
        build: function that builds the module with untrained weights.
        weights: the module's state dict.
        where: path of the checkpoint, which error messages contain.

    Raises:
        ValueError: the config describes no valid module, or its module and the weights have
            different names or shapes of tensors; the message lists them.
    """

    def count(module: nn.Module, name: str, parameter: object) -> None:
        nonlocal made
        made += 1
        if made > 2 * len(weights) + 64:
            raise _TooLarge(f"config.json describes a model of more than {made - 1} weights")

    made = 0
    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            described = build()
    except _TooLarge as error:
        raise ValueError(f"{where}: {error}, the file holds {len(weights)}") from error
    except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise ValueError(f"{where}: config.json describes no model: {error}") from error
    finally:
        handle.remove()
    needed = described.state_dict()
    faults = [f"missing {name}" for name in sorted(needed.keys() - weights.keys())]
    faults += [f"unexpected {name}" for name in sorted(weights.keys() - needed.keys())]
    faults += [
        f"{name} {tuple(weights[name].shape)}, config.json says {tuple(tensor.shape)}"
        for name, tensor in needed.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    tables = sum(buffer.nbytes for name, buffer in described.named_buffers() if name not in needed)
    if tables > TABLES_BYTES + 16 * sum(tensor.nbytes for tensor in weights.values()):
        faults.append(f"config.json asks for tables of {tables:,} bytes")
    if faults:
        more = [f"and {len(faults) - 8} more"] if len(faults) > 8 else []
        raise ValueError(
            f"{where}: config.json and weights do not match: " + "; ".join(faults[:8] + more)
        )
    module = build()
    module.load_state_dict(weights)
    return module


def newest_whole(
    folders: Iterable[Path], read: Callable[[Path], T], *, sets_aside: bool = True
) -> tuple[Path, T] | None:
    """Return the path and the content of the newest undamaged checkpoint of a run.

    Damaged checkpoints that are newer are reported and renamed to ``damaged-...``, so that later
    calls ignore them. If `folders` is empty, the result is None.

    Args:
        folders: checkpoints of one run; the alphabetical order of their names is the order in
            which they were written.
        read: function that reads a checkpoint; if it raises any exception, the checkpoint counts as
            damaged.
        sets_aside: true to report and rename damaged checkpoints. If several processes call this
            function, only one process may do this.

    Raises:
        ValueError: there are checkpoints, but all of them are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for folder in sorted(folders, reverse=True):
        try:
            found = read(folder)
        except Exception as error:  # a damaged file can raise anything
            damaged.append((folder, f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        for other, why in damaged if sets_aside else ():
            print(f"{other} is damaged ({why}); continuing from {folder.name}", flush=True)
            other.rename(_unused(other.with_name(f"damaged-{other.name}")))
        return folder, found
    if damaged:
        reasons = "\n  ".join(f"{folder}: {why}" for folder, why in damaged)
        raise ValueError(
            "none of the checkpoints can be read; repair one, or delete them to start again:\n  "
            + reasons
        )
    return None


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of a module's parameters and buffers: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _TooLarge(Exception):
    """An error for a config that describes a model with more parameters than the weights file."""


def _config_hash(data: Mapping[str, Any]) -> str:
    """Return the sha256 of the data in ``config.json``; the formatting of the file is ignored."""
    content = {key: value for key, value in data.items() if key != CONFIG_HASH}
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _unused(path: Path) -> Path:
    number = 1
    unused = path
    while unused.exists():
        number += 1
        unused = path.with_name(f"{path.name}-{number}")
    return unused
