"""The environments of the compatibility table: their packages, and what a user writes."""

from dataclasses import dataclass

__all__ = ["CASES", "Case"]

RENDERED = "gymnasium.wrappers.AddRenderObservation(env, render_only=False)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One environment.

    Attributes:
        name: of the table's row.
        packages: requirements besides toto-robot; cases with equal packages share an environment.
        setup: lines that make `env`, as the package's own documentation shows them.
        flip: an argument of the wrapper, where images come upside down.
        notes: what a user must know; empty where there is nothing.
    """

    name: str
    packages: tuple[str, ...]
    setup: tuple[str, ...]
    flip: str | None = None
    notes: str = ""

    @property
    def line(self) -> str:
        """The one line that a user writes."""
        flip = "" if self.flip is None else f', flip="{self.flip}"'
        return f"TotoObservation(env, encoder{flip})"


# With newer MuJoCos, gymnasium-robotics 1.4.2 and robosuite 1.5.2 fail in their own code.
ROBOTICS = ("gymnasium-robotics==1.4.2", "mujoco==3.8.1", "imageio")
CASES = (
    Case(
        name="Franka Kitchen",
        packages=ROBOTICS,
        setup=(
            "import gymnasium_robotics",
            "gymnasium.register_envs(gymnasium_robotics)",
            'env = gymnasium.make("FrankaKitchen-v1", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
        notes="`AddRenderObservation(env)` alone drops the state",
    ),
    Case(
        name="Fetch pick and place",
        packages=ROBOTICS,
        setup=(
            "import gymnasium_robotics",
            "gymnasium.register_envs(gymnasium_robotics)",
            'env = gymnasium.make("FetchPickAndPlace-v4", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
    Case(
        name="Adroit door",
        packages=ROBOTICS,
        setup=(
            "import gymnasium_robotics",
            "gymnasium.register_envs(gymnasium_robotics)",
            'env = gymnasium.make("AdroitHandDoor-v1", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
    Case(
        name="Gymnasium MuJoCo (HalfCheetah)",
        packages=("gymnasium[mujoco]",),
        setup=(
            'env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
    Case(
        name="CarRacing",
        packages=("gymnasium[box2d]",),
        setup=('env = gymnasium.make("CarRacing-v3")',),
    ),
    Case(
        name="PushT (gym-pusht)",
        packages=("gym-pusht==0.1.8",),
        setup=(
            "import gym_pusht",
            'env = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos")',
        ),
    ),
    Case(
        name="ALOHA (gym-aloha)",
        packages=("gym-aloha==0.1.5",),
        setup=(
            "import gym_aloha",
            'env = gymnasium.make("gym_aloha/AlohaInsertion-v0", obs_type="pixels_agent_pos")',
        ),
        notes="images lie in `pixels/top`",
    ),
    Case(
        name="MiniGrid",
        packages=("minigrid==3.2.0",),
        setup=(
            "from minigrid.wrappers import RGBImgObsWrapper",
            'env = RGBImgObsWrapper(gymnasium.make("MiniGrid-Empty-8x8-v0"))',
        ),
        notes="its own observation is a grid of 7 x 7 codes: `RGBImgObsWrapper` gives images",
    ),
    Case(
        name="dm_control (through Shimmy)",
        packages=("shimmy[dm-control]==2.0.1", "mujoco==3.8.1", "imageio"),
        setup=(
            "import shimmy",
            "gymnasium.register_envs(shimmy)",
            'env = gymnasium.make("dm_control/cartpole-balance-v0", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
    Case(
        name="Meta-World",
        packages=("metaworld==3.1.1", "imageio"),
        setup=(
            "import metaworld",
            'env = gymnasium.make("Meta-World/MT1", env_name="reach-v3", seed=0,',
            '                     render_mode="rgb_array", camera_name="corner2")',
            f"env = {RENDERED}",
        ),
        flip="vertical",
        notes="frames of `corner2` come upside down; `reset(seed=)` is ignored",
    ),
    Case(
        name="robosuite (Lift)",
        packages=("robosuite==1.5.2", "mujoco==3.8.1", "h5py"),
        setup=(
            "import robosuite",
            "from robosuite.wrappers import GymWrapper",
            'lift = robosuite.make("Lift", robots="Panda", has_renderer=False,',
            '                      camera_names=["agentview"], camera_heights=128,',
            "                      camera_widths=128, use_camera_obs=True)",
            'keys = ["agentview_image", "robot0_proprio-state"]',
            "env = GymWrapper(lift, keys=keys, flatten_obs=False)",
        ),
        flip="vertical",
        notes="images come upside down; `GymWrapper` needs h5py",
    ),
    Case(
        name="panda-gym",
        packages=("panda-gym==3.0.7",),
        setup=(
            "import panda_gym",
            'env = gymnasium.make("PandaPickAndPlace-v3", render_mode="rgb_array")',
            f"env = {RENDERED}",
        ),
    ),
)
