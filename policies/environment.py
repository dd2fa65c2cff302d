"""Make the environment that a config describes, and the scripted expert for it."""

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
    """The id of an environment, and the keyword arguments for `gymnasium.make`.

    Attributes:
        id: environment id for `gymnasium.make`. With `module:name`, the module is imported first;
            it may register the environment and add an expert to `envs.experts.EXPERTS`.
        options: keyword arguments that are always passed.
        teacher_options: additional keyword arguments while an expert or a teacher acts or labels,
            for example `privileged: true` to observe the privileged state.
        blind_options: additional keyword arguments if no policy uses images, for example
            `cameras: []`, so that no image is rendered.
    """

    id: str
    options: dict[str, Any]
    teacher_options: dict[str, Any]
    blind_options: dict[str, Any]


def make_env(
    config: EnvConfig, *, with_images: bool, privileged: bool, filmed: bool = False
) -> gymnasium.Env[Any, Any]:
    """Make an environment, and check that it has what policies need.

    Args:
        config: id and options of the environment.
        with_images: True if the policy uses images. False adds `config.blind_options`.
        privileged: True if an expert or a teacher acts or labels. True adds
            `config.teacher_options`.
        filmed: True if `render()` must return images for a video.

    Raises:
        ValueError: the id is unknown, or the observations or the actions of the environment do not
            have the required form.
    """
    options = dict(config.options)
    if privileged:
        options |= config.teacher_options
    if not with_images:
        options |= config.blind_options
    if filmed:
        options["render_mode"] = "rgb_array"
    try:
        # the passive checker takes as long as the physics of a step
        env = gymnasium.make(config.id, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        known = ", ".join(sorted(name for name in gymnasium.registry if name.startswith("toto/")))
        raise ValueError(f"{error} Environments of this project: {known}") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"environment {config.id!r}: {error}") from error
    _check(env, config.id)
    return env


def interface_of(env: gymnasium.Env[Any, Any]) -> Interface:
    """Return the action and observation spec of an environment."""
    return env.get_wrapper_attr("interface")


def make_expert(env_id: str) -> Policy:
    """Make the scripted expert of an environment.

    Raises:
        ValueError: the environment has no expert; the message lists the environments with one.
    """
    experts: dict[str, Callable[[], Policy]] = {**EXPERTS}
    name = env_id.split(":")[-1]
    if name not in experts:
        raise ValueError(
            f"no expert for {name!r}; known: {', '.join(sorted(experts))}. Add your own expert to "
            f"envs.experts.EXPERTS where your environment is registered"
        )
    return experts[name]()


def _check(env: gymnasium.Env[Any, Any], name: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or "proprio" not in space.spaces:
        raise ValueError(f"{name}: the observation must be a Dict with 'proprio', got {space}")
    if not env.has_wrapper_attr("interface"):
        raise ValueError(f"{name}: the environment needs an attribute `interface`, an Interface")
    interface = interface_of(env)
    images = {key.removeprefix("image_") for key in space.spaces if key.startswith("image_")}
    actions = env.action_space
    shape = (len(interface.action),)
    if not isinstance(actions, spaces.Box) or actions.shape != shape:
        raise ValueError(
            f"{name}: actions must be a Box {shape} as in its interface, got {actions}"
        )
    if (actions.low != -1).any() or (actions.high != 1).any():
        raise ValueError(f"{name}: actions must be within [-1, 1], got {actions}")
    if images != set(interface.camera_names):
        raise ValueError(
            f"{name}: its interface has the cameras {sorted(interface.camera_names)}, its "
            f"observation has images of {sorted(images)}"
        )
