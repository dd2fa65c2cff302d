"""Gymnasium environments: each consists of a simulator, an arm, a controller and a task.

Importing this package registers the environments with Gymnasium and builds none of them:

    gymnasium.make("envs:toto/FrankaPick-v0", cameras=("hand", "front"), image_size=128)
    gymnasium.make("envs:toto/FrankaPick-v0", protocol="pixmc")

The wheel `toto-robot-envs` contains the same package under the name `toto_robot_envs`.
"""

import importlib.util

from toto_robot.moved import keep_old_paths

ENVIRONMENTS = (
    "toto/FrankaPick-v0",
    "toto/KukaPick-v0",
    "toto/FrankaCabinet-v0",
    "toto/KukaCabinet-v0",
)

# A control PC without Gymnasium can still import `envs.arms.kinematics` and the arms.
if importlib.util.find_spec("gymnasium") is not None:
    import gymnasium

    _ENTRY_POINT = f"{__name__}.catalogue:make"
    # A process may use only one of the two names: with both, the last import would own the ids.
    _other = getattr(gymnasium.registry.get(ENVIRONMENTS[0]), "entry_point", _ENTRY_POINT)
    if _other != _ENTRY_POINT:
        _loaded = str(_other).partition(".")[0]
        raise ImportError(
            f"{__name__} and {_loaded} are the same package under two names, and this process has "
            f"already imported {_loaded}: use {_loaded} everywhere, as in "
            f"{_loaded}:{ENVIRONMENTS[0]}"
        )
    # The environment itself truncates episodes after the protocol's number of steps.
    for _id in ENVIRONMENTS:
        gymnasium.register(
            id=_id,
            entry_point=_ENTRY_POINT,
            vector_entry_point=f"{__name__}.catalogue:make_vec",
            kwargs={"env_id": _id},
        )

keep_old_paths(
    __name__,
    {
        "franka": "arms.franka",
        "kinematics": "arms.kinematics geometry",
        "kuka": "arms.kuka",
        "meshes": "arms.meshes",
        "mujoco_backend": "simulation.mujoco_backend",
        "patterns": "simulation.patterns",
        "rendering": "toto_robot.rendering",
        "scene": "simulation.scene geometry",
        "simulator": "simulation.simulator",
        "statistics": "success_rates",
    },
)
