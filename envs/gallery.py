"""`python -m envs.gallery`: write one image that shows all environments, with randomisations.

Each row shows one environment: a task with an arm. The first block of columns contains the images
of the selected cameras without randomisation. Each further block contains the images of the same
cameras with one randomisation group. All images show the start of an episode with the same seed.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command

from . import ENVIRONMENTS
from .catalogue import make

__all__ = ["GalleryConfig", "draw_gallery", "gallery"]

Image = NDArray[np.uint8]

_GAP_PX, _WIDE_GAP_PX, _LABEL_PX, _HEADER_PX = 2, 8, 22, 40
_BACKGROUND, _INK = 255, (30, 30, 30)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryConfig:
    """Settings of `gallery`.

    Attributes:
        protocol: `robot` or `pixmc`.
        cameras: names of the cameras, for example `front`.
        image_size: height and width of each camera image, pixels.
        groups: names of randomisation groups; each adds one block of columns.
        seed: seed of every episode.
    """

    protocol: str
    cameras: tuple[str, ...]
    image_size: int
    groups: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("cameras must name at least one camera")


def gallery(config: GalleryConfig, out: Path) -> None:
    """Draw all environments and write `out/gallery.png`."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "gallery.png"
    image = draw_gallery(config)
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    height, width = image.shape[:2]
    print(f"{path}: {width} x {height} pixels, {path.stat().st_size / 1e6:.2f} MB")


def draw_gallery(config: GalleryConfig) -> Image:
    """Return one image [h w 3] that consists of the camera images of all environments."""
    header = [_space(_HEADER_PX, _LABEL_PX)]
    for group in ("nominal", *config.groups):
        names = [_write(name, _HEADER_PX // 2, config.image_size) for name in config.cameras]
        below = _join(names, _GAP_PX, axis=1)
        above = _write(group, _HEADER_PX // 2, below.shape[1])
        header.append(np.concatenate([above, below]))
    rows = [_join(header, _WIDE_GAP_PX, axis=1)]
    for env_id in tqdm(ENVIRONMENTS, desc="gallery", unit="task"):
        name = _write(env_id.removeprefix("toto/"), _LABEL_PX, config.image_size)
        choices: list[tuple[str, ...]] = [(), *((group,) for group in config.groups)]
        tiles = [
            _join(_first_images(config, env_id, groups), _GAP_PX, axis=1) for groups in choices
        ]
        rows.append(_join([np.rot90(name), *tiles], _WIDE_GAP_PX, axis=1))
    return _join(rows, _GAP_PX, axis=0)


def _first_images(config: GalleryConfig, env_id: str, groups: tuple[str, ...]) -> list[Image]:
    """Return the image of every camera after a reset, with these randomisation groups."""
    env = make(
        env_id=env_id,
        protocol=config.protocol,
        cameras=config.cameras,
        image_size=config.image_size,
        randomise=groups,
    )
    observation, _ = env.reset(seed=config.seed)
    env.close()
    return [observation[f"image_{camera}"] for camera in config.cameras]


def _write(text: str, height: int, width: int) -> Image:
    """Return an image [height width 3] with a text in the centre."""
    strip = _space(height, width)
    (wide, tall), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    at = (max(0, (width - wide) // 2), (height + tall) // 2)
    cv2.putText(strip, text, at, _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
    return strip


def _join(images: list[Image], gap_px: int, axis: int) -> Image:
    """Join images with gaps of `gap_px` pixels.

    With `axis` 1, images of equal height are joined side by side. With `axis` 0, images of equal
    width are joined one below the other.
    """
    height, width = images[0].shape[:2]
    gap = _space(height, gap_px) if axis == 1 else _space(gap_px, width)
    joined = [piece for image in images for piece in (image, gap)][:-1]
    return np.concatenate(joined, axis=axis)


def _space(height: int, width: int) -> Image:
    return np.full((height, width, 3), _BACKGROUND, np.uint8)


main = command("gallery", GalleryConfig)(gallery)

if __name__ == "__main__":
    main()
