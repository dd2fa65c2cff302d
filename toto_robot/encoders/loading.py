"""Load an encoder from the package or from a checkpoint folder, and save an encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import build_module, load_weights, read_config, save_checkpoint
from ..config import from_dict, to_dict
from ..device import choose_device, float32_default
from ..models import CausalModel
from ..tokenizers import AnyTokenizer, TokenizerConfig
from .encoder import Encoder, EncoderConfig
from .forks import survive_forks
from .frozen import open_frozen
from .golden import golden_frames, has_golden, record_golden, verify_golden
from .hub import download_checkpoint, is_hub_name
from .int8 import to_int8
from .patches import PatchEncoder, PatchEncoderConfig
from .pca import PrincipalComponents
from .pooling import Pool, is_attention, layer_numbers, layer_setting
from .vit import VitEncoder, VitEncoderConfig
from .vit_files import FORMATS, load_vit

WEIGHTS = Path(__file__).parents[1] / "weights"
FROZEN: dict[str, tuple[Any, Any]] = {  # by the kind of a checkpoint
    "vit": (VitEncoderConfig, VitEncoder),
    "patches": (PatchEncoderConfig, PatchEncoder),
}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
}
_FLOATS = ", ".join(name for name, dtype in DTYPES.items() if dtype.is_floating_point)
VERIFIED_FRAMES = 2  # when an encoder is loaded: the test pattern and one recorded frame


def save_encoder(
    folder: Path,
    tokenizer: AnyTokenizer,
    transformer: CausalModel,
    layer: int | Sequence[int],
    pool: str,
    golden_frames: Sequence[np.ndarray] = (),
    frame_interval_s: float | None = None,
    pooling: Pool | None = None,
    training: Mapping[str, object] | None = None,
    pca: PrincipalComponents | None = None,
) -> None:
    """Save an encoder's checkpoint with golden vectors (reference images and their features).

    `load_encoder` loads the checkpoint.

    Args:
        folder: the checkpoint's folder.
        tokenizer: trained tokenizer.
        transformer: trained transformer.
        layer: default layer whose features are pooled, or several layers; 0 is the token embedding.
        pool: name of the default pool, such as `grid4`.
        golden_frames: a few small uint8 frames [h w 3] like those of the training data; see
            `write_golden`.
        frame_interval_s: time between two frames of the training videos, seconds; None: unknown.
        pooling: trained attention pool to save, if `pool` is `attention` or `attention<q>`; None:
            the pool has no trained parameters.
        training: plain data about the training, saved as ``training`` in ``config.json``.
        pca: principal components of the features, for the pools `pca<k>`; None: the checkpoint has
            none.

    Raises:
        ValueError: `pooling` is given, but `pool` is not an attention pool, or a frame is invalid.
    """
    if pooling is not None and not is_attention(pool):
        raise ValueError(f"an attention pool's weights belong to pool 'attention', not to {pool!r}")
    config = EncoderConfig(
        tokenizer=tokenizer.config,
        transformer=transformer.config,
        layer=layer_setting(layer_numbers(layer, transformer.layer_index)),
        pool=pool,
        frame_interval_s=frame_interval_s,
    )
    weights = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    weights |= {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    if pooling is not None:
        weights |= {f"pooling.{name}": tensor for name, tensor in pooling.state_dict().items()}
    if pca is not None:
        weights |= pca.state()
    notes = {} if training is None else {"training": dict(training)}
    save_checkpoint(folder, "encoder", to_dict(config), weights, **notes)
    write_golden(folder, golden_frames)


def write_golden(folder: Path, frames: Sequence[np.ndarray] = ()) -> Path:
    """Compute the golden vectors of a checkpoint, write them, and return the path of the file.

    `folder`, `frames` and the file are those of `record_golden`.

    Raises:
        ValueError: a frame is invalid, or the checkpoint is damaged.
    """
    return record_golden(load_toto(folder, verify=False), folder, frames)


def encoder_config(data: Mapping[str, Any]) -> EncoderConfig:
    """Return the settings of an encoder from the data in its checkpoint's ``config.json``.

    If the data do not name the kind of the transformer, it is ``llama``.

    Raises:
        ValueError: a setting is invalid; the message names it and says what is valid.
    """
    transformer = data.get("transformer")
    if isinstance(transformer, Mapping):
        data = {**data, "transformer": {"kind": "llama", **transformer}}
    return from_dict(EncoderConfig, data)


@overload
def load_encoder(
    name_or_path: Literal["toto-nano"],
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
) -> Encoder: ...


@overload
def load_encoder(
    name_or_path: Literal["mae-nano"],
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> VitEncoder: ...


@overload
def load_encoder(
    name_or_path: str | Path,
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    revision: str | None = None,
    repeat_frame: bool = False,
    verify: bool = True,
    format: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
) -> Encoder | VitEncoder | PatchEncoder: ...


@float32_default()
def load_encoder(
    name_or_path: str | Path,
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    revision: str | None = None,
    repeat_frame: bool = False,
    verify: bool = True,
    format: str | None = None,
    **file_options: Any,
) -> Encoder | VitEncoder | PatchEncoder:
    """Load an encoder from the package, a checkpoint folder, a published file or the Hub.

    Only a name with ``hf:``, for the Hugging Face Hub, accesses the network.

    Args:
        name_or_path: name of an encoder in the package (``"toto-nano"``, ``"mae-nano"``), a
            checkpoint folder, or ``"hf:org/name@<commit>"`` for the Hugging Face Hub
            (`toto_robot.encoders.hub`); with ``format``, a file with weights of a vision
            transformer. `load_toto` does the same, but accepts only a Toto.
        layer: number of the layer whose features are pooled, from 0 (token embedding) to the number
            of blocks, or -1 for the last layer; a list such as ``[0, 4]``: the embeddings of
            several layers are concatenated. Default: the checkpoint's layer, or the last layer of a
            published file.
        pool: ``"mean"``, ``"last"``, ``"grid<g>"``, ``"pca<k>"``, ``"pca<k>grid<g>"``,
            ``"attention"`` or ``"attention<q>"``, see docs/toto_robot.md; default: the checkpoint's
            pool. A vision transformer also has ``"cls"`` and ``"cls_before_norm"``, but not
            ``"last"``.
        device: device for the computation, such as ``cuda``, or ``auto``; default: the CPU.
        dtype: precision of weights and computation; default: float32. Embeddings are always
            float32. torch.int8 converts only the transformer blocks and needs the CPU; the features
            are compared with float32 (`toto_robot.encoders.int8`).
        revision: hash of the commit on the Hub, if the name does not contain it.
        repeat_frame: true to read each frame twice and pool the second copy, so that each pooled
            token depends on the whole frame; only for a Toto.
        verify: true to compare the outputs with the checkpoint's golden vectors on this device and
            in this dtype. This encodes two frames. Published files have no golden vectors.
        format: format of a published file, one of `toto_robot.encoders.vit_files.FORMATS`; default:
            `name_or_path` is not a published file.
        **file_options: options of `toto_robot.encoders.vit_files.load_vit` for a published file:
            ``heads``, ``image_size`` and ``statistics``.

    Raises:
        ValueError: the name, layer, pool, device or dtype is unknown (the message lists the known
            values), the checkpoint is damaged, or the features differ from its golden vectors (the
            message names the stage, see `toto_robot.encoders.golden`).
        FileNotFoundError: the folder lacks a file; the message names it.
    """
    survive_forks()
    dtype = _dtype(dtype)
    device = None if device is None else choose_device(str(device))
    if format is not None:
        if repeat_frame or dtype == torch.int8:
            raise ValueError(
                "repeat_frame and int8 are only for a Toto, not for a vision transformer; possible "
                f"dtypes: {_FLOATS}"
            )
        if revision is not None or is_hub_name(name_or_path):
            raise ValueError("format= is for a file: names and revisions of the Hub need none")
        return load_vit(
            name_or_path, format, layer=layer, pool=pool, device=device, dtype=dtype, **file_options
        )
    if file_options:
        raise ValueError(f"{', '.join(file_options)} can be used only with format=")
    folder = find_checkpoint(name_or_path, revision)
    data = read_config(folder, "encoder", *FROZEN)
    if data["kind"] == "encoder":
        opened = _open_toto(folder, data, layer, pool, repeat_frame=repeat_frame)
        return _prepare(opened, folder, device, dtype, verify=verify)
    if repeat_frame or dtype == torch.int8:
        raise ValueError(
            f"{folder} holds a {data['kind']!r} checkpoint: repeat_frame and int8 are for "
            "Totos over discrete tokens; possible dtypes: "
            f"{_FLOATS}"
        )
    config_class, kind = FROZEN[data["kind"]]
    frozen = open_frozen(folder, data, from_dict(config_class, data["config"]), kind, layer, pool)
    return frozen.to(device=device, dtype=dtype)


def load_toto(
    name_or_path: str | Path,
    layer: int | Sequence[int] | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    revision: str | None = None,
    repeat_frame: bool = False,
    verify: bool = True,
) -> Encoder:
    """Load a Toto on tokens, the type of encoder that can stream, predict and be exported.

    Args:
        name_or_path: name, checkpoint folder or Hub name. This and all other arguments are those of
            `load_encoder`.
        layer: number of the layer whose features are pooled, or of several layers; default: the
            checkpoint's layer.
        pool: name of the pool; default: the checkpoint's pool.
        device: device for the computation; default: the CPU.
        dtype: precision of weights and computation; default: float32.
        revision: hash of the commit on the Hub, if the name does not contain it.
        repeat_frame: true to read each frame twice and pool the second copy.
        verify: true to compare the outputs with the checkpoint's golden vectors.

    Raises:
        ValueError: as in `load_encoder`, or the checkpoint is not a Toto.
        FileNotFoundError: the folder lacks a file; the message names it.
    """
    opened = load_encoder(
        name_or_path, layer, pool, device, dtype,
        revision=revision, repeat_frame=repeat_frame, verify=verify,
    )  # fmt: skip
    if not isinstance(opened, Encoder):
        raise ValueError(
            f"{name_or_path} is a {type(opened).__name__}; expected a Toto over discrete "
            f"tokens, for example {', '.join(shipped_encoders())}"
        )
    return opened


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the torch dtype for a name such as ``"bfloat16"``; None stays None."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise ValueError(f"unknown dtype {dtype!r}; possible: {', '.join(DTYPES)}")
    return found


def _open_toto(
    folder: Path,
    data: Mapping[str, Any],
    layer: int | Sequence[int] | None,
    pool: str | None,
    *,
    repeat_frame: bool,
) -> Encoder:
    """Load the encoder of a checkpoint in float32 on the CPU."""
    config = encoder_config(data["config"])
    weights = load_weights(folder, data["sha256"])
    tokenizer = build_module(config.tokenizer.build, _part(weights, "tokenizer."), folder)
    transformer = build_module(config.transformer.build, _part(weights, "transformer."), folder)
    encoder = Encoder(
        tokenizer,
        transformer,
        config.layer if layer is None else layer,
        config.pool if pool is None else pool,
        repeat_frame=repeat_frame,
        frame_interval_s=config.frame_interval_s,
        pca=PrincipalComponents.of_state(
            weights, config.transformer.layers, config.transformer.dim
        ),
    )
    trained = _part(weights, "pooling.")
    shapes = {name: tensor.shape for name, tensor in encoder.pooling.state_dict().items()}
    if is_attention(encoder.pool) and shapes == {name: one.shape for name, one in trained.items()}:
        encoder.pooling.load_state_dict(trained)
    return encoder


def _prepare(
    encoder: Encoder,
    folder: Path,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    *,
    verify: bool,
) -> Encoder:
    """Move an encoder to a device and a precision, and compare it with its golden vectors."""
    encoder = encoder.to(device=device, dtype=None if dtype == torch.int8 else dtype)
    if verify and has_golden(folder):
        verify_golden(encoder, folder, frames=VERIFIED_FRAMES)
    return to_int8(encoder, golden_frames(folder)) if dtype == torch.int8 else encoder


def load_tokenizer(name_or_path: str | Path, image_size: int | None = None) -> AnyTokenizer:
    """Load a tokenizer from its own checkpoint, or from the checkpoint of an encoder.

    Args:
        name_or_path: folder of the checkpoint, or a name that `load_encoder` accepts.
        image_size: side of the square to which frames are resized, pixels; None: the side in the
            checkpoint. With a larger side, a convolutional tokenizer makes more tokens of a frame,
            with the same weights.

    Raises:
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: the checkpoint is damaged or of another kind, or does not support this size.
    """
    folder = find_checkpoint(name_or_path)
    data = read_config(folder, "tokenizer", "encoder")
    weights = load_weights(folder, data["sha256"])
    fields = data["config"]
    if data["kind"] == "encoder":
        fields, weights = fields["tokenizer"], _part(weights, "tokenizer.")
    if image_size is not None:
        fields = fields | {"image_size": image_size}
    tokenizer = build_module(from_dict(TokenizerConfig, fields).build, weights, folder)
    return tokenizer.requires_grad_(False).eval()


def shipped_encoders() -> list[str]:
    """Return the names of the Totos in the package."""
    return _shipped("encoder")


def shipped_baselines() -> list[str]:
    """Return the names of the vision transformers in the package, which are baselines of Toto."""
    return _shipped("vit")


def _shipped(kind: str) -> list[str]:
    folders = sorted(path.parent for path in WEIGHTS.glob("*/config.json"))
    return [
        folder.name for folder in folders if read_config(folder, "encoder", "vit")["kind"] == kind
    ]


def find_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint; arguments and errors are those of `load_encoder`."""
    if is_hub_name(name_or_path):
        return download_checkpoint(str(name_or_path), revision)
    if revision is not None:
        raise ValueError(
            f"revision= needs a name of the Hugging Face Hub, hf:org/name; got {name_or_path}"
        )
    if str(name_or_path) in shipped_encoders() + shipped_baselines():
        return WEIGHTS / str(name_or_path)
    folder = Path(name_or_path)
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file: set its format=, one of {', '.join(FORMATS)} (in a command: "
            f"encoder=vit encoder.name_or_path={folder} encoder.format=...)"
        )
    if not folder.is_dir():
        known = ", ".join(shipped_encoders() + shipped_baselines()) or "none"
        raise ValueError(
            f"unknown encoder {str(name_or_path)!r}: neither a shipped name ({known}) "
            "nor a checkpoint folder"
        )
    return folder


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
