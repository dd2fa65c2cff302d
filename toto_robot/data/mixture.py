"""Weighted mixture of data sets: frames for a tokenizer, sequences for a transformer."""

from collections.abc import Sequence

import numpy as np

from ..models import TotoConfig
from ..tokenizers import AnyTokenizer
from .shards import Shard

__all__ = ["FrameMixture", "SequenceMixture"]

HOLD_OUT = 21  # every 21st file of each data set is for validation; odd, so that cameras take turns


class FrameMixture:
    """Random crops of random frames, for training a tokenizer."""

    def __init__(self, shards: Sequence[Shard], weights: Sequence[float], validation: bool) -> None:
        parts = [
            (shard.frames(), split(shard, validation), w)
            for shard, w in zip(shards, weights, strict=True)
        ]
        parts = [part for part in parts if part[1]]
        self._frames = [frames for frames, _, _ in parts]
        self._clips = [clips for _, clips, _ in parts]
        self._weights = np.array([weight for _, _, weight in parts]) / sum(
            weight for _, _, weight in parts
        )

    def sample(self, count: int, side: int, generator: np.random.Generator) -> np.ndarray:
        """Return frames in proportion to the weights, cropped: uint8 [count side side 3]."""
        crops = np.empty((count, side, side, 3), np.uint8)
        for i, source in enumerate(generator.choice(len(self._weights), count, p=self._weights)):
            start, length = self._clips[source][generator.integers(len(self._clips[source]))]
            frame = self._frames[source][start + generator.integers(length)]
            top, left = generator.integers(frame.shape[0] - side + 1, size=2)
            crops[i] = frame[top : top + side, left : left + side]
        return crops


class SequenceMixture:
    """Token sequences by the rules of paper section 3.4.

    A video sequence is ``frames`` consecutive frames of one clip after the video start token; an
    image sequence is ``frames`` unrelated images after the image start token; both close with the
    end token.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        weights: Sequence[float],
        tokenizer: AnyTokenizer,
        config: TotoConfig,
        frames: int,
        validation: bool,
    ) -> None:
        """Open the tokens of ``shards``.

        Raises:
            ValueError: a data set is not tokenised, has no clip of ``frames`` frames or too few
            images.
        """
        self._config, self._frames = config, frames
        self._kinds = [shard.kind for shard in shards]
        self._tokens = [shard.tokens(tokenizer) for shard in shards]
        self._weights = np.asarray(weights, float) / sum(weights)
        self._clips = []
        for shard in shards:
            needed = frames if shard.kind == "video" else 1
            clips = [
                (start, length) for start, length in split(shard, validation) if length >= needed
            ]
            if not clips:
                raise ValueError(
                    f"{shard.folder} ({shard.name}) has no clip of {needed} frames or more"
                )
            self._clips.append(clips)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return int64 [count frames * tokens_per_frame + 2]."""
        sources = generator.choice(len(self._weights), count, p=self._weights)
        return np.stack([self._sequence(int(source), generator) for source in sources])

    def _sequence(self, source: int, generator: np.random.Generator) -> np.ndarray:
        clips, tokens = self._clips[source], self._tokens[source]
        if self._kinds[source] == "video":
            start, length = clips[generator.integers(len(clips))]
            first = start + generator.integers(length - self._frames + 1)
            body, begin = tokens[first : first + self._frames], self._config.start_video
        else:
            drawn = generator.integers(len(clips), size=self._frames)
            rows = [clips[i][0] + generator.integers(clips[i][1]) for i in drawn]
            body, begin = tokens[rows], self._config.start_image
        return np.concatenate([[begin], body.reshape(-1).astype(np.int64), [self._config.end]])


def split(shard: Shard, validation: bool) -> list[tuple[int, int]]:
    """Return the clips, start and length, of the training or of the held-out files.

    Whole files are held out, never some crops of a picture. A data set of fewer than `HOLD_OUT`
    files has none.
    """
    files = {
        file: i for i, file in enumerate(sorted({clip["file"] for clip in shard.manifest["clips"]}))
    }
    return [
        (clip["start"], clip["length"])
        for clip in shard.manifest["clips"]
        if (files[clip["file"]] % HOLD_OUT == HOLD_OUT - 1) == validation
    ]
