"""Propagate the labels of a video's first frame to the next frames, by the similarity of features.

This is the method of Jabri et al. 2020 (arXiv 2006.14613), with which the Toto paper evaluates
tracking (section 4.5). Nothing is trained. A patch of the new frame takes the labels of the most
similar patches in the memory: the first frame, and the frames just before the new one (the last
frames) with their propagated labels.

    memory = LabelMemory(config, features[0], labels)        # [n d], [n c]
    for frame in features[1:]:
        labels = memory.propagate(frame)                     # [n c]

The similarity is the cosine. In the last frames, only patches within a radius are compared. Most
implementations compute the similarities of all pairs of patches, and then mask those outside the
radius. Here, the grid is divided into tiles, and each tile is compared only with the patches around
it. The memory has a fixed size, however long the video is.

Shapes: n patches of a frame (a square grid), d features of a patch, c labels, m patches in memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["LabelMemory", "PropagationConfig", "largest"]

TILE = 8  # side of the tiles, patches
GROUPS = 32  # numbers of a row that `largest` compares first


@dataclass(frozen=True, kw_only=True, slots=True)
class PropagationConfig:
    """Settings of the propagation.

    Attributes:
        memory_frames: number of frames just before the new frame (last frames) in the memory, in
            addition to the first frame.
        top_k: number of similar patches from which a patch takes its labels.
        radius: patches of the last frames are compared only if their distance from the new patch is
            smaller than this share of the frame's side. Jabri et al. have 12 of 60 rows, 0.2.
        first_frame_radius: the same for the first frame; null: no limit, as in the code of Jabri et
            al.
        temperature: the similarities are divided by this number before the softmax that makes them
            weights.
    """

    memory_frames: int
    top_k: int
    radius: float
    first_frame_radius: float | None
    temperature: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("memory_frames", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("radius", "first_frame_radius", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


class LabelMemory:
    """The features and labels of the first frame of a video and of the last frames so far."""

    def __init__(
        self,
        config: PropagationConfig,
        features: Float[Tensor, "n d"],
        labels: Float[Tensor, "n c"],
    ) -> None:
        """Store the first frame.

        Args:
            config: settings.
            features: features of the first frame's patches, in raster order.
            labels: shares of the labels in each patch.

        Raises:
            ValueError: the patches are not a square grid.
        """
        self._config, self._side = config, math.isqrt(len(features))
        if self._side**2 != len(features):
            raise ValueError(f"features must be of a square grid, got {len(features)} patches")
        frames = 1 + config.memory_frames
        self._features = features.new_empty(frames, self._side, self._side, features.shape[1])
        self._labels = labels.new_empty(frames, self._side, self._side, labels.shape[1])
        self._frames = 0  # number of frames so far, the first included
        self._tiles = list(self._make_tiles(features.device))
        self._store(normalize(features, dim=-1), labels)

    def propagate(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return the labels of the next frame, and store the frame."""
        features = normalize(features, dim=-1)
        grid = features.unflatten(0, (self._side, self._side))
        found = self._labels.new_empty(self._side, self._side, self._labels.shape[-1])
        for tile in self._tiles:
            queries = grid[tile.rows, tile.columns].flatten(0, 1)
            scores, labels = zip(*self._compare(queries, tile), strict=True)
            values, places = largest(torch.cat(scores, dim=1), self._config.top_k)
            weights = (values / self._config.temperature).softmax(dim=1)
            neighbours = torch.cat(labels)[places]  # q k c
            mixed = (weights[:, :, None] * neighbours).sum(dim=1)
            shape = found[tile.rows, tile.columns].shape
            found[tile.rows, tile.columns] = mixed.reshape(shape)
        found = found.flatten(0, 1)
        self._store(features, found)
        return found

    def _compare(
        self, queries: Float[Tensor, "q d"], tile: "Tile"
    ) -> Iterator[tuple[Float[Tensor, "q m"], Float[Tensor, "m c"]]]:
        """Yield the similarities of patches to the memory, and the labels of the memory.

        Similarities outside the radius are minus infinity.
        """
        last = slice(1, min(self._frames, len(self._features)))
        for frames, window in ((slice(0, 1), tile.first), (last, tile.last)):
            keys = self._features[frames, window.rows, window.columns]
            labels = self._labels[frames, window.rows, window.columns]
            if len(keys):
                scores = queries @ keys.flatten(0, 2).T
                if window.outside is not None:
                    scores.unflatten(1, (len(keys), -1)).add_(window.outside[:, None])
                yield scores, labels.flatten(0, 2)

    def _store(self, features: Float[Tensor, "n d"], labels: Float[Tensor, "n c"]) -> None:
        """Write a frame to the memory. It replaces the oldest frame except the first one."""
        slot = self._frames
        if slot:
            slot = 1 + (self._frames - 1) % self._config.memory_frames
        self._features[slot] = features.unflatten(0, (self._side, self._side))
        self._labels[slot] = labels.unflatten(0, (self._side, self._side))
        self._frames += 1

    def _make_tiles(self, device: torch.device) -> "Iterator[Tile]":
        starts = range(0, self._side, TILE)
        for top in starts:
            for left in starts:
                rows, columns = slice(top, top + TILE), slice(left, left + TILE)
                yield Tile(
                    rows=rows,
                    columns=columns,
                    first=self._window(rows, columns, self._config.first_frame_radius, device),
                    last=self._window(rows, columns, self._config.radius, device),
                )

    def _window(
        self, rows: slice, columns: slice, share: float | None, device: torch.device
    ) -> "Window":
        """Return the window of a tile: the smallest rectangle with all patches in the radius."""
        if share is None:
            return Window(rows=slice(None), columns=slice(None), outside=None)
        radius = share * self._side
        reach = math.ceil(radius) - 1
        around = [
            slice(max(0, part.start - reach), min(self._side, part.stop + reach))
            for part in (rows, columns)
        ]
        numbers = torch.arange(self._side, device=device)
        down, across = (
            (numbers[part][:, None] - numbers[near][None]) ** 2
            for part, near in zip((rows, columns), around, strict=True)
        )
        squares = down[:, None, :, None] + across[None, :, None, :]  # rows, columns, window's both
        outside = torch.zeros(squares.shape, device=device)
        outside[squares >= radius**2] = -math.inf
        return Window(
            rows=around[0], columns=around[1], outside=outside.flatten(0, 1).flatten(1, 2)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Window:
    """The patches of memory frames with which the q patches of a tile are compared.

    Attributes:
        rows: rows of the window in the grid.
        columns: columns of the window in the grid.
        outside: [q w] for the q patches of the tile and the w patches of the window: 0 for pairs
            within the radius, and minus infinity for the others; None: there is no radius.
    """

    rows: slice
    columns: slice
    outside: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """A square part of the grid, and its windows in the first frame and in the last frames."""

    rows: slice
    columns: slice
    first: Window
    last: Window


def largest(
    values: Float[Tensor, "q m"], k: int
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return the k largest numbers of each row, and their indices, as `torch.topk` does.

    If a row has fewer than k numbers, all are returned. The columns are divided into groups. The k
    groups with the largest maxima contain the k largest numbers, so that only these groups are
    sorted. For long rows, this takes a fraction of the time of `torch.topk`.
    """
    length = values.shape[1] // GROUPS  # number of groups; each has GROUPS members
    if length <= k:
        return values.topk(min(k, values.shape[1]), dim=1)
    members = values[:, : GROUPS * length].unflatten(1, (GROUPS, length))  # q g l
    groups = members.amax(dim=1).topk(k, dim=1).indices  # q k
    offsets = torch.arange(GROUPS, device=values.device) * length
    rest = torch.arange(GROUPS * length, values.shape[1], device=values.device)
    places = (offsets[None, :, None] + groups[:, None, :]).flatten(1)  # q g*k
    places = torch.cat([places, rest.expand(len(values), -1)], dim=1)
    found = values.gather(1, places).topk(k, dim=1)
    return found.values, places.gather(1, found.indices)
