"""A world of a few lines, an expert for it, and an encoder of a few kilobytes."""

from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from envs.experts import EXPERTS
from envs.interface import CameraSpec, Interface
from policies.environment import EnvConfig
from policies.student import StudentConfig, StudentMetadata
from policies.vision import NoVision, TotoVision, encoder_id
from toto_robot import Encoder, save_encoder
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

SIDE = 32
ENV_ID = "tests.policies.fake_world:fake/Reach-v0"
ENV = EnvConfig(
    id=ENV_ID,
    options={"cameras": ["eye"]},
    teacher_options={"privileged": True},
    blind_options={"cameras": []},
)


class ReachEnv(gymnasium.Env):
    """Move a point to a bright square that only the image (and the privileged state) shows."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    state_names = ("x", "y", "goal_x", "goal_y")

    def __init__(self, cameras=("eye",), privileged=False, render_mode=None):
        self.render_mode = render_mode
        self._privileged = privileged
        self.interface = Interface(
            arm="point",
            cameras=tuple(CameraSpec(name=name, height=SIDE, width=SIDE) for name in cameras),
            proprio=("x", "y", "age"),
            action_kind="joint_increment",
            action=("dx", "dy"),
            action_scale=(0.3, 0.3),
            rate_hz=10.0,
        )
        shapes = {"proprio": spaces.Box(-10, 10, (3,), np.float32)}
        for name in cameras:
            shapes[f"image_{name}"] = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        if privileged:
            shapes["state"] = spaces.Box(-10, 10, (4,), np.float32)
        self.observation_space = spaces.Dict(shapes)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._point, self._goal = self.np_random.uniform(-0.9, 0.9, (2, 2))
        self._age = 0
        self._success = False
        return self._observe(), {"success": False}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._point = np.clip(self._point + 0.3 * action, -1, 1)
        self._age += 1
        self._success |= bool(np.abs(self._point - self._goal).max() < 0.1)
        return self._observe(), 0.0, False, False, {"success": self._success}

    def render(self):
        return self._image()

    def _observe(self):
        observation = {"proprio": np.array([*self._point, self._age / 12], np.float32)}
        for camera in self.interface.cameras:
            observation[f"image_{camera.name}"] = self._image()
        if self._privileged:
            observation["state"] = np.array([*self._point, *self._goal], np.float32)
        return observation

    def _image(self):
        image = np.full((SIDE, SIDE, 3), 40, np.uint8)
        row, column = ((self._goal + 1) / 2 * (SIDE - 6)).astype(int)
        image[row : row + 6, column : column + 6] = (250, 200, 60)
        return image


class ReusingReach(ReachEnv):
    """A world that returns the same arrays in each step, and scales its argument in place."""

    def step(self, action):
        result = super().step(action)
        action *= 0.1
        return result

    def _observe(self):
        new = super()._observe()
        self._arrays = getattr(self, "_arrays", new)
        for key, value in new.items():
            self._arrays[key][...] = value
        return self._arrays


class ReachExpert:
    """Go straight to the goal."""

    def reset(self):
        pass

    def act(self, observation):
        state = observation["state"]
        return ((state[2:] - state[:2]) / 0.3).astype(np.float32)  # beyond the limits when far


if "fake/Reach-v0" not in gymnasium.registry:
    gymnasium.register(id="fake/Reach-v0", entry_point=ReachEnv, max_episode_steps=12)
EXPERTS["fake/Reach-v0"] = ReachExpert


def save_tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """Write an encoder's checkpoint of 16 tokens a frame, untrained; give its folder."""
    torch.manual_seed(seed)
    tokenizer = LightConfig(
        image_size=SIDE, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=16, frames=4, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    save_encoder(folder, tokenizer, transformer, layer=1, pool="grid4")
    return folder


def toto(folder: Path) -> TotoVision:
    return TotoVision(
        name_or_path=str(folder), layer=None, pool=None, repeat_frame=False, stream=None
    )


def metadata(encoder: Encoder | None, vision=None, dropout=0.0) -> StudentMetadata:
    """Return the card of a small student for the fake world."""
    return StudentMetadata(
        student=StudentConfig(projection=8, hidden=(8,), dropout=dropout, smallest_std=0.02),
        interface=ReachEnv(cameras=() if encoder is None else ("eye",)).interface,
        env=ENV,
        vision=vision or NoVision(),
        encoder=encoder_id(encoder),
    )


def embed_all(encoder, codes):
    """Embeddings [*b e] of compressed frames [*b n], each by itself, as they are stored."""
    embeddings = encoder.embed(codes.reshape(-1, codes.shape[-1])).astype(np.float16)
    return embeddings.reshape(*codes.shape[:-1], -1)
