"""A teacher: a learned policy on the privileged state, saved as a checkpoint folder.

A teacher can replace a scripted expert: `policies.train teacher=<folder>` trains a student with the
teacher's labels. `policies.teacher` trains a teacher. This module needs neither the simulator nor
Stable-Baselines3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.interface import Interface
from toto_robot.checkpoint import build_module, load_weights, read_config, save_checkpoint
from toto_robot.config import from_dict, to_dict
from toto_robot.moved import moved_names

from .environment import EnvConfig, interface_of, make_expert
from .policy import Policy

KIND = "teacher"
STATE = "state"
# Lower limit of the standard deviation by which a state is divided; states are in rad and m.
_SMALLEST_STD = 1e-2

ACTIVATIONS: dict[str, type[nn.Module]] = {"selu": nn.SELU, "elu": nn.ELU, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherNetwork:
    """Sizes of a teacher's network, and the preprocessing of its input.

    Attributes:
        hidden: widths of the MLP's hidden layers.
        activation: activation function of the MLP.
        normalise: True to standardise the state by its running mean and standard deviation.
        clip: limit of each element of the network's input, which is clipped to [-clip, clip].
    """

    hidden: tuple[int, ...]
    activation: Literal["selu", "elu", "tanh"]
    normalise: bool
    clip: float

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be positive and not empty, got {self.hidden}")
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherMetadata:
    """The metadata of a teacher's checkpoint.

    Attributes:
        network: sizes of the network.
        interface: interface of its training environment, without cameras.
        state_names: one name per element of the privileged state.
        env: the training environment.
    """

    network: TeacherNetwork
    interface: Interface
    state_names: tuple[str, ...]
    env: EnvConfig


class Normaliser(nn.Module):
    """A normaliser of states: it standardises them by running statistics, then clips them.

    Attributes:
        features_dim: size of input and output; Stable-Baselines3 needs this name.
    """

    def __init__(self, size: int, clip: float) -> None:
        super().__init__()
        self.features_dim = size
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, states: Float[Tensor, "*b s"]) -> Float[Tensor, "*b s"]:
        """Return standardised and clipped states."""
        return ((states - self.mean) / self.std.clamp(min=_SMALLEST_STD)).clamp(
            -self.clip, self.clip
        )

    @torch.no_grad()
    def update(self, states: Float[Tensor, "n s"]) -> None:
        """Update the running mean and standard deviation; all states have the same weight."""
        new = states.to(self.count.device, torch.float64)
        before, added = self.count, len(new)
        share = added / (before + added)
        shift = new.mean(0) - self.mean
        variance = self.std.double().square() * (1 - share) + new.var(0, unbiased=False) * share
        self.std.copy_((variance + share * (1 - share) * shift.square()).sqrt())
        self.mean.copy_(self.mean + share * shift)
        self.count += added


class TeacherPolicy(nn.Module):
    """A policy on `observation["state"]`: the mean of the action distribution that PPO learned.

    Attributes:
        metadata: the metadata of its checkpoint.
    """

    def __init__(self, metadata: TeacherMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        width = len(metadata.state_names)
        self.normaliser = Normaliser(width, metadata.network.clip)
        layers: list[nn.Module] = []
        for hidden in metadata.network.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[metadata.network.activation]()]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, len(metadata.interface.action)))
        self.eval()

    def forward(self, states: Float[Tensor, "*b s"]) -> Float[Tensor, "*b a"]:
        """Return actions, not clipped to their limits."""
        return self.mlp(self.normaliser(states))

    @torch.no_grad()
    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, or [b a] for a batch, clipped to [-1, 1].

        Raises:
            ValueError: the observation has no `state`, or one of another size.
        """
        if STATE not in observation:
            raise ValueError(f"a teacher needs {STATE!r}, got {', '.join(sorted(observation))}")
        states = torch.as_tensor(np.asarray(observation[STATE], np.float32))
        width = len(self.metadata.state_names)
        if states.shape[-1:] != (width,):
            raise ValueError(f"{STATE} must be [{width}], got {list(states.shape)}")
        return self(states.to(self.normaliser.mean.device)).clamp(-1.0, 1.0).cpu().numpy()

    def reset(self) -> None:
        """Do nothing: a teacher has no memory."""

    def require(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        """Check that an environment has this teacher's interface and state.

        Args:
            env: the environment; its cameras are ignored.
            name: name of the teacher in error messages, such as its folder.

        Raises:
            ValueError: the interface or the state differs; the message names the difference.
        """
        here = without_cameras(interface_of(env))
        self.metadata.interface.require_equal(here, name, "the environment")
        then, now = self.metadata.state_names, state_names_of(env)
        if then == now:
            return
        places = range(max(len(then), len(now)))
        place = next(i for i in places if then[i : i + 1] != now[i : i + 1])
        words = [names[place] if place < len(names) else "nothing" for names in (then, now)]
        raise ValueError(
            f"{name} was trained on a state of {len(then)} elements, the environment's has "
            f"{len(now)}; the first difference is element {place}: {words[0]} != {words[1]}"
        )

    def save(self, folder: Path, **notes: Any) -> None:
        """Write the checkpoint: `config.json` and `weights.safetensors`."""
        save_checkpoint(folder, KIND, to_dict(self.metadata), self.state_dict(), **notes)


def load_teacher(folder: Path) -> TeacherPolicy:
    """Load a teacher.

    Raises:
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: the checkpoint is damaged, or of another kind.
    """
    data = read_config(folder, KIND)
    metadata = from_dict(TeacherMetadata, data["config"], at=str(folder))
    weights = load_weights(folder, data["sha256"])
    teacher = build_module(lambda: TeacherPolicy(metadata), weights, folder)
    return teacher.requires_grad_(False).eval()


def choose_expert(env_id: str, teacher: Path | None, env: gymnasium.Env[Any, Any]) -> Policy:
    """Return the expert of a student: the environment's scripted expert, or a teacher.

    Args:
        env_id: id of the environment.
        teacher: a teacher's checkpoint; None: the scripted expert.
        env: the environment; its interface and state must equal those of the teacher's training.

    Raises:
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: the environment has no scripted expert, or the teacher does not fit it.
    """
    if teacher is None:
        return make_expert(env_id)
    policy = load_teacher(teacher)
    policy.require(env, str(teacher))
    return policy


def without_cameras(interface: Interface) -> Interface:
    """Return the interface without its cameras."""
    return replace(interface, cameras=())


def state_names_of(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """Return the names of the privileged state's elements.

    Raises:
        ValueError: the environment has no `state_names`.
    """
    if not env.has_wrapper_attr("state_names"):
        raise ValueError(
            f"{env} needs an attribute `state_names` with a name for each element of its `state`, "
            "so that a teacher can check its input"
        )
    return tuple(env.get_wrapper_attr("state_names"))


__getattr__ = moved_names(
    __name__,
    {
        "TeacherCard": "policies.teacher_policy:TeacherMetadata",
        "sightless": "policies.teacher_policy:without_cameras",
    },
)
