"""The methods that all tokenizers have, and functions that check and convert their data."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

__all__ = ["Tokenizer", "check_frames", "check_ids", "frames_to_unit", "unit_to_frames"]


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer, which converts frames to integers and back (paper section 3.4).

    Attributes:
        vocab_size: number of different tokens; ids are in ``[0, vocab_size)``.
        tokens_per_frame: number of tokens of a frame; they are in raster order.
        image_size: side of the square to which a frame is resized, pixels.
    """

    vocab_size: int
    tokens_per_frame: int
    image_size: int

    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Resize RGB frames of any size, and return their tokens, n per frame."""
        ...

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Return RGB frames of side s = ``image_size``, reconstructed from tokens."""
        ...


def check_frames(frames: object) -> Tensor:
    """Check frames, and return them as a uint8 tensor [b h w 3].

    The function cannot detect whether colours are in the order BGR instead of RGB.

    Raises:
        TypeError: `frames` is neither an array nor a tensor.
        ValueError: dtype, number of dimensions or channels are wrong; the message says what to do.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8:
            raise ValueError(_wrong_dtype(frames))
        if not frames.flags.writeable or any(stride < 0 for stride in frames.strides):
            frames = frames.copy()  # torch warns on read-only memory and refuses negative strides
        tensor = torch.from_numpy(np.asarray(frames))
    elif isinstance(frames, Tensor):
        tensor = frames.detach()
        if tensor.is_meta or tensor.layout != torch.strided:
            place = "on the meta device" if tensor.is_meta else f"of layout {tensor.layout}"
            raise ValueError(f"frames must be a dense tensor with values, got one {place}")
        if tensor.dtype != torch.uint8:
            raise ValueError(_wrong_dtype(tensor))
    else:
        hint = ""
        if isinstance(frames, (list, tuple)):
            hint = "; np.stack(frames) converts a list of frames [h w 3]"
        elif hasattr(frames, "__array_interface__"):  # for example images of Pillow
            hint = "; np.asarray(frames)[None] converts one image"
        raise TypeError(
            f"frames must be a numpy array or a torch tensor, got {type(frames).__name__}{hint}"
        )
    shape = tuple(tensor.shape)
    if tensor.ndim != 4:
        hint = "; for one frame use frames[None]" if tensor.ndim == 3 else ""
        raise ValueError(f"frames must have shape [b h w 3], got {shape}{hint}")
    if shape[-1] != 3:
        hint = {1: "grey: np.repeat(frames, 3, axis=-1)", 4: "without alpha: frames[..., :3]"}
        why = hint.get(shape[-1], "")
        if shape[1] == 3:
            why = "channels first: use frames.permute(0, 2, 3, 1), in numpy frames.transpose"
        count = f"{shape[-1]} channel{'s' * (shape[-1] != 1)}"
        raise ValueError(
            f"frames must be RGB [b h w 3], got {shape}, {count}" + (f" ({why})" if why else "")
        )
    if 0 in shape[1:3]:
        raise ValueError(f"frames must not be empty, got {shape}")
    return tensor


def _wrong_dtype(frames: np.ndarray | Tensor) -> str:
    hint = ""
    floating = (
        frames.dtype.kind == "f" if isinstance(frames, np.ndarray) else frames.is_floating_point()
    )
    if floating and 0 not in frames.shape:
        low, high = float(frames.min()), float(frames.max())
        hint = f" with values in [{low:.3g}, {high:.3g}]"
        if low != low or high != high:
            hint = " with NaN values"
        elif low >= 0 and high <= 1:
            hint += "; convert images in [0, 1] with (frames * 255).round() to uint8"
    return f"frames must be uint8 in 0..255, got {frames.dtype}{hint}"


def check_ids(ids: Tensor, vocab_size: int, tokens_per_frame: int) -> None:
    """Check the token ids [b n] of b frames with n tokens.

    Raises:
        ValueError: the shape is wrong, or ids are outside the vocabulary.
    """
    if ids.ndim != 2 or ids.shape[1] != tokens_per_frame:
        raise ValueError(f"ids must have shape [b {tokens_per_frame}], got {tuple(ids.shape)}")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
        raise ValueError(
            f"ids must be in [0, {vocab_size}), got [{int(ids.min())}, {int(ids.max())}]"
        )


def frames_to_unit(
    frames: UInt8[Tensor, "b h w 3"], size: int, dtype: torch.dtype
) -> Float[Tensor, "b 3 s s"]:
    """Resize frames to squares of side ``size``, and scale them to [0, 1].

    The method is antialiased bilinear interpolation. The result has the channels first.
    """
    images = frames.permute(0, 3, 1, 2).float() / 255  # antialiasing has no half-precision kernel
    if images.shape[-2:] != (size, size):
        images = nn.functional.interpolate(
            images, size=(size, size), mode="bilinear", antialias=True
        )
    return images.to(dtype)


def unit_to_frames(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    """Convert images in [0, 1] to uint8 RGB frames with the channels last."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
