"""A small environment of another package: no `interface`, and its own names, units and keys."""

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "tests.policies.third_party_world:other/Reach-v0"


class OtherReach(gymnasium.Env):
    """Move a point to a bright square; actions are velocities in [-2, 1] and [0, 3]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32))
    drift = np.array([0.5, -1.5])

    def __init__(self, pixels=True, success_key="is_success", render_mode=None, **spaces_):
        self.render_mode, self._pixels, self._key = render_mode, pixels, success_key
        boxes = {
            "pixels": spaces.Box(0, 255, (32, 40, 3), np.uint8),
            "state": spaces.Box(-1, 1, (2,), np.float64),
            "goal": spaces.Box(-1, 1, (2,), np.float64),
            "gripper": spaces.Discrete(2),
        } | spaces_
        if not pixels:
            del boxes["pixels"]
        self.observation_space = spaces.Dict(boxes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-0.9, 0.9, (2, 2))
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.point = np.clip(self.point + 0.2 * (action + self.drift), -1, 1)
        near = bool(np.abs(self.point - self.goal).max() < 0.15)
        return self._observation(), 0.0, False, False, {self._key: np.float32(near)}

    def render(self):
        image = np.full((32, 40, 3), 40, np.uint8)
        row, column = ((self.goal + 1) / 2 * (26, 34)).astype(int)
        image[row : row + 6, column : column + 6] = (250, 200, 60)
        return image

    def _observation(self):
        made = {"pixels": self.render(), "state": self.point, "goal": self.goal, "gripper": 1}
        return {key: made[key] for key in self.observation_space}


def expert(observation):
    away = observation["goal"] - observation["state"]
    return np.clip(away / 0.2 - OtherReach.drift, OtherReach.action_space.low, [1, 3])


def expert_of_env(observation, env):
    return expert({"state": env.point, "goal": env.goal})


def expert_of_optional_env(observation, env=None):
    return expert_of_env(observation, env)


def expert_with_gain(observation, gain=1.0):
    return gain * expert(observation)


class Expert:
    resets = 0

    def reset(self):
        Expert.resets += 1

    def act(self, observation):
        return expert(observation)


class Silent:
    pass


def far(info, env):
    return np.abs(env.point - env.goal).max() > 5


def of_info(info):
    return info["other"] > 0


def bad_action(observation):
    return np.zeros(3)


def three(a, b, c):
    return a


CONSTANT = 3


class Discrete(OtherReach):
    action_space = spaces.Discrete(3)


class Unlimited(OtherReach):
    action_space = spaces.Box(-np.inf, np.inf, (2,))


class Unseeded(OtherReach):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


class OneAction(gymnasium.ActionWrapper):
    """An action wrapper below `gymnasium.make`, with fewer numbers than the environment."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.Box(-2, 2, (1,))

    def action(self, action):
        return np.array([action[0], 1.5])


def with_one_action(**given):
    return OneAction(OtherReach(**given))


def expert_of_one_action(observation):
    return expert(observation)[:1]


def with_limits(**given):
    limits = spaces.Box(-2, 2, (2,))
    return gymnasium.wrappers.TransformAction(Unlimited(**given), lambda action: action, limits)


def with_stack(**given):
    return gymnasium.wrappers.FrameStackObservation(OtherReach(**given), 3)


class RenderedAlpha(OtherReach):
    def render(self):
        return np.dstack([super().render(), np.full((32, 40), 255, np.uint8)])


class NoRender(OtherReach):
    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012


def without_metadata(**given):
    """Make an environment as robosuite does."""
    env = OtherReach(**given)
    env.metadata = None
    return env


if "other/Reach-v0" not in gymnasium.registry:
    gymnasium.register("other/Reach-v0", OtherReach, max_episode_steps=12)
    gymnasium.register("other/NoMetadata-v0", without_metadata, max_episode_steps=12)
    gymnasium.register("other/OneAction-v0", with_one_action, max_episode_steps=12)
    gymnasium.register("other/Limited-v0", with_limits, max_episode_steps=12)
    gymnasium.register("other/Stacked-v0", with_stack, max_episode_steps=12)
    for one in (Discrete, Unlimited, Unseeded, NoRender, RenderedAlpha):
        gymnasium.register(f"other/{one.__name__}-v0", one, max_episode_steps=12)
