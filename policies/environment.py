"""Make the environment that a config names, and find the expert that goes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium import spaces

from envs.experts import EXPERTS
from envs.interface import Interface

from .policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvConfig:
    """Return which environment, and how it is made for whom.

    Attributes:
        id: as `gymnasium.make` takes it; `module:name` imports the module first, which may
            register the environment and add its expert to `envs.experts.EXPERTS`.
        options: keyword arguments of the environment, always given.
        teacher_options: given besides when the expert must see what a student does not.
        blind_options: given besides when nobody looks at the pictures, so that none is drawn.
    """

    id: str
    options: dict[str, Any]
    teacher_options: dict[str, Any]
    blind_options: dict[str, Any]


def make_env(
    config: EnvConfig, *, with_images: bool, privileged: bool, filmed: bool = False
) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Args:
        config: which.
        with_images: whether the pictures are looked at.
        privileged: whether the expert must be able to act.
        filmed: whether `render()` gives pictures for people.

    Raises:
        ValueError: unknown id, listing the known; or not an environment that a policy can use,
            saying what it lacks.
    """
    options = dict(config.options)
    if privileged:
        options |= config.teacher_options
    if not with_images:
        options |= config.blind_options
    if filmed:
        options["render_mode"] = "rgb_array"
    try:
        # the passive checker would cost as much as a step's physics
        env = gymnasium.make(config.id, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        known = ", ".join(sorted(name for name in gymnasium.registry if name.startswith("toto/")))
        raise ValueError(f"{error} Environments of this project: {known}") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"environment {config.id!r}: {error}") from error
    _check(env, config.id)
    return env


def interface_of(env: gymnasium.Env[Any, Any]) -> Interface:
    """Return the environment's Interface."""
    return env.get_wrapper_attr("interface")


def make_expert(env_id: str) -> Policy:
    """Make the expert of an environment.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    experts: dict[str, Callable[[], Policy]] = {**EXPERTS}
    name = env_id.split(":")[-1]
    if name not in experts:
        raise ValueError(
            f"no expert for {name!r}; known: {', '.join(sorted(experts))}. An expert of your own "
            f"goes into envs.experts.EXPERTS, where your environment is registered"
        )
    return experts[name]()


def _check(env: gymnasium.Env[Any, Any], name: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or "proprio" not in space.spaces:
        raise ValueError(f"{name}: the observation must be a Dict with 'proprio', it is {space}")
    if not env.has_wrapper_attr("interface"):
        raise ValueError(f"{name}: the environment needs an attribute `interface`, an Interface")
    interface = interface_of(env)
    images = {key.removeprefix("image_") for key in space.spaces if key.startswith("image_")}
    actions = env.action_space
    shape = (len(interface.action),)
    if not isinstance(actions, spaces.Box) or actions.shape != shape:
        raise ValueError(f"{name}: actions must be a Box {shape} as in its interface: {actions}")
    if (actions.low != -1).any() or (actions.high != 1).any():
        raise ValueError(f"{name}: actions must be within [-1, 1], they are within {actions}")
    if images != set(interface.camera_names):
        raise ValueError(
            f"{name}: its interface has the cameras {sorted(interface.camera_names)}, its "
            f"observation has pictures of {sorted(images)}"
        )
