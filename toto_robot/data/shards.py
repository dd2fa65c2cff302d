"""Read and write training data sets, which are flat files of frames and tokens.

A data set is a folder::

    manifest.json   name, kind (video or image), side of the frames, list of the clips, and list of
                    the files that were skipped or partly used
    source.json     folder of the files, and crops of each
    frames.u8       uint8 [n size size 3], no header
    tokens.u16      uint16 [n tokens_per_frame], no header; written by `tokenize_shard`
    tokens.json     hash of the tokenizer's weights

    n is the number of frames. A video clip is a sequence of consecutive frames. Each crop of an
    image is a clip of one frame. Every file is written under a temporary name and then renamed, so
    that an interrupted command never leaves an incomplete data set.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoint import weights_hash
from ..config import differences
from ..files import write_json, written_aside
from ..locks import lock
from ..tokenizers import AnyTokenizer
from .clips import read_video
from .images import IMAGE_RESIZER, IMAGE_SUFFIXES, read_crops
from .video import RESIZER, VIDEO_SUFFIXES
from .walk import printable, walk

__all__ = [
    "HOLD_OUT",
    "Shard",
    "Source",
    "decode_source",
    "encode_runs",
    "read_manifest",
    "require_same_data",
    "split",
    "tokenize_shard",
]

# Every 21st file is held out for validation. The number is odd, so that the held-out files include
# all cameras of data sets whose files alternate between two cameras.
HOLD_OUT = 21
_ORIGIN = "source.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder of videos or images, searched recursively.

    Attributes:
        name: name of the data set.
        kind: ``video`` or ``image``.
        path: the folder.
        crops: for images, the number of random crops of each image. For videos, the number of
            passes over each video. Each pass has another random crop.
        stride: number that selects every ``stride``-th frame of a video. The paper has 4 for videos
            of 30 frames a second.
    """

    name: str
    kind: Literal["video", "image"]
    path: Path
    crops: int
    stride: int


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a data set.

    Raises:
        ValueError: ``folder`` has no data set.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no data set (no manifest.json); "
            "python -m toto_robot.data.decode makes one"
        )
    return json.loads(path.read_text())


@dataclass(frozen=True, slots=True)
class Shard:
    """An opened data set of frames, with or without tokens. Its arrays are memory-mapped."""

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> "Shard":
        """Open a data set.

        Raises:
            ValueError: ``folder`` has no data set, only tokens without frames, or fewer frames than
                the manifest lists.
        """
        manifest = read_manifest(folder)
        if "clips" not in manifest:
            raise ValueError(
                f"{folder} holds tokens without frames; this command needs frames, which "
                "python -m toto_robot.data.decode writes"
            )
        path = folder / "frames.u8"
        frames = max((clip["start"] + clip["length"] for clip in manifest["clips"]), default=0)
        expected = frames * manifest["size"] ** 2 * 3
        found = path.stat().st_size if path.is_file() else 0
        if found < expected:
            raise ValueError(
                f"{path} has {found} bytes, but {frames} frames need {expected}; delete {folder} "
                "and write it again"
            )
        return Shard(folder, manifest)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.manifest["name"]

    @property
    def kind(self) -> str:
        """``video`` or ``image``."""
        return self.manifest["kind"]

    def frames(self) -> np.ndarray:
        """Return all frames, uint8 [n size size 3]."""
        size = self.manifest["size"]
        return np.memmap(self.folder / "frames.u8", np.uint8, "r").reshape(-1, size, size, 3)

    def tokens(self, tokenizer: AnyTokenizer) -> np.ndarray:
        """Return all tokens, uint16 [n tokens_per_frame].

        Raises:
            ValueError: the data set is not tokenised, or was tokenised with other weights or at
                another resolution.
        """
        path = self.folder / "tokens.json"
        found = json.loads(path.read_text()) if path.is_file() else None
        expected = _note_of(tokenizer)
        if found != expected:
            state = "is not tokenised"
            if found is not None:
                state = f"was tokenised with {_describe(found)}"
            raise ValueError(
                f"{self.folder} {state}, needed {_describe(expected)}; run tokenize_shard"
            )
        tokens = np.memmap(self.folder / "tokens.u16", np.uint16, "r")
        return tokens.reshape(len(self.frames()), tokenizer.tokens_per_frame)

    def runs(self, validation: bool) -> np.ndarray:
        """Return the clips of the training files, or with ``validation`` of the held-out files.

        The clips are in the run-length encoding of `encode_runs`.
        """
        return encode_runs(split(self, validation))


def split(shard: Shard, validation: bool) -> list[tuple[int, int]]:
    """Return first frame and length of each clip of the training files, or of the held-out files.

    A file is held out with all its clips or crops. A data set of fewer than `HOLD_OUT` files has no
    held-out files.

    Args:
        shard: the data set.
        validation: If True, return the clips of the held-out files. If False, those of the training
            files.
    """
    files = {
        file: i for i, file in enumerate(sorted({clip["file"] for clip in shard.manifest["clips"]}))
    }
    return [
        (clip["start"], clip["length"])
        for clip in shard.manifest["clips"]
        if (files[clip["file"]] % HOLD_OUT == HOLD_OUT - 1) == validation
    ]


def encode_runs(clips: Sequence[tuple[int, int]]) -> np.ndarray:
    """Compress a list of clips: consecutive clips of equal length become one run.

    For example, a million consecutive clips of 16 frames are one run.

    Args:
        clips: first frame and number of frames of each clip.

    Returns:
        int64 [r 3], one row for each of the r runs: first frame, length of a clip, number of clips.
    """
    runs: list[list[int]] = []
    for start, length in clips:
        if runs and runs[-1][1] == length and runs[-1][0] + length * runs[-1][2] == start:
            runs[-1][2] += 1
        else:
            runs.append([start, length, 1])
    return np.array(runs, np.int64).reshape(-1, 3)


def decode_source(source: Source, folder: Path, size: int, seed: int) -> Shard:
    """Decode the files of a source, and write them as a data set.

    Unusable files are skipped. Skipped and partly used files are printed with the reason, and the
    manifest lists them. A data set that exists is kept if it was made of the same source with the
    same settings. If another process writes into the folder, its end is awaited first.

    Raises:
        ValueError: no file of ``source`` could be read, or ``folder`` holds another data set.
    """
    made_of = {
        "name": source.name,
        "kind": source.kind,
        "size": size,
        "stride": source.stride,
        "seed": seed,
    }
    # not in the manifest, whose hash is in checkpoints: the same files may be in another folder
    origin = {"path": str(source.path), "crops": source.crops}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "manifest.json").is_file():
        with lock(folder, wait=True):
            if not (folder / "manifest.json").is_file():  # another process may have written it
                _decode(source, folder, made_of, origin)
                return Shard.open(folder)
    kept = Shard.open(folder)
    require_same_data(folder, kept.manifest, made_of)
    if (folder / _ORIGIN).is_file():  # versions before 0.2 did not write it
        require_same_data(folder, json.loads((folder / _ORIGIN).read_text()), origin)
    return kept


def _decode(
    source: Source, folder: Path, made_of: Mapping[str, Any], origin: Mapping[str, Any]
) -> None:
    """Decode the files of a source, write the files of the data set, and print unused files.

    Args:
        source: the files.
        folder: folder of the data set.
        made_of: settings that are written to the manifest.
        origin: content of `source.json`.

    Raises:
        ValueError: no file of ``source`` could be read.
    """
    size, seed = made_of["size"], made_of["seed"]
    suffixes = VIDEO_SUFFIXES if source.kind == "video" else IMAGE_SUFFIXES
    paths = walk(source.path, suffixes)
    clips: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    in_part: list[dict[str, str]] = []
    with written_aside(folder / "frames.u8") as aside, aside.open("wb") as file:
        for index, path in enumerate(tqdm(paths, desc=f"decode {source.name}", unit="file")):
            name = printable(str(path.relative_to(source.path)))
            problems: list[str] = []
            try:
                for frames in _crops_of(source, path, index, size, seed, problems):
                    frames.tofile(file)
                    lengths = [len(frames)] if source.kind == "video" else [1] * len(frames)
                    for length in lengths:
                        start = clips[-1]["start"] + clips[-1]["length"] if clips else 0
                        clips.append({"file": name, "start": start, "length": length})
            except ValueError as error:
                skipped.append({"file": name, "reason": printable(str(error))})
            if problems:
                in_part.append({"file": name, "reason": "; ".join(problems)})
        if not clips:
            reasons = "".join(f"\n  {item['file']}: {item['reason']}" for item in skipped)
            raise ValueError(
                f"{source.name}: no readable {source.kind} ({', '.join(suffixes)}) below "
                f"{source.path}{reasons}"
            )
    manifest = {
        **made_of,
        "resizer": RESIZER if source.kind == "video" else IMAGE_RESIZER,
        "frames": clips[-1]["start"] + clips[-1]["length"],
        "clips": clips,
        "skipped": skipped,
        "in_part": in_part,
    }
    write_json(folder / _ORIGIN, origin)
    write_json(folder / "manifest.json", manifest)  # last: a data set with it is complete
    print(
        f"{folder}: {manifest['frames']} frames in {len(clips)} clips, {len(skipped)} files skipped"
    )
    for item in skipped:
        print(f"  skipped {item['file']}: {item['reason']}")
    for item in in_part:
        print(f"  partly used {item['file']}: {item['reason']}")


def require_same_data(folder: Path, there: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a data set was made of the expected source with the expected settings.

    Args:
        folder: folder of the data set.
        there: its manifest.
        expected: the entries of the manifest that are compared.

    Raises:
        ValueError: entries differ; the message lists them.
    """
    if lines := differences({key: there.get(key) for key in expected}, expected):
        raise ValueError(
            f"{folder} holds another data set (there != here); choose another out=, or delete "
            "the folder:\n  " + "\n  ".join(lines)
        )


def _crops_of(
    source: Source, path: Path, index: int, size: int, seed: int, problems: list[str]
) -> Iterator[np.ndarray]:
    """Yield the frames of each pass over a video, or all crops of an image at once.

    If only a part of a video can be used, the reasons are appended to `problems`.
    """
    if source.kind == "image":
        yield read_crops(path, size, source.crops, np.random.default_rng((seed, index, 0)))
        return
    for crop in range(source.crops):
        generator = np.random.default_rng((seed, index, crop))
        frames, found = read_video(path, size, source.stride, generator)
        problems += found if not crop else ()
        yield frames


def tokenize_shard(shard: Shard, tokenizer: AnyTokenizer, batch: int) -> None:
    """Tokenise every frame, and write the tokens into the folder of the data set.

    If the folder has tokens of this tokenizer, nothing is done. If another process writes into the
    folder, its end is awaited first.
    """
    made_by = _note_of(tokenizer)
    if _is_tokenised(shard, made_by):
        return
    note, tokens = shard.folder / "tokens.json", shard.folder / "tokens.u16"
    with lock(shard.folder, wait=True):
        if _is_tokenised(shard, made_by):  # by another process
            return
        frames = shard.frames()
        if (side := frames.shape[1]) < tokenizer.image_size:
            print(
                f"note: the frames of {shard.folder} have {side} pixels, and the tokenizer "
                f"enlarges them to {tokenizer.image_size}; python -m toto_robot.data.decode "
                f"size={tokenizer.image_size} writes larger frames",
                flush=True,
            )
        with written_aside(tokens) as aside, aside.open("wb") as file, torch.inference_mode():
            for start in tqdm(
                range(0, len(frames), batch), desc=f"tokenise {shard.name}", unit="batch"
            ):
                ids = tokenizer.encode(torch.from_numpy(frames[start : start + batch].copy()))
                ids.numpy().astype(np.uint16).tofile(file)
            note.unlink(missing_ok=True)  # the old `tokens.json` must not stay beside new tokens
        write_json(note, made_by)


def _is_tokenised(shard: Shard, made_by: Mapping[str, Any]) -> bool:
    note = shard.folder / "tokens.json"
    return note.is_file() and json.loads(note.read_text()) == made_by


def _note_of(tokenizer: AnyTokenizer) -> dict[str, Any]:
    """Return the content of `tokens.json`: hash of the weights, and number of tokens per frame."""
    return {
        "tokenizer": weights_hash(tokenizer),
        "tokens_per_frame": tokenizer.tokens_per_frame,
    }


def _describe(note: dict[str, Any]) -> str:
    return f"weights {note['tokenizer'][:12]} at {note['tokens_per_frame']} tokens a frame"
