"""Read the tokens of a data set's clips for the analyses, with the source file of each clip."""

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
    """The tokens of one data set, and the position of each clip in them.

    Attributes:
        name: name of the data set.
        kind: `video` or `image`. In a data set of images, each clip has one frame.
        tokens: tokens of all n frames, shape [n tokens_per_frame], memory-mapped.
        clips: one pair for each of the c clips: index of its first frame, and number of its frames.
        files: index of the source file of each of the c clips, shape [c]. Data sets of tokens
            without frames do not record the file, so each of their clips counts as one file.
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
        part: the files to use: `held_out` files, `training` files, or `all` files.
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

    If the data set has tokens of `tokenizer`, they are read from the disk. Otherwise the function
    tokenises the frames, and does not store the tokens.

    Args:
        folder: folder of the data set.
        tokenizer: the tokenizer of the tokens to return.
        part: the files to use: `held_out` files, `training` files, or `all` files.
        frames: maximum number of frames. If the part has more, evenly spaced frames are used.
            None uses all frames.
        batch: number of frames in a batch.

    Raises:
        ValueError: the folder has no data set, or the chosen part has no file. Also if the data set
            has only tokens of another tokenizer, and no frames.
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
    """Return one pair for each clip: index of its first frame, and number of its frames."""
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
