"""Settings of the environments `toto`."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE


@EnvConfig.register_subclass("toto")
@dataclass
class TotoEnv(EnvConfig):
    """Settings of a task.

    Attributes:
        task: `FrankaPick-v0`, `KukaPick-v0`, `FrankaCabinet-v0` or `KukaCabinet-v0`.
        cameras: cameras of the observation, `hand` and `front`.
        image_size: height and width of the images, pixels.
        randomise: groups of random variations, as in `toto_robot_envs`; empty: none.
    """

    task: str | None = "FrankaPick-v0"
    fps: int = 10
    cameras: list[str] = field(default_factory=lambda: ["hand", "front"])
    image_size: int = 128
    randomise: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        env = gymnasium.make(self.gym_id, cameras=(), disable_env_checker=True)
        state, action = env.observation_space["agent_pos"].shape, env.action_space.shape
        self.fps = env.metadata["render_fps"]
        env.close()
        image = PolicyFeature(FeatureType.VISUAL, (self.image_size, self.image_size, 3))
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, action),
            "agent_pos": PolicyFeature(FeatureType.STATE, state),
            **{f"pixels/{name}": image for name in self.cameras},
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            **{f"pixels/{name}": f"{OBS_IMAGES}.{name}" for name in self.cameras},
        }

    @property
    def package_name(self) -> str:
        """Name of the package that registers the environments."""
        return "lerobot_env_toto"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment."""
        return {
            "cameras": tuple(self.cameras),
            "image_size": self.image_size,
            "randomise": tuple(self.randomise),
            "render_mode": "rgb_array",
        }
