"""Write videos (MP4) of a policy: the rendered scene and the policy's cameras, side by side."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray

from toto_robot.data.video import write_video

from ..environment import AnyEnv, interface_of, make_env
from ..policy import Policy
from ..trained_policy import TrainedPolicy
from ..vision import Blind
from .job import Rollout

_PIXELS = 384
_SECONDS_AFTER_SUCCESS = 1.0
_GREEN, _GREY = (60, 200, 90), (90, 90, 90)


def film(path: Path, env_config: AnyEnv, policy: Policy, seeds: Sequence[int]) -> list[bool]:
    """Run one episode per seed, and write one MP4 (H.264) that shows them one after another.

    The left image is that of `render()`. The other images are those of the student's cameras. An
    expert or a teacher has no cameras, because it observes the privileged state. The border of the
    video turns green on success.

    Returns:
        For each filmed episode, whether it succeeded.
    """
    with closing(_make_env(env_config, policy)) as env:
        episodes = [_run(env, policy, seed) for seed in seeds]
        frames = [frame for images, _ in episodes for frame in images]
        write_video(path, frames, interface_of(env).rate_hz)
    return [success for _, success in episodes]


def film_each(
    folder: Path, env_config: AnyEnv, policy: Policy, rollouts: Sequence[Rollout]
) -> dict[Path, bool]:
    """Write one video per rollout, whose file name contains the outcome and the seed.

    `film` describes the images. The recorded actions are executed again: if the student computed
    the actions of a single episode anew, they could differ by rounding from those that it computed
    for a batch of episodes. After the last recorded action of a successful rollout, the policy acts
    for the rest of the video.

    Returns:
        A dictionary from the path of each video to whether the filmed episode succeeded, in the
        order of the rollouts.
    """
    filmed = {}
    with closing(_make_env(env_config, policy)) as env:
        for rollout in rollouts:
            frames, success = _run(env, policy, rollout.seed, rollout.actions)
            path = folder / f"rollout-{'success' if success else 'failure'}-{rollout.seed}.mp4"
            write_video(path, frames, interface_of(env).rate_hz)
            filmed[path] = success
    return filmed


def _make_env(config: AnyEnv, policy: Policy) -> gymnasium.Env[Any, Any]:
    privileged = policy.needs_state if isinstance(policy, TrainedPolicy) else True
    return make_env(config, with_images=_has_cameras(policy), privileged=privileged, filmed=True)


def _has_cameras(policy: Policy) -> bool:
    return isinstance(policy, TrainedPolicy) and not isinstance(
        policy.student.metadata.vision, Blind
    )


def _run(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    seed: int,
    actions: Sequence[NDArray[np.float32]] | NDArray[np.float32] = (),
) -> tuple[list[NDArray[np.uint8]], bool]:
    """Run an episode, and record the frames of the video.

    Args:
        env: the environment.
        policy: the policy, which acts after the given actions.
        seed: seed of the reset.
        actions: actions to execute first.

    Returns:
        The frames [h w 3], and whether the episode succeeded.
    """
    cameras = interface_of(env).camera_names if _has_cameras(policy) else ()
    after_success = _SECONDS_AFTER_SUCCESS * interface_of(env).rate_hz
    frames = list[NDArray[np.uint8]]()
    observation, _ = env.reset(seed=seed)
    policy.reset()
    success, after, ended = False, 0, False
    while True:
        images = [np.asarray(env.render(), np.uint8)]
        images += [observation[f"image_{name}"] for name in cameras]
        frames.append(_side_by_side(images, f"seed {seed}", success))
        if ended or after > after_success:
            return frames, success
        step = len(frames) - 1
        replayed = step < len(actions)
        action = actions[step] if replayed else policy.act(observation).clip(-1.0, 1.0)
        observation, _, terminated, truncated, info = env.step(action)
        success |= bool(info["success"])
        after += success
        ended = terminated or truncated


def _side_by_side(
    images: Sequence[NDArray[np.uint8]], text: str, success: bool
) -> NDArray[np.uint8]:
    squares = [
        cv2.resize(image, (_PIXELS, _PIXELS), interpolation=cv2.INTER_AREA)
        if image.shape[0] > _PIXELS
        else cv2.resize(image, (_PIXELS, _PIXELS), interpolation=cv2.INTER_NEAREST)
        for image in images
    ]
    frame = np.ascontiguousarray(np.concatenate(squares, axis=1), np.uint8)
    colour = _GREEN if success else _GREY
    cv2.rectangle(frame, (0, 0), (frame.shape[1] - 1, frame.shape[0] - 1), colour, 6)
    label = f"{text}  success" if success else text
    cv2.putText(frame, label, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2, cv2.LINE_AA)
    return frame.astype(np.uint8, copy=False)
