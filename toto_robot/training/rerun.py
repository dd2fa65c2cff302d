"""``python -m toto_robot.training.rerun of=CHECKPOINT``: train an encoder again, as it was trained.

A checkpoint's ``config.json`` holds the whole config of its training, and the sha256 of what its
data sets said of themselves. The data must lie where it lay.
"""

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import read_config
from ..cli import command
from ..config import from_dict
from .pretrain import PretrainConfig, data_digests, pretrain

__all__ = ["RerunConfig", "rerun"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RerunConfig:
    """What to train again.

    Attributes:
        of: folder of an encoder that ``toto_robot.training.pretrain`` wrote.
    """

    of: Path


def rerun(config: RerunConfig, out: Path) -> Path:
    """Train what ``of`` holds again and return the folder of the new encoder.

    Raises:
        ValueError: the checkpoint does not say how it was trained, or its data sets have changed.
    """
    notes = read_config(config.of, "encoder").get("training")
    if notes is None:
        raise ValueError(f"{config.of} does not say how it was trained; see its README")
    before = from_dict(PretrainConfig, notes["config"])
    changed = [
        name for name, digest in data_digests(before).items() if notes["data"].get(name) != digest
    ]
    if changed:
        raise ValueError(
            f"the data sets {changed} are not those that {config.of} was trained on: their "
            "manifests differ"
        )
    return pretrain(before, out)


main = command("rerun", RerunConfig)(rerun)

if __name__ == "__main__":
    main()
