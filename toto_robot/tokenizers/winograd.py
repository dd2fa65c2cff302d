"""The DALL-E layout's encoder in fewer multiplications: the same tokens, for a CPU without VNNI.

    tokenizer = WinogradDalle(dalle)

Three quarters of that encoder are 3 x 3 convolutions. Winograd's minimal filtering computes tiles
of 4 x 4 outputs from tiles of 6 x 6 inputs with 36 multiplications for each pair of channels in the
place of 144, and of 2 x 2 from 4 x 4 with 16 in the place of 36 (Lavin and Gray, arXiv 1509.09308,
section 4). What is left are products of matrices, at which a CPU is best, and sums. Logits differ
from those of the convolutions by a few parts in a million, so of two codes that are as good as
equal the other may win.

Shapes: h w height and width, c channels in, o channels out, m outputs along a side of a tile.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv2d

from .dvae import DalleDVae, with_margin
from .tokenizer import check_frames, frames_to_unit

__all__ = ["WinogradConv", "WinogradDalle"]

_TILES = 128  # at a time: enough rows for a product at full speed, and they stay in the cache
_SMALL = 16  # a side up to which tiles are few, so that reading the weights would cost most

# What the filter's rows and columns are multiplied by, arXiv 1509.09308, equation 9 and section 4.3
_FILTER = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}  # fmt: skip


class WinogradDalle(nn.Module):
    """A `DalleDVae` whose `encode` takes about 0.6 of the time, in float32 on the CPU.

    It shares the parameters, under the same names, so its weights' hash is the same, and so are
    fingerprints. Transformed weights are computed here, once: it sees no weights that are loaded
    later. They take 1.8 times the memory of the encoder's own, and stay on the CPU.

    Raises:
        ValueError: another dtype or device, or a side that is no multiple of 16.
    """

    def __init__(self, dalle: DalleDVae) -> None:
        super().__init__()
        weights = dalle.encoder.state_dict()
        weight = weights["blocks.input.w"]
        dtypes = {tensor.dtype for tensor in weights.values()}
        if dtypes != {torch.float32} or weight.device.type != "cpu":
            names = " and ".join(sorted(str(dtype) for dtype in dtypes))
            raise ValueError(
                f"this is for float32 on the CPU, the tokenizer is {names} on {weight.device}"
            )
        if dalle.image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16 pixels, got {dalle.image_size}")
        self.config = dalle.config
        self.image_size = dalle.image_size
        self.vocab_size = dalle.vocab_size
        self.tokens_per_frame = dalle.tokens_per_frame
        self.encoder = dalle.encoder
        self.decoder = dalle.decoder
        self._decode = dalle.decode
        self._input = (
            weight.clone(memory_format=torch.channels_last),
            weights["blocks.input.b"].clone(),
        )
        self._output = (
            weights["blocks.output.conv.b"].clone(),
            weights["blocks.output.conv.w"].flatten(1).T.clone(),
        )
        count = dalle.config.blocks_per_group
        gain = 1 / (4 * count) ** 2  # as in `DalleDVae`
        self._groups = [
            [
                _Block(
                    _part(weights, f"blocks.group_{level + 1}.block_{number}."),
                    gain,
                    dalle.image_size >> level,
                )
                for number in range(1, count + 1)
            ]
            for level in range(4)
        ]

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b h w 3"]) -> Int64[Tensor, "b n"]:
        """Tokenise RGB frames of any size, as `DalleDVae.encode` does."""
        images = frames_to_unit(check_frames(frames).cpu(), self.image_size, torch.float32)
        ids = [self.logits(image).argmax(1) for image in with_margin(images)]
        return torch.stack(ids) if ids else torch.empty(0, self.tokens_per_frame, dtype=torch.int64)

    def decode(self, ids: Int64[Tensor, "b n"]) -> UInt8[Tensor, "b s s 3"]:
        """Reconstruct RGB frames, by `DalleDVae.decode`."""
        return self._decode(ids)

    def logits(self, image: Float[Tensor, "3 s s"]) -> Float[Tensor, "n v"]:
        """Return the logits of the codes of one picture, which has the margin of logit-Laplace."""
        weight, bias = self._input
        picture = image[None].contiguous(memory_format=torch.channels_last)
        x = conv2d(picture, weight, bias, padding=weight.shape[2] // 2)[0].permute(1, 2, 0)
        for level, blocks in enumerate(self._groups):
            if level:
                x = torch.maximum(x[::2], x[1::2])
                x = torch.maximum(x[:, ::2], x[:, 1::2])
            for block in blocks:
                x = block(x)
        bias, weight = self._output
        return torch.addmm(bias, x.flatten(0, 1).relu_(), weight)


class WinogradConv:
    """A 3 x 3 convolution of a square picture of a known side, padded by zeros.

    Args:
        weight: [o c 3 3].
        bias: [o].
        side: of the picture, even.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        self._tile = 4 if side % 4 == 0 and side > _SMALL else 2
        outer = torch.tensor(_FILTER[self._tile], dtype=torch.float64)
        transformed = torch.einsum("ki,ocij,lj->klco", outer, weight.double(), outer)
        self._weight = transformed.float().flatten(0, 1).contiguous()  # k*l c o
        self._bias, self._side = bias, side
        tiles = side // self._tile
        # so many rows of tiles are done at a time
        self._strip = max(
            s for s in range(1, tiles + 1) if tiles % s == 0 and s * tiles <= max(_TILES, tiles)
        )

    def __call__(self, x: Float[Tensor, "h w c"]) -> Float[Tensor, "h w o"]:
        """Convolve relu(x)."""
        m, side, strip = self._tile, self._side, self._strip
        k, tiles = m + 2, self._side // self._tile
        channels, outputs = self._weight.shape[1:]
        transform, restore = (_inputs4, _outputs4) if m == 4 else (_inputs2, _outputs2)
        padded = x.new_zeros(side + 2, side + 2, channels)
        torch.clamp(x, min=0, out=padded[1:-1, 1:-1])
        y = x.new_empty(side, side, outputs)
        # one buffer for each step, since the allocator would else return fresh, cold pages
        rows = x.new_empty(k, strip, side + 2, channels)
        inputs = x.new_empty(k, k, strip, tiles, channels)
        products = x.new_empty(k * k, strip * tiles, outputs)
        halves = x.new_empty(m, k, strip, tiles, outputs)
        for first in range(0, tiles, strip):
            part = padded[first * m : (first + strip) * m + 2]
            transform([part[i : i + (strip - 1) * m + 1 : m] for i in range(k)], list(rows))
            columns = [rows[:, :, j : j + (tiles - 1) * m + 1 : m] for j in range(k)]
            transform(columns, list(inputs.unbind(1)))
            torch.bmm(inputs.view(k * k, strip * tiles, channels), self._weight, out=products)
            restore(list(products.view(k, k, strip, tiles, outputs)), list(halves))
            target = y[first * m : (first + strip) * m].view(strip, m, tiles, m, outputs)
            restore(list(halves.unbind(1)), [target[:, :, :, j].transpose(0, 1) for j in range(m)])
        return y.add_(self._bias)


class _Block:
    """A residual block: three 3 x 3 convolutions, a 1 x 1, and its gain folded into the weights."""

    def __init__(self, weights: Mapping[str, Tensor], gain: float, side: int) -> None:
        self._convs = [
            WinogradConv(weights[f"res_path.conv_{i}.w"], weights[f"res_path.conv_{i}.b"], side)
            for i in (1, 2, 3)
        ]
        self._weight = gain * weights["res_path.conv_4.w"].flatten(1).T
        self._bias = gain * weights["res_path.conv_4.b"]
        self._short: Tensor | None = None
        if "id_path.w" in weights:
            self._short = weights["id_path.w"].flatten(1).T.clone()
            self._bias = self._bias + weights["id_path.b"]

    def __call__(self, x: Float[Tensor, "h w c"]) -> Float[Tensor, "h w o"]:
        flat, hidden = x.flatten(0, 1), x
        for conv in self._convs:
            hidden = conv(hidden)
        if self._short is None:
            out = flat + self._bias
        else:
            out = torch.addmm(self._bias, flat, self._short)
        return out.addmm_(hidden.flatten(0, 1).relu_(), self._weight).unflatten(0, x.shape[:2])


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


# The input's transforms and the output's, along one side of all tiles: the matrices B and A of
# arXiv 1509.09308, with what two rows share computed once.


def _inputs2(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    torch.sub(x[0], x[2], out=out[0])
    torch.add(x[1], x[2], out=out[1])
    torch.sub(x[2], x[1], out=out[2])
    torch.sub(x[1], x[3], out=out[3])


def _outputs2(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    torch.add(x[0], x[1] + x[2], out=out[0])
    torch.sub(x[1] - x[2], x[3], out=out[1])


def _inputs4(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    torch.add(torch.add(x[4], x[2], alpha=-5), x[0], alpha=4, out=out[0])
    even, odd = torch.add(x[4], x[2], alpha=-4), torch.add(x[3], x[1], alpha=-4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(x[4], x[2], out=even)
    torch.sub(x[3], x[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.add(even, odd, alpha=-2, out=out[4])
    torch.add(torch.add(x[5], x[3], alpha=-5, out=even), x[1], alpha=4, out=out[5])


def _outputs4(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    near_sum, near_difference = x[1] + x[2], x[1] - x[2]
    far_sum, far_difference = x[3] + x[4], x[3] - x[4]
    torch.add(x[0], near_sum, out=out[0]).add_(far_sum)
    torch.add(near_difference, far_difference, alpha=2, out=out[1])
    torch.add(near_sum, far_sum, alpha=4, out=out[2])
    torch.add(near_difference, far_difference, alpha=8, out=out[3]).add_(x[5])
