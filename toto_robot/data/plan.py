"""Plan a tokenised data set: list its input files, and divide the list into slices.

A plan consists of `manifest.json` (the settings) and `records.jsonl` (the input files). A plan is
made once and then kept, so that files added later do not change the slices.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoint import weights_hash
from ..config import to_dict
from ..encoders.loading import load_tokenizer
from ..files import write_aside, write_json
from ..tokenizers import AnyTokenizer
from .clips import Sampling
from .images import IMAGE_RESIZER
from .runners import Runner
from .shards import HOLD_OUT, require_same_data
from .sources import AnySource, Images, Listing
from .token_shards import FORMAT, read_side, shard_name
from .video import RESIZER

__all__ = ["Stills", "TokeniseConfig", "VideoClips", "plan", "unfinished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoClips:
    """Settings that divide videos into clips.

    Attributes:
        frames: number of frames in a clip, 16 in the paper (section 3.4). Shorter videos are left
            out.
        whole: If True, each video is one clip of at least ``frames`` frames, and a training
            sequence may start at any of its frames. This suits small collections. If False, a
            video is cut into consecutive clips, and each clip is cropped at a different position.
        sampling: rule that selects the frames, by number or by time.
    """

    kind: ClassVar[str] = "video"
    frames: int
    whole: bool
    sampling: Sampling

    def __post_init__(self) -> None:
        """Check that clips have at least one frame."""
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stills:
    """Settings for images. Each image is a clip of one frame.

    `SequenceMixture` later combines several images into a training sequence.
    """

    kind: ClassVar[str] = "image"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokeniseConfig:
    """Settings of `tokenise`.

    Attributes:
        name: name of the data set, with which the names of its shards begin.
        source: the collection of files.
        clips: settings that divide the files into clips: `Stills` for images, `VideoClips` for
            videos.
        tokenizer_from: checkpoint folder of a tokenizer or an encoder, or the name of a shipped
            encoder.
        image_size: side of the frames, pixels. null uses the image size of the tokenizer.
        passes: number of times that each file is used. Each pass uses other crops and other frames.
        records_per_shard: number of records (files, or segments of files) in a slice. Each slice
            becomes one shard.
        batch: number of frames that are tokenised at once.
        threads: number of torch threads of each worker. Another number may change about one token
            in a million, so the data set records the number.
        device: device of the tokenizer, such as ``cpu`` or ``cuda``.
        seed: random seed of the crops.
        runner: processes the slices: local processes, a Slurm array or a Ray cluster.
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
        """Check that all counts are positive and that the name is valid."""
        for name in ("passes", "records_per_shard", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.name or not self.name.replace("-", "_").isidentifier():
            raise ValueError(f"name must consist of letters, digits, _ and -, got {self.name!r}")


def plan(config: TokeniseConfig, out: Path) -> dict[str, Any]:
    """Write ``manifest.json`` and ``records.jsonl`` for a collection, and return the manifest.

    A plan that exists is kept, so that files added later do not change the slices.

    Raises:
        ValueError: ``out`` holds the plan of another config or tokenizer, the source has no files,
            ``clips`` does not fit the source, or the tokenizer has more than 65536 codes.
    """
    if isinstance(config.clips, Stills) != isinstance(config.source, Images):
        raise ValueError(
            f"source={config.source.kind} does not fit clips of kind {config.clips.kind!r}: use "
            "clips=stills with source=images, and other clips with videos"
        )
    path = out / "manifest.json"
    expected = _made_of(config, load_tokenizer(config.tokenizer_from, config.image_size))
    if path.is_file():
        manifest = json.loads(path.read_text())
        require_same_data(out, manifest, expected)
        return manifest
    if (codes := expected["tokenizer"]["codes"]) > 1 << 16:
        raise ValueError(f"tokens are stored in 16 bits, but the tokenizer has {codes} codes")
    listing = config.source.listing()
    if not listing.records:
        raise ValueError(
            f"nothing to tokenise in {config.source}: {len(listing.missing)} listed files are "
            f"missing; other files found: {dict(listing.ignored or {})}"
        )
    lines = _lines(listing)
    text = "\n".join(lines) + "\n"
    write_aside(out / "records.jsonl", text)
    manifest = expected | {
        "shards": -(-len(lines) // config.records_per_shard),
        "records": len(lines),
        "records_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "missing": list(listing.missing),
        "ignored": dict(listing.ignored or {}),
    }
    write_json(path, manifest)
    return manifest


def unfinished(out: Path, manifest: dict[str, Any]) -> list[int]:
    """Return the numbers of the slices whose shard is missing or incomplete."""
    row_bytes = 2 * manifest["tokenizer"]["tokens_per_frame"]
    return [
        number
        for number in range(manifest["shards"])
        if read_side(out, shard_name(manifest, number), row_bytes) is None
    ]


def _made_of(config: TokeniseConfig, tokenizer: AnyTokenizer) -> dict[str, Any]:
    """Return all settings that determine the content of the data set."""
    return {
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


def _lines(listing: Listing) -> list[str]:
    """Return one line of JSON for each record.

    A line states whether the record is held out. Either all records of a group are held out, or
    none.
    """
    groups = {name: i for i, name in enumerate(sorted({r.group for r in listing.records}))}
    return [
        json.dumps(
            to_dict(replace(record, file=os.path.abspath(record.file)))
            | {"held_out": groups[record.group] % HOLD_OUT == HOLD_OUT - 1}
        )
        for record in listing.records
    ]
