"""`python -m toto_robot.recognition.ego4d_sta_train`: train short-term anticipation on Ego4D.

A detection head is trained on several layers of a Toto, together with the whole transformer, by the
losses of the head and the next-token loss (paper section 4.4, Table 9). The frames before each
annotated image are read from `data/<video>.mp4`, and are resized to squares; their width and
height are scaled differently. The predictions for the test annotations are written to
`predictions.json`, and are scored as by `toto_robot.recognition.ego4d_sta`.
"""

import math
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
from ..data.ego4d_sta import (
    StaAnnotations,
    StaImage,
    StaObjects,
    read_sta_annotations,
    read_sta_predictions,
)
from ..data.video import open_video, to_rgb
from ..encoders.loading import load_toto
from ..files import write_json
from ..models import model_flops
from ..probing.layer_features import cache_array
from ..runs import claim
from ..training.engine import EngineConfig, fit
from ..training.optimizer import OptimizerConfig
from ..training.parallel import join_ranks
from ..training.phase import Phase, Rows
from .ego4d_sta import report_boxes, score_predictions
from .sta_head import StaHead, StaModel
from .sta_scores import StaScores

__all__ = ["Ego4dStaTrainConfig", "ego4d_sta_train"]

CLIPS = 4  # clips that are tokenised together
SHAPE_TOLERANCE = 0.02  # of the ratio of width and height, for videos of another size
MOST_LAYERS = 5  # layers that the head reads, as in the paper


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dStaTrainConfig:
    """Settings of the command `ego4d_sta_train`.

    Attributes:
        data: folder with the videos, `<video_id>.mp4`.
        train: annotations for the training, `fho_sta_train.json`.
        test: annotations that are predicted and scored, `fho_sta_val.json`.
        start_from: name or checkpoint folder of the Toto.
        layers: numbers of the layers that the head reads. null: five layers, spaced evenly up to
            the last layer.
        frames: number of frames of a clip; the last one is the annotated image.
        stride: distance between two of these frames, in frames of the video.
        width: number of channels of the head's maps.
        next_token_weight: factor of the next-token loss; 0 for none.
        transformer_lr: learning rate of the transformer, relative to that of the head.
        optimizer: settings of AdamW and of its learning rate.
        steps: number of optimizer steps.
        batch: number of clips in a step, over all ranks.
        part: number of clips in a forward pass of a rank.
        engine: settings of the training loop.
        seed: random seed of the order of the clips and of the head.
    """

    data: Path
    train: Path
    test: Path
    start_from: str
    layers: tuple[int, ...] | None
    frames: int
    stride: int
    width: int
    next_token_weight: float
    transformer_lr: float
    optimizer: OptimizerConfig
    steps: int
    batch: int
    part: int
    engine: EngineConfig
    seed: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("frames", "stride", "width", "steps", "batch", "part"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.next_token_weight < 0 or self.transformer_lr < 0:
            raise ValueError("next_token_weight and transformer_lr must not be negative")


def ego4d_sta_train(config: Ego4dStaTrainConfig, out: Path) -> dict[str, StaScores] | None:
    """Train, predict and score; return the scores, or None if the run was asked to stop.

    Returns None also on all ranks except the first. An interrupted run resumes. `out/cache` has the
    tokens of the clips, and may be deleted.

    Raises:
        ValueError: a video is missing or too short, or an annotation is invalid; the message names
            the file.
    """
    train, test = read_sta_annotations(config.train), read_sta_annotations(config.test)
    if train.nouns != test.nouns or train.verbs != test.verbs:
        raise ValueError(f"{config.train} and {config.test} have other classes")
    run = _Run(config, train, out)
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        if ranks.first:
            claim(out, config)
            print(
                f"train on {len(train.images)} images with {train.num_objects} objects, predict "
                f"{len(test.images)} images",
                flush=True,
            )
            use = "clipped to the image for the training"
            report_boxes(out / "problems_train.csv", config.train, train, use)
        ranks.wait()
        tokens, test_tokens = (
            ranks.first_then_others(lambda one=one, name=name: run.tokens(one, name))
            for one, name in ((train, "train"), (test, "test"))
        )
        result = fit(
            run.model(), [run.phase(tokens)], config.optimizer, config.engine, out, ranks,
            title="loss of head and tokens",
        )  # fmt: skip
        model = run.model()
        if not result.load(model, ranks) or not ranks.first:
            return None
        found = run.predict(model.to(ranks.device).eval(), test, test_tokens)
        write_json(out / "predictions.json", {"version": "1.0", "results": found})
    predictions = read_sta_predictions(out / "predictions.json", test)
    return score_predictions(config.test, test, predictions, out)


class _Run:
    """The data, the model and the predictions of one training run."""

    def __init__(self, config: Ego4dStaTrainConfig, train: StaAnnotations, out: Path) -> None:
        self._config, self._train, self._out = config, train, out
        self._encoder = load_toto(config.start_from)
        self._layout = self._encoder.transformer.config
        self._nouns, self._verbs = sorted(train.nouns), sorted(train.verbs)
        if config.frames > self._layout.frames:
            raise ValueError(
                f"frames must be at most {self._layout.frames}, the sequence of "
                f"{config.start_from}, got {config.frames}"
            )

    def model(self) -> StaModel:
        """Return the model before training."""
        transformer = self._layout.build()
        transformer.load_state_dict(self._encoder.transformer.state_dict())
        depth = self._layout.layers
        equal = np.linspace(depth, 0, min(MOST_LAYERS, depth), endpoint=False)
        layers = self._config.layers or sorted(round(one) for one in equal)
        torch.manual_seed(self._config.seed)
        side = math.isqrt(self._layout.tokens_per_frame)
        head = StaHead(
            len(layers), self._layout.dim, side, width=self._config.width,
            nouns=len(self._nouns), verbs=len(self._verbs),
        )  # fmt: skip
        return StaModel(
            transformer, head, tuple(map(transformer.layer_index, layers)),
            next_token_weight=self._config.next_token_weight,
            transformer_lr=self._config.transformer_lr,
        )  # fmt: skip

    def tokens(self, annotations: StaAnnotations, name: str) -> NDArray[Any]:
        """Return the tokens of the clip that ends with each annotated image, [images frames n]."""
        config, images = self._config, annotations.images
        size = self._encoder.image_size

        def compute(rows: range) -> NDArray[Any]:
            clips = [self._read(images[row], size) for row in rows]
            tokens = self._encoder.compress(np.concatenate(clips))
            return tokens.reshape(len(rows), config.frames, -1)

        facts = {
            "weights": self._encoder.weights_hash,
            "videos": str(config.data),
            "images": [f"{one.video} {one.frame}" for one in images],
            "frames": config.frames,
            "stride": config.stride,
        }
        path = self._out / "cache" / f"{name}.npy"
        return cache_array(path, len(images), compute, facts, f"tokenise {name}", CLIPS)

    def _read(self, image: StaImage, size: int) -> NDArray[np.uint8]:
        """Return the frames of a clip. Before the start of a video, its first frame is repeated."""
        path = self._config.data / f"{image.video}.mp4"
        distances = np.arange(self._config.frames)[::-1] * self._config.stride
        numbers = np.maximum(image.frame - distances, 0).tolist()
        found: dict[int, NDArray[Any]] = {}
        try:
            with open_video(path) as video:
                start = video.begin_s + numbers[0] * video.gap_s
                for timed in video.frames(start):
                    _check_shape(image, timed.frame.width, timed.frame.height)
                    number = round((timed.time_s - video.begin_s) / video.gap_s)
                    if number in numbers and number not in found:
                        found[number] = cv2.resize(
                            to_rgb(timed.frame), (size, size), interpolation=cv2.INTER_AREA
                        )
                    if number >= numbers[-1]:
                        break
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if missing := sorted(set(numbers) - set(found)):
            raise ValueError(f"{path} has no frame {missing[0]}, which {image.uid} needs")
        return np.stack([found[number] for number in numbers])

    def phase(self, tokens: NDArray[Any]) -> Phase:
        """Return the training phase."""
        config = self._config
        length = config.frames * self._layout.tokens_per_frame
        return Phase(
            steps=config.steps,
            batch=config.batch,
            part=config.part,
            rows=self._rows(tokens),
            tokens_per_row=length,
            flops_per_row=model_flops(self._layout, config.frames) * length,
        )

    def _rows(self, tokens: NDArray[Any]) -> Rows:
        boxes, classes, times = self._targets()

        def read(first: int, count: int) -> tuple[Tensor, ...]:
            total = len(tokens)
            rows = np.array([
                np.random.default_rng((self._config.seed, row // total)).permutation(total)[
                    row % total
                ]
                for row in range(first, first + count)
            ])  # fmt: skip
            ids = self._sequences(tokens[rows])
            return ids, boxes[rows], classes[rows], times[rows]

        return read

    def _targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes [i k 4], classes [i k 2] and times [i k] of up to k objects per image."""
        images = self._train.images
        most = max(1, *(len(image.objects) for image in images))
        boxes, classes = torch.zeros(len(images), most, 4), torch.full((len(images), most, 2), -1)
        times = torch.zeros(len(images), most)
        for i, image in enumerate(images):
            objects, k = image.objects, len(image.objects)
            boxes[i, :k] = torch.from_numpy(objects.boxes / np.array(image.size * 2)).clamp(0, 1)
            classes[i, :k, 0] = torch.from_numpy(np.searchsorted(self._nouns, objects.nouns))
            classes[i, :k, 1] = torch.from_numpy(np.searchsorted(self._verbs, objects.verbs))
            times[i, :k] = torch.from_numpy(objects.times)
        return boxes, classes, times

    def _sequences(self, tokens: NDArray[Any]) -> Tensor:
        """Return start token, tokens and end token of clips."""
        ids = np.pad(
            tokens.reshape(len(tokens), -1).astype(np.int64),
            ((0, 0), (1, 1)),
            constant_values=self._layout.start_video,
        )
        ids[:, -1] = self._layout.end
        return torch.from_numpy(ids)

    @torch.no_grad()
    def predict(
        self, model: StaModel, test: StaAnnotations, tokens: NDArray[Any]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the predictions for each test image, as in the file of predictions."""
        found = {}
        device = model.head.centres.device
        starts = range(0, len(tokens), self._config.part)
        for start in tqdm(starts, desc="predict", unit="batch"):
            images = test.images[start : start + self._config.part]
            output, _ = model.predict(
                self._sequences(tokens[start : start + len(images)]).to(device)
            )
            for row, image in enumerate(images):
                objects = model.head.objects(output, row, image.size)
                found[image.uid] = self._plain(objects)
        return found

    def _plain(self, objects: StaObjects) -> list[dict[str, Any]]:
        return [
            {
                "box": objects.boxes[i].tolist(),
                "noun_category_id": self._nouns[objects.nouns[i]],
                "verb_category_id": self._verbs[objects.verbs[i]],
                "time_to_contact": float(objects.times[i]),
                "score": float(objects.scores[i]),
            }
            for i in range(len(objects))
        ]


def _check_shape(image: StaImage, width: int, height: int) -> None:
    """Raise unless the frames of a video have the shape that its boxes assume."""
    if abs(image.size[0] * height / (image.size[1] * width) - 1) > SHAPE_TOLERANCE:
        raise ValueError(
            f"has frames of {width} x {height}, but info.video_metadata.{image.video} states "
            f"{image.size[0]} x {image.size[1]}, so the boxes do not fit"
        )


main = command("ego4d_sta_train", Ego4dStaTrainConfig)(ego4d_sta_train)

if __name__ == "__main__":
    main()
