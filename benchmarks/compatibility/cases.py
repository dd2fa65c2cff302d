"""The environments of the compatibility table: their packages, and what a user writes."""

from dataclasses import dataclass

__all__ = ["CASES", "Case"]

RENDERED = "gymnasium.wrappers.AddRenderObservation(env, render_only=False)"
FLAT = "gymnasium.wrappers.FlattenObservation(env)"
ONLY_STATE_LOST = "`AddRenderObservation(env)` without `render_only=False` drops the state"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One environment.

    Attributes:
        name: of the table's row.
        packages: requirements besides toto-robot; cases with equal packages share an environment.
        setup: lines that make `env`, as the package's own documentation shows them.
        flip: an argument of the wrapper, where images come upside down.
        sb3: an expression that makes the wrapped `env` one that Stable-Baselines3's PPO accepts;
            empty where it is one.
        notes: what a user must know; empty where there is nothing.
    """

    name: str
    packages: tuple[str, ...]
    setup: tuple[str, ...]
    flip: str | None = None
    sb3: str = ""
    notes: str = ""

    @property
    def line(self) -> str:
        """The one line that a user writes."""
        flip = "" if self.flip is None else f', flip="{self.flip}"'
        return f'env = TotoObservation(env, "toto-nano"{flip})'

    @property
    def stem(self) -> str:
        """Name of the files of the results."""
        return "_".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


# With newer MuJoCos, gymnasium-robotics 1.4.2 and robosuite 1.5.2 fail in their own code.
ROBOTICS = ("gymnasium-robotics==1.4.2", "mujoco==3.8.1", "imageio")
GYMNASIUM = ("gymnasium[mujoco,box2d]==1.4.0", "minigrid==3.2.0", "panda-gym==3.0.7")
LEROBOT = ("gym-pusht==0.1.8", "gym-aloha==0.1.5", "gym-hil==0.1.14")
ROBOMIMIC = """\
import sys, types
import numpy as np
from gymnasium.spaces import Box, Dict
sys.modules["mujoco_py"] = types.ModuleType("mujoco_py")  # imported only for its exceptions
from robomimic.envs.env_robosuite import EnvRobosuite
from robomimic.utils import obs_utils

obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"rgb": ["agentview_image"]}})

class Robomimic(gymnasium.Env):
    def __init__(self):
        self.env = EnvRobosuite("Lift", robots="Panda", use_image_obs=True,
                                camera_names=["agentview"], camera_heights=84, camera_widths=84)
        self.action_space = Box(-1, 1, (self.env.action_dimension,))
        self.observation_space = Dict({
            name: Box(*((0, 1) if "image" in name else (-np.inf, np.inf)), one.shape, one.dtype)
            for name, one in self.env.reset().items()})

    def reset(self, *, seed=None, options=None):
        return self.env.reset(), {}

    def step(self, action):
        observation, reward, done, info = self.env.step(action)
        return observation, reward, done, False, info

env = Robomimic()
"""
ROBOSUITE = ("robosuite==1.5.2", "mujoco==3.8.1", "h5py")


def _robotics(name: str, sb3: str = FLAT, notes: str = "") -> Case:
    return Case(
        name=name,
        packages=ROBOTICS,
        setup=(
            "import gymnasium_robotics",
            "gymnasium.register_envs(gymnasium_robotics)",
            f'env = gymnasium.make("{name}", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
        sb3=sb3,
        notes=notes,
    )


CASES = (
    _robotics("FrankaKitchen-v1", notes=ONLY_STATE_LOST),
    _robotics("FetchPickAndPlace-v4", notes=ONLY_STATE_LOST),
    _robotics("AdroitHandDoor-v1", sb3="", notes=ONLY_STATE_LOST),
    Case(
        name="HalfCheetah-v5",
        packages=GYMNASIUM,
        setup=(
            'env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
    Case(
        name="CarRacing-v3",
        packages=GYMNASIUM,
        setup=('env = gymnasium.make("CarRacing-v3")',),
        notes="the whole observation is the image, and becomes the embedding",
    ),
    Case(
        name="MiniGrid",
        packages=GYMNASIUM,
        setup=(
            "from minigrid.wrappers import RGBImgObsWrapper",
            'env = RGBImgObsWrapper(gymnasium.make("MiniGrid-Empty-8x8-v0"))',
            'env = gymnasium.wrappers.FilterObservation(env, ["image", "direction"])',
        ),
        notes="its own observation is a grid of 7 x 7 codes: `RGBImgObsWrapper` gives images; "
        "Stable-Baselines3 and shared memory cannot hold its text `mission`",
    ),
    Case(
        name="panda-gym",
        packages=GYMNASIUM,
        setup=(
            "import panda_gym",
            'env = gymnasium.make("PandaPickAndPlace-v3", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
        sb3=FLAT,
    ),
    Case(
        name="gym-pusht",
        packages=LEROBOT,
        setup=(
            "import gym_pusht",
            'env = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos")',
        ),
    ),
    Case(
        name="gym-aloha",
        packages=LEROBOT,
        setup=(
            "import gym_aloha",
            'env = gymnasium.make("gym_aloha/AlohaInsertion-v0", obs_type="pixels_agent_pos")',
        ),
        sb3=FLAT,
        notes="images are in `pixels/top`",
    ),
    Case(
        name="gym-hil",
        packages=LEROBOT,
        setup=(
            "import gym_hil",
            'env = gymnasium.make("gym_hil/PandaPickCubeBase-v0", image_obs=True)',
        ),
        sb3=FLAT,
    ),
    Case(
        name="dm_control (Shimmy)",
        packages=("shimmy[dm-control]==2.0.1", "mujoco==3.8.1", "imageio"),
        setup=(
            "import shimmy",
            "gymnasium.register_envs(shimmy)",
            'env = gymnasium.make("dm_control/cartpole-balance-v0", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
        sb3=FLAT,
    ),
    Case(
        name="OGBench",
        packages=("ogbench==1.2.2", "mujoco==3.8.1"),
        setup=(
            "import ogbench",
            'env = gymnasium.make("visual-cube-single-v0")',
        ),
    ),
    Case(
        name="Meta-World",
        packages=("metaworld==3.1.1", "packaging", "imageio"),
        setup=(
            "import metaworld",
            'env = gymnasium.make("Meta-World/MT1", env_name="reach-v3", seed=0,',
            '                     render_mode="rgb_array", camera_name="corner2")',
            f"env = {RENDERED}",
        ),
        flip="rotate180",
        notes="the cameras `corner` to `corner4` hang upside down",
    ),
    Case(
        name="robosuite",
        packages=ROBOSUITE,
        setup=(
            "import robosuite",
            "from robosuite.wrappers import GymWrapper",
            'lift = robosuite.make("Lift", robots="Panda", has_renderer=False,',
            '                      camera_names=["agentview"], camera_heights=128,',
            "                      camera_widths=128, use_camera_obs=True)",
            'keys = ["agentview_image", "robot0_proprio-state"]',
            "env = GymWrapper(lift, keys=keys, flatten_obs=False)",
            "env.metadata = {}  # GymWrapper sets None, which vector environments cannot read",
        ),
        flip="vertical",
        notes="images come upside down; `GymWrapper` needs h5py, and sets `metadata` to None",
    ),
    Case(
        name="robomimic",
        packages=(*ROBOSUITE, "robomimic==0.3.0", "torchvision==0.28.0"),
        setup=tuple(ROBOMIMIC.splitlines()),
        notes="its environments are not Gymnasium's: the class below converts one; images are "
        "floats with channels first, and upright; version 0.3.0 imports mujoco_py, and builds "
        "egl_probe with CMake",
    ),
)
