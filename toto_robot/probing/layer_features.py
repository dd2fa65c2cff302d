"""Compute the features of all layers of an encoder, for images and clips, and cache arrays on disk.

    source = open_layers(encoder)              # a Toto, a vision transformer, or None: raw pixels
    inputs = source.compress(clips)            # uint8 [b t h w 3] -> a small array for the disk
    features = source.features(inputs)         # [b l n d]

For a Toto, the small array has the tokens of the clips (2 bytes per token), so that frames are
decoded and tokenised only once. For other encoders, it has the frames of the clips. Without an
encoder, it has the frames resized to 16 x 16 pixels.

Shapes: b clips, t frames of a clip, l layers, n tokens of all frames of a clip, d width.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..encoders.contract import FrameEncoder
from ..encoders.encoder import Encoder
from ..encoders.patches import PatchEncoder
from ..encoders.pixels import PIXELS_SIDE, PixelEncoder, small_pixels
from ..encoders.vit import VitEncoder
from ..files import write_json

__all__ = ["LayerSource", "PixelLayers", "cache_array", "open_layers", "small_pixels"]

READ_SIZE = 128  # side at which this control reads images, pixels
EXAMPLES = 32  # number of examples that are computed together


@runtime_checkable
class LayerSource(Protocol):
    """A source of the features of all layers of an encoder.

    Attributes:
        layers: numbers of the layers. 0 is the token embedding.
        dim: width d of the features of a token.
        fingerprint: hash that is equal for two sources if their features are equal.
        image_size: side of the images that the source reads, pixels.
    """

    layers: tuple[int, ...]
    dim: int
    fingerprint: str
    image_size: int

    def compress(self, clips: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert clips [b t h w 3] to a smaller array for the disk, [b ...]."""
        ...

    def features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        """Return the features of all layers and tokens, float32, for the result of `compress`."""
        ...


class TotoLayers:
    """The layers of a Toto. Features of a frame also depend on the earlier frames of its clip."""

    def __init__(self, encoder: Encoder) -> None:
        self.layers = tuple(range(encoder.num_layers + 1))
        self.dim = encoder.transformer.config.dim
        self.fingerprint = f"{encoder.weights_hash} {encoder.repeat_frame}"
        self.image_size = encoder.image_size
        self._encoder = encoder

    def compress(self, clips: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the tokens of clips, uint16 [b t n]."""
        tokens = self._encoder.compress(clips.reshape(-1, *clips.shape[2:]))
        return tokens.reshape(*clips.shape[:2], -1)

    def features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        """Return the features of tokenised clips."""
        ids = torch.from_numpy(inputs.astype(np.int64))
        if ids.shape[1] == 1:
            layers = self._encoder.token_features(ids[:, 0], self.layers)
        else:
            layers = [one.flatten(1, 2) for one in self._encoder.clip_features(ids, self.layers)]
        return torch.stack(tuple(layers), dim=1).float()


class FrameLayers:
    """The layers of an encoder of single frames.

    Each frame of a clip is encoded separately. The tokens of all frames are then concatenated.
    """

    def __init__(self, encoder: VitEncoder | PatchEncoder) -> None:
        self.layers = tuple(range(encoder.num_layers + 1))
        self.dim = encoder.transformer.config.dim
        self.fingerprint = encoder.weights_hash
        self.image_size = encoder.image_size
        self._encoder = encoder

    def compress(self, clips: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the clips unchanged."""
        return clips

    def features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        """Return the features of clips."""
        frames = inputs.reshape(-1, *inputs.shape[2:])
        with torch.no_grad():
            layers = self._encoder.features(frames, self.layers)
        stacked = torch.stack(tuple(layers), dim=1).float()  # (b t) l n d
        return stacked.unflatten(0, inputs.shape[:2]).transpose(1, 2).flatten(2, 3)


class PixelLayers:
    """A baseline without an encoder: the features of a frame are its 16 x 16 RGB pixels."""

    layers: tuple[int, ...] = (0,)
    dim = 3 * PIXELS_SIDE**2
    fingerprint = f"pixels {PIXELS_SIDE}"
    image_size = READ_SIZE

    def compress(self, clips: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the pixels of clips, float32 in [0, 1], [b t 768]."""
        return small_pixels(clips).reshape(*clips.shape[:2], -1)

    def features(self, inputs: NDArray[Any]) -> Float[Tensor, "b l n d"]:
        """Return the pixels as features of one layer."""
        return torch.from_numpy(inputs)[:, None].float()


def open_layers(encoder: FrameEncoder | None) -> LayerSource:
    """Return the source of features for an encoder; without one, `PixelLayers`, the raw pixels.

    Raises:
        ValueError: the features of single layers of this encoder are not accessible.
    """
    if encoder is None or isinstance(encoder, PixelEncoder):
        return PixelLayers()
    if isinstance(encoder, Encoder):
        return TotoLayers(encoder)
    if isinstance(encoder, VitEncoder | PatchEncoder):
        return FrameLayers(encoder)
    raise ValueError(
        f"probes read all layers of an encoder; {type(encoder).__name__} has no layers: use a "
        "Toto without a stream, or a vision transformer"
    )


def cache_array(
    path: Path,
    count: int,
    compute: Callable[[range], NDArray[Any]],
    facts: Mapping[str, object],
    description: str,
    examples: int = EXAMPLES,
) -> NDArray[Any]:
    """Compute the missing rows of an array in a file on disk, and return the array [count ...].

    Rows are computed in blocks. A second file beside the array counts the finished blocks, so that
    an interrupted run resumes. The returned array is memory-mapped.

    Args:
        path: the `.npy` file.
        count: number of rows.
        compute: function that returns the rows of a range of r row numbers, [r ...]. The dtype and
            the shape of a row must always be the same.
        facts: everything that determines the content. A file with different facts is computed
            again.
        description: label of the progress bar.
        examples: number of rows in a block.
    """
    side = path.with_suffix(".json")
    done, total = _finished(path, side, facts), -(-count // examples)
    array = np.load(path, mmap_mode="r+") if done else None
    blocks = range(done, total)
    for block in tqdm(
        blocks, desc=description, initial=done, total=total, unit="block", disable=not blocks
    ):
        rows = range(block * examples, min(count, (block + 1) * examples))
        values = compute(rows)
        if array is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (count, *values.shape[1:])
            side.unlink(missing_ok=True)  # it may say that an array with other facts is finished
            array = np.lib.format.open_memmap(path, "w+", values.dtype, shape)
        array[rows.start : rows.stop] = values
        array.flush()
        write_json(side, {**facts, "blocks": block + 1})
    if array is None:
        raise ValueError(f"{path}: there are no examples")
    return array


def _finished(path: Path, side: Path, facts: Mapping[str, object]) -> int:
    """Return the number of finished blocks in a file. It is 0 if the file has different facts."""
    if not path.is_file() or not side.is_file():
        return 0
    there = json.loads(side.read_text())
    done = there.pop("blocks", 0)
    return done if there == json.loads(json.dumps(dict(facts))) else 0
