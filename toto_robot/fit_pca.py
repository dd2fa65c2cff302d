"""`python -m toto_robot.fit_pca encoder=nano`: add principal components to a checkpoint.

The pools `pca<k>` and `pca<k>grid<g>` project token features to principal components, which a
checkpoint must contain. Trainings write them. This command fits them to your own frames, or adds
them to an older checkpoint or to a published vision transformer. It writes a copy of the checkpoint
with the same weights. The fingerprints of the other pools do not change.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .checkpoint import load_weights, read_config, save_checkpoint
from .cli import command
from .config import to_dict
from .data.shards import Shard
from .device import choose_device
from .encoders.encoder import Encoder
from .encoders.frozen import FrozenEncoder, save_frozen
from .encoders.golden import GOLDEN, has_golden
from .encoders.loading import FROZEN, find_checkpoint, load_encoder
from .encoders.pca import PCA_PREFIX, PrincipalComponents, all_features, fit_components
from .encoders.vision import TotoVision, VisionConfig, VitVision
from .encoders.vit import VitEncoderConfig
from .runs import claim
from .training.components import sample_frames
from .training.tokenizer import DataConfig

__all__ = ["FitPcaConfig", "fit_pca"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitPcaConfig:
    """Settings of the command `fit_pca`.

    Attributes:
        encoder: the encoder. If its `layer` or `pool` is set, it becomes the default of the copy.
        data: the data sets and their weights, written by `toto_robot.data.decode`. Held-out files
            are not used.
        frames: number of random frames on which the components are fitted.
        stored_frames: number of these frames that are stored in the checkpoint, so every user of
            it can see them. With them, an untrained copy of the encoder gets components of its own.
        seed: random seed of the frames.
        device: device of the encoder: `cpu`, `cuda`, or `auto`.
    """

    encoder: VisionConfig
    data: tuple[DataConfig, ...]
    frames: int
    stored_frames: int
    seed: int
    device: str

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data must have an entry")
        if self.frames < 2 or self.stored_frames < 0:
            raise ValueError(
                "frames must be at least 2 and stored_frames at least 0, got "
                f"{self.frames} and {self.stored_frames}"
            )


def fit_pca(config: FitPcaConfig, out: Path) -> Path:
    """Write a copy of a checkpoint with principal components, and return its folder.

    Raises:
        ValueError: the encoder is no checkpoint or no published file, it cannot have the layer or
            pool, a data set is missing or has smaller frames than the encoder, or `out` contains
            the encoder itself or a run with another config.
        FileNotFoundError: the checkpoint lacks a file.
    """
    vision, folder = config.encoder, out / "encoder"
    if not isinstance(vision, TotoVision | VitVision):
        raise ValueError(f"encoder={vision.kind} has no checkpoint; choose another, such as nano")
    if isinstance(vision, TotoVision) and (vision.stream is not None or vision.repeat_frame):
        raise ValueError(
            "encoder.stream and encoder.repeat_frame have no effect on this command, which fits "
            "components to single frames; set stream=null and repeat_frame=false"
        )
    device = torch.device(choose_device(config.device))
    encoder: Any = replace(vision, layer=None, pool="mean").build(device)
    _require_defaults(encoder, vision)
    published = isinstance(vision, VitVision) and vision.format is not None
    source = None if published else find_checkpoint(vision.name_or_path)
    if source is not None and source.resolve() == folder.resolve():
        raise ValueError(
            f"{folder} is the encoder itself, which is not changed; choose another out="
        )
    shards = [Shard.open(data.path) for data in config.data]
    frames = sample_frames(
        shards,
        [data.weight for data in config.data],
        config.frames,
        encoder.image_size,
        config.seed,
    )
    claim(out, config)
    print(f"fit principal components of {encoder.num_layers + 1} layers to {config.frames} frames")
    pca = fit_components(all_features(encoder), frames, config.stored_frames, progress=True)
    notes = {"config": to_dict(config)}
    if source is None:
        _save_published(folder, encoder, vision, pca, notes)
    else:
        _save_copy(source, folder, vision, pca, notes)
    for layer, share in enumerate(pca.shares):
        print(
            f"layer {layer}: "
            + ", ".join(
                f"{share[k - 1]:.1%} of the variance in {k}" for k in (2, 8, 32) if k <= len(share)
            )
        )
    opened = load_encoder(folder)
    print(f"encoder {folder}  (layer {opened.layer}, pool {opened.pool})")
    return folder


def _require_defaults(encoder: Any, vision: TotoVision | VitVision) -> None:
    """Check that the encoder can have principal components, and the layer and pool of the copy.

    Raises:
        ValueError: it cannot.
    """
    pca = PrincipalComponents.stand_in(encoder.num_layers, encoder.transformer.config.dim)
    parts = (encoder.tokenizer,) if isinstance(encoder, Encoder) else ()
    layer = encoder.layer if vision.layer is None else vision.layer
    for pool in ("pca1", vision.pool or "pca1"):
        type(encoder)(*parts, encoder.transformer, layer, pool, pca=pca)


def _save_copy(
    source: Path,
    folder: Path,
    vision: TotoVision | VitVision,
    pca: PrincipalComponents,
    notes: Mapping[str, Any],
) -> None:
    """Write a checkpoint with the weights of `source` and with new components and defaults."""
    data = read_config(source, "encoder", *FROZEN)
    weights = {
        name: tensor
        for name, tensor in load_weights(source, data["sha256"]).items()
        if not name.startswith(PCA_PREFIX)
    }
    chosen = {"layer": vision.layer, "pool": vision.pool}
    defaults = {name: value for name, value in chosen.items() if value is not None}
    kept = {name: data[name] for name in ("training",) if name in data}
    save_checkpoint(
        folder,
        data["kind"],
        data["config"] | to_dict(defaults),
        weights | pca.state(),
        **kept,
        pca=dict(notes),
    )
    if has_golden(source):
        shutil.copyfile(source / GOLDEN, folder / GOLDEN)


def _save_published(
    folder: Path,
    encoder: FrozenEncoder,
    vision: TotoVision | VitVision,
    pca: PrincipalComponents,
    notes: Mapping[str, Any],
) -> None:
    """Write a checkpoint with the weights of a published vision transformer."""
    save_frozen(
        folder,
        "vit",
        VitEncoderConfig(
            transformer=encoder.transformer.config,
            layer=encoder.layer if vision.layer is None else vision.layer,
            pool="mean" if vision.pool is None else vision.pool,
        ),
        encoder.transformer.state_dict(),
        {"pca": dict(notes)},
        pca,
    )


main = command("fit_pca", FitPcaConfig)(fit_pca)

if __name__ == "__main__":
    main()
