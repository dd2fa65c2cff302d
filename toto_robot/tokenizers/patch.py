"""Convert frames to patches of pixels in raster order, and patches to frames.

The patches are used as continuous tokens. The conversion has no parameters and loses no
information. A token contains the colours of one patch, pixel by pixel, as the targets of the masked
autoencoder do (He et al. 2021).

Letters in shapes: b frames with a side of s pixels, n patches per frame with a side of p pixels,
and c = 3 p p values per patch.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

__all__ = ["from_patches", "normalise_patches", "to_patches"]

VARIANCE_EPS = 1e-6


def to_patches(images: Float[Tensor, "b 3 s s"], patch_size: int) -> Float[Tensor, "b n c"]:
    """Return the patches of images. The order of the c values is: rows, columns, colours.

    Raises:
        ValueError: the image sides are not multiples of the patch size.
    """
    if images.shape[2] % patch_size or images.shape[3] % patch_size:
        raise ValueError(
            f"sides must be multiples of the patch size {patch_size}, got {tuple(images.shape[2:])}"
        )
    cells = pixel_unshuffle(images, patch_size)  # b 3*p*p i j, colours outermost
    tokens = cells.flatten(2).transpose(1, 2)  # b n 3*p*p
    return tokens.unflatten(2, (3, -1)).transpose(2, 3).flatten(2)


def from_patches(tokens: Float[Tensor, "b n c"], patch_size: int) -> Float[Tensor, "b 3 s s"]:
    """Return square images from their patches; this is the inverse of `to_patches`.

    Raises:
        ValueError: the number of patches is not a square, or c does not match the patch size.
    """
    side = round(tokens.shape[1] ** 0.5)
    if side**2 != tokens.shape[1] or tokens.shape[2] != 3 * patch_size**2:
        raise ValueError(
            f"expected n*n patches of {3 * patch_size**2} values, got {tuple(tokens.shape[1:])}"
        )
    cells = tokens.unflatten(2, (-1, 3)).transpose(2, 3).flatten(2).transpose(1, 2)
    return pixel_shuffle(cells.unflatten(2, (side, side)), patch_size)


def normalise_patches(tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Scale each token to mean 0 and variance 1 (He et al. 2021, section 4.1)."""
    mean = tokens.mean(dim=-1, keepdim=True)
    variance = tokens.var(dim=-1, keepdim=True)
    return (tokens - mean) / (variance + VARIANCE_EPS).sqrt()
