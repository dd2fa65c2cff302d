"""Measure the time of an epoch of attention probes at all layers, against a pass of the encoder.

    OMP_NUM_THREADS=1 python -m benchmarks.attention_probe [encoder ...]

The probes of all layers are trained together on cached features of random images, as in the
commands `imagenet` and `kinetics`. The ratio is the time of an epoch, divided by the time in which
the encoder computes these features. The tokenizer and the writing of the cache do not count. The
exit code is 1 if the ratio is above 1.5.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.timing import cpu_clock
from toto_robot import load_encoder
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.doctor import processor
from toto_robot.probing.layer_features import open_layers
from toto_robot.recognition.imagenet import ImageNetConfig
from toto_robot.recognition.probe import Examples, Probe
from toto_robot.training.parallel import join_ranks

ENCODERS = ("toto-nano", "mae-nano")
IMAGES, CLASSES = 256, 100
EPOCHS = (1, 5)  # their difference does not contain the start and the end of a training
ROUNDS = 2  # the smallest time counts
LIMIT = 1.5


def main() -> None:
    """Print the times and the ratio for each encoder; exit with 1 if a ratio is too large."""
    rows = [(name, *_seconds(name)) for name in sys.argv[1:] or ENCODERS]
    print(f"{IMAGES} images, attention probes of all layers, {processor()}")
    print(f"{'encoder':<12}{'layers':>7}{'forward s':>11}{'epoch s':>9}{'ratio':>7}")
    for name, layers, forward, epoch in rows:
        print(f"{name:<12}{layers:>7}{forward:>11.2f}{epoch:>9.2f}{epoch / forward:>7.2f}")
    if any(epoch > LIMIT * forward for *_, forward, epoch in rows):
        sys.exit(f"FAIL: an epoch takes more than {LIMIT} times the forward pass")


def _seconds(name: str) -> tuple[int, float, float]:
    """Return the number of layers, and the seconds of a forward pass and of an epoch."""
    config = from_dict(ImageNetConfig, compose("imagenet", ["engine.log_every=1000000"])[0])
    source, clock = open_layers(load_encoder(name)), cpu_clock()
    rng = np.random.default_rng(0)
    side, part = source.image_size, config.probe.part
    examples = Examples(
        inputs=source.compress(rng.integers(0, 256, (IMAGES, 1, side, side, 3), np.uint8)),
        labels=rng.integers(0, CLASSES, IMAGES),
        groups=np.arange(IMAGES),
        classes=tuple(map(str, range(CLASSES))),
        fingerprint=name,
    )
    forward, trainings = [], {number: [] for number in EPOCHS}
    with tempfile.TemporaryDirectory() as folder, join_ranks("cpu", None) as ranks:
        cache = Path(folder) / "cache"
        for number in range(ROUNDS):
            start = clock()
            for first in range(0, IMAGES, part):
                source.features(examples.inputs[first : first + part])
            forward.append(clock() - start)
            for epochs, seconds in trainings.items():
                settings = replace(config.probe, epochs=epochs)
                probe = Probe(source, examples, settings, cache, ranks)
                start = clock()
                probe.train(
                    np.arange(IMAGES), config.engine, Path(folder) / f"{epochs}-{number}", ranks
                )
                seconds.append(clock() - start)
    few, many = (min(seconds) for seconds in trainings.values())
    return len(source.layers), min(forward), (many - few) / (EPOCHS[1] - EPOCHS[0])


if __name__ == "__main__":
    main()
