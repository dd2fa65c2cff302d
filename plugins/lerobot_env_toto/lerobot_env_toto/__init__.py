"""The tasks of toto-robot in LeRobot: `lerobot-eval --env.type=toto --env.task=FrankaPick-v0`."""

import gymnasium

from .configuration_toto import TotoEnv as TotoEnv

# `toto_robot_envs` is imported by `make`: beside the plugin of the arm it must not be, which needs
# the same package by its name in a checkout, `envs`.
for _name in ("FrankaPick-v0", "KukaPick-v0", "FrankaCabinet-v0", "KukaCabinet-v0"):
    gymnasium.register(
        id=f"{__name__}/{_name}",
        entry_point=f"{__name__}.environment:make",
        kwargs={"task": _name},
    )
