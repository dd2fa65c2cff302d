"""Clips of a data set as tokens, with the file that each was cut from: what the analyses read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.mixture import TokenData
from ..data.shards import Shard
from ..data.token_shards import ShardedTokens, open_data
from ..tokenizers import AnyTokenizer

__all__ = ["Part", "TokenClips", "frame_tokens", "open_clips"]

Part = Literal["held_out", "training", "all"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenClips:
    """Clips of one data set.

    Attributes:
        name: of the data set.
        kind: `video` or `image`; a clip of an image has one frame.
        tokens: of all frames [n tokens_per_frame], memory-mapped.
        clips: first frame and number of frames of each clip.
        files: [c] number of the file that each clip was cut from; data sets of tokens alone do not
            say it, there each clip counts as a file.
    """

    name: str
    kind: str
    tokens: NDArray[np.uint16] | ShardedTokens
    clips: tuple[tuple[int, int], ...]
    files: NDArray[np.int64]


def open_clips(folder: Path, tokenizer: AnyTokenizer, part: Part) -> TokenClips:
    """Open a data set that `tokenizer` has tokenised.

    Args:
        folder: the data set.
        tokenizer: whose tokens they must be.
        part: the files held out from training, those trained on, or all.

    Raises:
        ValueError: no data set, tokens of another tokenizer, or no file in that part.
    """
    data = open_data(folder)
    clips = _clips(data, part)
    files = np.arange(len(clips))
    if isinstance(data, Shard):
        names = {clip["start"]: clip["file"] for clip in data.manifest["clips"]}
        _, files = np.unique([names[start] for start, _ in clips], return_inverse=True)
    return TokenClips(
        name=data.name,
        kind=data.kind,
        tokens=data.tokens(tokenizer),
        clips=tuple(clips),
        files=files,
    )


def frame_tokens(
    folder: Path, tokenizer: AnyTokenizer, part: Part, frames: int | None, batch: int
) -> tuple[int, Iterator[NDArray[np.int64]]]:
    """Return the number of frames of a data set, and batches of their tokens [b tokens_per_frame].

    Tokens that `tokenizer` has made are read; else its frames are tokenised now, and kept nowhere.

    Args:
        folder: the data set.
        tokenizer: whose tokens are asked for.
        part: the files held out from training, those trained on, or all.
        frames: how many, spread evenly; None for all.
        batch: frames a batch.

    Raises:
        ValueError: no data set, no file in that part, or other tokens and no frames.
    """
    data = open_data(folder)
    rows = np.concatenate([np.arange(s, s + length) for s, length in _clips(data, part)])
    if frames is not None and frames < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, frames).round().astype(np.int64)]
    tokens, pictures = None, None
    try:
        tokens = data.tokens(tokenizer)
    except ValueError:
        if not isinstance(data, Shard):
            raise
        pictures = data.frames()  # and nothing is written over the tokens that are there

    def read() -> Iterator[NDArray[np.int64]]:
        for first in range(0, len(rows), batch):
            chosen = rows[first : first + batch]
            if tokens is not None:
                yield np.asarray(tokens[chosen], dtype=np.int64)
            elif pictures is not None:
                with torch.inference_mode():
                    yield tokenizer.encode(torch.from_numpy(pictures[chosen])).cpu().numpy()

    return len(rows), read()


def _clips(data: TokenData, part: Part) -> list[tuple[int, int]]:
    """Return start and length of each clip."""
    asked = {"held_out": (True,), "training": (False,), "all": (True, False)}[part]
    clips = [
        (int(start + turn * length), int(length))
        for validation in asked
        for start, length, count in data.runs(validation)
        for turn in range(count)
    ]
    if not clips:
        raise ValueError(
            f"{data.folder} has no file in part {part!r}: of few files none is held out; "
            "choose part=training or part=all"
        )
    return sorted(clips)
