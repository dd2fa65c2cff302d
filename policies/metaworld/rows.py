"""The rows of the benchmark's tables: the encoder, and the controls beside it.

Each row has an encoder with the methods of `FrameEncoder`, or none. The embeddings of the
demonstrations are saved beside them, so that each frame is encoded once per encoder, and tokenised
once for all encoders that share a tokenizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from toto_robot import FrameEncoder
from toto_robot.encoders.contract import NO_PAST, Codes
from toto_robot.encoders.loading import load_toto
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.encoders.vision import title
from toto_robot.files import written_aside

from ..vision import FrozenVision, NoVision, PixelVision, TotoVision, VitVision, embed_episode
from .recordings import Recording

__all__ = ["Control", "Row", "embeddings", "rows_of"]

Control = Literal["pixels", "untrained", "none"]
_BATCH = 32  # frames per call of an encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the tables.

    Attributes:
        name: name in the tables, such as `toto-nano layer 4 grid4`.
        key: name of the folder of its results.
        vision: settings of the encoder.
        encoder: the encoder; None: proprioception only.
    """

    name: str
    key: str
    vision: FrozenVision
    encoder: FrameEncoder | None


def rows_of(
    vision: FrozenVision,
    controls: Sequence[Control],
    device: torch.device,
) -> list[Row]:
    """Return the row of an encoder and those of the controls; each row occurs once.

    Args:
        vision: settings of the encoder.
        controls: `pixels`: the frame at 16 x 16 pixels; `untrained`: the encoder with random
            weights; `none`: proprioception only.
        device: device of the encoders.

    Raises:
        ValueError: the encoder has no untrained copy.
    """
    rows = [_row(vision, device, untrained=False)]
    for control in controls:
        if control == "untrained":
            if isinstance(vision, TotoVision | VitVision):
                rows.append(_row(vision, device, untrained=True))
        else:
            other = PixelVision() if control == "pixels" else NoVision()
            rows.append(_row(other, device, untrained=False))
    return list({row.key: row for row in rows}.values())


def _row(vision: FrozenVision, device: torch.device, *, untrained: bool) -> Row:
    encoder = _build(vision, device, untrained)
    if encoder is None or isinstance(vision, NoVision):
        return Row(name="no vision", key="none", vision=vision, encoder=None)
    if isinstance(vision, PixelVision):
        return Row(name="16 x 16 pixels", key="pixels", vision=vision, encoder=encoder)
    prefix = "untrained " if untrained or vision.kind == "random" else ""
    name = f"{prefix}{title(vision.name_or_path)}"
    layer = encoder.layer
    words = f"layer {layer}" if isinstance(layer, int) else f"layers {'+'.join(map(str, layer))}"
    name += f" {words} {encoder.pool}"
    if encoder.past != NO_PAST:
        name += f" ({encoder.past})"
    key = f"{_short(name)}-{encoder.fingerprint[:12]}"
    return Row(name=name, key=key, vision=vision, encoder=encoder)


def _build(vision: FrozenVision, device: torch.device, untrained: bool) -> FrameEncoder | None:
    """Load an encoder, or its copy with random weights."""
    if not untrained:
        return vision.build(device)
    if isinstance(vision, TotoVision):
        toto = load_toto(
            vision.name_or_path, vision.layer, vision.pool, repeat_frame=vision.repeat_frame
        )
        copy = toto.untrained(0).to(device)
        return copy if vision.stream is None else StreamedEncoder(copy, vision.stream)
    encoder: Any = vision.build(device)
    if not hasattr(encoder, "untrained"):
        raise ValueError(
            f"{type(encoder).__name__} has no untrained copy; set controls=[pixels,none]"
        )
    return encoder.untrained(0).to(device)


def embeddings(row: Row, recording: Recording, every: int) -> NDArray[np.float16]:
    """Return the embeddings float16 [k c e] of every n-th frame, computed once and then saved.

    Args:
        row: the row, which has an encoder.
        recording: the demonstration.
        every: distance n between two frames; frames 0, n, 2n and so on are used. An encoder with
            temporal context reads all frames, and keeps the embeddings of these.
    """
    encoder = row.encoder
    assert encoder is not None
    step = 1 if encoder.past != NO_PAST else every
    whole = _place(recording, f"embeddings-{encoder.fingerprint[:16]}", 1)
    if step > 1 and whole.is_file():  # the frames for cloning contain those for probes
        return _load(whole)[::every]
    made = _saved(
        _place(recording, f"embeddings-{encoder.fingerprint[:16]}", step),
        lambda: embed_episode(encoder, _codes(encoder, recording, step)),
    )
    return made[::every] if step == 1 else made


def _codes(encoder: FrameEncoder, recording: Recording, every: int) -> Codes:
    """Return the codes [k c n] of every n-th frame; tokens are saved."""
    name = f"codes-{encoder.codes.fingerprint[:16]}"

    def compute() -> Codes:
        frames = np.ascontiguousarray(recording.frames()[::every])
        flat = frames.reshape(-1, *frames.shape[2:])
        parts = [encoder.compress(flat[at : at + _BATCH]) for at in range(0, len(flat), _BATCH)]
        return np.concatenate(parts).reshape(*frames.shape[:2], -1)

    if encoder.codes.size == encoder.dim:  # the codes are the embedding
        return compute()
    whole = _place(recording, name, 1)
    if every > 1 and whole.is_file():
        return _load(whole)[::every]
    return _saved(_place(recording, name, every), compute)


def _place(recording: Recording, name: str, every: int) -> Path:
    return recording.path.parent / f"{name}-{every}" / f"{recording.path.stem}.npy"


def _saved(path: Path, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    if not path.is_file():
        with written_aside(path, shared=True) as aside, aside.open("wb") as file:
            np.save(file, compute())
    return _load(path)


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error


def _short(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-+" else "_" for c in name)
