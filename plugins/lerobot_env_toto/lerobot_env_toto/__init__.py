"""The tasks of toto-robot in LeRobot: `lerobot-eval --env.type=toto --env.task=FrankaPick-v0`."""

import gymnasium
from toto_robot_envs import ENVIRONMENTS

from .configuration_toto import TotoEnv as TotoEnv

for _id in ENVIRONMENTS:
    _name = _id.removeprefix("toto/")
    gymnasium.register(
        id=f"{__name__}/{_name}",
        entry_point=f"{__name__}.environment:make",
        kwargs={"task": _name},
    )
