"""The plan of a data set of tokens: what is tokenised how, and cut into which slices.

A plan is `manifest.json` and `records.jsonl`. It is made once and kept, so that files that come
later do not move the slices.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoint import weights_hash
from ..config import differences, to_dict
from ..encoders.loading import load_tokenizer
from ..files import write_aside, write_json
from ..tokenizers import AnyTokenizer
from .clips import Sampling
from .images import IMAGE_RESIZER
from .runners import Runner
from .shards import HOLD_OUT
from .sources import AnySource, Images, Listing
from .token_shards import FORMAT, read_side, shard_name
from .video import RESIZER

__all__ = ["Stills", "TokeniseConfig", "VideoClips", "plan", "unfinished"]


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
    expected = _made_of(config, load_tokenizer(config.tokenizer_from, config.image_size))
    if path.is_file():
        manifest = json.loads(path.read_text())
        if lines := differences({key: manifest.get(key) for key in expected}, expected):
            raise ValueError(
                f"{out} holds another data set (there != here); choose another out=, or delete "
                "it:\n  " + "\n  ".join(lines)
            )
        return manifest
    if (codes := expected["tokenizer"]["codes"]) > 1 << 16:
        raise ValueError(f"codes are kept in 16 bits, the tokenizer has {codes}")
    listing = config.source.listing()
    if not listing.records:
        raise ValueError(
            f"nothing to tokenise: of what {config.source} names, {len(listing.missing)} files are "
            f"missing; other files there: {dict(listing.ignored or {})}"
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
    """Return the slices whose shard is not there in its full size."""
    row_bytes = 2 * manifest["tokenizer"]["tokens_per_frame"]
    return [
        number
        for number in range(manifest["shards"])
        if read_side(out, shard_name(manifest, number), row_bytes) is None
    ]


def _made_of(config: TokeniseConfig, tokenizer: AnyTokenizer) -> dict[str, Any]:
    """Return what a data set depends on."""
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
    """Return a line of JSON for each record; whole groups are held out."""
    groups = {name: i for i, name in enumerate(sorted({r.group for r in listing.records}))}
    return [
        json.dumps(
            to_dict(replace(record, file=os.path.abspath(record.file)))
            | {"held_out": groups[record.group] % HOLD_OUT == HOLD_OUT - 1}
        )
        for record in listing.records
    ]
