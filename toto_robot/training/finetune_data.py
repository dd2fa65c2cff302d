"""Read the unlabelled data of a fine-tuning as tokens: videos, images or robot episodes.

Tokens of episodes are written as a data set of tokens, in which each camera of an episode is a clip
(see `toto_robot.data.token_shards`). Videos and images are decoded and tokenised as for
pre-training.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import weights_hash
from ..data.images import IMAGE_SUFFIXES
from ..data.mixture import TokenData, require_clips
from ..data.shards import (
    HOLD_OUT,
    Shard,
    Source,
    decode_source,
    require_same_data,
    tokenize_shard,
)
from ..data.shuffle import key_of, uniform
from ..data.token_shards import FORMAT, ShardWriter, TokenShards, open_data, shard_name
from ..data.video import VIDEO_SUFFIXES
from ..data.walk import walk
from ..encoders.contract import compress_in_batches
from ..encoders.encoder import Encoder
from ..files import write_json
from ..probing.episodes import check_tokenizer, read_demonstrations, read_frames
from ..probing.lerobot_episodes import is_lerobot

__all__ = ["prefix_lengths", "tokenise_data"]

NAME = "finetune"  # of the data set of tokens
EPISODE_SUFFIXES = (".safetensors", ".npz")


def tokenise_data(
    folder: Path, encoder: Encoder, stride: int, frames: int, out: Path, seed: int
) -> TokenData:
    """Return the tokens of unlabelled data. Tokens of an earlier call are reused.

    Args:
        folder: a data set of `decode` or `tokenise`, a folder of episodes or a demonstration store
            (see `probing.episodes`), a LeRobot data set, or a folder of videos or images.
        encoder: the encoder whose tokenizer is used.
        stride: every ``stride``-th frame of videos and episodes is used; 1 for a data set.
        frames: number of frames in a sequence.
        out: folder for the tokens.
        seed: seed of the crops of videos and images.

    Raises:
        ValueError: nothing in the folder can be read, no video is as long as a sequence, the
            tokens are of another tokenizer, the folder has both videos and images, a data set has
            another stride than 1, or ``out`` has data of another folder.
    """
    if not folder.is_dir():
        raise ValueError(f"data: {folder} is not a folder")
    if (folder / "manifest.json").is_file():
        if stride != 1:
            raise ValueError(
                f"data: {folder} is a data set, whose frames were selected when it was written, so "
                f"stride must be 1, got {stride}; write the data set with another stride instead"
            )
        data = open_data(folder)
    elif is_lerobot(folder) or _has_episodes(folder):
        return _tokenise_episodes(folder, encoder, stride, out / "tokens")
    else:
        videos, images = walk(folder, VIDEO_SUFFIXES), walk(folder, IMAGE_SUFFIXES)
        if videos and images:
            raise ValueError(
                f"data: {folder} holds {len(images)} images and {len(videos)} videos: give a "
                "folder of one kind"
            )
        kind = "video" if videos else "image"
        source = Source(name=NAME, kind=kind, path=folder, crops=1, stride=stride)
        data = decode_source(source, out / "frames", encoder.image_size, seed)
    if isinstance(data, Shard):
        require_clips([data], frames, validation=False)  # before the tokens, which take long
        tokenize_shard(data, encoder.tokenizer, batch=32)
    return data


def _has_episodes(folder: Path) -> bool:
    places = (folder / "episodes", folder)
    return any(walk(one, EPISODE_SUFFIXES, deep=False) for one in places if one.is_dir())


def _tokenise_episodes(folder: Path, encoder: Encoder, stride: int, out: Path) -> TokenShards:
    """Write the tokens of robot episodes; every `HOLD_OUT`-th episode is held out."""
    manifest = {
        "format": FORMAT,
        "name": NAME,
        "kind": "video",
        "path": str(folder),
        "shards": 1,
        "stride": stride,
        "tokenizer": {
            "sha256": weights_hash(encoder.tokenizer),
            "tokens_per_frame": encoder.tokens_per_frame,
        },
    }
    if (out / "manifest.json").is_file():
        kept = TokenShards.open(out)
        require_same_data(out, manifest | kept.manifest, manifest)  # earlier ones lack keys
        return kept
    data = read_demonstrations(folder, None, None, None, 1, None)
    if data.view == "tokens":
        check_tokenizer(folder, encoder)
    out.mkdir(parents=True, exist_ok=True)
    is_held_out = np.arange(len(data.paths)) % HOLD_OUT == HOLD_OUT - 1
    writer, lengths = ShardWriter(out, shard_name(manifest, 0)), ([], [])
    order = np.argsort(is_held_out, kind="stable")  # held-out clips follow the training clips
    for number in tqdm(order, desc="tokenise", unit="episode"):
        frames = read_frames(data.paths[number], data.view)
        for clip in _tokens_per_camera(frames, data.view, encoder, stride):
            writer.write(clip)
            lengths[int(is_held_out[number])].append(len(clip))
    writer.close(*lengths)
    write_json(out / "manifest.json", manifest)  # last: the data set is complete with it
    return TokenShards.open(out)


def _tokens_per_camera(
    frames: NDArray | Sequence[NDArray], view: str, encoder: Encoder, stride: int
) -> list[NDArray[np.uint16]]:
    """Return the tokens [t n] of each camera, for the result of `read_frames`."""
    cameras = frames if isinstance(frames, list) else list(np.moveaxis(np.asarray(frames), 1, 0))
    chosen = [np.ascontiguousarray(camera[::stride]) for camera in cameras]
    return (
        chosen if view == "tokens" else [compress_in_batches(encoder, camera) for camera in chosen]
    )


def prefix_lengths(first: int, count: int, num_tokens: int, seed: int) -> Tensor:
    """Return random prefix lengths of rows, int64 [count], uniform in 1 to ``num_tokens`` - 1.

    The prefix length of a row depends only on the number of the row and the seed. A sequence has
    ``num_tokens`` tokens.
    """
    shares = uniform(key_of(seed, 5), np.arange(first, first + count))
    return torch.from_numpy(1 + (shares * (num_tokens - 1)).astype(np.int64))
