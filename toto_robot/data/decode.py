"""``python -m toto_robot.data.decode``: decode folders of videos and images for training."""

from dataclasses import dataclass
from pathlib import Path

from ..cli import command
from .shards import Source, decode_source

__all__ = ["DecodeConfig", "decode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """Settings of `decode`.

    Attributes:
        sources: the folders of videos or images, each with its settings.
        size: side of the square frames, pixels.
        seed: random seed of the crops.
    """

    sources: tuple[Source, ...]
    size: int
    seed: int


def decode(config: DecodeConfig, out: Path) -> None:
    """Decode each source, and write it as a data set in a folder under ``out``.

    Data sets that already exist are not decoded again.

    Raises:
        ValueError: no file of a source could be read, or the data set of a source was made of
            another folder or with other settings.
    """
    for source in config.sources:
        folder = out / source.name
        is_kept = (folder / "manifest.json").is_file()
        decode_source(source, folder, config.size, config.seed)
        if is_kept:
            print(f"{folder}: already exists, kept")


main = command("decode", DecodeConfig)(decode)

if __name__ == "__main__":
    main()
