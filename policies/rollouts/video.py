"""Film a policy: what people see and what the policy sees, side by side, as MP4."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from toto_robot import FrameEncoder
from toto_robot.data.video import write_video
from toto_robot.encoders.contract import compress_each

from ..environment import EnvConfig, interface_of, make_env
from ..policy import Policy
from ..student import StudentPolicy
from ..vision import ObservationEmbedder

_PIXELS = 384
_SECONDS_AFTER_SUCCESS = 1.0
_GREEN, _GREY = (60, 200, 90), (90, 90, 90)


def film(
    path: Path,
    env_config: EnvConfig,
    policy: Policy,
    encoder: FrameEncoder | None,
    seeds: Sequence[int],
) -> None:
    """Run the episodes of `seeds` one after another and write them as one MP4 (H.264).

    Left `render()`, then the policy's cameras; who is no student sees the privileged state. The
    frame turns green on success.
    """
    privileged = not isinstance(policy, StudentPolicy)
    env = make_env(env_config, sighted=not privileged, privileged=privileged, filmed=True)
    cameras = interface_of(env).camera_names if encoder is not None or not privileged else ()
    cameras = tuple(name for name in cameras if f"image_{name}" in _keys(env.observation_space))
    rate_hz = interface_of(env).rate_hz
    frames: list[NDArray[np.uint8]] = []
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        policy.reset()
        view = StudentView(policy, encoder)
        success, after, ended = False, 0, False
        while True:
            pictures = [np.asarray(env.render(), np.uint8)]
            pictures += [observation[f"image_{name}"] for name in cameras]
            frames.append(_side_by_side(pictures, f"seed {seed}", success))
            if ended or after > _SECONDS_AFTER_SUCCESS * rate_hz:
                break
            action = policy.act(view(observation)).clip(-1.0, 1.0)
            observation, _, terminated, truncated, info = env.step(action)
            success |= bool(info["success"])
            after += success
            ended = terminated or truncated
    env.close()
    write_video(path, frames, rate_hz)


class StudentView:
    """Return what a policy may see of an episode: a student its embeddings and `proprio` alone."""

    def __init__(self, policy: Policy, encoder: FrameEncoder | None) -> None:
        self._student = isinstance(policy, StudentPolicy)
        self._encoder = encoder
        self._names: tuple[str, ...] = ()
        if isinstance(policy, StudentPolicy) and encoder is not None:
            self._names = policy.card.interface.camera_names
            self._embedder = ObservationEmbedder(encoder, 1, len(self._names))

    def __call__(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return it for the next observation of the episode."""
        if not self._student:
            return observation
        view = {"proprio": observation["proprio"]}
        if self._encoder is not None:
            frames = [observation[f"image_{name}"] for name in self._names]
            codes = compress_each(self._encoder, frames)[None]
            (embeddings,) = self._embedder.embed(codes, [0])
            view |= {f"embedding_{name}": embeddings[row] for row, name in enumerate(self._names)}
        return view


def _side_by_side(
    pictures: Sequence[NDArray[np.uint8]], text: str, success: bool
) -> NDArray[np.uint8]:
    squares = [
        cv2.resize(picture, (_PIXELS, _PIXELS), interpolation=cv2.INTER_AREA)
        if picture.shape[0] > _PIXELS
        else cv2.resize(picture, (_PIXELS, _PIXELS), interpolation=cv2.INTER_NEAREST)
        for picture in pictures
    ]
    frame = np.ascontiguousarray(np.concatenate(squares, axis=1), np.uint8)
    colour = _GREEN if success else _GREY
    cv2.rectangle(frame, (0, 0), (frame.shape[1] - 1, frame.shape[0] - 1), colour, 6)
    label = f"{text}  success" if success else text
    cv2.putText(frame, label, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2, cv2.LINE_AA)
    return frame.astype(np.uint8, copy=False)


def _keys(space: Any) -> set[str]:
    return set(space.spaces)
