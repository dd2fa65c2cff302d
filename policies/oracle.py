"""The privileged state as an input of a policy (`encoder=state`), as an upper limit for encoders.

A state oracle has the true poses of objects in place of embeddings. So it is limited by its
demonstrations and its network only, not by vision. In a store and in a checkpoint, the state is
part of `proprio`: the elements whose names begin with `state/`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface

from .environment import interface_of
from .teacher_policy import STATE, state_names_of
from .vision import StateVision, VisionConfig

PREFIX = "state/"


def interface_for(vision: VisionConfig, env: gymnasium.Env[Any, Any]) -> Interface:
    """Return the action and observation spec of policies with this encoder in an environment.

    Raises:
        ValueError: the policies observe the privileged state, but the environment has none.
    """
    interface = interface_of(env)
    if not isinstance(vision, StateVision):
        return interface
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Dict) or STATE not in space.spaces:
        raise ValueError(
            f"encoder=state needs an environment whose observation has the privileged {STATE!r}, "
            f"such as env=franka_pick; that of {env} has none"
        )
    names = (f"{PREFIX}{name}" for name in state_names_of(env))
    return replace(interface, proprio=(*interface.proprio, *names))


def proprio_for(vision: VisionConfig, observation: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the vector [*b p] that policies with this encoder observe; maybe with `state`."""
    proprio = np.asarray(observation["proprio"], np.float32)
    if not isinstance(vision, StateVision):
        return proprio
    return np.concatenate([proprio, np.asarray(observation[STATE], np.float32)], axis=-1)


def require_state(name: str, policy: Interface, here: Interface) -> None:
    """Check that the privileged state exists where a policy will act, if the policy observes it.

    Args:
        name: name of the policy in the message, for example its folder.
        policy: the policy's action and observation spec.
        here: that of the environment or robot where the policy will act.

    Raises:
        ValueError: the policy observes the privileged state, which does not exist here.
    """
    if num_states(policy) > num_states(here):
        raise ValueError(
            f"{name} was trained with encoder=state, on the privileged state of a simulation, "
            "which does not exist here; a robot needs a policy with an encoder of images"
        )


def num_states(interface: Interface) -> int:
    """Return how many elements of `proprio` are elements of the privileged state."""
    return sum(name.startswith(PREFIX) for name in interface.proprio)
