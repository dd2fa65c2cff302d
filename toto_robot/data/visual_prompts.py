"""`python -m toto_robot.data.visual_prompts data=FOLDER`: make visual prompts from images.

A visual prompt is a sequence of images: some examples of a task, each an input and its target, then
a new input. A model that was fine-tuned on such sequences continues the sequence with the target of
the new input (paper section A.8; Bai et al. 2023, arXiv 2312.00785):

    visual_prompts data=images out=data/prompts
    finetune data=data/prompts frames=16 steps=1000 adapt=all out=runs/prompts
    generate encoder=runs/prompts/encoder prompt=data/prompts/test/edges-0 prompt_frames=15 frames=1

The paper states neither its tasks nor the form of its prompts. The tasks here need only images:

    edges      the edges of the image (Canny 1986)
    colour     a grey image, to the image in colours
    fill       an image with a hidden square, to the whole image
    sharpen    a blurred image, to the sharp image
    rotate     the image, turned by 90 degrees
    mirror     the mirrored image

Other tasks, such as segmentation, are read from a folder of pairs of images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..cli import command
from ..files import write_aside, write_json, written_aside
from ..runs import claim
from .images import IMAGE_RESIZER, IMAGE_SUFFIXES, read_square
from .shards import HOLD_OUT
from .walk import walk

__all__ = ["TASKS", "VisualPromptsConfig", "visual_prompts"]

Image = NDArray[np.uint8]
HIDDEN = 128  # grey level of the hidden square
SHARE = 0.4  # side of the hidden square, relative to that of the image
BLUR = 8  # factor by which a blurred image is smaller
CANNY = (80, 160)  # thresholds of the gradient
Pair = tuple[Image, Image]


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualPromptsConfig:
    """Settings of the command `visual_prompts`.

    Attributes:
        data: folder of images, searched recursively. null: only `pairs` are used.
        tasks: names of the tasks that are made from images.
        pairs: folder with one subfolder per further task, which has `input` and `target` with
            images of equal names. null: none.
        image_size: side of the images, pixels.
        examples: number of inputs with their targets in a sequence, the last of which is predicted.
            The sequence has twice as many frames; toto-nano and the paper's models have 16.
        sequences: number of sequences, which use the tasks in turn.
        test_sequences: number of test sequences of each task. Every 21st image is for these only.
        seed: random seed of the images, and of the hidden squares.
    """

    data: Path | None
    tasks: tuple[str, ...]
    pairs: Path | None
    image_size: int
    examples: int
    sequences: int
    test_sequences: int
    seed: int

    def __post_init__(self) -> None:
        """Check the names and the numbers."""
        if unknown := [name for name in self.tasks if name not in TASKS]:
            raise ValueError(f"tasks: {unknown} are not among {sorted(TASKS)}")
        if bool(self.tasks) != (self.data is not None) or not (self.tasks or self.pairs):
            raise ValueError(
                "set data and tasks, or pairs, or all; without data, tasks must be empty"
            )
        for name, least in (("examples", 2), ("sequences", 1), ("image_size", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.test_sequences < 0:
            raise ValueError(f"test_sequences must not be negative, got {self.test_sequences}")


def visual_prompts(config: VisualPromptsConfig, out: Path) -> None:
    """Write the sequences as a data set that `finetune` reads, and the test sequences as images.

    The test sequences are folders `out/test/<task>-<number>`, which `generate` reads.

    Raises:
        ValueError: there are too few images, an image is unreadable, or a pair is incomplete; the
            message names the file.
    """
    sources = _sources(config)
    claim(out, config)
    frames, size = 2 * config.examples, config.image_size
    print(
        f"{config.sequences} sequences of {frames} images, and {config.test_sequences} test "
        f"sequences of each task: {', '.join(sources)}",
        flush=True,
    )
    names = list(sources)
    for name, (_, tested, read) in sources.items():
        for number in range(config.test_sequences):
            chosen = _draw(tested, config, (1, names.index(name), number))
            for i, image in enumerate(_sequence(chosen, read, size, (config.seed, 1, number))):
                file = (
                    out / "test" / f"{name}-{number}" / f"{i:02}-{('input', 'target')[i % 2]}.png"
                )
                _write_png(file, image)
    clips = []
    with written_aside(out / "frames.u8") as aside, aside.open("wb") as file:
        numbers = range(config.sequences)
        for number in tqdm(numbers, desc="make prompts", unit="sequence"):
            name = names[number % len(names)]
            training, _, read = sources[name]
            chosen = _draw(training, config, (0, number))
            for image in _sequence(chosen, read, size, (config.seed, 0, number)):
                image.tofile(file)
            at = number * frames
            clips.append({"file": f"{number:09}-{name}", "start": at, "length": frames})
    manifest = {
        "name": "visual_prompts",
        "kind": "video",
        "size": size,
        "stride": 1,
        "seed": config.seed,
        "resizer": IMAGE_RESIZER,
        "frames": config.sequences * frames,
        "clips": clips,
        "skipped": [],
        "in_part": [],
    }
    write_json(out / "manifest.json", manifest)  # last: the data set is complete with it
    print(f"results: {out}, {out / 'test'}")


Reader = Callable[[Path, int, np.random.Generator], Pair]


def _sources(config: VisualPromptsConfig) -> dict[str, tuple[list[Path], list[Path], Reader]]:
    """Return, for each task, its training files, its test files and the reader of a pair."""
    found: dict[str, tuple[list[Path], list[Path], Reader]] = {}
    if config.data is not None:
        files = _divided(config.data, config)
        for name in config.tasks:
            found[name] = (*files, _reader(TASKS[name]))
    if config.pairs is None:
        return found
    folders = sorted(one for one in config.pairs.glob("*") if one.is_dir())
    if not folders:
        raise ValueError(f"pairs: {config.pairs} has no subfolder")
    for folder in folders:
        if folder.name in found:
            raise ValueError(f"pairs: {folder} has the name of a task in `tasks`")
        files = _divided(folder / "input", config)
        for file in (*files[0], *files[1]):
            if not _target(file).is_file():
                raise ValueError(f"{file} has no target {_target(file)}")
        found[folder.name] = (*files, _read_pair)
    return found


def _divided(folder: Path, config: VisualPromptsConfig) -> tuple[list[Path], list[Path]]:
    """Return the training and the test images of a folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images")
    files = walk(folder, IMAGE_SUFFIXES)
    tested = files[HOLD_OUT - 1 :: HOLD_OUT] if config.test_sequences else []
    training = [file for file in files if file not in set(tested)]
    for part in (training, tested) if config.test_sequences else (training,):
        if len(part) < config.examples:
            raise ValueError(
                f"{folder} has {len(files)} images, too few for sequences of {config.examples} "
                f"examples: one of {HOLD_OUT} images is for tests, so "
                f"{HOLD_OUT * config.examples} are needed, or test_sequences=0"
            )
    return training, tested


def _draw(files: list[Path], config: VisualPromptsConfig, place: tuple[int, ...]) -> list[Path]:
    """Draw the images of a sequence, all different."""
    generator = np.random.default_rng((config.seed, *place))
    return [files[i] for i in generator.choice(len(files), config.examples, replace=False)]


def _sequence(files: Sequence[Path], read: Reader, size: int, seed: tuple[int, ...]) -> list[Image]:
    """Return the inputs and targets of a sequence in turn, uint8 [size size 3] each."""
    generator = np.random.default_rng(seed)
    return [np.ascontiguousarray(image) for file in files for image in read(file, size, generator)]


def _reader(task: Callable[[Image, np.random.Generator], Pair]) -> Reader:
    return lambda file, size, generator: task(read_square(file, size, 0.5, 0.5), generator)


def _read_pair(file: Path, size: int, generator: np.random.Generator) -> Pair:
    return read_square(file, size, 0.5, 0.5), read_square(_target(file), size, 0.5, 0.5)


def _target(file: Path) -> Path:
    parts = list(file.parts)
    place = len(parts) - 1 - parts[::-1].index("input")
    return Path(*parts[:place], "target", *parts[place + 1 :])


def _edges(image: Image, _: np.random.Generator) -> Pair:
    edges = cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), *CANNY)
    return image, np.repeat(edges[..., None], 3, axis=2).astype(np.uint8)


def _colour(image: Image, _: np.random.Generator) -> Pair:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), image


def _fill(image: Image, generator: np.random.Generator) -> Pair:
    side = round(SHARE * len(image))
    y, x = generator.integers(0, len(image) - side + 1, 2)
    hidden = image.copy()
    hidden[y : y + side, x : x + side] = HIDDEN
    return hidden, image


def _sharpen(image: Image, _: np.random.Generator) -> Pair:
    size = len(image)
    small = cv2.resize(image, (size // BLUR, size // BLUR), interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    return blurred.astype(np.uint8), image


def _rotate(image: Image, _: np.random.Generator) -> Pair:
    return image, np.rot90(image)


def _mirror(image: Image, _: np.random.Generator) -> Pair:
    return image, image[:, ::-1]


TASKS: dict[str, Callable[[Image, np.random.Generator], Pair]] = {
    "edges": _edges,
    "colour": _colour,
    "fill": _fill,
    "sharpen": _sharpen,
    "rotate": _rotate,
    "mirror": _mirror,
}


def _write_png(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    assert written
    write_aside(path, data.tobytes())


main = command("visual_prompts", VisualPromptsConfig)(visual_prompts)

if __name__ == "__main__":
    main()
