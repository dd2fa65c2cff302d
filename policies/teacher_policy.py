"""A teacher (a learned policy that observes the privileged state) and its checkpoint folder.

`policies.teacher` trains a teacher. A teacher can replace a scripted expert:
`policies.train teacher=<folder>` trains a student on the teacher's actions. This module needs
neither the simulator nor Stable-Baselines3.
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
    """Settings of a teacher's network and of the preprocessing of its input.

    Attributes:
        hidden: numbers of units in the hidden layers of the MLP.
        activation: activation function of the MLP.
        normalise: True: the state is standardised by its running mean and standard deviation.
        clip: each element of the input is clipped to [-clip, clip] after standardisation.
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
    """The description of a teacher in its checkpoint.

    Attributes:
        network: settings of the network.
        interface: action and observation spec of the training environment, without cameras.
        state_names: one name per element of the privileged state.
        env: id and options of the training environment.
    """

    network: TeacherNetwork
    interface: Interface
    state_names: tuple[str, ...]
    env: EnvConfig


class Normaliser(nn.Module):
    """A network layer that standardises states by their running statistics, then clips them.

    Attributes:
        features_dim: number of elements of input and output; Stable-Baselines3 reads this name.
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
        """Update the running mean and standard deviation with n states.

        All states since the beginning have the same weight.
        """
        new = states.to(self.count.device, torch.float64)
        before, added = self.count, len(new)
        share = added / (before + added)
        shift = new.mean(0) - self.mean
        variance = self.std.double().square() * (1 - share) + new.var(0, unbiased=False) * share
        self.std.copy_((variance + share * (1 - share) * shift.square()).sqrt())
        self.mean.copy_(self.mean + share * shift)
        self.count += added


class TeacherPolicy(nn.Module):
    """A policy that computes an action from `observation["state"]`.

    The action is the mean of the action distribution that PPO learned.

    Attributes:
        metadata: the description of the teacher in its checkpoint.
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
        """Return the actions for these states, not clipped to [-1, 1]."""
        return self.mlp(self.normaliser(states))

    @torch.no_grad()
    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action [a] for one observation, or [b a] for a batch, clipped to [-1, 1].

        Raises:
            ValueError: the observation has no `state`, or the state has the wrong size.
        """
        if STATE not in observation:
            raise ValueError(f"a teacher needs {STATE!r}, got {', '.join(sorted(observation))}")
        states = torch.as_tensor(np.asarray(observation[STATE], np.float32))
        width = len(self.metadata.state_names)
        if states.shape[-1:] != (width,):
            raise ValueError(f"{STATE} must be [{width}], got {list(states.shape)}")
        return self(states.to(self.normaliser.mean.device)).clamp(-1.0, 1.0).cpu().numpy()

    def reset(self) -> None:
        """Do nothing, because a teacher has no memory of earlier observations."""

    def require(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        """Check that the teacher can act in an environment.

        The action and observation spec, and the names of the state's elements, must be equal to
        those of the training environment. The cameras may differ.

        Args:
            env: the environment.
            name: name of the teacher in error messages, for example its folder.

        Raises:
            ValueError: the spec or the state differs; the message names the difference.
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
        """Write the checkpoint: `config.json` and `weights.safetensors`.

        Args:
            folder: folder of the checkpoint.
            notes: additional entries for `config.json`.
        """
        save_checkpoint(folder, KIND, to_dict(self.metadata), self.state_dict(), **notes)


def load_teacher(folder: Path) -> TeacherPolicy:
    """Load a teacher from its checkpoint folder.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: the checkpoint is damaged, or of another kind.
    """
    data = read_config(folder, KIND)
    metadata = from_dict(TeacherMetadata, data["config"], at=str(folder))
    weights = load_weights(folder, data["sha256"])
    teacher = build_module(lambda: TeacherPolicy(metadata), weights, folder)
    return teacher.requires_grad_(False).eval()


def teacher_inputs(folder: Path | None) -> dict[str, str]:
    """Return the sha256 of a teacher's weights, by its path; nothing without a checkpoint there."""
    if folder is None or not (folder / "config.json").is_file():
        return {}
    return {str(folder): read_config(folder, KIND)["sha256"]}


def choose_expert(
    env_id: str, teacher: Path | None, env: gymnasium.Env[Any, Any], expert: str | None = None
) -> Policy:
    """Return the policy that labels a student's training data: an expert or a teacher.

    Args:
        env_id: id of the environment.
        teacher: a teacher's checkpoint; None: the scripted expert of the environment.
        env: the environment, in which the teacher must be able to act.
        expert: `module:function` that replaces the environment's scripted expert.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: the environment has no scripted expert, or the teacher was trained for another
            environment.
    """
    if teacher is None:
        return make_expert(env_id, expert)
    policy = load_teacher(teacher)
    policy.require(env, str(teacher))
    return policy


def without_cameras(interface: Interface) -> Interface:
    """Return the interface without its cameras."""
    return replace(interface, cameras=())


def state_names_of(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """Return one name per element of the privileged state of an environment.

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
