"""`python -m toto_robot.recognition.davis data=FOLDER`: track objects by propagating their masks.

Tracking on DAVIS-2016 and DAVIS-2017 as in the paper's Table 10. The mask of the first frame is
given. The masks of the next frames are found from the features of single frames alone, without
training (`label_propagation`). The command uses all layers of the encoder, or some of them.

    results.json        the scores of all layers with 95 % intervals over the sequences
    sequences.csv       the scores of each object of each sequence
    masks/layer-<k>/<sequence>/00000.png    the masks, in the format of DAVIS's own program
    videos/<sequence>.mp4                   the frames with the masks of the best layer
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..cli import command
from ..config import to_dict
from ..data.video import write_video
from ..device import choose_device
from ..encoders.vision import NoVision, PixelVision, RandomVision, VisionConfig, title
from ..files import write_json
from ..runs import claim, report_found
from .davis_report import TrackingScores, write_tracking
from .davis_sequences import LEAST_FRAMES, DavisSequence, list_sequences
from .label_propagation import LabelMemory, PropagationConfig
from .masks import draw_mask, read_mask, write_mask
from .patch_features import PatchFeatures, open_patches
from .segmentation_scores import score_frame

__all__ = ["DavisConfig", "TrackingConfig", "davis"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Settings of tracking that do not depend on the image size.

    Attributes:
        data: the folder of DAVIS, with `JPEGImages`, `Annotations` and `ImageSets`.
        year: 2017, or 2016, in which all objects of a sequence count as one.
        image_folder: name of the subfolder with images of one size.
        sequences: names of the sequences; null: those in `ImageSets/<year>/val.txt`, or all
            sequences if this file does not exist.
        max_frames: only the first frames of each sequence are used, at most this number; null: all
            frames, as in DAVIS.
        encoder: the encoder; `none` uses the colours of patches: layer 0 is their pixels, layer 1
            is their histogram.
        layers: numbers of the layers whose features are used, 0 for the token embedding; null:
            `encoder.layer`, or all layers if that is null too.
        rope_base: base of the rotary angles, such as 50000 for more tokens than in training; null:
            as in training.
        propagation: settings of the propagation.
        device: device for the computation, such as `cpu` or `cuda`, or `auto`.
        video_rate_hz: frame rate of the videos with the masks, Hz; null: no videos.
    """

    data: Path
    year: int
    image_folder: str
    sequences: tuple[str, ...] | None
    max_frames: int | None
    encoder: VisionConfig
    layers: tuple[int, ...] | None
    rope_base: float | None
    propagation: PropagationConfig
    device: str
    video_rate_hz: float | None

    def __post_init__(self) -> None:
        """Check the year, the layers and the frame rate."""
        if self.year not in (2016, 2017):
            raise ValueError(f"year must be 2016 or 2017, got {self.year}")
        if self.max_frames is not None and self.max_frames < LEAST_FRAMES:
            raise ValueError(f"max_frames must be at least {LEAST_FRAMES}, got {self.max_frames}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers must name at least one layer, or be null for all")
        if self.layers is not None and self.encoder_layers() is not None:
            raise ValueError("layers and encoder.layer are both set; set one of them to null")
        if self.video_rate_hz is not None and not self.video_rate_hz > 0:
            raise ValueError(f"video_rate_hz must be above 0, got {self.video_rate_hz}")

    def chosen_layers(self, known: Sequence[int]) -> tuple[int, ...]:
        """Return the layers to use, of those that the encoder has.

        Raises:
            ValueError: a layer does not exist.
        """
        layers = self.layers or self.encoder_layers() or known
        if unknown := [number for number in layers if number not in known]:
            raise ValueError(
                f"layers: {unknown} do not exist; this encoder has {known[0]} to {known[-1]}"
            )
        return tuple(layers)

    def encoder_layers(self) -> tuple[int, ...] | None:
        """Return the layers that the settings of the encoder name, or None."""
        layer = None if isinstance(self.encoder, NoVision | PixelVision) else self.encoder.layer
        return (layer,) if isinstance(layer, int) else layer


@dataclass(frozen=True, kw_only=True, slots=True)
class DavisConfig(TrackingConfig):
    """Settings of the command `davis`.

    Attributes:
        image_size: side of the square to which frames are resized, pixels; a larger side has more
            tokens.
    """

    image_size: int


def davis(config: DavisConfig, out: Path) -> TrackingScores:
    """Track the objects of all sequences, and write the scores, masks and videos.

    An interrupted run resumes with the first unfinished sequence.

    Raises:
        ValueError: a file is missing, damaged or of another size, or a layer does not exist; the
            message names it.
    """
    sequences = tuple(
        sequence.first_frames(config.max_frames)
        for sequence in list_sequences(
            config.data, config.year, config.image_folder, config.sequences
        )
    )
    claim(out, config)
    encoder = config.encoder.build(torch.device(choose_device(config.device)))
    source = open_patches(encoder, config.image_size, config.rope_base)
    layers = config.chosen_layers(source.layers)
    frames = sum(len(sequence.frames) for sequence in sequences)
    print(
        f"{len(sequences)} sequences with {frames} frames, {source.side} x {source.side} patches, "
        f"{len(layers)} layers",
        flush=True,
    )
    scores = []
    report_found(sum(_record(out, one).is_file() for one in sequences), len(sequences), "sequence")
    with tqdm(total=frames, desc="track", unit="frame") as progress:
        for sequence in sequences:
            if not (record := _record(out, sequence)).is_file():
                values = _track(sequence, source, layers, config.propagation, out, progress)
                write_json(record, {"scores": values.tolist()})
            else:
                progress.update(len(sequence.frames))
            scores.append(np.array(json.loads(record.read_text())["scores"]))
    tracking = TrackingScores(
        names=tuple(sequence.name for sequence in sequences), layers=layers, scores=tuple(scores)
    )
    if config.video_rate_hz is not None:
        for sequence in tqdm(sequences, desc="draw", unit="video"):
            drawn = _DrawnFrames(sequence, _mask_folder(out, tracking.best_layer, sequence))
            write_video(out / "videos" / f"{sequence.name}.mp4", drawn, config.video_rate_hz)
    title = f"{_name(config.encoder)} ({config.image_size}/{source.patch})"
    print(write_tracking(out, tracking, title, to_dict(config)))
    return tracking


def _track(
    sequence: DavisSequence,
    source: PatchFeatures,
    layers: Sequence[int],
    config: PropagationConfig,
    out: Path,
    progress: "tqdm[Any]",
) -> NDArray[np.float64]:
    """Write the masks of a sequence, and return J and F, [t-2 l+1 o 2].

    There are t frames, l layers and o objects. The last of the l + 1 rows has the scores of the
    first mask, kept in all frames.
    """
    first = sequence.frame(0, None)
    size = first.shape[:2]
    given, objects = sequence.first_truth(size)
    labels = _to_labels(given, objects, source.side)
    memories = [
        LabelMemory(config, features, labels.to(features.device))
        for features in source.features(first, layers)
    ]
    masks = [given] * len(layers)
    scores = []
    for number, file in enumerate(sequence.frames):
        if number:
            features = source.features(sequence.frame(number, size), layers)
            masks = [
                _to_mask(memory.propagate(one), source.side, size)
                for memory, one in zip(memories, features, strict=True)
            ]
        for layer, mask in zip(layers, masks, strict=True):
            write_mask(_mask_folder(out, layer, sequence) / f"{file.stem}.png", mask)
        if 0 < number < len(sequence.frames) - 1:
            scores.append(score_frame([*masks, given], sequence.truth(number, size), objects))
        progress.update()
    return np.stack(scores)


def _to_labels(mask: NDArray[np.uint8], objects: int, side: int) -> Tensor:
    """Return the shares of the background and of o objects in n patches, [n 1+o]."""
    shares = [
        cv2.resize(
            (mask == k).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA
        ).ravel()
        for k in range(objects + 1)
    ]
    return torch.from_numpy(np.stack(shares, axis=1))


def _to_mask(labels: Tensor, side: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Enlarge the labels [n 1+o] to an image [h w], and return the label with the largest share."""
    planes = labels.cpu().numpy().reshape(side, side, -1)
    mask = np.zeros(size, np.uint8)
    highest = np.full(size, -np.inf, np.float32)
    for k, plane in enumerate(np.moveaxis(planes, -1, 0)):
        large = cv2.resize(plane, size[::-1])  # bilinear
        mask[large > highest] = k
        np.maximum(highest, large, out=highest)
    return mask


class _DrawnFrames(Sequence[NDArray[np.uint8]]):
    """The frames of a sequence with their masks, which are read when they are needed."""

    def __init__(self, sequence: DavisSequence, masks: Path) -> None:
        self._sequence, self._masks = sequence, masks

    def __len__(self) -> int:
        return len(self._sequence.frames)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: Any) -> Any:
        image = self._sequence.frame(number, None)
        mask = read_mask(self._masks / f"{self._sequence.frames[number].stem}.png")
        height, width = (
            side - side % 2 for side in mask.shape
        )  # the video format needs even sides
        return draw_mask(image, mask)[:height, :width]


def _name(encoder: VisionConfig) -> str:
    if isinstance(encoder, NoVision | PixelVision):
        return "colours"
    untrained = "untrained " if isinstance(encoder, RandomVision) else ""
    return f"{untrained}{title(encoder.name_or_path)}"


def _mask_folder(out: Path, layer: int, sequence: DavisSequence) -> Path:
    return out / "masks" / f"layer-{layer}" / sequence.name


def _record(out: Path, sequence: DavisSequence) -> Path:
    return out / "scores" / f"{sequence.name}.json"


main = command("davis", DavisConfig)(davis)

if __name__ == "__main__":
    main()
