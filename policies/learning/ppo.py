"""PPO by Stable-Baselines3 on the privileged state: one iteration at a time, resumable.

PPO is Schulman et al., arXiv 1707.06347. `configs/ppo/pixmc.yaml` are the numbers of MVP's PixMC
(Xiao et al., arXiv 2203.06173, and its code). What still differs from that code, because
Stable-Baselines3 does it so: minibatches are shuffled (there, each is 8 consecutive time steps of
all environments), and an action's deviation is exp(log_std) (there, exp(2 log_std); both begin
at 1).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import torch
from torch import nn

from toto_robot.moved import moved_names

from ..environment import EnvConfig
from ..rollouts.job import PhaseClock
from ..teacher_policy import ACTIVATIONS, Normaliser, TeacherNetwork, TeacherPolicy
from .training_episodes import OUTCOME, make_environments

if TYPE_CHECKING:  # an extra, imported where it is used
    from stable_baselines3 import PPO

# The success rate of training is that of so many episodes, as upstream reports it.
RECENT_EPISODES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig:
    """Say how PPO learns.

    Attributes:
        num_envs: environments that run in step.
        num_steps: of each, before the networks learn from all of them.
        epochs: how often they learn from the same steps.
        minibatches: into which the steps are divided.
        learning_rate: of Adam, at the beginning; falls along a cosine.
        final_lr_fraction: what is left of it at the end.
        adam_epsilon: of Adam.
        max_gradient_norm: gradients are scaled down to this norm.
        gamma: discount of a step.
        gae_lambda: of generalised advantage estimation.
        clip: how far the ratio of probabilities may go from 1.
        value_coefficient: weight of the value's squared error.
        entropy_coefficient: weight of the entropy.
        target_kl: the epochs end early when the policy has moved 1.5 times as far; None: never.
        normalise_advantages: over the whole `rollout`, or within each `minibatch`.
        normalise_rewards: whether rewards are divided by the running deviation of their
            discounted sum.
        bootstrap_timeouts: whether the value of what would have come is added where an episode
            ends by time alone. Otherwise the end of time counts as the end of everything, which a
            state without a clock cannot foresee.
        initial_log_std: of the actions' distribution.
        network: of the actor; the critic has the same sizes and shares nothing but the normaliser.
    """

    num_envs: int
    num_steps: int
    epochs: int
    minibatches: int
    learning_rate: float
    final_lr_fraction: float
    adam_epsilon: float
    max_gradient_norm: float
    gamma: float
    gae_lambda: float
    clip: float
    value_coefficient: float
    entropy_coefficient: float
    target_kl: float | None
    normalise_advantages: Literal["rollout", "minibatch"]
    normalise_rewards: bool
    bootstrap_timeouts: bool
    initial_log_std: float
    network: TeacherNetwork

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch % self.minibatches:
            raise ValueError(
                f"{self.num_envs} environments x {self.num_steps} steps = {self.batch} steps "
                f"cannot be divided into {self.minibatches} equal minibatches"
            )
        if self.batch == self.minibatches:
            raise ValueError("a minibatch must have more than one step: fewer minibatches")
        for name in ("learning_rate", "adam_epsilon", "max_gradient_norm", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def batch(self) -> int:
        """Return the environment steps of one iteration."""
        return self.num_envs * self.num_steps

    def learning_rate_at(self, iteration: int, iterations: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        rest = self.final_lr_fraction
        return self.learning_rate * (rest + (1 - rest) * cosine)


class PpoTrainer:
    """A model and its environments; `iterate` learns from one batch of steps.

    All randomness of an iteration is drawn from (seed, iteration). What a resumed run does
    differently is that episodes which were under way begin anew.

    Attributes:
        iteration: iterations done.
        episodes: episodes ended.
        recent: outcomes of the last of them.
        batch: environment steps of one iteration.
        clock: counts wall seconds by stage.
    """

    def __init__(
        self,
        config: PpoConfig,
        env: EnvConfig,
        *,
        seed: int,
        iterations: int,
        num_workers: int,
        device: str,
        state: Mapping[str, Any] | None,
    ) -> None:
        """Make environments and model.

        Args:
            config: how it learns.
            env: where.
            seed: of the run.
            iterations: how many there will be, for the learning rate.
            num_workers: processes for the environments; 0: in this one.
            device: where the networks are.
            state: what `state()` gave, to go on from there; None: from the beginning.
        """
        from stable_baselines3.common.logger import Logger
        from stable_baselines3.common.utils import set_random_seed
        from stable_baselines3.common.vec_env import VecNormalize

        self.batch = config.batch
        self._config, self._seed, self._iterations = config, seed, iterations
        self._set_random_seed = set_random_seed
        self.iteration = 0 if state is None else state["iteration"]
        self.episodes = 0 if state is None else state["episodes"]
        self.clock = PhaseClock({} if state is None else dict(state["seconds"]))
        recent = [] if state is None else state["recent"]
        self.recent: deque[dict[str, float]] = deque(recent, RECENT_EPISODES)

        self._rewards = VecNormalize(
            make_environments(
                env,
                config.num_envs,
                seeds=(seed, self.episodes),
                timeouts_end_everything=not config.bootstrap_timeouts,
                num_workers=num_workers,
            ),
            training=config.normalise_rewards,
            norm_obs=False,
            norm_reward=config.normalise_rewards,
            gamma=config.gamma,
        )
        self._seed_iteration(-1)
        self._model = self._make_model(device)
        self._model.set_logger(Logger(None, []))
        normaliser: Any = self._model.policy.features_extractor
        self._normaliser: Normaliser = normaliser
        if state is not None:
            self._load(state)
        self._model.learn(0)  # resets the environments, and learns nothing

    def _make_model(self, device: str) -> "PPO":
        """Draw the networks anew, and set every number of PPO."""
        from stable_baselines3 import PPO

        config, network = self._config, self._config.network
        return PPO(
            "MlpPolicy",
            self._rewards,
            learning_rate=lambda _: config.learning_rate_at(self.iteration, self._iterations),
            n_steps=config.num_steps,
            batch_size=config.batch // config.minibatches,
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            normalize_advantage=config.normalise_advantages == "minibatch",
            ent_coef=config.entropy_coefficient,
            vf_coef=config.value_coefficient,
            max_grad_norm=config.max_gradient_norm,
            target_kl=config.target_kl,
            policy_kwargs={
                "net_arch": {"pi": list(network.hidden), "vf": list(network.hidden)},
                "activation_fn": ACTIVATIONS[network.activation],
                "log_std_init": config.initial_log_std,
                "features_extractor_class": partial(_normaliser, clip=network.clip),
                "optimizer_kwargs": {"eps": config.adam_epsilon},
            },
            device=device,
        )

    @property
    def env_steps(self) -> int:
        """Return the environment steps that are done."""
        return self.iteration * self.batch

    @property
    def seconds(self) -> dict[str, float]:
        """Return the wall seconds by stage."""
        return self.clock.seconds

    def iterate(self, progress: Callable[[int], object]) -> dict[str, float]:
        """Run the environments, learn from that, and return what there is to log.

        Args:
            progress: called with environment steps as they are done.
        """
        learning_rate = self._config.learning_rate_at(self.iteration, self._iterations)
        self._seed_iteration(self.iteration)
        with self.clock("environments"):
            self._collect(progress)
        with self.clock("learning"):
            self._learn()
        self.iteration += 1
        return self._row() | {"ppo/learning_rate": learning_rate}

    def _collect(self, progress: Callable[[int], object]) -> None:
        """Fill the model's buffer with steps of all environments."""
        from stable_baselines3.common.callbacks import ConvertCallback

        config, model = self._config, self._model

        def look(local: dict[str, Any], _: dict[str, Any]) -> bool:
            ended = [info[OUTCOME] for info in local["infos"] if OUTCOME in info]
            self.recent.extend({k: float(v) for k, v in one.items()} for one in ended)
            self.episodes += len(ended)
            progress(config.num_envs)
            return True

        callback = ConvertCallback(look)
        callback.init_callback(model)
        model.collect_rollouts(self._rewards, callback, model.rollout_buffer, config.num_steps)

    def _learn(self) -> None:
        """Learn from the buffer."""
        config, buffer = self._config, self._model.rollout_buffer
        states = torch.as_tensor(buffer.observations.reshape(config.batch, -1).copy())
        if config.normalise_advantages == "rollout":
            advantages = buffer.advantages
            buffer.advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        self._model.train()
        if config.network.normalise:  # only now: the ratios compared like with like
            self._normaliser.update(states)

    def _row(self) -> dict[str, float]:
        """Return the numbers of the last iteration and of the last episodes."""
        values = self._model.logger.name_to_value
        names = ("value_loss", "approx_kl", "clip_fraction", "explained_variance", "std")
        row = {f"ppo/{name}": float(values[f"train/{name}"]) for name in names}
        row["episodes"] = self.episodes
        values.clear()
        if self.recent:
            names = [name for name in self.recent[-1] if name not in ("success", "steps")]
            row |= {name: _mean(self.recent, name) for name in names}
            row["success/training"] = _mean(self.recent, "success")
            row["episode_steps"] = _mean(self.recent, "steps")
        return row

    def fill(self, teacher: TeacherPolicy) -> None:
        """Copy what is learned into a teacher."""
        policy: Any = self._model.policy
        actor = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)
        teacher.mlp.load_state_dict(actor.state_dict())
        teacher.normaliser.load_state_dict(self._normaliser.state_dict())

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs, as tensors and plain data."""
        returns = self._rewards.ret_rms
        return {
            "iteration": self.iteration,
            "episodes": self.episodes,
            "recent": list(self.recent),
            "seconds": dict(self.seconds),
            "policy": self._model.policy.state_dict(),
            "optimizer": self._model.policy.optimizer.state_dict(),
            "returns": [float(returns.mean), float(returns.var), float(returns.count)],
        }

    def close(self) -> None:
        """Close the environments."""
        self._rewards.close()

    def _load(self, state: Mapping[str, Any]) -> None:
        self._model.policy.load_state_dict(state["policy"])
        self._model.policy.optimizer.load_state_dict(state["optimizer"])
        returns = self._rewards.ret_rms
        mean, variance, returns.count = state["returns"]
        returns.mean, returns.var = np.asarray(mean), np.asarray(variance)

    def _seed_iteration(self, iteration: int) -> None:
        # Stable-Baselines3 draws from the global generators
        entropy = np.random.SeedSequence((self._seed, iteration + 1))
        self._set_random_seed(int(entropy.generate_state(1)[0]))


def _normaliser(space: gymnasium.spaces.Box, *, clip: float) -> Normaliser:
    return Normaliser(space.shape[0], clip)


def _mean(outcomes: deque[dict[str, float]], name: str) -> float:
    return sum(one[name] for one in outcomes) / len(outcomes)


__getattr__ = moved_names(
    __name__, {"TrainingEpisodes": "policies.learning.training_episodes:TrainingEpisodes"}
)
