"""`python -m toto_robot.recognition.imagenet data=FOLDER`: classify images by probes at all layers.

Image classification as in the paper's Tables 5, 7 and 14 and Figures 4 and 14: one probe per layer
on the frozen features of ImageNet-1k, or of any folder with one subfolder of images per class.

    data/train/<class>/*.jpg  data/val/<class>/*.jpg    ImageNet: given training and test images
    data/<class>/*.jpg                                  other data: `splits` random divisions

Images are resized to a shortest side of the encoder's image size, and cropped at the centre.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cli import command
from ..config import to_dict
from ..data.images import IMAGE_SUFFIXES, read_square
from ..data.walk import walk
from ..encoders.vision import VisionConfig
from ..probing.layer_features import LayerSource, cache_array, open_layers
from ..runs import claim
from ..training.engine import EngineConfig
from ..training.parallel import Ranks, join_ranks
from .divisions import Division, given_division, random_divisions
from .probe import Examples, Probe, ProbeConfig
from .scores import LayerScores, score_layers, write_scores

__all__ = ["ImageNetConfig", "imagenet"]

PIXELS_SIZE = 128  # image side for the control without an encoder, pixels
READERS = 4  # threads that decode images


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageNetConfig:
    """Settings of the command `imagenet`.

    Attributes:
        data: folder with one subfolder of images per class, or with `train` and `val` (or `test`),
            each with one subfolder per class, as ImageNet is published.
        classes: text file with one class per line, whose first word is the name of the class's
            folder, such as ImageNet's `LOC_synset_mapping.txt`; it sets the order of the classes.
            null: the sorted names of the folders.
        splits: number of random divisions into training and test images, if `data` has none; the
            scores of all divisions are combined.
        test_share: share of each class's images that a random division tests.
        encoder: the encoder; `none` probes raw 16 x 16 pixels.
        probe: settings of the probes.
        engine: settings of the training loop; its device is also the encoder's.
        seed: seed of the random divisions.
    """

    data: Path
    classes: Path | None
    splits: int
    test_share: float
    encoder: VisionConfig
    probe: ProbeConfig
    engine: EngineConfig
    seed: int

    def __post_init__(self) -> None:
        """Check the random divisions."""
        if self.splits < 1:
            raise ValueError(f"splits must be at least 1, got {self.splits}")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}")


def imagenet(config: ImageNetConfig, out: Path) -> LayerScores | None:
    """Train and score the probes; write `results.json`, `layers.csv`, `layers.png`, `correct.npz`.

    Tokens and features of the images are kept in `out/cache`, which may be deleted. An interrupted
    run resumes. Returns None if the run was asked to stop.

    Raises:
        ValueError: a class is missing or unknown, or an image is unreadable; the message names it.
    """
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        images = list_images(config.data, config.classes)
        if ranks.first:
            claim(out, config)
            print(images.summary(), flush=True)
        ranks.wait()
        encoder = config.encoder.build(ranks.device)
        source = open_layers(encoder)
        size = PIXELS_SIZE if encoder is None else encoder.image_size  # pyrefly: ignore
        examples = _examples(images, source, size, out / "cache", ranks)
        probe = Probe(source, examples, config.probe, out / "cache", ranks)
        scores = []
        for number, (train, test) in enumerate(_divisions(config, images)):
            heads = probe.train(train, config.engine, out / f"split-{number}", ranks)
            if heads is None:
                return None
            if ranks.first:
                logits = probe.predict(heads, test).numpy()
                labels, groups = examples.labels[test], examples.groups[test]
                scores.append(score_layers(logits, labels, groups, source.layers))
        if not ranks.first:
            return None
        combined = LayerScores.combine(scores)
        notes = {"data": str(config.data), "encoder": to_dict(config.encoder)}
        notes |= {"probe": to_dict(config.probe), "images": images.summary()}
        title = f"{len(images.classes)} classes, {config.probe.head} probe"
        print(write_scores(out, combined, notes, title))
        return combined


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImages:
    """Image files with their classes.

    Attributes:
        files: paths of the images.
        labels: int64 [n], the class of each image.
        is_test: bool [n], whether each image is a given test image; None if there is no given
            division.
        classes: names of the classes.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    is_test: NDArray[np.bool_] | None
    classes: tuple[str, ...]

    def summary(self) -> str:
        """Return one line about the data."""
        text = f"{len(self.files)} images of {len(self.classes)} classes"
        if self.is_test is None:
            return f"{text}, without a given test set"
        return f"{text}, of which {int(self.is_test.sum())} are test images"

    def digest(self) -> str:
        """Return a hash of the files' names and sizes, and of the labels."""
        digest = hashlib.sha256(self.labels.tobytes())
        for file in self.files:
            digest.update(f"{file}\0{file.stat().st_size}\n".encode())
        return digest.hexdigest()


def list_images(
    data: Path,
    classes: Path | None,
    what: str = "image",
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> LabelledImages:
    """Return the images of a folder in one of the layouts of this module.

    Args:
        data: the folder.
        classes: the list of classes; None: the names of the subfolders.
        what: name of the files in messages.
        suffixes: suffixes of the files, in lower case.

    Raises:
        ValueError: the folder or the list of classes is missing, a class has no training or test
            image, or a folder is not in the list; the message names it.
    """
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder with one subfolder of {what}s per class")
    test = next((data / name for name in ("val", "test") if (data / name).is_dir()), None)
    parts = [data] if test is None else [data / "train", test]
    folders = [_subfolders(part) for part in parts]
    names = sorted(folders[0]) if classes is None else _read_classes(classes)
    files: list[Path] = []
    labels: list[int] = []
    counts = []
    for part, found in zip(parts, folders, strict=True):
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{part} has no folder for {len(missing)} classes: {missing[:5]}")
        if extra := sorted(set(found) - set(names)):
            there = parts[0] if classes is None else classes
            raise ValueError(f"{part}: folders that are no class of {there}: {extra[:5]}")
        for label, name in enumerate(names):
            images = walk(part / name, suffixes)
            if not images:
                raise ValueError(f"{part / name} has no {what} ({', '.join(suffixes)})")
            files += images
            labels += [label] * len(images)
        counts.append(len(files))
    return LabelledImages(
        files=tuple(files),
        labels=np.array(labels),
        is_test=None if test is None else np.arange(len(files)) >= counts[0],
        classes=tuple(names),
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; a test set needs training images beside it")
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    if len(names) < 2:
        raise ValueError(f"{folder} has {len(names)} subfolders; at least two classes are needed")
    return names


def _read_classes(path: Path) -> list[str]:
    """Return the first word of each line of a list of classes."""
    try:
        names = [line.split()[0].rstrip(",") for line in path.read_text().splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"classes: {path} is not a readable text file ({error})") from error
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"classes: {path} is empty or names a class twice")
    return names


def _examples(
    images: LabelledImages, source: LayerSource, size: int, cache: Path, ranks: Ranks
) -> Examples:
    """Return the images as compressed clips of one frame."""
    digest = images.digest()

    def read(rows: range) -> NDArray[Any]:
        with ThreadPoolExecutor(READERS) as pool:
            files = images.files[rows.start : rows.stop]
            frames = list(pool.map(lambda file: read_square(file, size, 0.5, 0.5), files))
        return source.compress(np.stack(frames)[:, None])

    inputs = ranks.first_then_others(
        lambda: cache_array(
            cache / "inputs.npy",
            len(images.files),
            read,
            {"source": source.fingerprint, "images": digest, "size": size},
            "read images",
        )
    )
    return Examples(
        inputs=inputs,
        labels=images.labels,
        groups=np.arange(len(images.files)),
        classes=images.classes,
        fingerprint=digest,
    )


def _divisions(config: ImageNetConfig, images: LabelledImages) -> list[Division]:
    if images.is_test is not None:
        return [given_division(images.is_test)]
    return random_divisions(
        images.labels, images.classes, config.splits, config.test_share, config.seed
    )


main = command("imagenet", ImageNetConfig)(imagenet)

if __name__ == "__main__":
    main()
