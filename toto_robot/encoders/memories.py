"""Caches of a stream: attention keys and values of earlier frames, or a Mamba model's state."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..models import CausalModel, TotoConfig
from ..models.mamba import MambaState
from ..models.transformer import rope_angles, rotate

__all__ = ["FrameMemory", "Rows", "StateMemory"]

Rows = slice | list[int]  # of environments in a batch


class FrameMemory:
    """A cache of the attention keys and values of the start token and of earlier frames.

    Each environment has a fixed number of slots, one per frame. When all slots are full, the newest
    frame replaces the oldest frame. The newest frame attends to the slots before it is stored.

    Attributes:
        start_keys: keys of the start token at position 0, one tensor [1 h 1 k] per block (h heads
            of width k).
        start_values: values of the start token, one tensor [1 h 1 k] per block.
    """

    def __init__(
        self, transformer: CausalModel, num_envs: int, context: int, layers: Sequence[int]
    ) -> None:
        config = transformer.config
        if not isinstance(config, TotoConfig):
            raise ValueError(
                f"a stream needs rotary positions (llama) or a state (mamba), not {config.kind}: "
                "encode clips of at most a training sequence instead (encode_clip)"
            )
        start = transformer.embed_tokens.weight.new_full((1, 1), 0, dtype=torch.int64)
        recorder = _Recorder()
        with torch.no_grad():
            transformer.features(start + config.start_video, layers, recorder)
        self._config = config
        self._num_slots = context - 1
        self._frame = config.tokens_per_frame
        size = 1 + self._num_slots * self._frame
        self.start_keys = [k for k, _ in recorder.pairs]
        self.start_values = [v for _, v in recorder.pairs]
        self._keys = [
            k.new_zeros(num_envs, k.shape[1], size, k.shape[3]) for k, _ in recorder.pairs
        ]
        self._values = [torch.zeros_like(keys) for keys in self._keys]
        for values, start in zip(self._values, self.start_values, strict=True):
            values[:, :, :1] = start
        all_rows = slice(0, num_envs)
        self.place(np.zeros(num_envs, dtype=np.int64), np.ones(num_envs, dtype=bool), all_rows)

    def place(self, past: np.ndarray, is_kept: np.ndarray, rows: Rows) -> None:
        """Set the positions of the newest frames, before the blocks process them.

        Args:
            past: int64 [b], for each newest frame, the number of earlier frames of its episode that
                were kept.
            is_kept: bool [b], true if the newest frame is added to the cache.
            rows: indices of the environments of these b frames, or a slice.
        """
        self._rows = rows
        self._envs = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
        self._past = past
        self._slots = past % max(self._num_slots, 1)
        self._kept_rows = np.flatnonzero(is_kept) if self._num_slots else np.zeros(0, np.int64)
        filled = np.minimum(past, self._num_slots)
        most = int(filled.max(initial=0))
        self._seen = 1 + most * self._frame
        self._mask: Tensor | None = None
        device, dtype = (self._keys[0].device, self._keys[0].dtype) if self._keys else (None, None)
        if (filled != most).any():
            columns = torch.arange(self._seen, device=device)
            ends = torch.from_numpy(1 + filled * self._frame).to(device)
            hidden = columns[None, :] >= ends[:, None]
            self._mask = torch.zeros(hidden.shape, device=device, dtype=dtype)
            self._mask = self._mask.masked_fill_(hidden, -torch.inf)[:, None, None]  # b 1 1 t
        # The start token's position, if the window began with its oldest frame.
        self._start_position = torch.from_numpy((past - filled) * self._frame).to(device)

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines [b 1 t k] of the rotary angles of the newest frames.

        A frame has t tokens, and a head has the width k. The cached keys of the start tokens are
        rotated to their new positions.
        """
        cos, sin = rope_angles(config, self._start_position, 1, device)
        for keys, start in zip(self._keys, self.start_keys, strict=True):
            keys[self._rows, :, :1] = rotate(start, (cos[:, None], sin[:, None]))
        first = torch.from_numpy(1 + self._past * self._frame).to(device)
        cos, sin = rope_angles(config, first, num_tokens, device)
        return cos[:, None], sin[:, None]

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention output for the newest frames, and cache the frames that are kept.

        The tokens of a frame attend to the cached frames, and causally to the frame itself.
        """
        keys, values = self._keys[block], self._values[block]
        rows = self._rows
        seen = (keys[rows, :, : self._seen], values[rows, :, : self._seen])
        out = _attend_to_both(q, *seen, k, v, self._mask)
        for row in self._kept_rows:
            env, start = self._envs[row], 1 + int(self._slots[row]) * self._frame
            keys[env, :, start : start + self._frame] = k[row]
            values[env, :, start : start + self._frame] = v[row]
        return out

    def advance(self, num_tokens: int) -> None:
        """Do nothing: `place` sets the position of the next frame."""


class StateMemory:
    """A cache of the state of a Mamba model after the last kept frame of each environment.

    The first frame of an episode starts from the state after the start token.
    """

    def __init__(self, transformer: CausalModel, num_envs: int, layers: Sequence[int]) -> None:
        start = transformer.embed_tokens.weight.new_full((1, 1), 0, dtype=torch.int64)
        recorder = MambaState()
        with torch.no_grad():
            transformer.features(start + transformer.config.start_video, layers, recorder)
        depth = max(map(transformer.layer_index, layers))
        self._start = [recorder.read(block) for block in range(depth)]
        self._now = [
            tuple(part.repeat(num_envs, 1, 1) for part in pair or ()) for pair in self._start
        ]
        self._rows: Rows = slice(0, num_envs)
        self._kept_envs: list[int] = []
        self._kept_rows = np.zeros(0, np.int64)

    def place(self, past: np.ndarray, is_kept: np.ndarray, rows: Rows) -> None:
        """Select the environments of the newest frames, and reset the states where episodes begin.

        The arguments are those of `FrameMemory.place`.
        """
        envs = list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows
        self._rows = rows
        self._kept_rows = np.flatnonzero(is_kept)
        self._kept_envs = [envs[row] for row in self._kept_rows]
        fresh = [envs[row] for row in np.flatnonzero(past == 0)]
        for now, start in zip(self._now, self._start, strict=True):
            for part, first in zip(now, start or (), strict=True):
                part[fresh] = first

    def read(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the newest inputs of a block's convolution, and the block's state."""
        inputs, state = self._now[block]
        return inputs[self._rows], state[self._rows]

    def write(self, block: int, inputs: Tensor, state: Tensor) -> None:
        """Store convolution inputs and state of a block, for environments that keep the frame."""
        rows = torch.from_numpy(self._kept_rows).to(state.device)
        for part, new in zip(self._now[block], (inputs, state), strict=True):
            part[self._kept_envs] = new[rows]

    def advance(self, num_tokens: int) -> None:
        """Do nothing: `place` sets the position of the next frame."""


class _Recorder:
    """A cache that collects the keys and values of all blocks during one pass."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def angles(
        self, config: TotoConfig, num_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return rope_angles(config, 0, num_tokens, device)

    def attend(self, block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.pairs.append((k, v))
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    def advance(self, num_tokens: int) -> None:
        pass


def _attend_to_both(
    q: Tensor, past_k: Tensor, past_v: Tensor, k: Tensor, v: Tensor, past_mask: Tensor | None
) -> Tensor:
    """Return the attention output of new tokens, which attend to earlier and new tokens.

    Each new token attends to all earlier tokens that `past_mask` does not hide, to the new tokens
    before it, and to itself. On the CPU, the attention to earlier tokens and the attention to new
    tokens are computed separately, because this needs no copy of the earlier tokens. The two
    results are then averaged, with weights that follow from the denominators of their softmaxes.
    """
    if q.device.type == "cpu":
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        present, present_weight = attend(q, k, v, is_causal=True)
        past, past_weight = attend(q, past_k, past_v, attn_mask=past_mask)
        share = torch.sigmoid(past_weight - present_weight)[..., None].to(past.dtype)
        return torch.lerp(present, past, share)
    num_new, num_past = q.shape[2], past_k.shape[2]
    mask = q.new_zeros(num_new, num_past + num_new)
    mask[:, num_past:].masked_fill_(
        torch.ones(num_new, num_new, dtype=torch.bool, device=q.device).triu(1), -torch.inf
    )
    if past_mask is not None:
        mask = mask.repeat(len(q), 1, 1, 1)
        mask[..., :num_past] += past_mask
    k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)
