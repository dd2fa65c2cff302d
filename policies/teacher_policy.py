"""A teacher: a policy on the privileged state, learned, as a checkpoint folder.

It stands where a scripted expert stands: `policies.train teacher=<folder>` asks it for the labels.
How it is learned is in `policies.learning.ppo` and `policies.teacher`; nothing here needs the
simulator or Stable-Baselines3.
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
# A number that hardly moves is divided by this and not by less. States are in radians and metres.
_SMALLEST_STD = 1e-2

ACTIVATIONS: dict[str, type[nn.Module]] = {"selu": nn.SELU, "elu": nn.ELU, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherNetwork:
    """Sizes of a teacher's network, and what is done to its input.

    Attributes:
        hidden: widths of the MLP.
        activation: between its layers.
        normalise: whether the state is standardised by its running mean and deviation.
        clip: the network's input is cut at plus and minus this.
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
    """All that a teacher's checkpoint says of itself.

    Attributes:
        network: sizes.
        interface: of the environment where it learned, without cameras: it has no eyes.
        state_names: one name per element of the privileged state.
        env: where it learned.
    """

    network: TeacherNetwork
    interface: Interface
    state_names: tuple[str, ...]
    env: EnvConfig


class Normaliser(nn.Module):
    """Standardise by the mean and deviation of all that was shown to `update`, and cut.

    Attributes:
        features_dim: size of input and output, as Stable-Baselines3 asks for it.
    """

    def __init__(self, size: int, clip: float) -> None:
        super().__init__()
        self.features_dim = size
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, states: Float[Tensor, "*b s"]) -> Float[Tensor, "*b s"]:
        """Return standardised states."""
        return ((states - self.mean) / self.std.clamp(min=_SMALLEST_STD)).clamp(
            -self.clip, self.clip
        )

    @torch.no_grad()
    def update(self, states: Float[Tensor, "n s"]) -> None:
        """Take more states into mean and deviation, all with the same weight."""
        new = states.to(self.count.device, torch.float64)
        before, added = self.count, len(new)
        share = added / (before + added)
        shift = new.mean(0) - self.mean
        variance = self.std.double().square() * (1 - share) + new.var(0, unbiased=False) * share
        self.std.copy_((variance + share * (1 - share) * shift.square()).sqrt())
        self.mean.copy_(self.mean + share * shift)
        self.count += added


class TeacherPolicy(nn.Module):
    """A policy on `observation["state"]`: the mean of the distribution that PPO learned.

    Attributes:
        metadata: what it is.
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
        """Return actions, not cut to their limits."""
        return self.mlp(self.normaliser(states))

    @torch.no_grad()
    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, or [b a] for a batch, cut to [-1, 1].

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
        """Do nothing when an environment shows and takes what this teacher knows.

        Args:
            env: the environment; its cameras are of no concern.
            name: what to call the teacher in an error, such as its folder.

        Raises:
            ValueError: its interface or its state differs, saying where.
        """
        here = sightless(interface_of(env))
        self.metadata.interface.require_equal(here, name, "the environment")
        then, now = self.metadata.state_names, state_names_of(env)
        if then == now:
            return
        places = range(max(len(then), len(now)))
        place = next(i for i in places if then[i : i + 1] != now[i : i + 1])
        words = [names[place] if place < len(names) else "nothing" for names in (then, now)]
        raise ValueError(
            f"{name} learned on a state of {len(then)} numbers, the environment's has {len(now)}; "
            f"the first that differs is number {place}: {words[0]} != {words[1]}"
        )

    def save(self, folder: Path, **notes: Any) -> None:
        """Write the checkpoint: `config.json` and `weights.safetensors`."""
        save_checkpoint(folder, KIND, to_dict(self.metadata), self.state_dict(), **notes)


def load_teacher(folder: Path) -> TeacherPolicy:
    """Open a teacher.

    Raises:
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: it is damaged, or a checkpoint of another kind.
    """
    data = read_config(folder, KIND)
    metadata = from_dict(TeacherMetadata, data["config"], at=str(folder))
    weights = load_weights(folder, data["sha256"])
    teacher = build_module(lambda: TeacherPolicy(metadata), weights, folder)
    return teacher.requires_grad_(False).eval()


def choose_expert(env_id: str, teacher: Path | None, env: gymnasium.Env[Any, Any]) -> Policy:
    """Return whom a student asks: the environment's scripted expert, or the teacher in a folder.

    Args:
        env_id: of the environment.
        teacher: a teacher's checkpoint; None: the scripted expert.
        env: the environment, which a teacher must fit.

    Raises:
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: there is no scripted expert, or the teacher does not fit the environment.
    """
    if teacher is None:
        return make_expert(env_id)
    policy = load_teacher(teacher)
    policy.require(env, str(teacher))
    return policy


def sightless(interface: Interface) -> Interface:
    """Return the interface without its cameras."""
    return replace(interface, cameras=())


def state_names_of(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """Return the names of the privileged state's elements.

    Raises:
        ValueError: the environment does not say them.
    """
    if not env.has_wrapper_attr("state_names"):
        raise ValueError(
            f"{env} needs an attribute `state_names`, a name for each element of its `state`: "
            "a teacher must know what it reads"
        )
    return tuple(env.get_wrapper_attr("state_names"))


__getattr__ = moved_names(
    __name__,
    {
        "TeacherCard": "policies.teacher_policy:TeacherMetadata",
    },
)
