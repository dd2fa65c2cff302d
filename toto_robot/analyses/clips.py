"""Token clips of a data set, with the source file of each clip, for the analyses."""

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
    """The clips of one data set.

    Attributes:
        name: name of the data set.
        kind: `video` or `image`; a clip of an image has one frame.
        tokens: tokens of all frames [n tokens_per_frame], memory-mapped.
        clips: first frame and number of frames of each clip.
        files: [c] number of each clip's source file; data sets of tokens without frames do not
            record it, so there each clip counts as a file.
    """

    name: str
    kind: str
    tokens: NDArray[np.uint16] | ShardedTokens
    clips: tuple[tuple[int, int], ...]
    files: NDArray[np.int64]


def open_clips(folder: Path, tokenizer: AnyTokenizer, part: Part) -> TokenClips:
    """Open a data set that `tokenizer` has tokenised.

    Args:
        folder: folder of the data set.
        tokenizer: the tokenizer that made the tokens.
        part: which files are used: `held_out`, `training` or `all`.
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

    Existing tokens of `tokenizer` are read; else the frames are tokenised, and the tokens are not
    stored.

    Args:
        folder: folder of the data set.
        tokenizer: the tokenizer.
        part: which files are used: `held_out`, `training` or `all`.
        frames: maximum number of frames, spread evenly; None: all frames.
        batch: frames per batch.

    Raises:
        ValueError: the folder has no data set, the part has no file, or the data set has tokens of
            another tokenizer and no frames.
    """
    data = open_data(folder)
    rows = np.concatenate([np.arange(s, s + length) for s, length in _clips(data, part)])
    if frames is not None and frames < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, frames).round().astype(np.int64)]
    tokens, images = None, None
    try:
        tokens = data.tokens(tokenizer)
    except ValueError:
        if not isinstance(data, Shard):
            raise
        images = data.frames()  # existing tokens of another tokenizer are not overwritten

    def read() -> Iterator[NDArray[np.int64]]:
        for first in range(0, len(rows), batch):
            chosen = rows[first : first + batch]
            if tokens is not None:
                yield np.asarray(tokens[chosen], dtype=np.int64)
            elif images is not None:
                with torch.inference_mode():
                    yield tokenizer.encode(torch.from_numpy(images[chosen])).cpu().numpy()

    return len(rows), read()


def _clips(data: TokenData, part: Part) -> list[tuple[int, int]]:
    """Return start and length of each clip."""
    splits = {"held_out": (True,), "training": (False,), "all": (True, False)}[part]
    clips = [
        (int(start + turn * length), int(length))
        for validation in splits
        for start, length, count in data.runs(validation)
        for turn in range(count)
    ]
    if not clips:
        raise ValueError(
            f"{data.folder} has no file in part {part!r}: small data sets have no held-out files; "
            "choose part=training or part=all"
        )
    return sorted(clips)
