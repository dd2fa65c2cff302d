"""Small frames as codes, for a convolutional network that is trained end to end with the policy.

The frozen encoders compute embeddings with fixed weights. Here the embedding of a frame is its
pixels, and the network that reads them belongs to the student: `NatureCNN` of Stable-Baselines3,
after Mnih et al., Nature 518 (2015).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from toto_robot.encoders.contract import Codes
from toto_robot.encoders.pixels import Pixels
from toto_robot.tokenizers.tokenizer import check_frames

SMALLEST = 36  # pixels; NatureCNN has no output for smaller images


class SmallFrames(Pixels):
    """An encoder without a model: the codes of a frame are its pixels in uint8, at a small size."""

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size, "frame")

    def __call__(self, frames: np.ndarray | Tensor) -> NDArray[np.float32]:
        """Return the embeddings float32 [b e] of uint8 RGB frames [b h w 3]."""
        return self.embed(self.compress(frames))

    def compress(self, frames: np.ndarray | Tensor) -> NDArray[np.uint8]:
        """Return the pixels [b e] of uint8 RGB frames [b h w 3], in the order colour, row, column.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, channels or number of dimensions are wrong.
        """
        pixels = check_frames(frames).cpu().permute(0, 3, 1, 2).float()
        return adaptive_avg_pool2d(pixels, self.image_size).round().byte().flatten(1).numpy()

    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e], in [-1, 1], of frames from their pixels [b e].

        Raises:
            ValueError: the codes are not pixels in uint8.
        """
        if codes.dtype != np.uint8:
            raise ValueError(f"these codes are {codes.dtype}, but pixels are uint8")
        return codes.astype(np.float32) / np.float32(127.5) - 1


def build_cnn(image_size: int, outputs: int) -> nn.Module:
    """Return a convolutional network with random weights, from embeddings [b e] to [b outputs].

    Raises:
        ImportError: Stable-Baselines3 is not installed.
    """
    from gymnasium.spaces import Box

    shape = (3, image_size, image_size)
    image = Box(-1.0, 1.0, shape, np.float32)
    return nn.Sequential(
        nn.Unflatten(1, shape), nature_cnn()(image, features_dim=outputs, normalized_image=True)
    )


def nature_cnn() -> Any:
    """Return the class `NatureCNN`.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
    """
    try:
        from stable_baselines3.common.torch_layers import NatureCNN
    except ImportError as error:
        raise ImportError(
            "encoder=cnn needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error
    return NatureCNN
