"""One environment, with the observations and attributes that LeRobot expects."""

from typing import Any

import gymnasium
from gymnasium import spaces

_PREFIX = "image_"
_DESCRIPTIONS = {"Pick": "pick up the cube", "Cabinet": "open the drawer"}


class LeRobotObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper with LeRobot's names, which ends an episode at its success.

    Attributes:
        task: name of the task, such as `FrankaPick-v0`.
        task_description: the task in words.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str) -> None:
        super().__init__(env)
        self.task = task
        self.task_description = next(text for name, text in _DESCRIPTIONS.items() if name in task)
        self._max_episode_steps = env.unwrapped.num_steps
        # PyAV, with which LeRobot writes videos, takes whole numbers
        self.metadata = {**env.metadata, "render_fps": round(env.metadata["render_fps"])}
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict(self._renamed(env.observation_space, spaces.Dict))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the options, with which LeRobot marks a rollout, are not used."""
        del options
        observation, info = self.env.reset(seed=seed)
        return self._renamed(observation, dict), {**info, "is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Run one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info["success"])
        info = {**info, "is_success": success}
        done = terminated or success
        return self._renamed(observation, dict), float(reward), done, truncated, info

    def _renamed(self, values: Any, group: Any) -> dict[str, Any]:
        """Return observations, or their spaces, under LeRobot's names."""
        pixels = {
            name.removeprefix(_PREFIX): value
            for name, value in values.items()
            if name.startswith(_PREFIX)
        }
        return {"agent_pos": values["proprio"], **({"pixels": group(pixels)} if pixels else {})}


def make(*, task: str, **options: Any) -> LeRobotObservation:
    """Return an environment; the options are those of `toto_robot_envs`."""
    env = gymnasium.make(f"toto_robot_envs:toto/{task}", disable_env_checker=True, **options)
    return LeRobotObservation(env, task)
