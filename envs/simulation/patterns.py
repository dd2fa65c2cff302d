"""Grey surface patterns, such as planks, which are multiplied by the colour of a surface."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .scene import Pattern

PATTERNS: tuple[Pattern, ...] = ("plain", "checker", "planks", "speckle", "blotches")
SIZE_PX = 128


def draw_pattern(name: Pattern) -> NDArray[np.uint8]:
    """Return a pattern as an image [h w 3] with grey levels from about 150 to 255.

    Every call with the same name returns the same image.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PATTERNS:
        raise ValueError(f"unknown pattern {name!r}; known: {', '.join(PATTERNS)}")
    rng = np.random.default_rng(PATTERNS.index(name))
    grey = _DRAW[name](rng)
    grey = np.clip(grey, 0.0, 1.0) * 255
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)  # h w 3


def _plain(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.ones((SIZE_PX, SIZE_PX))


def _checker(rng: np.random.Generator) -> NDArray[np.float64]:
    row, column = np.indices((SIZE_PX, SIZE_PX)) // (SIZE_PX // 2)
    return np.where((row + column) % 2 == 0, 1.0, 0.82)


def _planks(rng: np.random.Generator) -> NDArray[np.float64]:
    num_planks = 4
    tone = np.repeat(rng.uniform(0.82, 0.98, num_planks), SIZE_PX // num_planks)[:, None]
    grain = _smooth(rng.standard_normal((SIZE_PX, SIZE_PX)), rows=1, columns=24)
    seam = (np.arange(SIZE_PX) % (SIZE_PX // num_planks) == 0)[:, None] * 0.2
    return tone + 0.08 * grain / np.abs(grain).max() - seam


def _speckle(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0.72, 1.0, (SIZE_PX, SIZE_PX))


def _blotches(rng: np.random.Generator) -> NDArray[np.float64]:
    noise = _smooth(rng.standard_normal((SIZE_PX, SIZE_PX)), rows=12, columns=12)
    return 0.8 + 0.25 * noise / np.abs(noise).max()


def _smooth(noise: NDArray[np.float64], *, rows: int, columns: int) -> NDArray[np.float64]:
    """Blur noise [h w] with a Gaussian of the widths `rows` and `columns`, pixels.

    The blur is computed in the Fourier domain, so that repeated patterns have no visible seam.
    """
    frequency = np.fft.fftfreq(SIZE_PX)
    kernel = np.exp(-2 * (np.pi * frequency[:, None] * rows) ** 2) * np.exp(
        -2 * (np.pi * frequency[None, :] * columns) ** 2
    )
    return np.fft.ifft2(np.fft.fft2(noise) * kernel).real


_DRAW: dict[Pattern, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "plain": _plain,
    "checker": _checker,
    "planks": _planks,
    "speckle": _speckle,
    "blotches": _blotches,
}
