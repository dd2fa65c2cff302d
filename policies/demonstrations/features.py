"""Compute the embeddings of the episodes in a demonstration store once, and cache them on disk.

    <store>/features-<fingerprint>/000000.npy      float16 [T+1 c e] of one episode

Shapes: T actions of an episode, c cameras, e elements of an embedding. The folder name contains the
fingerprint of the encoder (a hash of weights, layer, pooling method, and how earlier frames are
used), so each encoder has its own folder. The folders can be deleted; the embeddings are then
computed again.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot import FrameEncoder
from toto_robot.files import written_aside

from ..vision import embed_episode
from .store import DemoStore


class FeatureCache:
    """A cache of the embeddings of the episodes of a demonstration store, for one encoder.

    Without an encoder, an embedding has 0 elements.
    """

    def __init__(self, store: DemoStore, encoder: FrameEncoder | None) -> None:
        self._store = store
        self._encoder = encoder
        self._folder = store.folder
        if encoder is not None:
            self._folder = store.folder / f"features-{encoder.fingerprint[:16]}"
            self._folder.mkdir(exist_ok=True)

    def put(self, index: int, features: NDArray[np.float16]) -> None:
        """Write the embeddings [T+1 c e] of episode `index` into the cache.

        The episode itself need not be in the demonstration store yet.
        """
        if self._encoder is not None:
            with written_aside(self._path(index), shared=True) as aside, aside.open("wb") as file:
                np.save(file, features)

    def has(self, index: int) -> bool:
        """Return whether the embeddings of episode `index` are in the cache."""
        return self._encoder is None or self._path(index).is_file()

    def get(self, index: int) -> NDArray[np.float16]:
        """Return the embeddings [T+1 c e] of episode `index`.

        If they are not in the cache, compute them from the tokens and write them into the cache.

        Raises:
            ValueError: the file in the cache is damaged, or belongs to another episode; the message
                names the file.
        """
        tokens = self._store[index].tokens
        if self._encoder is None:
            return np.zeros((*tokens.shape[:2], 0), np.float16)
        path = self._path(index)
        if not path.is_file():
            self.put(index, embed_episode(self._encoder, tokens))
        try:
            features = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it") from error
        if features.shape != (*tokens.shape[:2], self._encoder.dim):
            raise ValueError(f"{path} belongs to another episode: {features.shape}; delete it")
        return features

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}.npy"


class Dataset:
    """The training data of a student: labelled observations from one or more demonstration stores.

    Shapes: N observations, c cameras, e elements of an embedding, p elements of proprioception, a
    elements of an action.

    Attributes:
        embeddings: float16 [N c e], in memory, or in a file if they exceed the memory limit.
        proprio: float32 [N p], proprioception.
        labels: float32 [N a], the expert's actions.
        ends: int64 [N]. For each observation, the end of its episode: the index of the last
            observation of the episode plus 1.
    """

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor
    ends: torch.Tensor

    def __init__(
        self,
        stores: Sequence[DemoStore],
        encoder: FrameEncoder | None,
        limit_bytes: int,
        scratch: Path,
        only: Collection[int] | None = None,
    ) -> None:
        """Read or compute the embeddings of all episodes, and concatenate the episodes.

        Args:
            stores: the demonstration stores.
            encoder: the encoder that computes the embeddings; None: the student has no vision.
            limit_bytes: memory limit for the embeddings, bytes. Larger embeddings are written to
                the file `scratch`.
            scratch: path of this file, which is overwritten.
            only: indices of the episodes to use from each store; None: all.

        Raises:
            ValueError: there are no episodes.
        """
        wanted = [
            [index for index in range(len(store)) if only is None or index in only]
            for store in stores
        ]
        episodes = [
            store[index] for store, chosen in zip(stores, wanted, strict=True) for index in chosen
        ]
        if not episodes:
            raise ValueError("no demonstrations to learn from: the stores have no episodes")
        num_rows = sum(episode.num_steps for episode in episodes)
        num_cameras = episodes[0].tokens.shape[1]
        shape = (num_rows, num_cameras, 0 if encoder is None else encoder.dim)
        if 2 * int(np.prod(shape)) > limit_bytes:
            embeddings = open_memmap(scratch, mode="w+", dtype=np.float16, shape=shape)
        else:
            embeddings = np.empty(shape, np.float16)
        caches = [FeatureCache(store, encoder) for store in stores]
        places = [
            (cache, index) for cache, chosen in zip(caches, wanted, strict=True) for index in chosen
        ]
        missing = sum(not cache.has(index) for cache, index in places)
        row = 0
        for (cache, index), episode in zip(
            tqdm(places, desc="embed", unit="episode", disable=not missing, leave=False),
            episodes,
            strict=True,
        ):
            embeddings[row : row + episode.num_steps] = cache.get(index)[:-1]
            row += episode.num_steps
        self.embeddings = torch.from_numpy(embeddings)
        self.proprio = torch.from_numpy(np.concatenate([e.proprio[:-1] for e in episodes]))
        self.labels = torch.from_numpy(np.concatenate([e.labels for e in episodes]))
        lengths = np.array([episode.num_steps for episode in episodes])
        self.ends = torch.from_numpy(np.repeat(lengths.cumsum(), lengths))

    def __len__(self) -> int:
        return len(self.labels)
