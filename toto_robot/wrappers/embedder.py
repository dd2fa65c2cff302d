"""Which entries of an observation are pictures, and what takes their place.

Of a Dict observation every `image_<camera>` (uint8 [h w 3]) becomes `embedding_<camera>` (float32
[e]). An observation that is one picture is treated as a Dict with the single entry "".
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.contract import FrameEmbedder, StreamableEncoder
from ..encoders.loading import load_encoder
from ..encoders.streaming import StreamConfig
from ..moved import moved_names

__all__ = ["AnyEncoder", "Observation", "ObservationEmbedder"]

IMAGE, EMBEDDING = "image_", "embedding_"
SMALLEST_IMAGE = 8  # pixels; a smaller array of bytes is hardly a camera's
AnyEncoder = FrameEmbedder | str | Path  # opened, or what `load_encoder` opens
Observation = Any  # an array, or a dict of what the observation space says


class ObservationEmbedder:
    """Replace pictures by embeddings, with a past for each camera of each environment or without.

    Attributes:
        encoder: what embeds.
        remembers: whether there is a stream, so that it matters what is embedded when.
    """

    def __init__(
        self, space: spaces.Space, encoder: AnyEncoder, num_envs: int, stream: StreamConfig | None
    ) -> None:
        """Find the pictures, and begin the streams.

        Args:
            space: of one environment's observations.
            encoder: what embeds them, or a name or folder that `load_encoder` opens.
            num_envs: environments that are looked at.
            stream: how each camera's past is kept; None: each frame by itself.

        Raises:
            ValueError: no picture in the space, or one that is not uint8 [h w 3], or an encoder
                without streams.
        """
        self.encoder = load_encoder(encoder) if isinstance(encoder, str | Path) else encoder
        self._bare = not isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Dict):
            found = {key: one for key, one in space.items() if key.startswith(IMAGE)}
            if not found:
                raise ValueError(
                    f"no key of the observation begins with {IMAGE!r}; found: {sorted(space)}. "
                    f"Rename the pictures to {IMAGE}<camera>, for example with "
                    "gymnasium.wrappers.TransformObservation"
                )
            self._names = {key: EMBEDDING + key.removeprefix(IMAGE) for key in found}
            _warn_of_raw_images(space, found)
            if taken := sorted(set(self._names.values()) & set(space)):
                raise ValueError(f"the observation already has {taken}")
        else:
            found = {"": space}
            self._names = {"": ""}
        for key, one in found.items():
            _check_picture(f"observation[{key!r}]" if key else "the observation", one)
        self.remembers = stream is not None
        self._toto = self._stream = None
        if stream is not None:
            if not isinstance(self.encoder, StreamableEncoder):
                raise ValueError(
                    f"a stream needs an Encoder, which load_encoder gives of a Toto; a "
                    f"{type(self.encoder).__name__} sees each frame by itself"
                )
            self._toto = self.encoder
            self._stream = stream.open(self.encoder, num_envs * len(self._names))

    def space(self, space: spaces.Space, batch: int | None) -> spaces.Space:
        """Return the space of `embed`'s result for `space`, batched if `batch` is given."""
        embedding: spaces.Space = spaces.Box(-np.inf, np.inf, (self.encoder.dim,), np.float32)
        if batch is not None:
            embedding = batch_space(embedding, batch)
        if not isinstance(space, spaces.Dict):
            return embedding
        passed = {key: one for key, one in space.items() if key not in self._names}
        return spaces.Dict(passed | dict.fromkeys(self._names.values(), embedding))

    def embed(
        self,
        batches: Sequence[Observation],
        rows: Sequence[Sequence[int]],
        fresh: Sequence[NDArray[np.bool_]],
    ) -> list[Observation]:
        """Replace the pictures of several batches of observations, in as few calls as sizes.

        Args:
            batches: of observations; in the order of time where they are of one environment.
            rows: for each batch, whose observations these are.
            fresh: for each batch, which of them begin an episode.
        """
        dicts = [{"": one} if self._bare else one for one in batches]
        by_size: dict[tuple[int, ...], list[tuple[int, str]]] = {}
        for index, batch in enumerate(dicts):
            for key in self._names:
                by_size.setdefault(np.shape(batch[key])[1:], []).append((index, key))
        look = self.encoder if self._toto is None else self._toto.tokenize
        made: list[dict[str, Tensor]] = [{} for _ in dicts]
        for places in by_size.values():
            frames = [np.asarray(dicts[index][key]) for index, key in places]
            seen = torch.as_tensor(look(np.concatenate(frames))).detach()
            sizes = [len(some) for some in frames]
            for (index, key), some in zip(places, seen.split(sizes), strict=True):
                made[index][key] = some
        if self._stream is not None:
            made = self._remember(made, rows, fresh)
        arrays = [  # no alias of another camera's, nor of another step's
            {name: one[key].cpu().numpy().copy() for key, name in self._names.items()}
            for one in made
        ]
        if self._bare:
            return [one[""] for one in arrays]
        return [
            {key: value for key, value in batch.items() if key not in self._names} | new
            for batch, new in zip(dicts, arrays, strict=True)
        ]

    def _remember(
        self,
        tokens: Sequence[dict[str, Tensor]],
        rows: Sequence[Sequence[int]],
        fresh: Sequence[NDArray[np.bool_]],
    ) -> list[dict[str, Tensor]]:
        """Turn tokens into embeddings, and remember them; each camera has a past of its own."""
        assert self._stream is not None
        cameras = len(self._names)
        embedded: list[dict[str, Tensor]] = [{} for _ in tokens]
        for group in _rounds(rows):
            ids = [torch.stack([tokens[i][key] for key in self._names], dim=1) for i in group]
            streams = [row * cameras + camera for i in group for row in rows[i]
                       for camera in range(cameras)]  # fmt: skip
            begins = np.concatenate([fresh[i] for i in group]).repeat(cameras)
            embeddings = self._stream.step_tokens(torch.cat(ids).flatten(0, 1), begins, streams)
            sizes = [len(rows[i]) for i in group]
            parts = embeddings.detach().unflatten(0, (-1, cameras)).split(sizes)
            for i, part in zip(group, parts, strict=True):
                embedded[i] = {key: part[:, camera] for camera, key in enumerate(self._names)}
        return embedded

    def pictures(
        self, observation: Observation, rows: range | NDArray[np.intp] | None
    ) -> Observation:
        """Return the pictures of a batch's rows; or without rows, of one observation as a batch."""
        at = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        if self._bare:
            return np.asarray(observation)[at]
        return {key: np.asarray(observation[key])[at] for key in self._names}

    def row(self, batch: Observation, row: int) -> Observation:
        """Return the pictures of one of a batch's observations."""
        return batch[row] if self._bare else {key: batch[key][row] for key in self._names}

    def join(self, batch: Observation, parts: Sequence[Observation]) -> Observation:
        """Replace a batch's pictures by the embeddings of its parts."""
        if self._bare:
            return np.concatenate(parts)
        passed = {key: value for key, value in batch.items() if key not in self._names}
        new = self._names.values()
        return passed | {key: np.concatenate([part[key] for part in parts]) for key in new}

    def nothing(self) -> Observation:
        """Return zeros in the place of one observation's embeddings, as a batch."""
        zeros = np.zeros((1, self.encoder.dim), np.float32)
        return zeros if self._bare else dict.fromkeys(self._names.values(), zeros)

    def embeddings(self, embedded: Observation) -> Observation:
        """Return a copy of the embeddings of a batch whose pictures are replaced."""
        if self._bare:
            return embedded.copy()
        return {name: embedded[name].copy() for name in self._names.values()}

    def replace_rows(
        self, embedded: Observation, rows: NDArray[np.intp], part: Observation
    ) -> None:
        """Put the embeddings of some rows into a batch, in place."""
        if self._bare:
            embedded[rows] = part
            return
        for name in self._names.values():
            embedded[name][rows] = part[name]

    def join_one(self, observation: Observation, part: Observation) -> Observation:
        """Replace an observation's pictures by their embeddings, a batch of one."""
        if self._bare:
            return part[0]
        passed = {key: value for key, value in observation.items() if key not in self._names}
        return passed | {key: part[key][0] for key in self._names.values()}


def _rounds(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put batches together that have no environment in common, and keep the order of time."""
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


def _warn_of_raw_images(space: Mapping[str, spaces.Space], embedded: Mapping[str, object]) -> None:
    """Tell of images that stay pixels because their keys do not say that they are images."""
    raw = [
        key
        for place, one in space.items()
        if place not in embedded
        for key in _image_keys(place, one)
    ]
    if raw:
        warnings.warn(
            f"{', '.join(map(repr, raw))} stay pixels: only images named {IMAGE}<camera> are "
            f"embedded. Rename each to {IMAGE}<camera>, for example with "
            "gymnasium.wrappers.TransformObservation; or leave it out, with "
            "gymnasium.wrappers.FilterObservation",
            UserWarning,
            stacklevel=4,  # where the wrapper was made
        )


def _image_keys(name: str, space: spaces.Space) -> list[str]:
    """Return the names of the images in an entry, which may be a Dict or a Tuple of entries."""
    if isinstance(space, spaces.Dict):
        return [key for part, one in space.items() for key in _image_keys(f"{name}/{part}", one)]
    if isinstance(space, spaces.Tuple):
        return [key for part, one in enumerate(space) for key in _image_keys(f"{name}/{part}", one)]
    is_image = (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) >= 3  # one image, or a stack of them
        and 3 in (space.shape[-1], space.shape[-3])
        and min(sorted(space.shape)[-2:]) >= SMALLEST_IMAGE
    )
    return [name] if is_image else []


def _check_picture(name: str, space: spaces.Space) -> None:
    """Refuse what is no picture, and say why."""
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{name} must be a Box of uint8 [h w 3], got {space}")
    shape, dtype = space.shape, space.dtype
    if dtype != np.uint8:
        hint = " (images in [0, 1] become (image * 255).round())" if np.all(space.high <= 1) else ""
        raise ValueError(f"{name} must be uint8 in 0..255, got {dtype}{hint}")
    if len(shape) == 3 and shape[0] == 3 and shape[2] != 3:
        raise ValueError(f"{name} must be channels last [h w 3], got {shape}: channels come first")
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{name} must be RGB [h w 3], got {shape}")
    if np.any(space.high <= 1):
        raise ValueError(f"{name} must have values in 0..255, got at most {space.high.max()}")


__getattr__ = moved_names(
    __name__,
    {
        "Eyes": "toto_robot.wrappers.embedder:ObservationEmbedder",
    },
)
