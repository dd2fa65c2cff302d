"""Which eyes a policy has: a trained encoder, an untrained one, a vision transformer, or none.

The untrained one has the same architecture and so the same cost; the blind policy sees its joints
only. What the trained one is worth shows beside these two, and beside the eyes that others use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toto_robot import Encoder, load_encoder
from toto_robot.baselines import VitEncoder
from toto_robot.checkpoint import weights_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class TotoVision:
    """A trained encoder.

    Attributes:
        name_or_path: a shipped name or a checkpoint folder.
        layer: which layer; None: the checkpoint's own choice.
        pool: how its tokens become one embedding; None: the checkpoint's own choice.
    """

    kind: ClassVar[str] = "toto"
    name_or_path: str
    layer: int | None
    pool: str | None

    def build(self, device: torch.device) -> Encoder:
        """Load it."""
        return load_encoder(self.name_or_path, layer=self.layer, pool=self.pool, device=device)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomVision:
    """The same architecture with random weights, tokenizer and transformer.

    Attributes:
        name_or_path: whose architecture.
        layer: as for `TotoVision`.
        pool: as for `TotoVision`.
        seed: of the weights.
    """

    kind: ClassVar[str] = "random"
    name_or_path: str
    layer: int | None
    pool: str | None
    seed: int

    def build(self, device: torch.device) -> Encoder:
        """Draw it."""
        trained = load_encoder(self.name_or_path, layer=self.layer, pool=self.pool)
        return trained.untrained(self.seed).to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVision:
    """Proprioception alone; no picture is drawn."""

    kind: ClassVar[str] = "none"

    def build(self, device: torch.device) -> None:
        """Give nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VitVision:
    """A vision transformer, from a file that was published: MAE, MVP, DINOv2 and others.

    Attributes:
        name_or_path: the file.
        format: its family, one of `toto_robot.published.FORMATS`.
        layer: which layer; None: the last.
        pool: how its tokens become one embedding; None: as the family does it.
        heads: attention heads; None: those of the published model of this width.
        image_size: side that frames are resized to, pixels; None: the one trained with.
        statistics: of the pictures, `imagenet` or `half`; None: the family's.
    """

    kind: ClassVar[str] = "vit"
    name_or_path: str
    format: str
    layer: int | None
    pool: str | None
    heads: int | None
    image_size: int | None
    statistics: str | None

    def build(self, device: torch.device) -> Encoder:
        """Load it."""
        encoder = load_encoder(
            self.name_or_path,
            layer=self.layer,
            pool=self.pool,
            device=device,
            format=self.format,
            heads=self.heads,
            image_size=self.image_size,
            statistics=self.statistics,
        )
        # policies use no more of an encoder than `VitEyes` has
        return cast(Encoder, VitEyes(encoder))


VisionConfig = TotoVision | RandomVision | VitVision | NoVision


class VitEyes:
    """A vision transformer where an `Encoder` is expected: what it keeps of a frame is no token.

    It has no tokens, so in their place stands the embedding itself, in float16: the 16 bits of each
    number, as an id. A store then holds embeddings, of this layer and pool alone, which is 2 dim
    bytes a frame, and can be read by no other eyes.

    Attributes:
        dim: width of the embedding.
        layer: the layer that is pooled.
        pool: the pool.
        weights_hash: of all its weights.
        fingerprint: of weights, layer and pool.
        tokens_per_frame: ids that are kept of a frame: `dim`.
    """

    def __init__(self, encoder: VitEncoder) -> None:
        self._encoder = encoder
        self.dim = self.tokens_per_frame = encoder.dim
        self.layer, self.pool = encoder.layer, encoder.pool
        self.weights_hash, self.fingerprint = encoder.weights_hash, encoder.fingerprint

    @torch.no_grad()
    def tokenize(self, frames: NDArray[np.uint8]) -> Tensor:
        """Give the bits of the embeddings of frames [b h w 3]: int64 [b e], below 65536.

        Raises:
            ValueError: an embedding does not fit into float16.
        """
        embeddings = self._encoder(frames).half()
        if not torch.isfinite(embeddings).all():
            raise ValueError(f"embeddings of pool {self.pool!r} do not fit into float16")
        return embeddings.view(torch.int16).long() & 0xFFFF

    def from_tokens(self, ids: Tensor) -> Tensor:
        """Give the embeddings [b e] back, exactly as they were kept."""
        return ids.to(torch.int16).view(torch.float16).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderStamp:
    """What identifies an encoder: with equal fingerprints, embeddings are interchangeable.

    Attributes:
        weights_hash: of all its weights.
        layer: the layer that is pooled.
        pool: the pool.
        fingerprint: of all these.
        dim: width of an embedding.
    """

    weights_hash: str
    layer: int
    pool: str
    fingerprint: str
    dim: int


def stamp(encoder: Encoder | None) -> EncoderStamp | None:
    """Give an encoder's stamp; None for none."""
    if encoder is None:
        return None
    return EncoderStamp(
        weights_hash=encoder.weights_hash,
        layer=encoder.layer,
        pool=encoder.pool,
        fingerprint=encoder.fingerprint,
        dim=embedding_width(encoder),
    )


def embedding_width(encoder: Encoder | None) -> int:
    """Give the width of an encoder's embeddings; 0 for none."""
    if encoder is None:
        return 0
    assert isinstance(encoder.dim, int)
    return encoder.dim


def tokenizer_hash(encoder: Encoder | None) -> str | None:
    """Give the hash of what makes stored tokens: the tokenizer's weights; None without an encoder.

    A vision transformer stores embeddings, so there it is the fingerprint.
    """
    if isinstance(encoder, VitEyes):
        return encoder.fingerprint
    return None if encoder is None else weights_hash(encoder.tokenizer)


def tokenize(encoder: Encoder, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint16]:
    """Tokenise frames [h w 3] in one call for each size among them; uint16 [b n].

    Raises:
        ValueError: the codebook has more codes than 16 bits can name.
    """
    tokens = np.empty((len(frames), encoder.tokens_per_frame), np.uint16)
    shapes = [frame.shape for frame in frames]
    for shape in dict.fromkeys(shapes):
        rows = [row for row, other in enumerate(shapes) if other == shape]
        ids = encoder.tokenize(np.stack([frames[row] for row in rows])).cpu().numpy()
        if ids.size and ids.max() > np.iinfo(np.uint16).max:
            raise ValueError("stored tokens have 16 bits, this tokenizer has more codes")
        tokens[rows] = ids
    return tokens


def embed(encoder: Encoder, tokens: NDArray[np.uint16]) -> NDArray[np.float16]:
    """Give the embeddings [*b e] of tokens [*b n], as they are stored.

    A student acts on these very numbers too, rounded to float16 (relative error 0.0005), so that
    it meets in the world what it was trained on.
    """
    flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]).astype(np.int64))
    with torch.no_grad():
        embeddings = encoder.from_tokens(flat)
    return embeddings.to("cpu", torch.float16).numpy().reshape(*tokens.shape[:-1], -1)
