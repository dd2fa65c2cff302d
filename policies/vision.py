"""Which eyes a policy has: a trained encoder, an untrained one, or none.

The untrained one has the same architecture and so the same cost; the blind policy sees its joints
only. What the trained one is worth shows beside these two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from toto_robot import Encoder, load_encoder
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


VisionConfig = TotoVision | RandomVision | NoVision


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
    """Give the hash of the tokenizer's weights; None without an encoder."""
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
