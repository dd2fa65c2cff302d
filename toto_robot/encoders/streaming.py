"""Encode the frames of a camera one by one, with a cache of the earlier frames.

    stream = load_encoder("toto-nano").stream(num_envs=4, context=16)
    embedding = stream.step(frames, reset)      # uint8 [b h w 3], bool [b] -> float32 [b e]

A frame attends to its window: the start token, at most `context` - 1 earlier frames of its episode,
and the frame itself. The attention keys and values of earlier frames are cached. Therefore a step
encodes only the new frame. Until the window is full, the features equal those of one pass over the
whole episode. After that, they depend on the mode:

- `rolling` drops the oldest frame of the window. The cached keys and values of the other frames
  were computed when this frame was still in the window. Therefore the features differ from those of
  a new pass over the window. How much they differ depends on the model.
- `staggered` has two caches, which begin half a window apart. It uses the cache that began first,
  and clears this cache when it is full. The features equal those of a new pass over the start token
  and the last `context / 2 + 1` to `context` frames, including the newest one, as in training. A
  step costs twice as much as in the mode `rolling`.

Rotary position embeddings depend only on the distance between two tokens, so the positions of the
frames can increase without limit. Only the start token is moved, to the position before the oldest
frame of the window. So the distance between two tokens is never longer than the window, which is at
most as long as a training sequence.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..device import own_precision
from ..models import MambaConfig
from ..models.causal import require_causal
from .contract import StreamableEncoder
from .memories import FrameMemory, Rows, StateMemory
from .pooling import join_layers, normalise

__all__ = ["STREAM_MODES", "EncoderStream", "FrameMemory", "StateMemory", "StreamConfig"]


STREAM_MODES = ("rolling", "staggered")

# Ratio to the frame interval of the training videos from which a warning is raised.
_INTERVAL_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Settings of a stream.

    Attributes:
        context: number of frames on which an embedding depends (the window), including the newest
            frame; null: as many as in a training sequence.
        mode: what happens when the window is full. `rolling` drops the oldest frame. `staggered`
            uses two caches, which begin half a window apart and are cleared in turns.
        frame_skip: number k; all camera frames are encoded, but only every k-th frame is kept in
            the window for later frames.
        camera_hz: frame rate of the camera, Hz. A warning is issued if `frame_skip` does not match
            the frame rate of the training videos. null: unknown, no warning.
    """

    context: int | None = None
    mode: str = "rolling"
    frame_skip: int = 1
    camera_hz: float | None = None

    def open(self, encoder: StreamableEncoder, num_envs: int) -> "EncoderStream":
        """Return a new stream.

        Raises:
            ValueError: the encoder does not support these settings; the message says why.
        """
        return EncoderStream(
            encoder,
            num_envs,
            self.context,
            mode=self.mode,
            frame_skip=self.frame_skip,
            camera_hz=self.camera_hz,
        )


class EncoderStream:
    """A stream that encodes the frames of several environments, with a separate cache for each.

    Attributes:
        num_envs: number b of environments.
        context: number of frames on which an embedding depends (the window), including the newest
            frame.
        mode: what happens when the window is full, `rolling` or `staggered`.
        frame_skip: number k; all camera frames are encoded, but only every k-th frame is kept in
            the window.
        layers: layers whose features `token_features` returns.
    """

    @own_precision()
    def __init__(
        self,
        encoder: StreamableEncoder,
        num_envs: int,
        context: int | None = None,
        *,
        mode: str = "rolling",
        frame_skip: int = 1,
        layers: Sequence[int] | None = None,
        surprise: bool = False,
        camera_hz: float | None = None,
    ) -> None:
        """Start a stream without earlier frames.

        Args:
            encoder: frozen encoder whose layer and pool are used.
            num_envs: number of environments that are encoded together.
            context: number of frames on which an embedding depends (the window), including the
                newest frame; None: as many as in a training sequence.
            mode: what happens when the window is full, `rolling` or `staggered`.
            frame_skip: number k; only every k-th camera frame is kept in the window, counted from
                the start of each episode. Choose the stride of the training videos.
            layers: layers whose features `token_features` returns; None: the encoder's layers.
            surprise: true to compute also `surprise`, for which all blocks and the output head are
                run.
            camera_hz: frame rate of the camera, Hz; None: unknown. If the rate of the training
                videos is also known, a warning is issued if `frame_skip` does not match it.

        Raises:
            ValueError: a setting is invalid, the window is longer than a training sequence, or the
                encoder does not support such a stream, for example because it reads frames twice
                (`repeat_frame`).
        """
        context = encoder.transformer.config.frames if context is None else context
        _check(encoder, num_envs, context, mode, frame_skip)
        self._encoder = encoder
        self.num_envs, self.context, self.mode = num_envs, context, mode
        self.frame_skip = frame_skip
        if camera_hz is not None:
            _compare_rates(encoder.frame_interval_s, camera_hz, frame_skip)
        own = encoder.layers if layers is None else tuple(layers)
        self.layers = tuple(encoder.transformer.layer_index(layer) for layer in own)
        self._layers = (*self.layers, *encoder.layers, *((-1,) if surprise else ()))
        self._keeps_surprise = surprise
        self._surprise: Tensor | None = None
        num_memories = 1 if mode == "rolling" else 2
        self._memories: list[FrameMemory | StateMemory] = [
            StateMemory(encoder.transformer, num_envs, self._layers)
            if isinstance(encoder.transformer.config, MambaConfig)
            else FrameMemory(encoder.transformer, num_envs, context, self._layers)
            for _ in range(num_memories)
        ]
        self._shown = np.zeros(num_envs, dtype=np.int64)

    @property
    def frames_shown(self) -> np.ndarray:
        """Number of camera frames so far in the current episode of each environment, int64 [b]."""
        return self._shown.copy()

    @property
    def surprise(self) -> Float[Tensor, "b n"]:
        """Surprisal [b n] of each token of the newest frame, in nats.

        Surprisal is the negative log-probability that the model assigns to a token after all tokens
        before it. For the first token it is not defined, and its value is the mean of the others.

        Raises:
            ValueError: the stream was created without `surprise=True`, or has no frame yet.
        """
        if self._surprise is None:
            raise ValueError("create the stream with surprise=True, and call step first")
        return self._surprise.clone()

    def step(
        self,
        frames: np.ndarray | Tensor,
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> Float[Tensor, "b e"]:
        """Encode the newest frame of each environment, and return the embeddings.

        Args:
            frames: uint8 RGB [b h w 3] of any size.
            reset: bool [b], true if the frame is the first of an episode; then the cache of earlier
                frames is cleared first. None: no episode begins.
            envs: numbers of the b environments that have a new frame; the other environments do
                not change. None: all environments have a new frame.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: the frames are invalid, or there is not one frame for each environment; the
                message says which.
        """
        return self.step_tokens(self._encoder.tokenize(frames), reset, envs)

    @own_precision()
    def step_tokens(
        self,
        ids: Int64[Tensor, "b n"],
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> Float[Tensor, "b e"]:
        """Return what `step` returns, for frames that are already tokenised."""
        own = self._advance(ids, reset, envs)[len(self.layers) :]
        return self._encoder.pooling(join_layers(own)).float()

    def token_features(
        self,
        ids: Int64[Tensor, "b n"],
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Encode the newest frames, and return the token features of `layers`, before pooling.

        Raises:
            ValueError: there is not one frame for each environment, or the tokens are invalid.
        """
        return self._advance(ids, reset, envs)[: len(self.layers)]

    @own_precision()
    @torch.no_grad()
    def _advance(
        self, ids: Tensor, reset: np.ndarray | Tensor | None, envs: Sequence[int] | None
    ) -> tuple[Tensor, ...]:
        """Encode the newest frames; return the features of `layers` and of the encoder's layers."""
        encoder = self._encoder
        rows = self._rows(envs)
        ids = encoder.check_tokens(ids)
        if len(ids) != len(self._shown[rows]):
            count = len(self._shown[rows])
            raise ValueError(
                f"the stream expects one frame for each of {count} environments, got {len(ids)}"
            )
        shown = np.where(self._check_reset(reset, len(ids)), 0, self._shown[rows])
        self._shown[rows] = shown + 1
        is_kept = shown % self.frame_skip == 0
        past = -(-shown // self.frame_skip)  # frames that have been kept
        outputs = self._run(self._memories[0], ids, rows, past, is_kept)
        half = self.context // 2
        if self.mode == "staggered" and (past >= half).any():
            # the second cache begins half a window after the first cache
            is_late = (past >= half) & is_kept
            younger = self._run(self._memories[1], ids, rows, past - half, is_late)
            reads_younger = torch.from_numpy((past >= half) & (past % self.context < half))
            chosen = reads_younger.to(outputs[0].device)[:, None, None]
            outputs = [
                torch.where(chosen, late, early)
                for late, early in zip(younger, outputs, strict=True)
            ]
        if self._keeps_surprise:
            costs = self._token_costs(ids, outputs.pop())
            if self._surprise is None:
                self._surprise = costs.new_zeros(self.num_envs, costs.shape[1])
            self._surprise[rows] = costs
        return tuple(normalise(output) for output in outputs)

    def _run(
        self,
        memory: "FrameMemory | StateMemory",
        ids: Tensor,
        rows: Rows,
        past: np.ndarray,
        is_kept: np.ndarray,
    ) -> list[Tensor]:
        if self.mode == "staggered":
            past = past % self.context
        memory.place(past, is_kept, rows)
        return list(self._encoder.transformer.features(ids, self._layers, memory))

    def _token_costs(self, ids: Tensor, hidden: Tensor) -> Tensor:
        logits = self._encoder.transformer.logits(hidden[:, :-1]).float()
        # flattened: softmax over a transposed vocabulary takes three times as long
        costs = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        costs = costs.view(len(ids), -1)
        return torch.cat([costs.mean(dim=1, keepdim=True), costs], dim=1)

    def _rows(self, envs: Sequence[int] | None) -> Rows:
        if envs is None:
            return slice(0, self.num_envs)
        rows = [int(env) for env in envs]
        if len(set(rows)) < len(rows) or not all(0 <= row < self.num_envs for row in rows):
            raise ValueError(
                f"envs must be different numbers in [0, {self.num_envs}), got {list(envs)}"
            )
        if rows and rows == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))  # a slice of the cache needs no copy
        return rows

    def _check_reset(self, reset: np.ndarray | Tensor | None, num_frames: int) -> np.ndarray:
        if reset is None:
            return np.zeros(num_frames, dtype=bool)
        mask = np.asarray(reset.cpu() if isinstance(reset, Tensor) else reset)
        if mask.shape != (num_frames,) or mask.dtype != bool:
            raise ValueError(
                f"reset must be bool [{num_frames}], got {mask.dtype} {list(mask.shape)}"
            )
        return mask


def _check(
    encoder: StreamableEncoder, num_envs: int, context: int, mode: str, frame_skip: int
) -> None:
    """Check the settings of a stream.

    Raises:
        ValueError: the encoder does not support a stream with these settings.
    """
    if encoder.repeat_frame:
        raise ValueError("an encoder with repeat_frame encodes single frames: it has no stream")
    config = encoder.transformer.config
    require_causal(config, "a stream")
    if mode not in STREAM_MODES:
        raise ValueError(f"unknown stream mode {mode!r}; known: {', '.join(STREAM_MODES)}")
    if num_envs < 1 or frame_skip < 1:
        raise ValueError(
            f"num_envs and frame_skip must be at least 1, got {num_envs} and {frame_skip}"
        )
    if not 1 <= context <= config.frames:
        raise ValueError(
            f"context must be in [1, {config.frames}] frames, the length that the model was "
            f"trained on, got {context}"
        )
    if isinstance(config, MambaConfig) and mode == "rolling":
        raise ValueError("a mamba's state cannot drop its oldest frame: use mode='staggered'")
    if mode == "staggered" and (context % 2 or context < 2):
        raise ValueError(f"context must be even for two staggered memories, got {context}")


def _compare_rates(interval_s: float | None, camera_hz: float, frame_skip: int) -> None:
    """Issue a warning if the frame rate of the window is far from that of the training videos."""
    if not camera_hz > 0:
        raise ValueError(f"camera_hz must be positive, got {camera_hz}")
    if interval_s is None:
        return
    ratio = frame_skip / camera_hz / interval_s
    if not 1 / _INTERVAL_FACTOR <= ratio <= _INTERVAL_FACTOR:
        best = max(1, round(interval_s * camera_hz))
        advice = f"frame_skip={best} comes closest" if best != frame_skip else "no frame_skip fits"
        warnings.warn(
            f"at {camera_hz:g} Hz and frame_skip={frame_skip}, kept frames are "
            f"{frame_skip / camera_hz:.3g} s apart; in training they were {interval_s:.3g} s "
            f"apart: {advice}",
            stacklevel=4,
        )
