"""Causal features of a camera stream: one cheap step per frame, with the past in memory.

    stream = load_encoder("toto-nano").stream(num_envs=4, context=16)
    embedding = stream.step(frames, reset)      # uint8 [b h w 3], bool [b] -> float32 [b e]

Each frame attends to the start token, to the frames before it in its episode, up to `context` - 1
of them, and to itself; keys and values of past frames are kept, so a step costs little more than
encoding the frame alone. Until the window is full every feature is exactly that of one pass over
the whole episode. Then the two modes differ:

`rolling` forgets the oldest frame. What the kept keys once saw of it stays in them, so features
drift from those of a fresh pass over the window, by as much as the model cares.
`staggered` keeps two memories half a window apart and reads the older one, which is dropped when
it is full. Every feature is exactly that of a fresh pass over the start token and the last
`context / 2` to `context` frames: always as in training, for twice the work.

Rotary positions tell how far apart two tokens are and nothing else, so positions count on for ever
and only the start token is moved along, to where it would be if the window began there. No distance
is ever longer than the window, which is no longer than a training sequence.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..models import MambaConfig
from .contract import StreamableEncoder
from .memories import FrameMemory, Rows, StateMemory
from .pooling import normalise

__all__ = ["STREAM_MODES", "EncoderStream", "FrameMemory", "StateMemory", "StreamConfig"]


STREAM_MODES = ("rolling", "staggered")

# Within this factor of the training videos' frame interval nothing is said.
_INTERVAL_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """What the past of a stream is, as configs and wrappers name it.

    Attributes:
        context: frames of the window, the newest included; None: those of a training sequence.
        mode: `rolling` or `staggered`: what happens when the window is full.
        frame_skip: every how many camera frames one is remembered.
        camera_hz: frames a second that come, for a warning where `frame_skip` does not fit; None:
            not known.
    """

    context: int | None = None
    mode: str = "rolling"
    frame_skip: int = 1
    camera_hz: float | None = None

    def open(self, encoder: StreamableEncoder, num_envs: int) -> "EncoderStream":
        """Begin a stream.

        Raises:
            ValueError: it cannot be; the message says why.
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
    """Encode the frames of several environments in step, each with a past of its own.

    Attributes:
        num_envs: environments b.
        context: frames of the window, the newest included.
        mode: what happens when the window is full.
        frame_skip: every how many camera frames one is remembered. The newest is always seen.
        layers: whose features `token_features` gives.
    """

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
        """Begin with an empty past.

        Args:
            encoder: the frozen encoder; its layer and pool are used.
            num_envs: environments that are encoded together.
            context: frames of the window; those of a training sequence when None.
            mode: `rolling` or `staggered`.
            frame_skip: the stride of the training videos, in camera frames: with 4, the past is
                remembered every fourth frame, counted from the start of each episode.
            layers: whose features `token_features` gives; the encoder's own when None.
            surprise: whether `surprise` is kept up: all blocks run, and the logits.
            camera_hz: frames a second that will come. With it, and where the encoder knows the
                rate of its training videos, a `frame_skip` that does not fit is warned of.

        Raises:
            ValueError: unknown mode or layer, a window longer than a training sequence, or empty,
                or an encoder that repeats frames.
        """
        context = encoder.transformer.config.frames if context is None else context
        _check(encoder, num_envs, context, mode, frame_skip)
        self._encoder = encoder
        self.num_envs, self.context, self.mode = num_envs, context, mode
        self.frame_skip = frame_skip
        if camera_hz is not None:
            _compare_rates(encoder.frame_interval_s, camera_hz, frame_skip)
        own = (encoder.layer,) if layers is None else tuple(layers)
        self.layers = tuple(encoder.transformer.layer_index(layer) for layer in own)
        self._layers = (*self.layers, encoder.layer, *((-1,) if surprise else ()))
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
        """Camera frames of each environment's episode so far, int64 [b]."""
        return self._shown.copy()

    @property
    def surprise(self) -> Float[Tensor, "b n"]:
        """What each token of the newest frame cost, given all before it: nats, [b n].

        That of a frame's first token is not known before the frame is seen and is given as the
        mean of the others.

        Raises:
            ValueError: the stream was made without `surprise=True`, or has not seen a frame.
        """
        if self._surprise is None:
            raise ValueError("make the stream with surprise=True, and step it")
        return self._surprise.clone()

    def step(
        self,
        frames: np.ndarray | Tensor,
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> Float[Tensor, "b e"]:
        """Encode the newest frame of every environment.

        Args:
            frames: uint8 RGB [b h w 3] of any size.
            reset: bool [b]: whose frame is the first of an episode, and whose past is forgotten.
                None for nobody's.
            envs: whose frames these are, when not all environments have a new one: b different
                ones. The others stay as they are.

        Raises:
            TypeError: frames are neither a numpy array nor a tensor.
            ValueError: wrong frames, or not one for each environment; the message says which.
        """
        return self.step_tokens(self._encoder.tokenize(frames), reset, envs)

    def step_tokens(
        self,
        ids: Int64[Tensor, "b n"],
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> Float[Tensor, "b e"]:
        """Do what `step` does with frames that are tokenised already."""
        *_, own = self._advance(ids, reset, envs)
        return self._encoder.pooling(own).float()

    def token_features(
        self,
        ids: Int64[Tensor, "b n"],
        reset: np.ndarray | Tensor | None = None,
        envs: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the newest frames' features of `layers`, before pooling; the stream moves on.

        Raises:
            ValueError: not one frame for each environment, or tokens that cannot be.
        """
        return self._advance(ids, reset, envs)[:-1]

    @torch.no_grad()
    def _advance(
        self, ids: Tensor, reset: np.ndarray | Tensor | None, envs: Sequence[int] | None
    ) -> tuple[Tensor, ...]:
        """Return the features of `layers`, then those of the encoder's own layer."""
        encoder = self._encoder
        rows = self._rows(envs)
        ids = encoder.check_tokens(ids)
        if len(ids) != len(self._shown[rows]):
            whose = "of" if envs is None else "asked for"
            raise ValueError(
                f"the stream is {whose} {len(self._shown[rows])} environments, got {len(ids)} "
                "frames"
            )
        shown = np.where(self._check_reset(reset, len(ids)), 0, self._shown[rows])
        self._shown[rows] = shown + 1
        remembered = shown % self.frame_skip == 0
        past = -(-shown // self.frame_skip)  # frames that have been remembered
        outputs = self._run(self._memories[0], ids, rows, past, remembered)
        half = self.context // 2
        if self.mode == "staggered" and (past >= half).any():
            # a memory that begins later than the episode has nothing to tell before
            late = (past >= half) & remembered
            younger = self._run(self._memories[1], ids, rows, past - half, late)
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
        remembered: np.ndarray,
    ) -> list[Tensor]:
        if self.mode == "staggered":
            past = past % self.context
        memory.place(past, remembered, rows)
        return list(self._encoder.transformer.features(ids, self._layers, memory))

    def _token_costs(self, ids: Tensor, hidden: Tensor) -> Tensor:
        logits = self._encoder.transformer.logits(hidden[:, :-1]).float()
        # flat: over a transposed vocabulary the softmax takes three times as long
        costs = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        costs = costs.view(len(ids), -1)
        return torch.cat([costs.mean(dim=1, keepdim=True), costs], dim=1)

    def _rows(self, envs: Sequence[int] | None) -> Rows:
        if envs is None:
            return slice(0, self.num_envs)
        rows = [int(env) for env in envs]
        if len(set(rows)) < len(rows) or not all(0 <= row < self.num_envs for row in rows):
            raise ValueError(
                f"envs must be different ones in [0, {self.num_envs}), got {list(envs)}"
            )
        if rows and rows == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))  # needs no copy of what is remembered
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
    """Refuse a stream that cannot be."""
    if encoder.repeat_frame:
        raise ValueError("an encoder with repeat_frame looks at single frames: no stream")
    config = encoder.transformer.config
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
        raise ValueError(
            "the state of a mamba cannot forget its oldest frame: choose mode 'staggered'"
        )
    if mode == "staggered" and (context % 2 or context < 2):
        raise ValueError(f"context must be even for two staggered memories, got {context}")


def _compare_rates(interval_s: float | None, camera_hz: float, frame_skip: int) -> None:
    """Warn of frames that come faster or slower than in training."""
    if not camera_hz > 0:
        raise ValueError(f"camera_hz must be positive, got {camera_hz}")
    if interval_s is None:
        return
    ratio = frame_skip / camera_hz / interval_s
    if not 1 / _INTERVAL_FACTOR <= ratio <= _INTERVAL_FACTOR:
        best = max(1, round(interval_s * camera_hz))
        advice = f"frame_skip={best} comes closest" if best != frame_skip else "no frame_skip fits"
        warnings.warn(
            f"at {camera_hz:g} Hz and frame_skip={frame_skip}, remembered frames are "
            f"{frame_skip / camera_hz:.3g} s apart; in training they were {interval_s:.3g} s "
            f"apart: {advice}",
            stacklevel=4,
        )
