"""Read, write and draw the masks of objects in images, in the file format of DAVIS.

A mask is uint8 [h w]: 0 is the background, k is object k. DAVIS-2017 saves it as a PNG file with a
palette, whose indices are the numbers of the objects; 255 marks pixels that belong to no object.
DAVIS-2016 saves the mask of its single object as a grey image with the values 0 and 255.
"""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.images import read_image
from ..files import write_aside

__all__ = ["draw_mask", "object_colours", "read_mask", "write_mask"]

Mask = NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NO_OBJECT = 255  # index of pixels that belong to no object
OPACITY = 0.5  # of drawn masks


def read_mask(path: Path) -> Mask:
    """Read a mask from a PNG file, with a palette or grey.

    A grey image without other values than 0 and 255 has one object. In other images, 255 is read as
    background.

    Raises:
        ValueError: the file is not a readable image, or has colours without a palette. The message
            names the file.
    """
    image = read_image(path)
    palette = _palette(path.read_bytes())
    if palette is not None:
        codes = _codes(palette)[::-1]  # of equal colours, the first index counts
        index_of = np.zeros(1 << 24, np.uint8)
        index_of[codes] = np.arange(len(codes))[::-1]
        mask = index_of[_codes(image)]
    else:
        mask = image[..., 0]
        if (image != mask[..., None]).any():
            raise ValueError(f"{path} is a colour image; a mask needs a palette or grey values")
        if not np.any((mask > 0) & (mask < NO_OBJECT)):
            return (mask > 0).astype(np.uint8)
    return np.where(mask == NO_OBJECT, 0, mask).astype(np.uint8)


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask to a PNG file with a palette, as DAVIS-2017 does."""
    height, width = mask.shape
    rows = np.pad(mask, ((0, 0), (1, 0)))  # each row begins with 0, the filter `none`
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": object_colours().tobytes(),
        b"IDAT": zlib.compress(rows.tobytes(), 1),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    write_aside(path, PNG_SIGNATURE + b"".join(chunks))


def object_colours() -> NDArray[np.uint8]:
    """Return the colours [256 3] of the objects in DAVIS, which are those of Pascal VOC.

    Bit b of red, green and blue (counted from the most significant bit) are bits 3 b, 3 b + 1 and
    3 b + 2 of the index.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def draw_mask(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """Return an image [h w 3] with the objects of a mask in colour, each with a white outline."""
    drawn = image.copy()
    inside = mask > 0
    mixed = (1 - OPACITY) * image[inside] + OPACITY * object_colours()[mask[inside]]
    drawn[inside] = mixed.astype(np.uint8)
    for k in np.unique(mask[inside]):
        outlines, _ = cv2.findContours(
            (mask == k).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1)
    return drawn


def _codes(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return each colour [... 3] as one number."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def _palette(data: bytes) -> NDArray[np.uint8] | None:
    """Return the colours [k 3] of the palette of a PNG file; None if its pixels are no indices."""
    if not data.startswith(PNG_SIGNATURE) or data[25] != 3:  # the colour type, in the header chunk
        return None
    at = len(PNG_SIGNATURE)
    while data[at + 4 : at + 8] != b"PLTE":
        at += 12 + int.from_bytes(data[at : at + 4])
    size = int.from_bytes(data[at : at + 4])
    return np.frombuffer(data, np.uint8, size, at + 8).reshape(-1, 3)
