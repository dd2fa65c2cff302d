"""A detection head for short-term anticipation, on the features of several layers of a Toto.

As in StillFast (Ragusa et al. 2023), features of several layers are fused in a pyramid of maps with
different resolutions. StillFast then has the two stages of Faster R-CNN. Our head has one stage, as
FCOS (Tian et al. 2019): each point of each map predicts a box, noun, verb and time to contact.

Shapes: b clips, l layers, n tokens of the last frame, d width, p points of all maps, k objects.
Boxes are x1, y1, x2, y2 as shares of the width and height of the image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy
from torch.nn.functional import cross_entropy, smooth_l1_loss, softplus

from ..data.ego4d_sta import StaObjects
from ..encoders.pooling import normalise
from ..models import CausalModel
from .sta_scores import box_overlaps

__all__ = ["StaHead", "StaModel", "StaOutput"]

SCALES = (0.5, 1.0, 2.0)  # stride of each map, in tokens
CELLS = 4  # an object belongs to the map in which it is about this number of points wide
MOST = 100  # largest number of predictions for an image, as in StillFast
SAME = 0.5  # predictions of one noun that overlap more are one object


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StaOutput:
    """The predictions at each point: logits of nouns and verbs, boxes, and times in seconds."""

    nouns: Float[Tensor, "b p nouns"]
    verbs: Float[Tensor, "b p verbs"]
    boxes: Float[Tensor, "b p 4"]
    times: Float[Tensor, "b p"]


class StaHead(nn.Module):
    """The pyramid and the predictions at its points.

    Args:
        layers: number of layers whose features are fused.
        dim: width of the features.
        side: number of rows and columns of tokens in a frame.
        width: number of channels of the maps.
        nouns: number of nouns.
        verbs: number of verbs.
    """

    centres: Tensor
    strides: Tensor
    levels: Tensor

    def __init__(
        self, layers: int, dim: int, side: int, *, width: int, nouns: int, verbs: int
    ) -> None:
        super().__init__()
        self._side, self._sizes = side, (nouns, verbs, 4, 1)
        self.fuse = nn.Linear(layers * dim, width)
        self.larger = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.smaller = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.tower = nn.Sequential(*[
            part
            for _ in range(2)
            for part in (nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(1, width), nn.SiLU())
        ])  # fmt: skip
        self.predict = nn.Conv2d(width, sum(self._sizes), 3, padding=1)
        nn.init.normal_(self.predict.weight, std=0.01)
        bias = torch.zeros(sum(self._sizes))
        bias[:nouns] = -math.log(99)  # few points have an object
        self.predict.bias = nn.Parameter(bias)
        centres, strides, levels = [], [], []
        for level, scale in enumerate(SCALES):
            rows = math.ceil(side / scale)
            place = (torch.arange(rows) + 0.5) * scale / side
            centres.append(torch.cartesian_prod(place, place).flip(1))  # x, y; rows first
            strides.append(torch.full((rows**2,), scale / side))
            levels.append(torch.full((rows**2,), level))
        self.register_buffer("centres", torch.cat(centres), persistent=False)
        self.register_buffer("strides", torch.cat(strides), persistent=False)
        self.register_buffer("levels", torch.cat(levels), persistent=False)

    def forward(self, features: Float[Tensor, "b l n d"]) -> StaOutput:
        """Return the predictions at all points."""
        fused = self.fuse(features.transpose(1, 2).flatten(2))  # b n w
        same = fused.transpose(1, 2).unflatten(2, (self._side, self._side))
        maps = (self.larger(same), same, self.smaller(same))
        outputs = [self.predict(self.tower(one)).flatten(2).transpose(1, 2) for one in maps]
        nouns, verbs, distances, times = torch.cat(outputs, dim=1).float().split(self._sizes, dim=2)
        sides = distances.clamp(-6, 6).exp() * CELLS / 2 * self.strides[:, None]
        corners = self.centres - sides[..., :2], self.centres + sides[..., 2:]
        boxes = torch.cat(corners, dim=2)
        return StaOutput(nouns=nouns, verbs=verbs, boxes=boxes, times=softplus(times[..., 0]))

    def loss(
        self,
        output: StaOutput,
        boxes: Float[Tensor, "b k 4"],
        classes: Int64[Tensor, "b k 2"],
        times: Float[Tensor, "b k"],
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses of nouns (focal), boxes (GIoU), verbs and times.

        Args:
            output: the predictions.
            boxes: annotated boxes.
            classes: noun and verb of each annotated object; -1 for no object.
            times: time to contact in seconds.
        """
        owner, used = self.assign(boxes, classes[..., 0] >= 0)
        count = used.sum().clamp(min=1)
        noun = classes[..., 0].gather(1, owner)
        wanted = torch.zeros_like(output.nouns)
        wanted[used] = nn.functional.one_hot(noun[used], self._sizes[0]).to(wanted.dtype)
        found = output.nouns.sigmoid()
        error = (found - wanted).abs()
        weight = (0.25 * wanted + 0.75 * (1 - wanted)) * error**2
        raw = binary_cross_entropy(output.nouns, wanted, reduction="none")
        total = (weight * raw).sum() / count
        target = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
        total = total + (1 - _generalised_overlap(output.boxes, target))[used].sum() / count
        verb = classes[..., 1].gather(1, owner)
        total = total + cross_entropy(output.verbs[used], verb[used], reduction="sum") / count
        time = times.gather(1, owner)
        return total + smooth_l1_loss(output.times[used], time[used], reduction="sum") / count

    def assign(
        self, boxes: Float[Tensor, "b k 4"], real: Bool[Tensor, "b k"]
    ) -> tuple[Int64[Tensor, "b p"], Bool[Tensor, "b p"]]:
        """Return the object that each point predicts, and whether the point predicts one.

        An object belongs to the points of one map that are next to its centre. Of two objects, the
        smaller one has the point.
        """
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        area = size.clamp(min=1e-6).prod(dim=-1)  # b k
        strides = torch.tensor(SCALES, device=boxes.device) / self._side
        level = (area.sqrt()[..., None] / (CELLS * strides)).log2().abs().argmin(dim=-1)  # b k
        distance = (self.centres[:, None] - centre[:, None]).abs().amax(dim=-1)  # b p k
        near = distance <= self.strides[:, None] * 1.01
        near &= (self.levels[:, None] == level[:, None]) & real[:, None]
        cost = torch.where(near, area[:, None], torch.inf)
        return cost.argmin(dim=2), near.any(dim=2)

    def objects(self, output: StaOutput, row: int, size: tuple[int, int]) -> StaObjects:
        """Return the predictions for clip number `row`, in pixels of an image of this size.

        `size` is the width and the height of the image, pixels.

        The score of a prediction is the product of the probabilities of its noun and its verb.
        """
        probabilities = output.nouns[row].sigmoid()
        best, place = probabilities.flatten().topk(min(10 * MOST, probabilities.numel()))
        point, noun = place // self._sizes[0], place % self._sizes[0]
        verb_probability, verb = output.verbs[row].softmax(dim=1)[point].max(dim=1)
        scale = torch.tensor(size * 2, device=best.device)
        boxes = (output.boxes[row, point].clamp(0, 1) * scale).cpu().double().numpy()
        nouns = noun.cpu().numpy()
        chosen: list[int] = []
        for i in range(len(boxes)):
            same = [j for j in chosen if nouns[j] == nouns[i]]
            if not same or box_overlaps(boxes[i : i + 1], boxes[same]).max() <= SAME:
                chosen.append(i)
            if len(chosen) == MOST:
                break
        return StaObjects(
            boxes=boxes[chosen],
            nouns=nouns[chosen],
            verbs=verb.cpu().numpy()[chosen],
            times=output.times[row, point].cpu().double().numpy()[chosen],
            scores=(best * verb_probability).cpu().double().numpy()[chosen].astype(np.float64),
        )


class StaModel(nn.Module):
    """A Toto with the head, trained with the sum of the head's loss and the next-token loss.

    Args:
        transformer: the Toto.
        head: the head.
        head_layers: numbers of the layers that the head reads.
        next_token_weight: factor of the next-token loss; 0 for none.
        transformer_lr: learning rate of the transformer, relative to that of the head.
    """

    def __init__(
        self,
        transformer: CausalModel,
        head: StaHead,
        head_layers: tuple[int, ...],
        *,
        next_token_weight: float,
        transformer_lr: float,
    ) -> None:
        super().__init__()
        self.transformer, self.head, self.head_layers = transformer, head, head_layers
        self._next_token_weight, self._transformer_lr = next_token_weight, transformer_lr

    @property
    def config(self) -> object:
        """Config of the transformer, for the parameter groups."""
        return self.transformer.config

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of the transformer. Training shards, compiles and recomputes each of them."""
        return self.transformer.layers

    def predict(self, ids: Int64[Tensor, "b t"]) -> tuple[StaOutput, Float[Tensor, "b t-1 d"]]:
        """Return the predictions, and the output of the last block.

        Args:
            ids: start token, tokens of frames, and end token.
        """
        *features, last = self.transformer.features(ids[:, :-1], (*self.head_layers, -1))
        tokens = self.transformer.config.tokens_per_frame
        stacked = torch.stack([normalise(one[:, -tokens:]) for one in features], dim=1)
        return self.head(stacked), last

    def loss(
        self,
        ids: Int64[Tensor, "b t"],
        boxes: Float[Tensor, "b k 4"],
        classes: Int64[Tensor, "b k 2"],
        times: Float[Tensor, "b k"],
    ) -> Float[Tensor, ""]:
        """Return the total loss; see `StaHead.loss`."""
        output, last = self.predict(ids)
        task = self.head.loss(output, boxes, classes, times)
        if not self._next_token_weight:
            return task
        return task + self._next_token_weight * self.transformer.next_token_loss(last, ids)

    def lr_scale(self, name: str) -> float:
        """Return the factor of a parameter's learning rate, for `parameter_groups`."""
        return self._transformer_lr if name.startswith("transformer.") else 1.0


def _generalised_overlap(
    boxes: Float[Tensor, "b p 4"], others: Float[Tensor, "b p 4"]
) -> Float[Tensor, "b p"]:
    """Return the generalised intersection over union (GIoU, Rezatofighi et al. 2019) of pairs."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=-1)

    low, high = boxes[..., :2], boxes[..., 2:]
    other_low, other_high = others[..., :2], others[..., 2:]
    common = area(torch.maximum(low, other_low), torch.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - common + 1e-9
    hull = area(torch.minimum(low, other_low), torch.maximum(high, other_high)) + 1e-9
    return common / union - (hull - union) / hull
