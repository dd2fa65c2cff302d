"""Show what the model expects to see next, beside what the camera sees.

    foresight = PredictionPreview(encoder, num_envs=1)
    ids = encoder.tokenize(frames)
    embedding = stream.step_tokens(ids, reset)
    foresight.step_tokens(ids, reset)                     # remembers 512 bytes a frame, no more
    ...
    expected = foresight.preview()                        # on demand: uint8 [s s 3]
    following = foresight.predict(num_frames=4)           # uint8 [4 s s 3], 256 passes each

It keeps tokens of its own and reads them anew when it is asked, so the stream's memory is never
touched. `preview` takes one pass, `predict` one for every token: neither is for every frame of a
control loop. `python -m benchmarks.preview` says what they cost, and how good they are.
"""

from collections import deque

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ..encoders.encoder import Encoder
from ..moved import moved_names
from .sampling import GREEDY, Sampling, generate_frames, preview_frame

__all__ = ["PredictionPreview", "heat_picture", "side_by_side"]

# The heat's scale: a guess among 8192 equal codes costs 9 nats.
_HOTTEST_NATS = 12.0


class PredictionPreview:
    """The tokens of each environment's last frames, and what the model makes of them.

    Attributes:
        num_envs: environments b.
        context: frames that the model sees at once, a predicted one included.
    """

    def __init__(self, encoder: Encoder, num_envs: int, context: int | None = None) -> None:
        """Begin with an empty past.

        Args:
            encoder: the frozen encoder; all of its blocks and its tokenizer's decoder are used.
            num_envs: environments that step together.
            context: frames of the window; those of a training sequence when None.

        Raises:
            ValueError: a window without room for one frame of past, or that the model was not
            trained on.
        """
        frames = encoder.transformer.config.frames
        context = frames if context is None else context
        if not 2 <= context <= frames:
            raise ValueError(f"context must be in [2, {frames}] frames, got {context}")
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.context = num_envs, context
        self._encoder = encoder
        self._past: list[deque[Tensor]] = [deque(maxlen=context - 1) for _ in range(num_envs)]

    def step_tokens(
        self, ids: Int64[Tensor, "b n"], reset: NDArray[np.bool_] | Bool[Tensor, " b"] | None = None
    ) -> None:
        """Remember the newest frame of every environment.

        Args:
            ids: the frames' tokens.
            reset: whose frame is the first of an episode; None for nobody's.

        Raises:
            ValueError: not one frame and one mark for each environment, or impossible tokens.
        """
        ids = self._encoder.check_tokens(ids)
        marks = np.zeros(self.num_envs, dtype=bool) if reset is None else np.asarray(reset)
        if len(ids) != self.num_envs or marks.shape != (self.num_envs,):
            raise ValueError(
                f"needed frames and resets of {self.num_envs} environments, got {len(ids)} and "
                f"{list(marks.shape)}"
            )
        for past, frame, begins in zip(self._past, ids, marks, strict=True):
            if begins:
                past.clear()
            past.append(frame.clone())

    def preview(self, env: int = 0) -> UInt8[Tensor, "s s 3"]:
        """Guess the next frame in one pass; see `toto_robot.generation.sampling.preview_frame`.

        Raises:
            ValueError: the environment has not seen a frame.
        """
        tokens = preview_frame(self._encoder.transformer, self.past(env), window=self.context)
        return self._encoder.tokenizer.decode(tokens)[0]

    def predict(
        self,
        num_frames: int = 1,
        env: int = 0,
        *,
        sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None,
    ) -> UInt8[Tensor, "f s s 3"]:
        """Predict the next frames, token by token.

        Args:
            num_frames: f, how many.
            env: of which environment.
            sampling: how tokens are chosen.
            generator: where chance comes from, on the CPU.

        Raises:
            ValueError: the environment has not seen a frame.
        """
        tokens = generate_frames(
            self._encoder.transformer,
            self.past(env),
            num_frames,
            sampling=sampling,
            generator=generator,
            window=self.context,
        )
        return self._encoder.tokenizer.decode(tokens[0])

    def past(self, env: int = 0) -> Int64[Tensor, "1 t n"]:
        """Return the tokens that an environment's predictions begin with, the oldest frame first.

        Raises:
            ValueError: it has not seen a frame.
        """
        if not self._past[env]:
            raise ValueError(f"environment {env} has not seen a frame; step it first")
        return torch.stack(list(self._past[env]))[None]


def side_by_side(
    camera: UInt8[np.ndarray, "h w 3"],
    expected: UInt8[np.ndarray, "s s 3"],
    heat: Float[np.ndarray, "g g"],
) -> UInt8[np.ndarray, "h w3 3"]:
    """Draw the camera's picture, the expected one and what each place cost, side by side.

    Args:
        camera: what was seen.
        expected: what `PredictionPreview` gave for it, before it was seen.
        heat: costs in nats, what `monitoring.scores.heat_map` gives; black is 0, white 12.
    """
    height, width = camera.shape[:2]
    parts = [camera, _enlarge(expected, height, width), heat_picture(heat, height, width)]
    return np.concatenate(parts, axis=1)


def heat_picture(
    heat: Float[np.ndarray, "g g"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw costs in nats from black over red and yellow to white, at 0, 4, 8 and 12."""
    level = np.clip(heat / _HOTTEST_NATS, 0, 1)[..., None] * 3 - np.arange(3)
    return _enlarge((np.clip(level, 0, 1) * 255).round().astype(np.uint8), height, width)


def _enlarge(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows[:, None], columns]


__getattr__ = moved_names(
    __name__,
    {
        "Foresight": "toto_robot.generation.preview:PredictionPreview",
    },
)
