"""`python -m toto_robot.recognition.imagenet data=FOLDER`: classify images by probes at all layers.

Image classification as in the paper's Tables 5, 7 and 14 and Figures 4 and 14: one probe per layer
on the frozen features of ImageNet-1k, or of any folder with one subfolder of images per class.

    data/train/<class>/*.jpg  data/val/<class>/*.jpg    ImageNet: given training and test images
    data/<class>/*.jpg                                  other data: `splits` random divisions

Images are resized to a shortest side of the encoder's image size, and cropped at the centre.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cli import command
from ..config import to_dict
from ..data.divisions import Division, check_random_divisions, given_division, random_divisions
from ..data.images import read_square
from ..data.labelled_images import LabelledImages, list_images
from ..encoders.vision import VisionConfig
from ..probing.layer_features import LayerSource, cache_array, open_layers
from ..runs import claim
from ..training.engine import EngineConfig
from ..training.parallel import Ranks, join_ranks
from .probe import Examples, Probe, ProbeConfig
from .scores import LayerScores, score_layers, write_scores

__all__ = ["ImageNetConfig", "imagenet"]

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
        check_random_divisions(self.splits, self.test_share)


def imagenet(config: ImageNetConfig, out: Path) -> LayerScores | None:
    """Train and score the probes; write `results.json`, `layers.csv`, `layers.png`, `correct.npz`.

    Tokens and features of the images are kept in `out/cache`, which may be deleted. An interrupted
    run resumes. Returns None if the run was asked to stop, and on all ranks except the first.

    Raises:
        ValueError: a class is missing or unknown, or an image is unreadable; the message names it.
    """
    with join_ranks(config.engine.device, config.engine.shard_ranks) as ranks:
        images = list_images(config.data, config.classes)
        if ranks.first:
            claim(out, config)
            print(images.summary(), flush=True)
        ranks.wait()
        source = open_layers(config.encoder.build(ranks.device))
        examples = _examples(images, source, out / "cache", ranks)
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


def _examples(images: LabelledImages, source: LayerSource, cache: Path, ranks: Ranks) -> Examples:
    """Return the images as compressed clips of one frame."""
    digest, size = images.digest(), source.image_size

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
