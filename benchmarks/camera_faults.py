"""Simulated camera faults that a monitor should detect.

    python -m benchmarks.camera_faults faults.png        # one image with all faults

A fault is a function that changes all frames from a given frame on. Its arguments are these frames,
the last frame before them, and a random generator. The generator draws the position, brightness or
direction of the fault.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAULTS", "Fault"]

Frames = NDArray[np.uint8]  # t h w 3
Fault = Callable[[Frames, Frames, np.random.Generator], Frames]

_PATCH = 0.3125  # side of a patch as a share of the image side, so a patch is a tenth of the area
_ARRIVAL_FRAMES = 5


def _black(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    return np.zeros_like(frames)


def _half_dead(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Set the lower half to black."""
    broken = frames.copy()
    broken[:, frames.shape[1] // 2 :] = 0
    return broken


def _frozen(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    return np.repeat(before[None], len(frames), axis=0)


def _grey_patch(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    rows, columns = _place(frames, rng)
    broken = frames.copy()
    broken[:, rows, columns] = rng.integers(40, 200)
    return broken


def _textured_patch(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Cover a tenth of the image with coloured squares."""
    rows, columns = _place(frames, rng)
    broken = frames.copy()
    height, width = broken[0, rows, columns].shape[:2]
    squares = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
    across, down = np.arange(width) * 10 // width, np.arange(height) * 10 // height
    broken[:, rows, columns] = squares[down[:, None], across]
    return broken


def _hand(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Move a dark ellipse from the edge into the image, where it stays. It covers a tenth of it."""
    broken = frames.copy()
    height, width = frames.shape[1:3]
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    end, angle = rng.uniform(0.25, 0.75, 2), rng.uniform(0, 2 * np.pi)
    along, across = (
        np.array([np.sin(angle), np.cos(angle)]),
        np.array([np.cos(angle), -np.sin(angle)]),
    )
    for index, frame in enumerate(broken):
        away = 0.7 * max(0.0, 1 - (index + 1) / _ARRIVAL_FRAMES)
        y, x = end + away * along
        u = (rows - y) * along[0] + (columns - x) * along[1]
        v = (rows - y) * across[0] + (columns - x) * across[1]
        frame[(u / 0.227) ** 2 + (v / 0.14) ** 2 < 1] = (45, 32, 28)
    return broken


def _moved(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Shift the image by a tenth of its side, as if the camera was moved."""
    return np.roll(frames, _pixels(frames, (0.07, -0.094)), axis=(1, 2))


def _nudged(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Shift the image by a fortieth of its side, as if the camera was moved slightly."""
    return np.roll(frames, _pixels(frames, (0.0157, -0.0235)), axis=(1, 2))


def _recoloured(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Exchange red and blue."""
    return np.ascontiguousarray(frames[..., ::-1])


def _dimmed(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    return (frames * 0.45).astype(np.uint8)


def _blurred(frames: Frames, before: Frames, rng: np.random.Generator) -> Frames:
    """Average over 5 x 5 pixels in images of 128 x 128 pixels, and over more in larger images."""
    reach = max(1, round(frames.shape[1] / 64))
    image = frames.astype(np.float32)
    for axis in (1, 2):
        image = np.mean([np.roll(image, s, axis) for s in range(-reach, reach + 1)], axis=0)
    return image.astype(np.uint8)


FAULTS: dict[str, Fault] = {
    "black": _black,
    "half dead": _half_dead,
    "frozen": _frozen,
    "grey patch": _grey_patch,
    "textured patch": _textured_patch,
    "hand": _hand,
    "moved": _moved,
    "nudged": _nudged,
    "recoloured": _recoloured,
    "dimmed": _dimmed,
    "blurred": _blurred,
}


def _place(frames: Frames, rng: np.random.Generator) -> tuple[slice, slice]:
    """Return the rows and columns of a random square patch inside the image."""
    sides = []
    for length in frames.shape[1:3]:
        size = round(length * _PATCH)
        start = int(rng.integers(0, length - size + 1))
        sides.append(slice(start, start + size))
    return sides[0], sides[1]


def _pixels(frames: Frames, shares: tuple[float, float]) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    return round(shares[0] * height), round(shares[1] * width)


def main() -> None:
    """Write an image that shows a frame of an environment without a fault and with each fault."""
    # imported here, because users of the fault functions need only NumPy
    import cv2
    import gymnasium

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    path = parser.parse_args().image
    env = gymnasium.make("envs:toto/FrankaPick-v0", cameras=("front",), randomise=())
    usual = env.reset(seed=6_900_100)[0]["image_front"]
    env.action_space.seed(0)
    later = env.step(env.action_space.sample())[0]["image_front"]
    env.close()
    images = {"usual": usual}
    for number, (name, fault) in enumerate(FAULTS.items()):
        rng = np.random.default_rng(number)
        images[name] = fault(np.stack([later] * 9), usual, rng)[-1]
    tiles = []
    for name, image in images.items():
        tile = np.pad(image, ((18, 2), (2, 2), (0, 0)), constant_values=255)
        cv2.putText(tile, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    rows = [np.concatenate(tiles[start : start + 6], axis=1) for start in range(0, len(tiles), 6)]
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1].copy(), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{len(tiles)} images: {path}")


if __name__ == "__main__":
    main()
