"""``python -m envs.render_videos``: render videos of an environment for pre-training.

The command writes one MP4 per episode and camera. In some episodes the expert moves the arm, with
noise on its actions. In the others the arm follows a slow random walk. So the frames include states
that an imperfect policy visits.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.data.video import write_video
from toto_robot.runs import claim

from .experts import EXPERTS
from .manipulation import ManipulationEnv

__all__ = ["RenderVideosConfig", "render_videos"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderVideosConfig:
    """Settings of `render_videos`.

    Attributes:
        env_id: environment id, for example `toto/FrankaPick-v0`.
        cameras: names of the cameras; each camera gets one video per episode.
        image_size: height and width of the frames, pixels.
        randomise: names of the randomisation groups that are drawn for each episode.
        episodes: number of episodes; each episode has its own seed.
        random_share: fraction of the episodes with a random walk instead of the expert, in [0, 1].
        noise: standard deviation of the noise that is added to the expert's actions, which are in
            [-1, 1].
        first_seed: seed of the first episode; each further episode adds 1. Use other seeds than for
            training and evaluation.
    """

    env_id: str
    cameras: tuple[str, ...]
    image_size: int
    randomise: tuple[str, ...]
    episodes: int
    random_share: float
    noise: float
    first_seed: int


def render_videos(config: RenderVideosConfig, out: Path) -> None:
    """Render each episode of which a video ``out/seed<seed>-<camera>.mp4`` does not exist yet.

    Raises:
        ValueError: the folder has videos with other settings, or another process uses the folder.
    """
    claim(out, config)
    env = gymnasium.make(
        f"{__package__}:{config.env_id}",
        cameras=config.cameras,
        image_size=config.image_size,
        randomise=config.randomise,
        privileged=True,
    )
    assert isinstance(env.unwrapped, ManipulationEnv)
    rate_hz = env.unwrapped.interface.rate_hz
    expert = EXPERTS[config.env_id]()
    for seed in tqdm(
        range(config.first_seed, config.first_seed + config.episodes), desc="render", unit="episode"
    ):
        paths = {camera: out / f"seed{seed}-{camera}.mp4" for camera in config.cameras}
        if all(path.is_file() for path in paths.values()):
            continue
        generator = np.random.default_rng(seed)
        wander = generator.random() < config.random_share
        noise = np.zeros_like(env.action_space.sample())
        observation, _ = env.reset(seed=seed)
        expert.reset()
        frames = {camera: [observation[f"image_{camera}"]] for camera in config.cameras}
        ended = False
        while not ended:
            # slowly changing noise displaces the arm; white noise would only make it vibrate
            noise = 0.8 * noise + 0.6 * generator.normal(size=noise.shape).astype(np.float32)
            action = noise * 0.6 if wander else expert.act(observation) + config.noise * noise
            observation, _, terminated, truncated, _ = env.step(
                np.clip(action, -1, 1).astype(np.float32)
            )
            ended = terminated or truncated
            for camera in config.cameras:
                frames[camera].append(observation[f"image_{camera}"])
        for camera, path in paths.items():
            write_video(path, frames[camera], rate_hz, faithful=True)
    env.close()
    print(f"{config.episodes} episodes in {out}")


main = command("render_videos", RenderVideosConfig)(render_videos)

if __name__ == "__main__":
    main()
