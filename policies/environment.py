"""Make the environment that a config describes, and the scripted expert for it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, TypeGuard

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from envs.batch_manipulation import BatchManipulationEnv
from envs.experts import EXPERTS
from envs.interface import Interface
from envs.simulation.backends import BACKENDS

from .gymnasium_env import AdaptedEnv, GymnasiumEnv, open_env
from .named_expert import NamedExpert
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
        backend: name of a physics engine in `envs.simulation.backends.BACKENDS` that simulates all
            episodes of a group together; None: each environment has its own MuJoCo, and worker
            processes share the episodes.
        num_envs: number of worlds of the backend, which is the number of episodes in a group; None:
            the group size of the rollouts.
        backend_options: further arguments of the backend.
    """

    id: str
    options: dict[str, Any]
    teacher_options: dict[str, Any]
    blind_options: dict[str, Any]
    backend: str | None = None
    num_envs: int | None = None
    backend_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_envs is not None and self.num_envs < 1:
            raise ValueError(f"env.num_envs must be at least 1, got {self.num_envs}")
        if self.backend is None and (self.num_envs is not None or self.backend_options):
            raise ValueError(
                "env.num_envs and env.backend_options need env.backend, one of "
                f"{', '.join(BACKENDS)}"
            )


AnyEnv = EnvConfig | GymnasiumEnv


def make_env(
    config: AnyEnv, *, with_images: bool, privileged: bool, filmed: bool = False
) -> gymnasium.Env[Any, Any]:
    """Make an environment, and check that it has what policies need.

    Args:
        config: id and options of the environment.
        with_images: True if the policy uses images. False adds `config.blind_options`.
        privileged: True if an expert or a teacher acts or labels. True adds
            `config.teacher_options`.
        filmed: True if `render()` must return images for a video.

    Raises:
        ValueError: the id or an option is unknown, or the observations or the actions of the
            environment do not have the required form.
    """
    if isinstance(config, GymnasiumEnv):
        return AdaptedEnv(config, with_images=with_images, privileged=privileged, filmed=filmed)
    options = _options(config, with_images, privileged)
    if filmed:
        options["render_mode"] = "rgb_array"
    env = open_env(config.id, options)
    _check(env, config.id)
    return _Copied(env)


class _Copied(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that copies observations and actions, because an environment may reuse its arrays.

    Otherwise, stored observations would change with the next step, and stored actions with an
    environment that scales its argument in place.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return deepcopy(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(np.array(action))
        return deepcopy(observation), reward, terminated, truncated, info


def is_batched(config: AnyEnv) -> TypeGuard[EnvConfig]:
    """Return whether a backend simulates all episodes of a group together."""
    return isinstance(config, EnvConfig) and config.backend is not None


def make_batch(
    config: EnvConfig, num_envs: int, *, with_images: bool, privileged: bool
) -> BatchManipulationEnv:
    """Make the vector environment of a config with a backend, without automatic resets.

    Args:
        config: id and options of the environment.
        num_envs: number of worlds.
        with_images: True if the policy uses images. False adds `config.blind_options`.
        privileged: True if an expert or a teacher acts or labels. True adds
            `config.teacher_options`.

    Raises:
        ValueError: the environment is not one of this project, or the backend or an option is
            unknown.
        ImportError: the packages of the backend are not installed.
    """
    try:
        envs: Any = gymnasium.make_vec(
            config.id,
            num_envs,
            vectorization_mode="vector_entry_point",
            backend=config.backend,
            backend_options=config.backend_options,
            autoreset_mode=AutoresetMode.DISABLED,
            **_options(config, with_images, privileged),
        )
    except gymnasium.error.Error as error:
        raise ValueError(
            f"env.backend={config.backend} needs an environment of this project, got {config.id}"
        ) from error
    except TypeError as error:
        raise ValueError(f"{config.id} with env.backend={config.backend}: {error}") from error
    return envs


def _options(config: EnvConfig, with_images: bool, privileged: bool) -> dict[str, Any]:
    options = dict(config.options)
    if privileged:
        options |= config.teacher_options
    if not with_images:
        options |= config.blind_options
    return options


def describe_env(config: AnyEnv, *, with_images: bool) -> str:
    """Return a text about what was derived from the spaces of a third-party environment.

    If the environment ignores the seed of a reset, the text says so. The text is empty for an
    environment of this project.

    Raises:
        ValueError: the environment does not exist, its spaces cannot be converted, or its `info`
            does not contain whether the task has succeeded.
    """
    if not isinstance(config, GymnasiumEnv):
        return ""
    env = AdaptedEnv(config, with_images=with_images, privileged=False)
    first, again = (env.reset(seed=0)[0] for _ in range(2))
    env.step(np.zeros(len(env.interface.action), np.float32))  # raises if `info` lacks `success`
    env.close()
    if all(np.array_equal(first[key], again[key], equal_nan=True) for key in first):
        return env.describe()
    return (
        f"{env.describe()}note: two resets with the same seed differ. So seeds do not separate the "
        "held-out scenes from those of the training, and a run cannot be repeated exactly\n"
    )


def interface_of(env: gymnasium.Env[Any, Any]) -> Interface:
    """Return the action and observation spec of an environment."""
    return env.get_wrapper_attr("interface")


def make_expert(env_id: str, named: str | None = None) -> Policy:
    """Make the scripted expert of an environment.

    Args:
        env_id: id of the environment.
        named: `module:function` of an expert; None: the expert in `envs.experts.EXPERTS`.

    Raises:
        ValueError: the environment has no expert, and the message lists the environments that have
            one; or `named` does not name a suitable function or class.
    """
    if named is not None:
        return NamedExpert(named)
    experts: dict[str, Callable[[], Policy]] = {**EXPERTS}
    name = env_id.split(":")[-1]
    if name not in experts:
        raise ValueError(
            f"no expert for {name!r}; known: {', '.join(sorted(experts))}. Set "
            "expert=module:function, or add your own expert to envs.experts.EXPERTS where your "
            "environment is registered"
        )
    return experts[name]()


def _check(env: gymnasium.Env[Any, Any], name: str) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or "proprio" not in space.spaces:
        raise ValueError(f"{name}: the observation must be a Dict with 'proprio', got {space}")
    if not env.has_wrapper_attr("interface"):
        raise ValueError(
            f"{name}: the environment needs an attribute `interface`, an Interface; "
            "or use env=gymnasium env.id=..., which derives one"
        )
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
