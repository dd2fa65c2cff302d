"""`python -m envs.play`: record episodes as videos, and replay recorded episodes exactly.

The command writes two files per episode. `seed<seed>.mp4` shows the images of the viewer camera and
of the selected cameras side by side. `seed<seed>.npz` contains the actions and the states of the
simulator. `replay=<file>.npz` repeats the actions, checks that every state is bit-identical, and
writes `seed<seed>-replay.mp4`.

The policies are the scripted experts and random actions. To record a trained policy, use
`python -m policies.evaluate`, because this package does not import `policies`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from toto_robot.cli import command
from toto_robot.data.video import write_video
from toto_robot.files import written_aside

from .catalogue import make
from .experts import EXPERTS
from .manipulation import ManipulationEnv, Observation

__all__ = ["Episode", "PlayConfig", "play"]

Act = Callable[[Observation], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayConfig:
    """Settings of `play`.

    Attributes:
        env_id: environment id, for example `toto/FrankaPick-v0`.
        protocol: `robot` or `pixmc`: control rate, actions and observations, see `envs.protocols`.
        policy: `expert` (only with protocol `robot`) or `random` (random actions).
        cameras: names of the cameras that the video shows in addition to the viewer camera.
        image_size: height and width of the camera images, pixels; the video shows them enlarged.
        randomise: names of the randomisation groups that are drawn for each episode.
        episodes: number of episodes; each episode has its own seed.
        first_seed: seed of the first episode; each further episode adds 1.
        replay: path of a recorded episode (`.npz`) to replay. The file replaces all settings above
            except `cameras` and `image_size`. None: record new episodes.
    """

    env_id: str
    protocol: str
    policy: Literal["expert", "random"]
    cameras: tuple[str, ...]
    image_size: int
    randomise: tuple[str, ...]
    episodes: int
    first_seed: int
    replay: str | None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.policy == "expert" and self.protocol != "robot" and self.replay is None:
            raise ValueError(
                f"policy=expert needs protocol=robot, got {self.protocol}; use policy=random"
            )
        if self.policy == "expert" and self.env_id not in EXPERTS and self.replay is None:
            raise ValueError(f"no expert for {self.env_id!r}; known: {', '.join(EXPERTS)}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episode:
    """A recorded episode: the options of the environment, the actions and the simulator states.

    Attributes:
        env_id: environment id.
        protocol: `robot` or `pixmc`: control rate, actions and observations, see `envs.protocols`.
        randomise: names of the randomisation groups.
        seed: seed of the reset.
        actions: [t a] float32: t control steps, a action elements.
        states: [t + 1 n] state of the simulator after the reset and after each control step.
    """

    env_id: str
    protocol: str
    randomise: tuple[str, ...]
    seed: int
    actions: NDArray[np.float32]
    states: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write the episode to `path` atomically: under a temporary name, then renamed."""
        options = {
            "env_id": self.env_id,
            "protocol": self.protocol,
            "randomise": self.randomise,
            "seed": self.seed,
        }
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez_compressed(
                file, options=json.dumps(options), actions=self.actions, states=self.states
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load an episode from a file that `save` wrote.

        Raises:
            ValueError: the file is not a recorded episode.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                options = json.loads(str(arrays["options"]))
                return cls(
                    env_id=options["env_id"],
                    protocol=options["protocol"],
                    randomise=tuple(options["randomise"]),
                    seed=options["seed"],
                    actions=arrays["actions"],
                    states=arrays["states"],
                )
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not a recorded episode: {error}") from error

    def compare(self, other: "Episode") -> None:
        """Check that the states of another episode are bit-identical to those of this episode.

        Raises:
            RuntimeError: the states or their shapes differ; the message names the first differing
                step or the shapes.
        """
        num_steps = len(self.actions)
        if self.states.shape != other.states.shape:
            raise RuntimeError(
                f"the replay has states of shape {other.states.shape}, the file {self.states.shape}"
            )
        differ = np.flatnonzero((self.states != other.states).any(axis=1))
        if len(differ):
            raise RuntimeError(
                f"the replay differs from step {differ[0]} of {num_steps} on, by at most "
                f"{np.abs(self.states - other.states).max():.1e}: was it recorded with another "
                "MuJoCo version?"
            )


def play(config: PlayConfig, out: Path) -> None:
    """Record episodes into the folder `out`, or replay one; print the result of each episode.

    Raises:
        ValueError: the file `replay` is not a recorded episode.
        RuntimeError: the states of the replay differ from the recorded states.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.replay is not None:
        recorded = Episode.load(Path(config.replay))
        env = _make(config, recorded.env_id, recorded.protocol, recorded.randomise)
        actions = iter(recorded.actions)
        episode, frames, summary = run(
            env, lambda observation: next(actions), recorded, len(recorded.actions)
        )
        env.close()
        recorded.compare(episode)
        video = out / f"seed{recorded.seed}-replay.mp4"
        write_video(video, frames, env.interface.rate_hz)
        print(f"{summary}; all {len(episode.states)} states equal to the bit; {video}")
        return
    env = _make(config, config.env_id, config.protocol, config.randomise)
    for seed in range(config.first_seed, config.first_seed + config.episodes):
        wanted = Episode(
            env_id=config.env_id,
            protocol=config.protocol,
            randomise=config.randomise,
            seed=seed,
            actions=np.zeros((0, 0), np.float32),
            states=np.zeros((0, 0)),
        )
        episode, frames, summary = run(env, _policy(config, env, seed), wanted, env.num_steps)
        video, file = out / f"seed{seed}.mp4", out / f"seed{seed}.npz"
        write_video(video, frames, env.interface.rate_hz)
        episode.save(file)
        print(f"{summary}; {video}, {file}", flush=True)
    env.close()


def run(
    env: ManipulationEnv, act: Act, wanted: Episode, num_steps: int
) -> tuple[Episode, list[NDArray[np.uint8]], str]:
    """Run one episode, and record it.

    Args:
        env: the environment.
        act: the policy: returns the action for an observation.
        wanted: an episode with the seed and the options; its actions and states are ignored.
        num_steps: maximum number of control steps.

    Returns:
        The recorded episode, its video frames [h w 3], and a summary in one line.
    """
    observation, _ = env.reset(seed=wanted.seed)
    frames, actions, states = [_frame(env, observation)], [], [env.save().simulator]
    success_step, total, terminated = None, 0.0, False
    for step in range(1, num_steps + 1):
        action = act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        frames.append(_frame(env, observation))
        actions.append(action)
        states.append(env.save().simulator)
        total += reward
        if info["success"] and success_step is None:
            success_step = step
        if terminated or truncated:
            break
    outcome = f"success at step {success_step}" if success_step is not None else "no success"
    if terminated:
        outcome += ", ended in failure"
    summary = f"seed {wanted.seed}: {outcome}, {len(actions)} steps, reward {total:.1f}"
    episode = Episode(
        env_id=wanted.env_id,
        protocol=wanted.protocol,
        randomise=wanted.randomise,
        seed=wanted.seed,
        actions=np.stack(actions).astype(np.float32),
        states=np.stack(states),
    )
    return episode, frames, summary


def _make(
    config: PlayConfig, env_id: str, protocol: str, randomise: tuple[str, ...]
) -> ManipulationEnv:
    return make(
        env_id=env_id,
        protocol=protocol,
        randomise=randomise,
        cameras=config.cameras,
        image_size=config.image_size,
        privileged=True,
        render_mode="rgb_array",
    )


def _policy(config: PlayConfig, env: ManipulationEnv, seed: int) -> Act:
    if config.policy == "expert":
        expert = EXPERTS[config.env_id]()
        expert.reset()
        return expert.act
    rng, size = np.random.default_rng(seed), len(env.interface.action)
    return lambda observation: rng.uniform(-1.0, 1.0, size).astype(np.float32)


def _frame(env: ManipulationEnv, observation: Observation) -> NDArray[np.uint8]:
    """Return one video frame: the viewer image and the enlarged camera images side by side."""
    viewer: Any = env.render()
    side = len(viewer)
    images = [observation[f"image_{camera.name}"] for camera in env.interface.cameras]
    enlarged = []
    for image in images:
        nearest = np.arange(side) * len(image) // side  # the video shows the policy's pixels
        enlarged.append(image[nearest][:, nearest])
    return np.concatenate([viewer, *enlarged], axis=1)


main = command("play", PlayConfig)(play)

if __name__ == "__main__":
    main()
