"""Labelled images and videos as tokens, for fine-tuning with classes: one path for both.

An image is a clip of one frame. A training example has several random views (crops of an image, or
crops of clips of a video), which the epochs use in turn. A test example has views at fixed places
and times, whose class probabilities are averaged (see `views`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import build_module, load_weights, read_config, save_checkpoint, weights_hash
from ..config import to_dict
from ..data.divisions import Division, check_random_divisions, given_division, random_divisions
from ..data.images import read_crops, read_square
from ..data.labelled_images import LabelledImages, list_images
from ..data.shuffle import key_of, permute
from ..files import files_digest
from ..models import SequenceLayout
from ..probing.heads import HeadKind, LayerHeads
from ..tokenizers import AnyTokenizer
from ..training.finetuned_model import FineTunedModel
from ..training.parallel import Ranks
from .cater_videos import CaterVideos, clip_numbers, random_numbers, read_cater_clips
from .labelled_videos import AnyVideos, LabelledVideos, check_classes, is_whole, report_problems
from .scores import score_layers, write_scores
from .views import (
    Views,
    average_views,
    cache_views,
    read_problems,
    read_random_views,
    read_views,
)

__all__ = ["LabelledClips", "LabelsConfig", "load_heads", "score_heads", "sequences"]

TEST_BATCH = 32  # clips that are classified together

Clips = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsConfig:
    """Settings of the classes of images or videos, and of their classifiers (heads).

    Attributes:
        classes: text file with the classes of images, one per line; see
            `toto_robot.recognition.imagenet`. null: the sorted names of the folders.
        test_share: share of each class's examples that are test examples, if the data has no given
            test examples.
        crops: number of random views of each training image or video, used in turn. 0 uses the
            views of the test.
        mirror: true if half of the random views are mirrored; false for classes that depend on left
            and right.
        test_clips: number of clips per test video, whose class probabilities are averaged.
        test_crops: number of crops per test image or clip, whose class probabilities are averaged.
        head: kind of the heads: `linear`, `batch_norm_linear`, `attention` or `cross_attention`.
        layers: numbers of the layers with a head. null: all layers.
        stop_gradient: true if only the next-token loss changes the transformer, and the loss of the
            heads does not, as in the paper's section 4.2.
    """

    classes: Path | None
    test_share: float
    crops: int
    mirror: bool
    test_clips: int
    test_crops: int
    head: HeadKind
    layers: tuple[int, ...] | None
    stop_gradient: bool

    def __post_init__(self) -> None:
        """Check the shares and counts."""
        check_random_divisions(1, self.test_share)
        if self.crops < 0 or self.layers == ():
            raise ValueError("crops must not be negative, and layers must have an entry or be null")
        if self.test_clips < 1 or self.test_crops < 1:
            raise ValueError("test_clips and test_crops must be at least 1")


class LabelledClips:
    """Labelled images or videos, and their division into training and test examples."""

    def __init__(
        self,
        data: Path | None,
        videos: AnyVideos | CaterVideos | None,
        labels: LabelsConfig,
        frames: int,
        stride: int,
        seed: int,
    ) -> None:
        """List the files, and divide them.

        Args:
            data: folder of the images, if there are no videos.
            videos: the videos.
            labels: settings.
            frames: number of frames of a clip; 1 for images.
            stride: distance between two frames of a clip, in frames of the file.
            seed: seed of the division and of the random views.

        Raises:
            ValueError: a setting does not suit the data, the data are incomplete, or a class is too
                small; the message names the file and the class, or the setting.
        """
        self._videos, self._labels, self._seed = videos, labels, seed
        self._views = Views(
            frames=frames, stride=stride, clips=labels.test_clips, crops=labels.test_crops
        )
        self._check_views()
        self.listing: LabelledImages | LabelledVideos
        if videos is None:
            assert data is not None
            self.listing = list_images(data, labels.classes)
        else:
            self.listing = videos.listing()
        self._divide()  # a class that is too small fails here

    @property
    def head(self) -> HeadKind:
        """Kind of the heads."""
        return self._labels.head

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.listing.classes

    def _check_views(self) -> None:
        views = self._views
        if self._videos is None:
            if (views.frames, views.stride, views.clips) != (1, 1, 1):
                raise ValueError(
                    "frames, stride and labels.test_clips must be 1 for labelled images, got "
                    f"{views.frames}, {views.stride} and {views.clips}"
                )
        elif self._labels.classes is not None:
            raise ValueError("labels.classes is for images; for videos, set videos.classes")
        elif isinstance(self._videos, CaterVideos) and (views.stride, views.crops) != (1, 1):
            raise ValueError(
                "stride and labels.test_crops must be 1 for CATER, whose clips have frames of the "
                f"whole video, got {views.stride} and {views.crops}"
            )

    def _divide(self) -> Division:
        """Divide the examples into training and test examples, and return the numbers of both."""
        found = self.listing
        if found.is_test is not None:
            return given_division(found.is_test)
        share = self._labels.test_share
        (division,) = random_divisions(found.labels, found.classes, 1, share, self._seed)
        return division

    def tokenise(
        self, tokenizer: AnyTokenizer, out: Path, ranks: Ranks
    ) -> tuple["TokenClips", "TokenClips"]:
        """Return the tokens of the training and of the test examples, and keep them in files.

        Videos that cannot be decoded are left out, and listed in `out/problems.csv`.

        Args:
            tokenizer: the tokenizer.
            out: folder of the results.
            ranks: this process and its group; the first rank writes the files.

        Raises:
            ValueError: an image is unreadable, a video of CATER is too short, or a class has no
                training video that can be decoded; the message names the file or the class.
        """
        parts, problems = [], list(getattr(self.listing, "problems", ()))
        for name, numbers in zip(("train", "test"), self._divide(), strict=True):
            path = out / f"tokens-{name}.npy"
            tokens = ranks.first_then_others(
                lambda numbers=numbers, path=path: self._cache(numbers, tokenizer, path)
            )
            valid = np.ones(len(numbers), bool)
            if self._videos is not None:
                found = read_problems(path)
                problems += found
                valid = is_whole([self.listing.files[i] for i in numbers], found)
            parts.append(TokenClips(tokens, np.flatnonzero(valid), numbers, self.listing))
        if ranks.first:
            report_problems(out, problems)
        if self._videos is not None and not isinstance(self._videos, CaterVideos):
            check_classes(parts[0].labels, self.classes)
        if not len(parts[1].labels):
            raise ValueError("all test videos are damaged")
        return parts[0], parts[1]

    def _cache(
        self, numbers: NDArray[np.int64], tokenizer: AnyTokenizer, path: Path
    ) -> NDArray[np.uint16]:
        """Return the tokens of the examples with these numbers, uint16 [n v t*k]."""
        files = [self.listing.files[number] for number in numbers]
        size = tokenizer.image_size
        is_random = path.stem.endswith("train") and self._labels.crops > 0
        read = self._random_reader(numbers, size) if is_random else self._reader(size)
        count = self._labels.crops if is_random else self._views.count

        def compress(clips: Clips) -> NDArray[np.uint16]:
            with torch.inference_mode():
                ids = tokenizer.encode(torch.from_numpy(clips.reshape(-1, size, size, 3)))
            return ids.cpu().numpy().astype(np.uint16).reshape(len(clips), -1)

        facts = {
            "files": files_digest(files),
            "tokenizer": weights_hash(tokenizer),
            "size": size,
            "views": to_dict(self._views),
            "random": [count, self._seed, self._labels.mirror] if is_random else None,
        }
        shape = (count, self._views.frames, size, size, 3)
        span = self._views.frames if isinstance(self._videos, CaterVideos) else self._views.span
        strict = self._videos is None or isinstance(self._videos, CaterVideos)
        return cache_views(files, read, shape, span, compress, path, facts, strict=strict)

    def _reader(self, size: int) -> Callable[[int, Path], tuple[Clips, int]]:
        """Return the function that reads the test views of a file."""
        views = self._views
        if self._videos is None:

            def read_image(_: int, file: Path) -> tuple[Clips, int]:
                crops = [read_square(file, size, at, at) for at in views.positions()]
                return np.stack(crops)[:, None], 1

            return read_image
        if isinstance(self._videos, CaterVideos):
            frames, clips = views.frames, views.clips
            return lambda _, file: read_cater_clips(
                file, lambda length: clip_numbers(length, frames, clips), frames, size
            )
        return lambda _, file: read_views(file, views, size)

    def _random_reader(
        self, numbers: NDArray[np.int64], size: int
    ) -> Callable[[int, Path], tuple[Clips, int]]:
        """Return the function that reads the random views of a file for the training."""
        views, crops, mirror = self._views, self._labels.crops, self._labels.mirror
        seed = self._seed
        if self._videos is None:

            def read_image(row: int, file: Path) -> tuple[Clips, int]:
                generator = np.random.default_rng((seed, int(numbers[row])))
                return read_crops(file, size, crops, generator, mirror=mirror)[:, None], 1

            return read_image
        if isinstance(self._videos, CaterVideos):  # mirroring would change the class

            def read_cells(row: int, file: Path) -> tuple[Clips, int]:
                generator = np.random.default_rng((seed, int(numbers[row])))
                return read_cater_clips(
                    file,
                    lambda length: np.stack(
                        [random_numbers(length, views.frames, generator) for _ in range(crops)]
                    ),
                    views.frames,
                    size,
                )

            return read_cells
        return lambda row, file: read_random_views(
            file, views, size, [(seed, int(numbers[row]), i) for i in range(crops)], mirror=mirror
        )


class TokenClips:
    """The tokens of the training or test examples.

    Args:
        tokens: uint16 [n v k], k tokens of v views of n examples.
        valid: numbers of the rows of `tokens` that can be used.
        numbers: numbers [n] of the examples in `listing`.
        listing: the labels of all examples.

    Attributes:
        labels: the class of each valid example.
        groups: the group of each valid example, for intervals.
    """

    def __init__(
        self,
        tokens: NDArray[np.uint16],
        valid: NDArray[np.int64],
        numbers: NDArray[np.int64],
        listing: LabelledImages | LabelledVideos,
    ) -> None:
        self._tokens, self._valid = tokens, valid
        self.labels = listing.labels[numbers[valid]]
        groups = listing.groups if isinstance(listing, LabelledVideos) else None
        self.groups = numbers[valid] if groups is None else groups[numbers[valid]]

    def __len__(self) -> int:
        return len(self._valid)

    @property
    def num_views(self) -> int:
        """Number of views of an example."""
        return self._tokens.shape[1]

    def rows(
        self, first: int, count: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the tokens [r k] and the classes [r] of r rows of an endless shuffled list.

        Each example occurs once per epoch. The epochs use the views of an example in turn.

        Args:
            first: number of the first row.
            count: number r of rows.
            seed: seed of the order.
        """
        index, total = np.arange(first, first + count), len(self)
        epoch = index // total
        chosen = permute(index % total, total, key_of(seed), epoch)
        tokens = self._tokens[self._valid[chosen], epoch % self.num_views]
        return tokens.astype(np.int64), self.labels[chosen]

    def views(self, first: int, count: int) -> NDArray[np.uint16]:
        """Return the tokens of all views of examples, [count v k], in their order."""
        return self._tokens[self._valid[first : first + count]]


def sequences(tokens: NDArray[np.integer], layout: SequenceLayout) -> NDArray[np.int64]:
    """Return clips of tokens [b k] with the start token of a video and the end token, [b k+2]."""
    ends = ((0, 0), (1, 1))
    ids = np.pad(tokens.astype(np.int64), ends, constant_values=layout.start_video)
    ids[:, -1] = layout.end
    return ids


@torch.no_grad()
def score_heads(
    model: FineTunedModel, clips: LabelledClips, test: TokenClips, config: object, out: Path
) -> None:
    """Classify the test examples with each head; save the heads and write the accuracies.

    The files are `heads`, and those of `write_scores`.

    Args:
        model: the trained model.
        clips: the labelled examples.
        test: the tokens of the test examples.
        config: settings of the run, for the results.
        out: folder of the results.
    """
    assert model.heads is not None
    layout, device = model.transformer.config, next(model.parameters()).device
    each = max(1, TEST_BATCH // test.num_views)
    probabilities: list[Tensor] = []
    for first in tqdm(range(0, len(test), each), desc="test", unit="batch"):
        views = test.views(first, each)
        ids = sequences(views.reshape(-1, views.shape[-1]), layout)
        placed = torch.from_numpy(ids[:, :-1]).to(device)
        features = model.transformer.features(placed, model.head_layers)
        logits = model.heads(model.head_input(features)).float().cpu()
        probabilities.append(average_views(logits, test.num_views))
    scores = score_layers(
        torch.cat(probabilities, dim=1).numpy(), test.labels, test.groups, model.head_layers
    )
    kind = clips.head
    heads = {
        "head": kind,
        "layers": list(model.head_layers),
        "dim": layout.dim,
        "classes": list(clips.classes),
    }
    weights = {name: tensor.cpu() for name, tensor in model.heads.state_dict().items()}
    save_checkpoint(out / "heads", "heads", heads, weights)
    notes = {"data": clips.listing.summary(), "test_examples": len(test)}
    title = f"{len(clips.classes)} classes, {kind} heads, fine-tuned"
    print(write_scores(out, scores, {**notes, "config": to_dict(config)}, title))
    print(f"heads   {out / 'heads'}")


def load_heads(folder: Path) -> tuple[LayerHeads, tuple[int, ...], tuple[str, ...]]:
    """Return the heads of a fine-tuning, the layer number of each head, and the class names.

    Args:
        folder: the folder `heads` of the results.
    """
    data = read_config(folder, "heads")
    config = data["config"]
    sizes = (config["head"], len(config["layers"]), config["dim"], len(config["classes"]))
    weights = load_weights(folder, data["sha256"])
    heads = build_module(lambda: LayerHeads(*sizes), weights, folder)
    return heads.eval(), tuple(config["layers"]), tuple(config["classes"])
