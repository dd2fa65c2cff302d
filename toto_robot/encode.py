"""`python -m toto_robot.encode images=FOLDER out=FILE.npy`: embed images and videos.

Each row of the result is the embedding of one image or video frame. The file name, the frame number
and the time of each row are in a .csv file beside a .npy file, or in columns of a .parquet file.
Until the command is finished, it keeps its work in a hidden folder beside `out`, so that the same
command can resume after an interruption.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from .cli import command
from .config import to_dict
from .data.embedding_files import EmbeddingParts, require_writer, write_embeddings
from .data.frames import (
    Batch,
    FrameFile,
    Place,
    Problem,
    expected_frames,
    list_files,
    read_batches,
)
from .data.loader import read_ahead
from .data.walk import printable
from .device import choose_device
from .encoders.contract import NO_PAST, FrameEncoder, FrameStreams, compress_each
from .encoders.vision import VisionConfig
from .files import files_digest, write_json
from .runs import claim, read_record, report_found, require_same, work_folder

__all__ = ["EncodeConfig", "encode"]

_MAX_PRINTED = 10  # problems that are printed; the .json file has all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """Settings of the command `encode`.

    Attributes:
        images: a folder of images and videos, a file, or a glob pattern in quotes.
        encoder: encoder of the frames; if it uses earlier frames, those of the same video are used.
        stride: distance between two encoded frames of a video, in frames of the video; 1: all
            frames.
        every_s: time between two encoded frames, seconds. The first frame at or after each multiple
            of this time is encoded. null: `stride` selects the frames.
        batch_size: number of frames that are encoded together.
        keep_every: number of encoded frames after which the embeddings are saved to disk.
        read_threads: number of images that are decoded at the same time.
        device: device of the encoder: `cpu`, `cuda`, or `auto`.
    """

    images: Path
    encoder: VisionConfig
    stride: int
    every_s: float | None
    batch_size: int
    keep_every: int
    read_threads: int
    device: str

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a number is out of its range, or `stride` and `every_s` are both set.
        """
        for name in ("stride", "batch_size", "keep_every", "read_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.every_s is not None and not 0 < self.every_s < float("inf"):
            raise ValueError(f"every_s must be above 0, got {self.every_s}")
        if self.every_s is not None and self.stride != 1:
            raise ValueError("stride and every_s both choose the frames: set only one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """The settings and inputs that determine a file of embeddings.

    If two runs have equal `Encoding` objects, their files are equal.

    Attributes:
        config: settings of the command.
        fingerprint: the encoder's fingerprint.
        num_files: number of images and videos.
        files_sha256: sha256 of the names, sizes and modification times of these files.
    """

    config: EncodeConfig
    fingerprint: str
    num_files: int
    files_sha256: str


def encode(config: EncodeConfig, out: Path) -> None:
    """Write the embeddings of all frames to `out`, and a description of the run to `<out>.json`.

    Raises:
        ValueError: `out` is not a .npy or .parquet file, `out` contains other embeddings, no frame
            can be read, or the encoder uses earlier frames (a stream) and some files are single
            images.
    """
    require_writer(out)
    ignored, asked = Counter[str](), printable(str(config.images))
    files = list_files(config.images, ignored)
    encoder, stills = _build(config), sum(not file.is_video for file in files)
    if encoder.past != NO_PAST and stills:
        raise ValueError(
            f"{stills} of {len(files)} files are single images, and the encoder has a stream "
            f"({encoder.past}), which needs videos: encode videos, or use an encoder without stream"
        )
    print(
        f"encode {stills} images and {len(files) - stills} videos of {asked}: layer "
        f"{encoder.layer}, pool {encoder.pool}, past {encoder.past}, "
        f"{encoder.dim} numbers per frame",
        flush=True,
    )
    encoding = Encoding(
        config=config,
        fingerprint=encoder.fingerprint,
        num_files=len(files),
        files_sha256=files_digest([one.path for one in files], [one.name for one in files]),
    )
    work, record = work_folder(out), out.with_name(f"{out.name}.json")
    if not work.exists() and _is_finished(out, record, encoding):
        print(f"results: {out} is already finished; nothing to do")
        return
    claim(work, encoding)
    parts = EmbeddingParts(work, config.keep_every, whole_files=encoder.past != NO_PAST)
    begin, found = time.perf_counter(), parts.num_rows
    _encode_rest(config, encoder, files, parts)
    seconds, rows = time.perf_counter() - begin, parts.num_rows
    problems = [problem for part in parts for problem in part.problems]
    if not rows:
        shutil.rmtree(work)
        raise ValueError(f"no frame of {asked} could be read:{_listed(problems)}")
    written = write_embeddings(out, parts, [file.name for file in files], encoder.dim)
    write_json(
        record,
        {
            "rows": rows,
            "dim": encoder.dim,
            "layer": encoder.layer,
            "pool": encoder.pool,
            "past": encoder.past,
            "problems": [asdict(problem) for problem in problems],
            "ignored": dict(ignored),
            "run": to_dict(encoding),
        },
    )
    shutil.rmtree(work)
    if problems:
        print(
            f"{len(problems)} of {len(files)} files could not be read, or only in part:"
            f"{_listed(problems)}"
        )
    print(f"{rows} x {encoder.dim} float32; {(rows - found) / seconds:.1f} frames per second")
    print(f"results: {', '.join(map(str, [*written, record]))}")


def _build(config: EncodeConfig) -> FrameEncoder:
    encoder = config.encoder.build(torch.device(choose_device(config.device)))
    if encoder is None:
        raise ValueError("encoder=none makes no embeddings; choose another, such as encoder=nano")
    return encoder


def _is_finished(out: Path, record: Path, encoding: Encoding) -> bool:
    """Return whether `out` already contains the embeddings of this run.

    Raises:
        ValueError: `out` contains the embeddings of another or an unknown run; the message says
            what differs.
    """
    if not out.exists():
        return False
    found = read_record(record, out) if record.exists() else None
    if not isinstance(found, dict) or "run" not in found:
        raise ValueError(
            f"{out} exists, but {record.name} does not describe it: choose another out=, or "
            "delete it"
        )
    require_same(found["run"], encoding, out)
    return True


def _encode_rest(
    config: EncodeConfig, encoder: FrameEncoder, files: Sequence[FrameFile], parts: EmbeddingParts
) -> None:
    """Encode the frames whose embeddings are not in `parts` yet, and add the embeddings."""
    embedder = _Embedder(encoder)
    batches = read_batches(
        files,
        parts.place,
        stride=config.stride,
        every_s=config.every_s,
        batch_size=config.batch_size,
        apart=encoder.past != NO_PAST,
        threads=config.read_threads,
    )
    expected = _Expected(config, files)
    total = parts.num_rows + expected.after(parts.place)
    report_found(parts.num_rows, total, "frame")
    with tqdm(total=total, initial=parts.num_rows, desc="encode", unit="frame") as bar:
        try:
            # one thread reads the next batch while this one is encoded
            for batch in read_ahead(lambda _: next(batches, None), count(), 1):
                if batch is None:
                    break
                parts.append(batch, embedder(batch))
                bar.total = parts.num_rows + expected.after(batch.place)
                bar.update(len(batch.frames))
        finally:  # also after an interrupt
            parts.keep()


class _Embedder:
    """An embedder of batches, whose frames may have different sizes.

    If the encoder uses earlier frames, the frames of each file are one episode.
    """

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder
        self._streams: FrameStreams | None = None
        self._file = -1

    @torch.no_grad()
    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """Return the embeddings [b e] of b frames, e values each."""
        if self._encoder.past != NO_PAST and batch.frames:
            codes = compress_each(self._encoder, batch.frames)
            rows = zip(batch.files, codes, strict=True)
            return np.stack(
                [self._stream_of(file).embed(code[None], [0])[0] for file, code in rows]
            )
        embeddings = np.empty((len(batch.frames), self._encoder.dim), np.float32)
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, frame in enumerate(batch.frames):
            rows_of.setdefault(frame.shape, []).append(row)
        for rows in rows_of.values():
            found = self._encoder(np.stack([batch.frames[row] for row in rows]))
            embeddings[rows] = found.cpu().numpy()
        return embeddings

    def _stream_of(self, file: int) -> FrameStreams:
        if self._streams is None or file != self._file:
            self._streams, self._file = self._encoder.open_streams(1), file
        return self._streams


class _Expected:
    """An estimate of the number of remaining frames, for the progress bar."""

    def __init__(self, config: EncodeConfig, files: Sequence[FrameFile]) -> None:
        counts = np.array([expected_frames(file) for file in files])
        self._frames = np.maximum(1, counts[:, 0])
        self._rows = np.ceil(self._frames / config.stride)
        if config.every_s is not None:
            self._rows = np.maximum(1, np.ceil(counts[:, 1] / config.every_s))

    def after(self, place: Place) -> int:
        """Return the expected number of embeddings after a place (file and frame number)."""
        index, number = place
        rows = self._rows[index:].sum()
        if number:
            rows -= self._rows[index] * min(1.0, number / self._frames[index])
        return round(rows)


def _listed(problems: Sequence[Problem]) -> str:
    lines = [
        f"\n  {problem.file}: {problem.reason}{' (the rest is used)' if problem.in_part else ''}"
        for problem in problems[:_MAX_PRINTED]
    ]
    more = len(problems) - len(lines)
    return "".join(lines) + (
        f"\n  and {more} more, all listed in the .json file" if more > 0 else ""
    )


main = command("encode", EncodeConfig, result="file")(encode)

if __name__ == "__main__":
    main()
