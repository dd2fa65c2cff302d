"""Find the weights of an encoder in a checkpoint that other projects wrote during training.

The checkpoint may also contain an optimizer, and several copies of the encoder, such as a student
and a teacher. Then the copy that its authors evaluate (the teacher, or a moving average) is loaded,
with a warning. The tables below list the known containers (dictionaries inside the file that
contain the encoder). They also list known additions to the names of the encoder's weights:
prefixes, and parts that wrappers such as `torch.compile` insert. These additions are removed.
Unknown names are an error.
"""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar as scalar_of_numpy
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..downloads import check_downloaded

__all__ = ["encoder_state", "read_data"]

# Keys of a model, or of several copies of it, in order of preference.
CONTAINERS = (
    "teacher",  # DINO, iBOT
    "state_dict_ema",  # timm
    "model_ema",  # DeiT, ConvNeXt
    "ema_state_dict",
    "ema",
    "model",  # MAE, MVP, DeiT
    "state_dict",  # MoCo, timm, Lightning
    "student",
    "module",  # DeepSpeed
)
# Other keys that trainings save beside a model.
BESIDE = frozenset(
    """
    acc amp_scaler arch args best_acc best_acc1 best_metric callbacks cfg config criterion dino_loss
    dp_world_size ds_config ds_version epoch fp16_scaler global_samples global_step global_steps
    hparams_name hyper_parameters ibot_loss iteration koleo_loss loops loss loss_scaler lr_scheduler
    lr_schedulers max_accuracy metric mp_world_size optimizer optimizer_states
    pytorch-lightning_version rng_state scaler scheduler step version
    """.split()  # noqa: SIM905  # a list of so many words is read more easily so
)
# Segments that wrappers add anywhere in a key: data parallel, compile, FSDP, checkpointing.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Segments before an encoder's keys, in order of preference.
PREFIXES = (
    "teacher",  # DINOv2
    "momentum_encoder",  # MoCo v3
    "target_encoder",  # I-JEPA
    "ema",
    "model",
    "backbone",
    "encoder",
    "image_encoder",
    "visual",
    "net",
    "student",
    "base_encoder",
)
# Parts beside an encoder that do not belong to it: heads of self-supervised trainings.
HEADS = frozenset(
    {"head", "dino_head", "ibot_head", "projector", "predictor", "projection_head", "fc"}
)
_ANCHORS = (
    "cls_token",
    "embeddings.cls_token",
    "vit.embeddings.cls_token",
)  # every encoder has one of these


# Classes that trainings save beside tensors. The arguments of MAE and DINO are a Namespace: it only
# holds attributes, and unpickling cannot call any of its code; its content is still restricted to
# plain data. Paths become pure paths. timm's metric is a NumPy scalar.
_PLAIN_CLASSES: list[Any] = [
    argparse.Namespace,
    *((PurePosixPath, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath")),
    *((scalar_of_numpy, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]


def read_data(file: Path) -> Mapping[str, Any]:
    """Read a file of weights as plain data and tensors, without running code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or contains objects that are not plain data.
    """
    check_downloaded(file)
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals(_PLAIN_CLASSES):
            # memory-mapped, so that the optimizer's state (twice the weights) is never read
            data = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a {found[1]}" if found else "something that is not plain data"
        raise ValueError(
            f"{file} holds {what}, which is not loaded, since a pickled object may run any code; "
            "if you trust the file, save only its state dict, as safetensors"
        ) from error
    except Exception as error:  # a damaged file can raise anything; MemoryError: a damaged size
        reason = str(error) or type(error).__name__
        raise ValueError(f"{file} is not a readable torch file ({reason})") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{file} holds a {type(data).__name__}, expected a dict of tensors")
    return data


def encoder_state(file: Path, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the encoder, with names from which prefixes and wrappers are removed.

    Args:
        file: path of the file, for error messages.
        data: content of the file.

    Raises:
        ValueError: the file has names that are in no table, or weights that are not tensors.
    """
    state = _contained(file, data)
    if others := sorted(str(name) for name, item in state.items() if not isinstance(item, Tensor)):
        raise ValueError(f"{file}: {others} are not tensors; top-level keys: {_keys(data)}")
    plain = {
        ".".join(part for part in str(name).split(".") if part not in WRAPPERS): tensor
        for name, tensor in state.items()
    }
    return _unchunked(_under_prefix(file, plain))


def _contained(file: Path, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict inside a checkpoint, or `data` if it is a state dict."""
    found = [name for name in CONTAINERS if isinstance(data.get(name), Mapping)]
    if not found:
        return data
    if others := sorted(str(name) for name in data if name not in {*found, *BESIDE}):
        raise ValueError(f"{file}: beside {found[0]!r} there is {others}; known: {sorted(BESIDE)}")
    _warn_of_copies(file, found)
    inner = data[found[0]]
    return _contained(file, inner) if any(name in inner for name in CONTAINERS) else inner


def _under_prefix(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Choose one copy of the encoder, and return its tensors with names without the prefix."""
    prefixes = {
        name.removesuffix(anchor)
        for name in state
        for anchor in _ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    }
    prefixes = {one for one in prefixes if set(_segments(one)) <= set(PREFIXES)}
    if not prefixes or "" in prefixes:
        return state
    chosen, *others = sorted(prefixes, key=_rank)
    known = {*PREFIXES, *HEADS}
    unknown = [
        name for name in state if not name.startswith(chosen) and name.split(".")[0] not in known
    ]
    if unknown:
        raise ValueError(
            f"{file}: beside the encoder {chosen}* there is {sorted(unknown)[:8]}; known: "
            f"{sorted(known)}"
        )
    _warn_of_copies(file, [one.removesuffix(".") for one in (chosen, *others)])
    dropped = tuple(f"{chosen}{head}." for head in sorted(HEADS - {"head"}))
    return {
        name.removeprefix(chosen): tensor
        for name, tensor in state.items()
        if name.startswith(chosen) and not name.startswith(dropped)
    }


def _unchunked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the numbers of chunks from the names of blocks, for DINOv2.

    DINOv2 divides the blocks into chunks: ``blocks.1.10.`` is block 10, in chunk 1.
    """
    blocks = [name for name in state if name.startswith("blocks.")]
    if not blocks or not all(re.match(r"blocks\.\d+\.\d+\.", name) for name in blocks):
        return state
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): t for name, t in state.items()}


def _rank(prefix: str) -> tuple[int, ...]:
    return tuple(PREFIXES.index(part) for part in _segments(prefix))


def _segments(prefix: str) -> list[str]:
    return [part for part in prefix.split(".") if part]


def _warn_of_copies(file: Path, found: Sequence[str]) -> None:
    if len(found) > 1:
        warnings.warn(
            f"{file} holds several copies of the model: {found[0]!r} is loaded, not "
            f"{', '.join(map(repr, found[1:]))}",
            UserWarning,
            stacklevel=2,
        )


def _keys(data: Mapping[str, Any]) -> list[str]:
    return sorted(map(str, data))


def _read_shards(index: Path) -> dict[str, Any]:
    """Read the tensors of a model that is divided into several files with an index file.

    Args:
        index: index file (``*.index.json``) in the format of Hugging Face's library `transformers`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the index is invalid or does not match the files.
    """
    try:
        places = json.loads(check_downloaded(index).read_text())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of weights ({error})") from error
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(f"{index} names files outside its folder: {outside}")
    state: dict[str, Any] = {}
    for name in files:
        state |= read_data(index.with_name(name))
    if missing := sorted(set(places) - set(state)):
        raise ValueError(f"{index}: the files lack {missing[:8]}")
    return state
