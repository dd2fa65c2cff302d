"""Predict the next camera frames, and draw them beside the camera image.

    preview = PredictionPreview(encoder, num_envs=1)
    ids = encoder.tokenize(frames)
    embedding = stream.step_tokens(ids, reset)
    preview.step_tokens(ids, reset)                       # stores 2048 bytes per frame
    ...
    expected = preview.preview()                          # uint8 [s s 3], one pass
    following = preview.predict(num_frames=4)             # uint8 [4 s s 3], 256 passes per frame

The images have a side of s pixels. `step_tokens` only stores tokens. `preview` and `predict` run
the model. The stream is not changed. `preview` needs one pass of the model for a frame, `predict`
one pass for each token. On a CPU, both are too slow for every frame of a control loop.
`python -m benchmarks.preview` measures their time and quality.
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

__all__ = ["PredictionPreview", "heat_image", "side_by_side"]

# Upper end of the colour scale; a random guess among 8192 codes has a surprisal of 9 nats.
_HOTTEST_NATS = 12.0


class PredictionPreview:
    """A predictor of the next frames of several environments, from the tokens of earlier frames.

    Attributes:
        num_envs: number b of environments.
        context: number of frames that the model uses, including the predicted frame.
    """

    def __init__(self, encoder: Encoder, num_envs: int, context: int | None = None) -> None:
        """Start a predictor without earlier frames.

        Args:
            encoder: frozen encoder, of which all blocks and the decoder of the tokenizer are used.
            num_envs: number of environments that step together.
            context: number of frames that the model uses, including the predicted frame; None: as
                many as in a training sequence.

        Raises:
            ValueError: `context` is smaller than 2 or longer than a training sequence, or
                `num_envs` is smaller than 1.
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
        """Store the tokens of the newest frame of each environment.

        Args:
            ids: tokens of the frames.
            reset: bool [b], true if the frame is the first of an episode; None: no episode begins.

        Raises:
            ValueError: there is not one frame and one entry of `reset` for each environment, or the
                tokens are invalid.
        """
        ids = self._encoder.check_tokens(ids)
        marks = np.zeros(self.num_envs, dtype=bool) if reset is None else np.asarray(reset)
        if len(ids) != self.num_envs or marks.shape != (self.num_envs,):
            raise ValueError(
                f"expected frames and resets of {self.num_envs} environments, got {len(ids)} and "
                f"{list(marks.shape)}"
            )
        for past, frame, begins in zip(self._past, ids, marks, strict=True):
            if begins:
                past.clear()
            past.append(frame.clone())

    def preview(self, env: int = 0) -> UInt8[Tensor, "s s 3"]:
        """Predict the next frame in one pass, as `generation.sampling.preview_frame` does.

        Raises:
            ValueError: the environment has no frame yet.
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
        """Predict the next frames token by token.

        Args:
            num_frames: number f of frames.
            env: index of the environment.
            sampling: settings for choosing a token from its probabilities.
            generator: random generator on the CPU; None: torch's default generator.

        Raises:
            ValueError: the environment has no frame yet, or `num_frames` is smaller than 1.
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
        """Return the tokens of the t earlier frames of an environment, oldest frame first.

        The predictions are made from these tokens.

        Raises:
            ValueError: the environment has no frame yet.
        """
        if not self._past[env]:
            raise ValueError(f"environment {env} has no frame yet; call step_tokens first")
        return torch.stack(list(self._past[env]))[None]


def side_by_side(
    camera: UInt8[np.ndarray, "h w 3"],
    expected: UInt8[np.ndarray, "s s 3"],
    heat: Float[np.ndarray, "g g"],
) -> UInt8[np.ndarray, "h w3 3"]:
    """Draw the camera image, the predicted image and a map of surprisal side by side.

    Args:
        camera: the camera image.
        expected: the image that `PredictionPreview` predicted for it.
        heat: surprisal of each token in nats, from `monitoring.scores.heat_map`. Black is 0, white
            is 12.
    """
    height, width = camera.shape[:2]
    parts = [camera, _enlarge(expected, height, width), heat_image(heat, height, width)]
    return np.concatenate(parts, axis=1)


def heat_image(
    heat: Float[np.ndarray, "g g"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw surprisal, in nats, as colours: black 0, red 4, yellow 8, white 12."""
    level = np.clip(heat / _HOTTEST_NATS, 0, 1)[..., None] * 3 - np.arange(3)
    return _enlarge((np.clip(level, 0, 1) * 255).round().astype(np.uint8), height, width)


def _enlarge(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return image[rows[:, None], columns]


__getattr__ = moved_names(
    __name__,
    {
        "Foresight": "toto_robot.generation.preview:PredictionPreview",
        "heat_picture": "toto_robot.generation.preview:heat_image",
    },
)
