"""``python -m toto_robot.tokenizers.convert``: convert published tokenizer weights to a checkpoint.

The checkpoint is a folder that `load_tokenizer` and the setting ``tokenizer`` of all commands
accept. Its ``config.json`` contains the sha256 of the published files. No code in the published
files is run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checkpoint import read_config, save_checkpoint
from ..cli import command
from ..config import to_dict
from .published import load_dalle, load_vqgan

__all__ = ["ConvertConfig", "convert"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Settings of the command `convert_tokenizer`.

    Attributes:
        format: type of the tokenizer: ``dalle`` for the encoder (and decoder) of OpenAI or FLAVA,
            or ``vqgan`` for a checkpoint of taming-transformers.
        files: paths of the published files; first the encoder, then the decoder if there is one.
        sha256: expected sha256 of each file, in the same order; empty: the sha256 is printed, but
            not checked.
        image_size: side of the square to which frames are resized, pixels.
    """

    format: Literal["dalle", "vqgan"]
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    image_size: int

    def __post_init__(self) -> None:
        """Check the number of files.

        Raises:
            ValueError: a VQGAN has several files, or the number of sha256 values is not the number
                of files.
        """
        if self.format == "vqgan" and len(self.files) != 1:
            raise ValueError(f"files: a VQGAN is one file, got {len(self.files)}")
        if self.sha256 and len(self.sha256) != len(self.files):
            raise ValueError(f"sha256: {len(self.sha256)} for {len(self.files)} files")


def convert(config: ConvertConfig, out: Path) -> Path:
    """Write the checkpoint of a published tokenizer to ``out/tokenizer``, and return that folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has another sha256, or does not contain such a tokenizer.
    """
    digests = {}
    for i, file in enumerate(config.files):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, or is not a file")
        with file.open("rb") as opened:
            digests[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
        print(f"read    {file}\n        sha256 {digests[file.name]}", flush=True)
        if config.sha256 and config.sha256[i] != digests[file.name]:
            raise ValueError(
                f"{file} is not the expected file: sha256 must be {config.sha256[i]}, got "
                f"{digests[file.name]}"
            )
    if config.format == "dalle":
        tokenizer = load_dalle(config.files, config.image_size)
    else:
        tokenizer = load_vqgan(config.files[0], config.image_size)
    folder = out / "tokenizer"
    save_checkpoint(
        folder, "tokenizer", to_dict(tokenizer.config), tokenizer.state_dict(), sources=digests
    )
    written = read_config(folder, "tokenizer")["sha256"]
    print(f"written {folder / 'weights.safetensors'}\n        sha256 {written}")
    return folder


main = command("convert_tokenizer", ConvertConfig)(convert)

if __name__ == "__main__":
    main()
