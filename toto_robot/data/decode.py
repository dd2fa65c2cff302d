"""``python -m toto_robot.data.decode``: folders of videos and images to data sets for training."""

from dataclasses import dataclass
from pathlib import Path

from ..cli import command
from .shards import Source, decode_source

__all__ = ["DecodeConfig", "decode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """What to decode.

    Attributes:
        sources: the folders.
        size: side of the frames, pixels.
        seed: seed of the crops.
    """

    sources: tuple[Source, ...]
    size: int
    seed: int


def decode(config: DecodeConfig, out: Path) -> None:
    """Make one data set for each source under ``out``; one that is there already is kept."""
    for source in config.sources:
        folder = out / source.name
        if (folder / "manifest.json").is_file():
            print(f"{folder}: already there, kept")
            continue
        shard = decode_source(source, folder, config.size, config.seed)
        skipped = shard.manifest["skipped"]
        print(
            f"{folder}: {shard.manifest['frames']} frames in {len(shard.manifest['clips'])} clips, "
            f"{len(skipped)} files skipped"
        )
        for item in skipped:
            print(f"  skipped {item['file']}: {item['reason']}")
        for item in shard.manifest["in_part"]:
            print(f"  used in part {item['file']}: {item['reason']}")


main = command("decode", DecodeConfig)(decode)

if __name__ == "__main__":
    main()
