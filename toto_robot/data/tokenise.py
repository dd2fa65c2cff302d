"""``python -m toto_robot.data.tokenise``: tokenise a collection of videos or images.

Files are decoded and tokenised in one pass, and the frames are not stored. The plan is a list of
input files, divided into slices. Each slice becomes one shard (see `token_shards`). A run that is
killed loses only its unfinished slices, and the same command resumes the run. The bytes of a shard
depend only on its slice and the config. They do not depend on the workers or their number.

An input file that cannot be read does not stop the run. `report.json` lists the files that were
left out, by name and reason.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import weights_hash
from ..cli import command
from ..device import choose_device
from ..encoders.loading import load_tokenizer
from ..files import write_json
from ..locks import REPORT, lock
from ..runs import report_found
from .clips import ClipReader
from .images import read_square
from .plan import Stills, TokeniseConfig, VideoClips, plan, unfinished
from .runners import Slurm, run_slices
from .shuffle import key_of, uniform
from .sources import Record
from .token_shards import ShardWriter, TokenShards, shard_name
from .walk import printable

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


def tokenise(config: TokeniseConfig, out: Path) -> None:
    """Tokenise a collection. Slices that an earlier run with the same config finished are kept.

    Raises:
        ValueError: the runner is a Slurm array and there is no plan, or `plan` raises it.
    """
    out = out.resolve()  # workers on other machines need the absolute path
    if isinstance(config.runner, Slurm) and not (out / "manifest.json").is_file():
        # Only `runner=plan` lists the files. A thousand tasks must not each list a million files.
        raise ValueError(f"{out} has no plan yet: run the command once with runner=plan")
    manifest = plan(config, out)
    slices = run_slices(config.runner, unfinished(out, manifest), manifest["shards"])
    found = manifest["shards"] - len(unfinished(out, manifest))
    report_found(found, manifest["shards"], "slice")
    print(
        f"{manifest['records']} records in {manifest['shards']} slices, "
        f"{found} done, {len(slices)} to do here"
    )
    if (
        local := Path(config.tokenizer_from)
    ).exists():  # workers may have another working directory
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


def report(out: Path) -> dict[str, Any]:
    """Write ``report.json``, which collects the errors of all input files.

    The errors are read from the JSON file beside each shard. Temporary files in the folder are
    removed.

    Returns:
        The report.

    Raises:
        ValueError: the data set is incomplete.
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
    with lock(out, wait=True, name=REPORT):  # the last tasks of an array may end together
        for aside in out.glob(".*.part"):
            aside.unlink(missing_ok=True)
        write_json(out / "report.json", summary)
    return summary


class SliceWorker:
    """A callable that makes the shard of a slice. A runner sends it to all worker processes."""

    def __init__(self, config: TokeniseConfig, out: Path) -> None:
        """Store the config and the folder of the plan. The first slice loads the tokenizer."""
        self._config, self._out = config, out
        self._tokenizer: Any = None
        self._manifest: dict[str, Any] = {}

    def __call__(self, number: int) -> None:
        """Make the shard of the slice with this number."""
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
                f"{self._config.tokenizer_from} is not the tokenizer of the plan in {self._out}"
            )
        self._tokenizer = tokenizer.to(choose_device(self._config.device))

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
            # The sort is stable, so the order changes only in that held-out records come last.
            for fields in sorted(records, key=lambda fields: fields["held_out"]):
                held_out = fields.pop("held_out")
                record, found = Record(**fields), list[str]()
                clips = 0
                for clip in self._clips(record, found):
                    batch.add(clip)
                    lengths[held_out].append(len(clip))
                    clips += 1
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
        """Yield the clips of a record, and append descriptions of its errors to `problems`."""
        name = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:8])
        size, clips = self._tokenizer.image_size, self._config.clips
        for number in range(self._config.passes):
            key = key_of(self._config.seed, name, number)

            def place(clip: int, key: int = key) -> tuple[float, float]:
                down, across = uniform(key, np.array([2 * clip, 2 * clip + 1]))
                return float(down), float(across)

            if isinstance(clips, Stills):
                try:
                    yield read_square(Path(record.file), size, *place(0))[None]
                except ValueError as error:
                    problems.append(printable(str(error)))
                    return
                continue
            reader = ClipReader(
                Path(record.file),
                size=size,
                frames=clips.frames,
                whole=clips.whole,
                sampling=clips.sampling,
                delay=number / self._config.passes,
                place=place,
                start_s=record.start_s,
                end_s=record.end_s,
                rate_hz=record.rate_hz,
            )
            yield from reader
            found = [printable(text) for text in reader.problems]
            problems += [text for text in found if text not in problems]


class _Batch:
    """A buffer that collects frames and tokenises them in batches of a fixed size.

    The fixed size makes the tokens reproducible.
    """

    def __init__(self, tokenizer: Any, size: int, writer: ShardWriter) -> None:
        self._tokenizer, self._size, self._writer = tokenizer, size, writer
        self._frames: list[np.ndarray] = []
        self._count = 0

    def add(self, clip: np.ndarray) -> None:
        """Append t frames of s x s pixels, uint8 [t s s 3], and tokenise all full batches."""
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
        """Tokenise the remaining frames."""
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
