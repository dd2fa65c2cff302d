"""Open an encoder by a shipped name or a checkpoint's folder, and write one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import build_module, load_weights, read_config, save_checkpoint
from ..config import from_dict, to_dict
from ..device import choose_device
from ..models import CausalModel
from ..tokenizers import AnyTokenizer, TokenizerConfig
from .encoder import Encoder, EncoderConfig
from .forks import survive_forks
from .frozen import open_frozen
from .golden import golden_pictures, has_golden, record_golden, verify_golden
from .int8 import to_int8
from .patches import PatchEncoder, PatchEncoderConfig
from .pooling import AttentionPool
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
    "int8": torch.int8,
}
VERIFIED_PICTURES = 2  # when an encoder is opened: the drawn pattern, and one of its world


def save_encoder(
    folder: Path,
    tokenizer: AnyTokenizer,
    transformer: CausalModel,
    layer: int,
    pool: str,
    golden_frames: Sequence[np.ndarray] = (),
    frame_interval_s: float | None = None,
    pooling: AttentionPool | None = None,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write an encoder's checkpoint with its golden vectors: what `load_encoder` opens.

    Args:
        folder: the checkpoint's folder.
        tokenizer: trained tokenizer.
        transformer: trained transformer.
        layer: layer to use by default.
        pool: pool to use by default.
        golden_frames: a few small uint8 frames [h w 3] of the encoder's world; see `write_golden`.
        frame_interval_s: seconds between the frames of the training videos; None: not known.
        pooling: a trained attention pool, where `pool` is one; it comes back with the encoder.
        training: plain data that says how it was trained: ``training`` in ``config.json``.

    Raises:
        ValueError: an attention pool beside a `pool` of another kind.
    """
    if pooling is not None and pool != "attention":
        raise ValueError(f"an attention pool's weights belong to pool 'attention', not to {pool!r}")
    config = EncoderConfig(
        tokenizer=tokenizer.config,
        transformer=transformer.config,
        layer=transformer.layer_index(layer),
        pool=pool,
        frame_interval_s=frame_interval_s,
    )
    weights = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    weights |= {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    if pooling is not None:
        weights |= {f"pooling.{name}": tensor for name, tensor in pooling.state_dict().items()}
    notes = {} if training is None else {"training": dict(training)}
    save_checkpoint(folder, "encoder", to_dict(config), weights, **notes)
    write_golden(folder, golden_frames)


def write_golden(folder: Path, frames: Sequence[np.ndarray] = ()) -> Path:
    """Write the golden vectors of a checkpoint into it; see `record_golden`.

    Raises:
        ValueError: a frame that is none, or a damaged checkpoint.
    """
    return record_golden(load_toto(folder, verify=False), folder, frames)


def encoder_config(data: Mapping[str, Any]) -> EncoderConfig:
    """Read what an encoder's checkpoint says of itself.

    Checkpoints of before there were several kinds of models do not say theirs: it is ``llama``.

    Raises:
        ValueError: what is wrong and where.
    """
    transformer = data.get("transformer")
    if isinstance(transformer, Mapping):
        data = {**data, "transformer": {"kind": "llama", **transformer}}
    return from_dict(EncoderConfig, data)


@overload
def load_encoder(
    name_or_path: Literal["toto-nano"],
    layer: int | None = None,
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
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> VitEncoder: ...


@overload
def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
    format: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
) -> Encoder | VitEncoder | PatchEncoder: ...


def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
    format: str | None = None,
    **file_options: Any,
) -> Encoder | VitEncoder | PatchEncoder:
    """Open an encoder. Never touches the network.

    Args:
        name_or_path: a shipped name (``"toto-nano"``, ``"mae-nano"``) or a checkpoint folder; with
            ``format``, a file of a vision transformer's weights. `load_toto` opens the same and
            accepts a Toto alone.
        layer: 0 (token embedding) to the model's depth, or -1; default: the checkpoint's choice.
        pool: ``"mean"``, ``"last"``, ``"attention"`` or ``"grid<k>"``; default: the checkpoint's
            choice. A vision transformer also has ``"cls"`` and ``"cls_before_norm"``, not
            ``"last"``.
        device: where to run, or ``auto``; default: the CPU.
        dtype: of the weights and the computation; default float32. Embeddings are float32 always.
            torch.int8, on the CPU: the blocks alone, compared with float32
            (`toto_robot.encoders.int8`).
        repeat_frame: feed each frame twice and pool the second copy; for a Toto, see `Encoder`.
        verify: compare with the checkpoint's golden vectors, if it carries some, on this device and
            in this dtype; costs the encoding of two frames. Published files carry none.
        format: the family of a published file; such files are opened by
            `toto_robot.encoders.vit_files.load_vit`, which takes the other options.
        **file_options: ``heads``, ``image_size`` and ``statistics`` of `load_vit`.

    Raises:
        ValueError: unknown name (the message lists the known ones), layer, pool, device or dtype, a
        damaged checkpoint, or one that gives other features here than where it was saved: the
        message names the stage (see `toto_robot.encoders.golden`).
        FileNotFoundError: the folder lacks a file; the message names it.
    """
    survive_forks()
    dtype = _dtype(dtype)
    device = None if device is None else choose_device(str(device))
    if format is not None:
        if repeat_frame:
            raise ValueError("repeat_frame is for a Toto: a vision transformer sees all at once")
        return load_vit(
            name_or_path, format, layer=layer, pool=pool, device=device, dtype=dtype, **file_options
        )
    if file_options:
        raise ValueError(f"{', '.join(file_options)} belong to a file with format=")
    folder = _find(name_or_path)
    data = read_config(folder, "encoder", *FROZEN)
    if data["kind"] == "encoder":
        opened = _open_toto(folder, data, layer, pool, repeat_frame=repeat_frame)
        return _prepare(opened, folder, device, dtype, verify=verify)
    if repeat_frame or dtype == torch.int8:
        raise ValueError(
            f"{folder} holds a {data['kind']!r} checkpoint: repeat_frame and int8 are for "
            "Totos over discrete tokens"
        )
    config_class, kind = FROZEN[data["kind"]]
    frozen = open_frozen(folder, data, from_dict(config_class, data["config"]), kind, layer, pool)
    return frozen.to(device=device, dtype=dtype)


def load_toto(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
) -> Encoder:
    """Open a Toto over discrete tokens: what streams, predicts and is exported.

    Args:
        name_or_path: as for `load_encoder`, and so are the other arguments.
        layer: the layer to pool.
        pool: the pool.
        device: where to run.
        dtype: of the weights and the computation.
        repeat_frame: feed each frame twice.
        verify: compare with the checkpoint's golden vectors.

    Raises:
        ValueError: as for `load_encoder`, or the checkpoint is no Toto.
        FileNotFoundError: the folder lacks a file; the message names it.
    """
    opened = load_encoder(
        name_or_path, layer, pool, device, dtype, repeat_frame=repeat_frame, verify=verify
    )
    if not isinstance(opened, Encoder):
        raise ValueError(
            f"{name_or_path} is a {type(opened).__name__}; this needs a Toto over discrete tokens, "
            f"for example {', '.join(shipped_encoders())}"
        )
    return opened


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the type that a name stands for."""
    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; possible: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _open_toto(
    folder: Path,
    data: Mapping[str, Any],
    layer: int | None,
    pool: str | None,
    *,
    repeat_frame: bool,
) -> Encoder:
    """Build a checkpoint's tokenizer, transformer and pool, in float32 on the CPU."""
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
    )
    trained = _part(weights, "pooling.")
    if trained and isinstance(encoder.pooling, AttentionPool):
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
    """Move an encoder to its device and precision, and compare it with its golden vectors."""
    encoder = encoder.to(device=device, dtype=None if dtype == torch.int8 else dtype)
    if verify and has_golden(folder):
        verify_golden(encoder, folder, pictures=VERIFIED_PICTURES)
    return to_int8(encoder, golden_pictures(folder)) if dtype == torch.int8 else encoder


def load_tokenizer(name_or_path: str | Path, image_size: int | None = None) -> AnyTokenizer:
    """Open a tokenizer's checkpoint, or take the tokenizer out of an encoder's.

    Args:
        name_or_path: the folder of either, or the name of a shipped encoder.
        image_size: side that frames are resized to, pixels; None: the checkpoint's. Convolutional
            tokenizers make more tokens of larger frames, with the same weights.

    Raises:
        FileNotFoundError: it lacks a file.
        ValueError: it is damaged, of another kind, or not made for that size.
    """
    folder = _find(name_or_path)
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
    """Return the names of the Totos that come with the package."""
    return _shipped("encoder")


def shipped_baselines() -> list[str]:
    """Return the names of the vision transformers that come with it, to compare Totos with."""
    return _shipped("vit")


def _shipped(kind: str) -> list[str]:
    folders = sorted(path.parent for path in WEIGHTS.glob("*/config.json"))
    return [
        folder.name for folder in folders if read_config(folder, "encoder", "vit")["kind"] == kind
    ]


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in shipped_encoders() + shipped_baselines():
        return WEIGHTS / str(name_or_path)
    folder = Path(name_or_path)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: say its format=, one of {', '.join(FORMATS)}")
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
