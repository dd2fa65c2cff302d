"""``python -m toto_robot.data.tokenise``: a collection of videos or images to tokens, once.

Decoding and tokenising in one go: no frames on disk. The collection is planned once, as a list of
files cut into slices; a slice becomes one shard (see `token_shards`), written aside and renamed. A
run that is killed loses the slices that it was at; run it again and it goes on. The bytes of a
shard depend on its slice and on the config alone, not on who makes it, when, or beside how many.

Nothing about a file stops a run: `report.json` tells what was left out, by name and reason.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..checkpoint import weights_hash
from ..cli import command
from ..config import to_dict
from ..encoders.loading import load_tokenizer
from ..files import write_json
from .images import IMAGE_RESIZER, read_square
from .runners import Runner, Slurm, run_slices
from .shards import HOLD_OUT
from .shuffle import key_of, uniform
from .sources import AnySource, Images, Record
from .token_shards import FORMAT, ShardWriter, TokenShards, read_side, shard_name
from .video import RESIZER, ClipReader, Sampling

__all__ = [
    "SliceWorker",
    "Stills",
    "TokeniseConfig",
    "VideoClips",
    "plan",
    "report",
    "tokenise",
    "unfinished",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoClips:
    """How videos are cut.

    Attributes:
        frames: frames of a clip, 16 in the paper (section 3.4); shorter videos are left out.
        whole: a video is one clip of at least so many frames, at any of which a sequence may begin,
            instead of one clip after the other, each with its own crop. For small collections.
        sampling: which frames are taken.
    """

    kind: ClassVar[str] = "video"
    frames: int
    whole: bool
    sampling: Sampling

    def __post_init__(self) -> None:
        """Refuse clips of nothing."""
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stills:
    """Each image is a clip of one frame; `SequenceMixture` makes sequences of unrelated ones."""

    kind: ClassVar[str] = "image"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokeniseConfig:
    """What to tokenise, how, and who does it.

    Attributes:
        name: of the data set; begins the names of its shards.
        source: the collection.
        clips: how it is cut: `Stills` for images, `VideoClips` for videos.
        tokenizer_from: checkpoint folder of a tokenizer, or of an encoder or a shipped one's name.
        image_size: side of the frames, pixels; null: the tokenizer's.
        passes: times that a file is used, each with its own crop and its own frames between.
        records_per_shard: files of a slice.
        batch: frames that are tokenised at a time.
        threads: of torch, for each worker. Another number may change a token in a million, so it
            belongs to the data set.
        device: where the tokenizer runs, such as ``cpu`` or ``cuda``.
        seed: of the crops.
        runner: who works on the slices.
    """

    name: str
    source: AnySource
    clips: VideoClips | Stills
    tokenizer_from: str
    image_size: int | None
    passes: int
    records_per_shard: int
    batch: int
    threads: int
    device: str
    seed: int
    runner: Runner

    def __post_init__(self) -> None:
        """Refuse what no collection can be cut into."""
        for name in ("passes", "records_per_shard", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.name or not self.name.replace("-", "_").isidentifier():
            raise ValueError(f"name must be of letters, digits, _ and -, got {self.name!r}")


def tokenise(config: TokeniseConfig, out: Path) -> None:
    """Tokenise a collection, going on where an earlier run of the same config stopped."""
    out = out.resolve()  # what workers on other machines are told
    if isinstance(config.runner, Slurm) and not (out / "manifest.json").is_file():
        # a thousand tasks must not list a collection of a million files each
        raise ValueError(f"{out} holds no plan yet: run once with runner=plan")
    manifest = plan(config, out)
    slices = run_slices(config.runner, unfinished(out, manifest), manifest["shards"])
    print(
        f"{manifest['records']} records in {manifest['shards']} slices, "
        f"{manifest['shards'] - len(unfinished(out, manifest))} done, {len(slices)} to do here"
    )
    if (local := Path(config.tokenizer_from)).exists():  # workers may stand in another folder
        config = replace(config, tokenizer_from=str(local.resolve()))
    config.runner.run(SliceWorker(config, out), slices)
    if left := unfinished(out, manifest):
        print(f"{len(left)} of {manifest['shards']} slices are still to do; the first is {left[0]}")
        return
    summary = report(out)
    print(
        f"{summary['used']} of {summary['records']} records used, {summary['clips']} clips, "
        f"{summary['frames']} frames; {len(summary['problems'])} problems, "
        f"{len(summary['missing'])} missing\ntokens {out}\nreport {out / 'report.json'}"
    )


def plan(config: TokeniseConfig, out: Path) -> dict[str, Any]:
    """List the collection and write ``manifest.json`` and ``records.jsonl``; return the former.

    A plan that is there is kept, so that files that come later do not move the slices.

    Raises:
        ValueError: ``out`` holds the plan of another config or tokenizer, nothing was found, or
            images are to be cut like videos.
    """
    if isinstance(config.clips, Stills) != isinstance(config.source, Images):
        raise ValueError(
            f"source={config.source.kind} cannot be cut by clips of kind {config.clips.kind!r}: "
            "source=images goes with clips=stills, videos with the others"
        )
    path = out / "manifest.json"
    tokenizer = load_tokenizer(config.tokenizer_from, config.image_size)
    expected = {
        "format": FORMAT,
        "name": config.name,
        "kind": config.clips.kind,
        "tokenizer": {
            "sha256": weights_hash(tokenizer),
            "codes": tokenizer.vocab_size,
            "tokens_per_frame": tokenizer.tokens_per_frame,
            "image_size": tokenizer.image_size,
        },
        "resizer": IMAGE_RESIZER if isinstance(config.clips, Stills) else RESIZER,
        "config": {key: value for key, value in to_dict(config).items() if key != "runner"},
    }
    if path.is_file():
        manifest = json.loads(path.read_text())
        if lines := _differences(manifest, expected):
            raise ValueError(
                f"{out} holds another data set (there != here); choose another out=, or delete "
                "it:\n  " + "\n  ".join(lines)
            )
        return manifest
    if tokenizer.vocab_size > 1 << 16:
        raise ValueError(f"codes are kept in 16 bits, the tokenizer has {tokenizer.vocab_size}")
    listing = config.source.listing()
    if not listing.records:
        raise ValueError(
            f"nothing to tokenise: of what {config.source} names, {len(listing.missing)} files are "
            f"missing; other files there: {dict(listing.ignored or {})}"
        )
    groups = {name: i for i, name in enumerate(sorted({r.group for r in listing.records}))}
    lines = [
        json.dumps(
            to_dict(replace(record, file=os.path.abspath(record.file)))
            | {"held_out": groups[record.group] % HOLD_OUT == HOLD_OUT - 1}
        )
        for record in listing.records
    ]
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".records.{os.getpid()}.part"
    aside.write_text(text)
    os.replace(aside, out / "records.jsonl")
    manifest = expected | {
        "shards": -(-len(lines) // config.records_per_shard),
        "records": len(lines),
        "records_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "missing": list(listing.missing),
        "ignored": dict(listing.ignored or {}),
    }
    write_json(path, manifest)
    return manifest


def _differences(there: dict[str, Any], here: dict[str, Any], at: str = "") -> list[str]:
    """Return a line for each value of ``here`` that ``there`` has otherwise."""
    lines: list[str] = []
    for key, value in here.items():
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            lines += _differences(other, value, f"{at}{key}.")
        elif other != value:
            lines.append(f"{at}{key}: {other!r} != {value!r}")
    return lines


def unfinished(out: Path, manifest: dict[str, Any]) -> list[int]:
    """Return the slices whose shard is not there in its full size."""
    row_bytes = 2 * manifest["tokenizer"]["tokens_per_frame"]
    return [
        number
        for number in range(manifest["shards"])
        if read_side(out, shard_name(manifest, number), row_bytes) is None
    ]


def report(out: Path) -> dict[str, Any]:
    """Gather what all shards say into ``report.json``, remove what killed runs left, return it.

    Raises:
        ValueError: the data set is not complete.
    """
    data = TokenShards.open(out)
    counts = {
        key: sum(side[key] for side in data.sides) for key in ("records", "used", "clips", "frames")
    }
    summary = {
        **counts,
        "tokens": counts["frames"] * data.manifest["tokenizer"]["tokens_per_frame"],
        "missing": data.manifest["missing"],
        "ignored": data.manifest["ignored"],
        "problems": [problem for side in data.sides for problem in side["problems"]],
    }
    for aside in out.glob(".*.part"):
        aside.unlink(missing_ok=True)
    write_json(out / "report.json", summary)
    return summary


class SliceWorker:
    """Makes the shards of slices; what a runner sends to its workers."""

    def __init__(self, config: TokeniseConfig, out: Path) -> None:
        """Take the config and the folder of a plan; the tokenizer is opened by the first slice."""
        self._config, self._out = config, out
        self._tokenizer: Any = None
        self._manifest: dict[str, Any] = {}

    def __call__(self, number: int) -> None:
        """Make the shard of slice ``number``."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._config.threads)
        try:
            self._open()
            self._make(number)
        finally:
            torch.set_num_threads(threads)

    def _open(self) -> None:
        if self._tokenizer is not None:
            return
        self._manifest = json.loads((self._out / "manifest.json").read_text())
        tokenizer = load_tokenizer(self._config.tokenizer_from, self._config.image_size)
        if weights_hash(tokenizer) != self._manifest["tokenizer"]["sha256"]:
            raise ValueError(
                f"{self._config.tokenizer_from} is not what {self._out} was planned with"
            )
        self._tokenizer = tokenizer.to(self._config.device)

    def _make(self, number: int) -> None:
        size = self._config.records_per_shard
        lines = (self._out / "records.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines[number * size : (number + 1) * size]]
        lengths: dict[bool, list[int]] = {False: [], True: []}
        problems: list[dict[str, Any]] = []
        used = 0
        writer = ShardWriter(self._out, shard_name(self._manifest, number))
        try:
            batch = _Batch(self._tokenizer, self._config.batch, writer)
            for held_out in (False, True):
                for fields in records:
                    data = dict(fields)
                    if data.pop("held_out") != held_out:
                        continue
                    record, before = Record(**data), len(lengths[held_out])
                    found: list[str] = []
                    for clip in self._clips(record, found):
                        batch.add(clip)
                        lengths[held_out].append(len(clip))
                    clips = len(lengths[held_out]) - before
                    used += clips > 0
                    problems += [
                        {"name": record.name, "file": record.file, "used": clips, "problem": text}
                        for text in found
                    ]
            batch.flush()
        except BaseException:
            writer.abandon()
            raise
        writer.close(
            lengths[False],
            lengths[True],
            records=len(records),
            used=used,
            clips=len(lengths[False]) + len(lengths[True]),
            problems=problems,
        )

    def _clips(self, record: Record, problems: list[str]) -> Iterator[np.ndarray]:
        """Yield the clips of a record and append what was wrong with it."""
        name = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:8])
        size = self._tokenizer.image_size
        for number in range(self._config.passes):
            key = key_of(self._config.seed, name, number)

            def place(clip: int, key: int = key) -> tuple[float, float]:
                down, across = uniform(key, np.array([2 * clip, 2 * clip + 1]))
                return float(down), float(across)

            if isinstance(self._config.clips, Stills):
                try:
                    yield read_square(Path(record.file), size, *place(0))[None]
                except ValueError as error:
                    problems.append(str(error))
                    return
                continue
            reader = ClipReader(
                Path(record.file),
                size=size,
                frames=self._config.clips.frames,
                whole=self._config.clips.whole,
                sampling=self._config.clips.sampling,
                delay=number / self._config.passes,
                place=place,
                start_s=record.start_s,
                end_s=record.end_s,
            )
            yield from reader
            problems += [text for text in reader.problems if text not in problems]


class _Batch:
    """Frames on their way to the tokenizer, always so many at a time, so that sums are the same."""

    def __init__(self, tokenizer: Any, size: int, writer: ShardWriter) -> None:
        self._tokenizer, self._size, self._writer = tokenizer, size, writer
        self._frames: list[np.ndarray] = []
        self._count = 0

    def add(self, clip: np.ndarray) -> None:
        """Take uint8 [t s s 3] and tokenise what fills a batch."""
        self._frames.append(clip)
        self._count += len(clip)
        if self._count < self._size:
            return
        frames = np.concatenate(self._frames)
        full = len(frames) // self._size * self._size
        for start in range(0, full, self._size):
            self._write(frames[start : start + self._size])
        self._frames, self._count = [frames[full:].copy()], len(frames) - full

    def flush(self) -> None:
        """Tokenise what is left."""
        if self._count:
            self._write(np.concatenate(self._frames))
        self._frames, self._count = [], 0

    @torch.inference_mode()
    def _write(self, frames: np.ndarray) -> None:
        device = next(self._tokenizer.parameters()).device
        ids = self._tokenizer.encode(torch.from_numpy(frames).to(device))
        self._writer.write(ids.cpu().numpy().astype(np.uint16))


main = command("tokenise", TokeniseConfig)(tokenise)

if __name__ == "__main__":
    main()
