"""The contract that every tokenizer keeps: uint8 RGB frames in, tokens out, and back."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

__all__ = ["Tokenizer", "check_frames", "frames_to_unit", "unit_to_frames"]


@runtime_checkable
class Tokenizer(Protocol):
    """Discrete visual tokenizer (paper section 3.4).

    Attributes:
        vocab_size: number of codes; ids are in ``[0, vocab_size)``.
        tokens_per_frame: tokens of one frame, in raster order.
        image_size: side of the square that a frame is resized to, pixels.
    """

    vocab_size: int
    tokens_per_frame: int
    image_size: int

    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Tokenise RGB frames of any size; resizing and scaling happen inside."""
        ...

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Reconstruct RGB frames of side ``image_size``."""
        ...


def check_frames(frames: object) -> Tensor:
    """Return ``frames`` as a uint8 tensor [b h w 3], or say what is wrong with them.

    Raises:
        TypeError: not an array or tensor.
        ValueError: wrong dtype, number of dimensions or channels.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype.kind not in "biufc":
            raise ValueError(f"frames must be uint8 in 0..255, got {frames.dtype}")
        if not frames.flags.writeable or any(stride < 0 for stride in frames.strides):
            frames = frames.copy()  # torch warns on read-only memory and refuses negative strides
        tensor = torch.from_numpy(frames)
    elif isinstance(frames, Tensor):
        tensor = frames
    else:
        raise TypeError(
            f"frames must be a numpy array or a torch tensor, got {type(frames).__name__}"
        )
    if tensor.dtype != torch.uint8:
        hint = ""
        if tensor.is_floating_point() and tensor.numel():
            low, high = float(tensor.min()), float(tensor.max())
            hint = f" with values in [{low:.3g}, {high:.3g}]"
            if low >= 0 and high <= 1:
                hint += "; images in [0, 1] become (frames * 255).round() as uint8"
        raise ValueError(f"frames must be uint8 in 0..255, got {tensor.dtype}{hint}")
    if tensor.ndim != 4:
        raise ValueError(
            f"frames must have shape [b h w 3], got {tuple(tensor.shape)}; "
            "one frame is frames[None]"
        )
    if tensor.shape[-1] != 3:
        layout = " (channels first: use frames.permute(0, 2, 3, 1))" if tensor.shape[1] == 3 else ""
        raise ValueError(f"frames must be RGB [b h w 3], got {tuple(tensor.shape)}{layout}")
    if 0 in tensor.shape[1:3]:
        raise ValueError(f"frames must not be empty, got {tuple(tensor.shape)}")
    return tensor


def frames_to_unit(
    frames: UInt8[Tensor, "b h w 3"], size: int, dtype: torch.dtype
) -> Float[Tensor, "b 3 s s"]:
    """Resize to ``size`` x ``size`` (antialiased bilinear) and scale to [0, 1], channels first."""
    images = frames.permute(0, 3, 1, 2).float() / 255  # antialiasing has no half-precision kernel
    if images.shape[-2:] != (size, size):
        images = nn.functional.interpolate(
            images, size=(size, size), mode="bilinear", antialias=True
        )
    return images.to(dtype)


def unit_to_frames(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    """Round images in [0, 1] to uint8 RGB, channels last."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
