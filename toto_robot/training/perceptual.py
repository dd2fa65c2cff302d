"""The perceptual loss LPIPS with the network VGG16 (Zhang et al., arXiv 1801.03924).

VGG16 was trained with ImageNet labels, so a tokenizer that is trained with this loss uses these
labels indirectly. The paper avoids this (section 3.4). Therefore the loss is off by default, and
its weights are not shipped: the user must download the two files.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..tokenizers.unpickle import read_state

__all__ = ["PerceptualLoss", "load_perceptual"]

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG16
# shift and scale that LPIPS applies to images in [-1, 1], from the colour statistics of ImageNet
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class PerceptualLoss(nn.Module):
    """A distance between two images: weighted squared differences of their features in VGG16.

    The features after each of the five stages are normalised before the difference.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, stages: tuple[tuple[int, ...], ...] = STAGES) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.linear = nn.ParameterList()
        previous = 3
        for widths in stages:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
                previous = width
            self.stages.append(nn.Sequential(*layers))
            self.linear.append(torch.rand(previous))
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, one: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]) -> Tensor:
        """Return the mean distance of b pairs of images, one from each batch, in [-1, 1]."""
        x, y = ((images - self.shift) / self.scale for images in (one, other))
        total = x.new_zeros(())
        for i, (stage, weight) in enumerate(zip(self.stages, self.linear, strict=True)):
            if i > 0:
                x, y = (nn.functional.max_pool2d(part, 2) for part in (x, y))
            x, y = stage(x), stage(y)
            difference = (_unit(x) - _unit(y)).square()
            total = total + (difference * weight[:, None, None]).sum(1).mean()
        return total


def load_perceptual(vgg: Path, linear: Path) -> PerceptualLoss:
    """Load the loss from the two published files. No code in the files is executed.

    Args:
        vgg: state dict of VGG16 from torchvision. Its classifier is not used.
        linear: the file ``vgg.pth`` of LPIPS, with a weight for each feature channel.
    """
    loss = PerceptualLoss()
    features, weights = read_state(vgg), read_state(linear)
    position = 0  # torchvision also counts activations and pooling layers
    for stage in loss.stages:
        for layer in stage.children():
            if isinstance(layer, nn.Conv2d):
                for name in ("weight", "bias"):
                    _copy(vgg, features, f"features.{position}.{name}", layer.get_parameter(name))
            position += 1
        position += 1
    for i, weight in enumerate(loss.linear):
        _copy(linear, weights, f"lin{i}.model.1.weight", weight[None, :, None, None])
    return loss


@torch.no_grad()
def _copy(file: Path, state: dict[str, Tensor], name: str, to: Tensor) -> None:
    if name not in state:
        raise ValueError(f"{file} has no {name}; it has {sorted(state)[:5]} ...")
    if state[name].shape != to.shape:
        raise ValueError(f"{file}: {name} is {tuple(state[name].shape)}, needed {tuple(to.shape)}")
    to.copy_(state[name])


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
