"""Encoders in a form that can be exported to ONNX, with fixed shapes and without checks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..models import TotoConfig
from ..models.transformer import rotate
from .encoder import Encoder
from .memories import FrameMemory
from .pooling import join_layers, normalise

__all__ = ["FrameGraph", "StreamGraph"]


class FrameGraph(nn.Module):
    """A module for export that computes embeddings from single frames."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings [b e] and the tokens [b n] of b frames."""
        encoder = self.encoder
        ids = encoder.tokenizer.encode(frames)
        start = ids.new_full((len(ids), 1), encoder.transformer.config.start_video)
        hidden = encoder.transformer.features(torch.cat([start, ids], dim=1), encoder.layers)
        return encoder.pooling(join_layers([normalise(one[:, 1:]) for one in hidden])), ids


class StreamGraph(nn.Module):
    """A module for export that computes one step of a stream.

    Its inputs are the new frames, the attention keys and values of earlier frames, an attention
    bias that hides unused places, and the cosines and sines of rotary positions.
    """

    start_keys: Tensor  # l 1 h 1 k
    start_values: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        memory = FrameMemory(encoder.transformer, 1, 1, encoder.layers)
        for name, pairs in (
            ("start_keys", memory.start_keys),
            ("start_values", memory.start_values),
        ):
            self.register_buffer(name, torch.stack(pairs))  # l 1 h 1 k

    def forward(
        self,
        frames: Tensor,
        keys: Tensor,
        values: Tensor,
        past_bias: Tensor,
        cos: Tensor,
        sin: Tensor,
        start_cos: Tensor,
        start_sin: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return embeddings [b e], tokens [b n], and keys and values [l b h n k] of b frames.

        The transformer has l blocks with h heads of width k.
        """
        encoder = self.encoder
        ids = encoder.tokenizer.encode(frames)
        past = _GivenPast(
            keys=keys,
            values=values,
            bias=past_bias,
            angles=(cos[:, None], sin[:, None]),
            start_angles=(start_cos[:, None], start_sin[:, None]),
            start=(self.start_keys, self.start_values),
        )
        hidden = encoder.transformer.features(ids, encoder.layers, past)
        embedding = encoder.pooling(join_layers([normalise(one) for one in hidden]))
        return embedding, ids, torch.stack(past.new_keys), torch.stack(past.new_values)


class _GivenPast:
    """A cache with given keys and values of earlier frames, which collects those of new frames."""

    def __init__(
        self,
        *,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        angles: tuple[Tensor, Tensor],
        start_angles: tuple[Tensor, Tensor],
        start: tuple[Tensor, Tensor],
    ) -> None:
        self._keys, self._values, self._bias = keys, values, bias
        self._angles, self._start_angles, self._start = angles, start_angles, start
        self.new_keys: list[Tensor] = []
        self.new_values: list[Tensor] = []

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return self._angles

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.new_keys.append(k)
        self.new_values.append(v)
        batch, num_tokens = len(q), q.shape[2]
        start_keys = rotate(self._start[0][block].expand(batch, -1, -1, -1), self._start_angles)
        start_values = self._start[1][block].expand(batch, -1, -1, -1)
        keys = torch.cat([start_keys, self._keys[block], k], dim=2)
        values = torch.cat([start_values, self._values[block], v], dim=2)
        shown = self._bias.new_zeros(batch, num_tokens, 1)
        past = self._bias[:, None].expand(-1, num_tokens, -1)
        future = torch.full((num_tokens, num_tokens), -torch.inf).triu(1).expand(batch, -1, -1)
        mask = torch.cat([shown, past, future], dim=2)[:, None]
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask)

    def advance(self, num_tokens: int) -> None:
        pass
