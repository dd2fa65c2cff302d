"""``python -m toto_robot.training.rerun of=CHECKPOINT``: repeat the training of an encoder.

The file ``config.json`` of a checkpoint holds the full config of its training, and the sha256 of
the manifest of each data set. The data sets, the tokenizer and the encoder `start_from` must be at
the same paths, and must be unchanged.
"""

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import read_config, weights_hash
from ..cli import command
from ..config import from_dict
from ..encoders.loading import load_tokenizer, load_toto
from .pretrain import PretrainConfig, data_digests, pretrain

__all__ = ["RerunConfig", "rerun"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RerunConfig:
    """Settings of `rerun`.

    Attributes:
        of: folder of the encoder whose training is repeated. ``toto_robot.training.pretrain`` must
            have written it.
    """

    of: Path


def rerun(config: RerunConfig, out: Path) -> Path:
    """Repeat the training of the encoder ``of``, and return the folder of the new encoder.

    Raises:
        ValueError: the checkpoint has no training config, or its data sets, its tokenizer or the
            encoder with its initial weights have changed.
    """
    notes = read_config(config.of, "encoder").get("training")
    if notes is None:
        raise ValueError(f"{config.of} has no training config; see its README")
    before = from_dict(PretrainConfig, notes["config"])
    changed = [
        name for name, digest in data_digests(before).items() if notes["data"].get(name) != digest
    ]
    if changed:
        raise ValueError(
            f"the data sets {changed} are not those that {config.of} was trained on: their "
            "manifests differ"
        )
    tokenizer = load_tokenizer(before.tokenizer_from, before.image_size)
    if weights_hash(tokenizer) != weights_hash(load_tokenizer(str(config.of))):
        raise ValueError(
            f"the tokenizer {before.tokenizer_from} is not that of {config.of}: its weights differ"
        )
    start, recorded = before.start_from, notes.get("start_from")  # not in older checkpoints
    if start and recorded and load_toto(start, verify=False).weights_hash != recorded:
        raise ValueError(
            f"the training of {config.of} did not begin with {start}: the weights differ"
        )
    return pretrain(before, out)


main = command("rerun", RerunConfig)(rerun)

if __name__ == "__main__":
    main()
