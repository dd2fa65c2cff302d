"""A checkpoint is a folder: ``config.json`` and ``weights.safetensors``; nothing that can execute.

``config.json`` holds ``format``, ``kind``, the exact config, the sha256 of the weights file and the
versions that wrote it. The folder is written aside and renamed, so it is whole or not there.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .files import written_aside

__all__ = ["FORMAT", "load_weights", "read_config", "save_checkpoint", "weights_hash"]

FORMAT = 1


def save_checkpoint(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    train_state: Mapping[str, Any] | None = None,
    **notes: object,
) -> None:
    """Write a checkpoint, replacing one that is there.

    Args:
        folder: the checkpoint's folder.
        kind: what it holds, for instance ``tokenizer``.
        config: plain data that rebuilds the module.
        weights: its state dict.
        train_state: what only a resumed training needs, as tensors and plain data:
            ``train_state.pt``.
        notes: further plain data, such as the step and the losses.
    """
    with written_aside(folder) as aside:
        aside.mkdir()
        file = aside / "weights.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, file)
        file.chmod(0o644)  # safetensors makes it readable to its owner alone
        data = {
            "format": FORMAT,
            "kind": kind,
            "config": dict(config),
            "sha256": _sha256(file),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **notes,
        }
        (aside / "config.json").write_text(json.dumps(data, indent=1) + "\n")
        if train_state is not None:
            torch.save(dict(train_state), aside / "train_state.pt")


def read_config(folder: Path, *kinds: str) -> dict[str, Any]:
    """Return the content of ``config.json`` of a checkpoint of one of the ``kinds``.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: of another kind or of a newer format, or not readable.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint in {folder}: config.json is missing")
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}); the checkpoint is damaged"
        ) from error
    if data.get("kind") not in kinds:
        needed = " or ".join(map(repr, kinds))
        raise ValueError(f"{folder} holds a {data.get('kind')!r} checkpoint, needed {needed}")
    if data.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {data.get('format')!r}; this version reads {FORMAT}")
    return data


def load_weights(folder: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint whose file is the one that was saved.

    Raises:
        FileNotFoundError: the weights file is missing.
        ValueError: it is damaged; the message names the file.
    """
    file = folder / "weights.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    found = _sha256(file)
    if found != expected_sha256:
        raise ValueError(
            f"{file} is damaged or was exchanged: sha256 {found[:12]}, "
            f"config.json says {expected_sha256[:12]}; copy it again"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file ({error})") from error


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of a module's parameters and buffers: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
