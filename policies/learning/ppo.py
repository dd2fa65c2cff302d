"""Train a policy on the privileged state with Stable-Baselines3's PPO; a run can be resumed.

PPO is described by Schulman et al., arXiv 1707.06347. `configs/ppo/pixmc.yaml` has the settings of
MVP's benchmark PixMC (Xiao et al., arXiv 2203.06173, and its code). Stable-Baselines3 differs from
PixMC in two ways. First, its minibatches consist of randomly selected steps; in PixMC a minibatch
has 8 consecutive steps of all environments. Second, the standard deviation of an action is
exp(log_std); in PixMC it is exp(2 log_std). Both standard deviations are 1 at the beginning.
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

# Number of recent episodes for the training success rate, as in PixMC.
RECENT_EPISODES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig:
    """Settings of PPO.

    Attributes:
        num_envs: number of environments, which run in lockstep.
        num_steps: number of steps that each environment runs per iteration.
        epochs: number of passes over the steps of an iteration.
        minibatches: number of minibatches per epoch.
        learning_rate: learning rate of Adam at the beginning; it follows a cosine schedule.
        final_lr_fraction: learning rate at the end, as a fraction of the rate at the beginning.
        adam_epsilon: the constant epsilon of Adam, which avoids a division by zero.
        max_gradient_norm: gradients with a larger norm are scaled down to this norm.
        gamma: discount factor per step.
        gae_lambda: lambda of generalised advantage estimation.
        clip: the probability ratio of PPO is clipped to [1 - clip, 1 + clip].
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus.
        target_kl: the epochs of an iteration stop early when the KL divergence from the old policy
            exceeds 1.5 times this value; None: they never stop early.
        normalise_advantages: over which steps advantages are normalised. `rollout`: all steps of an
            iteration. `minibatch`: the steps of a minibatch.
        normalise_rewards: True: rewards are divided by the running standard deviation of their
            discounted sum.
        bootstrap_timeouts: True: when an episode ends by its time limit, the value of the next
            state is added to the return. False: a time limit counts as termination. The value
            function cannot predict such a termination, because the state contains no clock.
        initial_log_std: natural logarithm of the standard deviation of the actions at the
            beginning.
        network: settings of the actor of a teacher. The critic has layers of the same sizes, and
            shares with the actor only the normalisation of the input. None: the actor is a student.
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
    network: TeacherNetwork | None = None

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
            raise ValueError("a minibatch must have more than one step: use fewer minibatches")
        for name in ("learning_rate", "adam_epsilon", "max_gradient_norm", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda", "final_lr_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def batch(self) -> int:
        """Return the number of environment steps of one iteration, summed over environments."""
        return self.num_envs * self.num_steps

    def learning_rate_at(self, iteration: int, iterations: int) -> float:
        """Return the learning rate in iteration `iteration` (from 0) of `iterations`."""
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        rest = self.final_lr_fraction
        return self.learning_rate * (rest + (1 - rest) * cosine)


class PpoTrainer:
    """A PPO model with its environments; each call of `iterate` runs one iteration.

    The random numbers of an iteration depend only on the seed and the iteration. But when a
    training is resumed, the episodes that were running begin again.

    Attributes:
        iteration: number of completed iterations.
        episodes: number of completed episodes.
        recent: outcomes of the newest 200 episodes, each a dictionary of numbers.
        batch: number of environment steps of one iteration, summed over environments.
        clock: measures the wall time of each phase.
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
        """Make the environments and the model.

        Args:
            config: settings of PPO.
            env: the environment.
            seed: the run's seed.
            iterations: total number of iterations, which the learning rate schedule needs.
            num_workers: number of worker processes for the environments; 0: the environments run
                in the main process.
            device: device of the networks.
            state: a value that `state()` returned, from which to resume; None: a new training.

        Raises:
            ImportError: Stable-Baselines3 is not installed.
        """
        try:
            from stable_baselines3.common.logger import Logger
            from stable_baselines3.common.utils import set_random_seed
            from stable_baselines3.common.vec_env import VecNormalize
        except ImportError as error:
            raise ImportError(
                "PPO needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
            ) from error

        self.batch = config.batch
        self._config, self._seed, self._iterations = config, seed, iterations
        self._set_random_seed = set_random_seed
        self.iteration = 0 if state is None else state["iteration"]
        self.episodes = 0 if state is None else state["episodes"]
        self.clock = PhaseClock({} if state is None else dict(state["seconds"]))
        recent = [] if state is None else state["recent"]
        self.recent: deque[dict[str, float]] = deque(recent, RECENT_EPISODES)

        self._rewards = VecNormalize(
            self._make_environments(env, num_workers),
            training=config.normalise_rewards,
            norm_obs=False,
            norm_reward=config.normalise_rewards,
            gamma=config.gamma,
        )
        self._seed_iteration(-1)
        self._model = self._make_model(device)
        self._model.set_logger(Logger(None, []))
        if state is not None:
            self._load(state)
        self._model.learn(0)  # resets the environments, and learns nothing

    def _make_environments(
        self, env: EnvConfig, num_workers: int, keys: tuple[str, ...] | None = None
    ) -> Any:
        """Make the training environments, beginning with the next episode of the run."""
        return make_environments(
            env,
            self._config.num_envs,
            seeds=(self._seed, self.episodes),
            timeouts_terminate=not self._config.bootstrap_timeouts,
            num_workers=num_workers,
            keys=keys,
        )

    def _networks(self) -> dict[str, Any]:
        """Return the arguments of Stable-Baselines3's policy that describe the networks."""
        network = self._config.network
        assert network is not None  # checked by TeacherConfig
        return {
            "net_arch": {"pi": list(network.hidden), "vf": list(network.hidden)},
            "activation_fn": ACTIVATIONS[network.activation],
            "features_extractor_class": partial(_normaliser, clip=network.clip),
        }

    def _normalise(self, inputs: torch.Tensor) -> None:
        """Update the statistics that standardise the inputs [n s] of the networks."""
        if self._config.network is not None and self._config.network.normalise:
            self._normaliser.update(inputs)

    @property
    def _normaliser(self) -> Normaliser:
        normaliser: Any = self._model.policy.features_extractor
        return normaliser

    def _make_model(self, device: str) -> "PPO":
        """Return a Stable-Baselines3 model with these settings and random networks."""
        from stable_baselines3 import PPO

        config = self._config
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
                **self._networks(),
                "log_std_init": config.initial_log_std,
                "optimizer_kwargs": {"eps": config.adam_epsilon},
            },
            device=device,
        )

    @property
    def env_steps(self) -> int:
        """Return the number of completed environment steps."""
        return self.iteration * self.batch

    @property
    def gradient_steps(self) -> int:
        """Return the number of gradient steps so far; `target_kl` stops iterations early."""
        states = self._model.policy.optimizer.state.values()
        return max((int(state["step"]) for state in states), default=0)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the wall time of each phase, in seconds."""
        return self.clock.seconds

    def iterate(self, progress: Callable[[int], object]) -> dict[str, float]:
        """Run one iteration: collect environment steps, and train on them.

        Args:
            progress: called with the number of newly completed environment steps.

        Returns:
            Values for the log, by name.
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
        """Run the environments for `num_steps` steps each, and store the steps in the buffer."""
        from stable_baselines3.common.callbacks import ConvertCallback

        config, model = self._config, self._model

        def on_step(local: dict[str, Any], _: dict[str, Any]) -> bool:
            ended = [info[OUTCOME] for info in local["infos"] if OUTCOME in info]
            self.recent.extend({k: float(v) for k, v in one.items()} for one in ended)
            self.episodes += len(ended)
            progress(config.num_envs)
            return True

        callback = ConvertCallback(on_step)
        callback.init_callback(model)
        model.collect_rollouts(self._rewards, callback, model.rollout_buffer, config.num_steps)

    def _learn(self) -> None:
        """Train the model on the steps in the buffer."""
        config, buffer = self._config, self._model.rollout_buffer
        states = torch.as_tensor(buffer.observations.reshape(config.batch, -1).copy())
        if config.normalise_advantages == "rollout":
            advantages = buffer.advantages
            buffer.advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        self._model.train()
        self._normalise(states)  # after training, so that all ratios use the same statistics

    def _row(self) -> dict[str, float]:
        """Return the log values of the newest iteration and means over the most recent episodes."""
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
        """Copy the weights of the actor and the statistics of the normaliser into a teacher."""
        policy: Any = self._model.policy
        actor = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)
        teacher.mlp.load_state_dict(actor.state_dict())
        teacher.normaliser.load_state_dict(self._normaliser.state_dict())

    def state(self) -> dict[str, Any]:
        """Return the complete state of the training, as tensors and plain data, to resume it."""
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
