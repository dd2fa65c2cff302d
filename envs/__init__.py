"""Gymnasium environments: a simulator, an arm, a controller and a task.

Importing this package registers the environments and nothing else:

    gymnasium.make("envs:toto/FrankaPick-v0", cameras=("hand", "front"), image_size=128)
    gymnasium.make("envs:toto/FrankaPick-v0", protocol="pixmc")
"""

import importlib.util

from toto_robot.moved import keep_old_paths

ENVIRONMENTS = (
    "toto/FrankaPick-v0",
    "toto/KukaPick-v0",
    "toto/FrankaCabinet-v0",
    "toto/KukaCabinet-v0",
)

# A control PC that has no Gymnasium may still import `envs.arms.kinematics` and the arms.
if importlib.util.find_spec("gymnasium") is not None:
    import gymnasium

    # Episodes end by the protocol's number of steps, which the environment itself counts.
    for _id in ENVIRONMENTS:
        gymnasium.register(id=_id, entry_point="envs.catalogue:make", kwargs={"env_id": _id})

keep_old_paths(
    __name__,
    {
        "franka": "arms.franka",
        "kinematics": "arms.kinematics geometry",
        "kuka": "arms.kuka",
        "meshes": "arms.meshes",
        "mujoco_backend": "simulation.mujoco_backend",
        "patterns": "simulation.patterns",
        "scene": "simulation.scene geometry",
        "simulator": "simulation.simulator",
        "statistics": "success_rates",
    },
)
