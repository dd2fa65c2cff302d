"""Replace the images of observations by embeddings: the common code of the three wrappers.

`toto_robot.wrappers.images` finds the images in an observation. If an image is an entry of a Dict,
the entry is replaced by an entry `embedding_<camera>`. If the image is in a Tuple, or is the whole
observation, the embedding takes its place. All other entries are unchanged.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.contract import (
    FrameEmbedder,
    StreamableEncoder,
    check_embeddings,
    require_embedder,
    require_no_past,
)
from ..encoders.loading import load_encoder
from ..encoders.streaming import StreamConfig
from ..moved import moved_names
from .images import ImageEntry, find_images, read_entry

__all__ = ["AnyEncoder", "ImageChoice", "Observation", "ObservationEmbedder"]

AnyEncoder = FrameEmbedder | str | Path  # an encoder, or a name or folder for `load_encoder`
Observation = Any  # an array, or dicts and tuples as in the observation space
# RGB [b h w 3], uint8, for each image entry; [b t h w 3] for a stack
Images = list[NDArray[np.uint8] | Tensor]
Embeddings = list[NDArray[np.float32]]  # [b e] for each image entry

_printed: set[str] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageChoice:
    """Settings with which a wrapper selects and converts images.

    They are arguments of the wrappers and of `images.find_images`, with the same names.

    Attributes:
        cameras: paths (such as `pixels/top`) or camera names of the images; a mapping from paths to
            names renames cameras. None: all detected images.
        exclude: paths or camera names of images that are not embedded.
        layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one value
            for all of them, or a mapping by path or camera name. None: detected from the shape.
        colour_order: order of the colour channels of all images, `rgb` or `bgr`.
        flip: operation that turns images upright, `vertical` or `rotate180`; one value for all
            images, or a mapping by path or camera name. None: images are not turned.
    """

    cameras: Sequence[str] | Mapping[str, str] | None = None
    exclude: Sequence[str] = ()
    layout: str | Mapping[str, str] | None = None
    colour_order: str = "rgb"
    flip: str | Mapping[str, str] | None = None


class ObservationEmbedder:
    """An object that replaces images by embeddings, which may depend on earlier frames.

    Attributes:
        encoder: encoder of the images.
        entries: list of the images that are embedded, each with its path in the observation.
        has_stream: true if embeddings depend on the frames of earlier calls, so that the order of
            calls matters.
    """

    def __init__(
        self,
        space: spaces.Space,
        encoder: AnyEncoder,
        num_envs: int,
        stream: StreamConfig | None,
        choice: ImageChoice,
    ) -> None:
        """Find the images in an observation space, and start the streams.

        Args:
            space: observation space of one environment.
            encoder: an encoder, or a name or folder that `load_encoder` accepts.
            num_envs: number of environments.
            stream: settings of streams, with which embeddings also depend on earlier frames; None:
                embeddings depend on one frame only.
            choice: arguments that select and convert the images.

        Raises:
            ValueError: the space has no image or only ambiguous images, the key of an embedding
                already exists, or the encoder does not support the stream or stacks of frames, or
                is a `StreamedEncoder`.
            TypeError: the encoder has no `dim`, or cannot be called.
        """
        self.entries, raw = find_images(
            space,
            cameras=choice.cameras,
            exclude=choice.exclude,
            layout=choice.layout,
            colour_order=choice.colour_order,
            flip=choice.flip,
        )
        self._by_path = {entry.path: entry for entry in self.entries}
        self._inner = {path[:end] for path in self._by_path for end in range(len(path))}
        # index and new key of each image, if all are at the top: `replace` is then twice as fast
        is_flat = self._inner == {()} and isinstance(space, spaces.Dict)
        self._flat = {
            entry.path[0]: (index, entry.output)
            for index, entry in enumerate(self.entries if is_flat else ())
        }
        _check_free(space, self._by_path)
        self.encoder = load_encoder(encoder) if isinstance(encoder, str | Path) else encoder
        require_embedder(self.encoder)
        require_no_past(self.encoder, "the encoder itself and stream=StreamConfig(...)")
        self.has_stream = stream is not None
        self._tokenize: Callable[[Any], Tensor] | None = None
        self._stream = None
        if stream is not None:
            if not isinstance(self.encoder, StreamableEncoder):
                raise ValueError(
                    "a stream needs a Toto's Encoder, as load_encoder returns it; "
                    f"{type(self.encoder).__name__} encodes each frame by itself"
                )
            self._tokenize = self.encoder.tokenize
            self._stream = stream.open(self.encoder, num_envs * len(self.entries))
        for entry in self.entries:
            if entry.stacked and (stream is not None or not hasattr(self.encoder, "encode_clip")):
                raise ValueError(
                    f"{entry.describe()}: a stack of frames is encoded as a clip, which needs a "
                    "Toto's Encoder without stream=..."
                )
        _print_once("embedding " + "; ".join(entry.describe() for entry in self.entries))
        if raw:
            warnings.warn(
                f"{', '.join(map(repr, raw))} may be images and are not embedded, because their "
                "shapes are ambiguous: list them in cameras=[...], or in exclude=[...]",
                UserWarning,
                stacklevel=4,  # the caller of the wrapper
            )

    @property
    def cameras(self) -> dict[str, str]:
        """The embedded images: for each camera, a text with the path and the conversion."""
        return {entry.camera: entry.describe() for entry in self.entries}

    def space(self, space: spaces.Space, batch: int | None) -> spaces.Space:
        """Return an observation space in which images are replaced by embeddings.

        If `batch` is given, it is the batch size of `space`; None: `space` is of one environment.
        """
        embedding: spaces.Space = spaces.Box(-np.inf, np.inf, (self.encoder.dim,), np.float32)
        if batch is not None:
            embedding = batch_space(embedding, batch)
        return self._rebuilt(space, lambda _: embedding, spaces.Dict, spaces.Tuple)

    def images(self, observation: Observation, rows: slice | NDArray[np.intp] | None) -> Images:
        """Return the images in some rows of a batch of observations.

        If `rows` is None, `observation` is a single observation instead of a batch. Images that are
        tensors, or arrays of another library that supports DLPack, stay on their device.
        """
        arrays = [_as_array(read_entry(observation, entry.path)) for entry in self.entries]
        return [
            entry.frames(array[None] if rows is None else array[rows])
            for entry, array in zip(self.entries, arrays, strict=True)
        ]

    def embed(
        self,
        batches: Sequence[Images],
        rows: Sequence[Sequence[int]],
        fresh: Sequence[NDArray[np.bool_]],
    ) -> list[Embeddings]:
        """Return the embeddings of several batches of images.

        All images of the same size are encoded in one call.

        Args:
            batches: images of each batch; the batches are in temporal order.
            rows: for each batch, the numbers of the environments of its observations.
            fresh: for each batch, true for observations that are the first of an episode.

        Raises:
            ValueError: the encoder does not return embeddings [b dim].
        """
        by_size: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for batch, images in enumerate(batches):
            for entry, array in enumerate(images):
                by_size.setdefault(tuple(array.shape[1:]), []).append((batch, entry))
        made: list[list[Any]] = [[None] * len(self.entries) for _ in batches]
        for shape, places in by_size.items():
            arrays = [batches[batch][entry] for batch, entry in places]
            frames = _joined(arrays)
            found = self._encode(frames, is_clip=len(shape) == 4)
            if self._stream is None:
                check_embeddings(found, self.encoder, len(frames))
                # once for all parts: after a simulation, the first calls of torch are slow
                if isinstance(found, Tensor):
                    found = found.float().numpy(force=True)
                found = np.asarray(found, np.float32)
            start = 0
            for (batch, entry), array in zip(places, arrays, strict=True):
                made[batch][entry] = found[start : start + len(array)]
                start += len(array)
        if self._stream is not None:
            made = [
                [one.numpy(force=True) for one in some] for some in self._step(made, rows, fresh)
            ]
        # copies: no memory shared between cameras or steps
        return [[one.copy() for one in some] for some in made]

    def replace(self, observation: Observation, parts: Embeddings, single: bool) -> Observation:
        """Return an observation or a batch of observations, with embeddings in place of images.

        Args:
            observation: observation or batch of observations, which is not changed.
            parts: list with one array [b e] of embeddings for each image entry of an observation.
            single: true for a single observation; then b is 1 in `parts`.
        """
        if self._flat and isinstance(observation, dict):
            made = {}
            for key, one in observation.items():
                if key in self._flat:
                    index, name = self._flat[key]
                    made[name] = parts[index][0] if single else parts[index]
                else:
                    made[key] = one
            return made
        by_path = dict(zip(self._by_path, parts, strict=True))

        def leaf(path: tuple[Any, ...]) -> NDArray[np.float32]:
            return by_path[path][0] if single else by_path[path]

        return self._rebuilt(observation, leaf, dict, tuple)

    def _rebuilt(
        self,
        node: Any,
        leaf: Callable[[tuple[Any, ...]], Any],
        mapping: Callable[[dict[Any, Any]], Any],
        sequence: Callable[[tuple[Any, ...]], Any],
        path: tuple[Any, ...] = (),
    ) -> Any:
        """Return a copy of a tree of spaces or arrays, with `leaf(path)` in place of each image."""
        if path in self._by_path:
            return leaf(path)
        if path not in self._inner:
            return node
        if hasattr(node, "items"):
            made = {}
            for key, one in node.items():
                entry = self._by_path.get((*path, key))
                made[key if entry is None else entry.output] = self._rebuilt(
                    one, leaf, mapping, sequence, (*path, key)
                )
            return mapping(made)
        below = enumerate(node)
        return sequence(
            tuple(self._rebuilt(one, leaf, mapping, sequence, (*path, i)) for i, one in below)
        )

    def _encode(self, frames: NDArray[np.uint8] | Tensor, *, is_clip: bool) -> Any:
        """Encode frames or clips to embeddings [b e]; with a stream, only tokenise the frames."""
        if is_clip:
            encoder: Any = self.encoder
            longest = encoder.transformer.config.frames
            return encoder.encode_clip(frames[:, -longest:])[:, -1]
        return (self._tokenize or self.encoder)(frames)

    def _step(
        self,
        tokens: Sequence[list[Tensor]],
        rows: Sequence[Sequence[int]],
        fresh: Sequence[NDArray[np.bool_]],
    ) -> list[list[Tensor]]:
        """Pass the tokens of new frames to the streams of their cameras; return the embeddings."""
        assert self._stream is not None
        cameras = len(self.entries)
        embedded: list[list[Tensor]] = [[] for _ in tokens]
        for group in _rounds(rows):
            ids = [torch.stack(tokens[i], dim=1) for i in group]
            streams = [row * cameras + camera for i in group for row in rows[i]
                       for camera in range(cameras)]  # fmt: skip
            begins = np.concatenate([fresh[i] for i in group]).repeat(cameras)
            embeddings = self._stream.step_tokens(torch.cat(ids).flatten(0, 1), begins, streams)
            sizes = [len(rows[i]) for i in group]
            parts = embeddings.detach().unflatten(0, (-1, cameras)).split(sizes)
            for i, part in zip(group, parts, strict=True):
                embedded[i] = list(part.unbind(1))
        return embedded


def _as_array(images: Any) -> NDArray[Any] | Tensor:
    """Return images as a numpy array, or as a tensor if they are an array of another library."""
    if isinstance(images, Tensor | np.ndarray | np.generic):
        return images if isinstance(images, Tensor) else np.asarray(images)
    return torch.from_dlpack(images) if hasattr(images, "__dlpack__") else np.asarray(images)


def _joined(arrays: Sequence[NDArray[np.uint8] | Tensor]) -> NDArray[np.uint8] | Tensor:
    """Return several batches of images as one batch; a single contiguous batch is not copied."""
    devices = [array.device for array in arrays if isinstance(array, Tensor)]
    if not devices:  # contiguous, because torch does not accept the negative strides of a flip
        return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
    if len(arrays) == 1:
        return arrays[0]
    return torch.cat([torch.as_tensor(array).to(devices[0]) for array in arrays])


def _print_once(line: str) -> None:
    """Print a line to stderr, but only once per process, even for many equal environments."""
    if line not in _printed:
        _printed.add(line)
        print(f"toto_robot: {line}", file=sys.stderr)


def _rounds(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return groups of batches that can be encoded together.

    The batches of a group have no environment in common, so the frames of each environment stay in
    temporal order.
    """
    rounds: list[list[int]] = []
    taken: set[int] = set()
    for index, some in enumerate(rows):
        if not some:
            continue
        if not rounds or taken & set(some):
            rounds.append([])
            taken = set()
        rounds[-1].append(index)
        taken |= set(some)
    return rounds


def _check_free(space: spaces.Space, entries: Mapping[tuple[Any, ...], ImageEntry]) -> None:
    """Raise ValueError if the space already has an entry with the name of an embedding."""
    for path, entry in entries.items():
        parent = read_entry(space, path[:-1]) if path else None
        if isinstance(parent, spaces.Dict) and entry.output in parent.spaces:
            raise ValueError(
                f"the observation already has {entry.output!r} beside {entry.name!r}; give the "
                f"camera another name: cameras={{{entry.name!r}: ...}}"
            )


__getattr__ = moved_names(
    __name__,
    {"Eyes": "toto_robot.wrappers.embedder:ObservationEmbedder"},
)
