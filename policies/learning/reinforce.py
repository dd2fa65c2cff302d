"""Train a student by PPO from the embeddings of its encoder, without demonstrations.

    <out>/rounds/00/policy/          the student after the first `validate_every` iterations
    <out>/rounds/00/round.json       its results, with the same keys as in a DAgger round
    <out>/rounds/00/train_state.pt   the state from which a stopped run continues; only the newest

A round is `validate_every` iterations of PPO and a validation. The actor is a student without
chunks, and its checkpoint is an ordinary student's. The critic has a network of the same form.
Embeddings are computed once per frame. Rewards are those of the environment.
"""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from tqdm import tqdm

from toto_robot import FrameEncoder
from toto_robot.encoders.contract import NO_PAST, compress_each
from toto_robot.files import write_json, written_aside

from ..environment import EnvConfig
from ..oracle import proprio_for
from ..report import ENCODER_PHASES, draw_curve, write_tensorboard
from ..rollouts.evaluation import evaluate_policy
from ..rollouts.job import PhaseClock, add_seconds
from ..rollouts.pool import RolloutPool
from ..rollouts.seeds import evaluation_seeds, validation_seeds
from ..rollouts.video import film
from ..student import StudentMetadata, StudentPolicy, load_student
from ..teacher_policy import STATE, Normaliser
from ..trained_policy import TrainedPolicy
from ..vision import CnnVision, StateVision
from .dagger import Plan
from .learner import Learner
from .ppo import PpoConfig, PpoTrainer

Json = dict[str, Any]
_STATE_FILE = "train_state.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReinforcementConfig:
    """Settings of reinforcement learning from embeddings (`method=ppo`).

    Attributes:
        ppo: settings of PPO; its `network` must be null, because `student` describes the network.
        env_steps: number of environment steps, summed over all environments, and rounded up to
            whole rounds.
        validate_every: number of iterations of PPO per round. Each round ends with a validation.
        num_workers: number of worker processes for the training environments; 0: the environments
            run in the main process.
    """

    ppo: PpoConfig
    env_steps: int
    validate_every: int
    num_workers: int

    def __post_init__(self) -> None:
        if self.env_steps < 1 or self.validate_every < 1 or self.num_workers < 0:
            raise ValueError(
                "env_steps and validate_every must be at least 1, and num_workers not negative"
            )
        if self.ppo.network is not None:
            raise ValueError("reinforcement.ppo.network must be null: `student` is the network")

    @property
    def rounds(self) -> int:
        """Return the number of rounds that `env_steps` requires."""
        return -(-self.env_steps // (self.ppo.batch * self.validate_every))


class StudentTrainer(PpoTrainer):
    """A PPO model whose actor is a student; its observations are embeddings and proprioception."""

    def __init__(
        self, metadata: StudentMetadata, encoder: FrameEncoder | None, *args: Any, **settings: Any
    ) -> None:
        """Make the environments and the model.

        Args:
            metadata: description of the student.
            encoder: the encoder; None: the student has no images.
            args: arguments of `PpoTrainer`.
            settings: arguments of `PpoTrainer`.

        Raises:
            ValueError: the embeddings depend on earlier frames, the student predicts chunks or has
                dropout or noise, or the environment has a backend.
        """
        if encoder is not None and encoder.past != NO_PAST:
            raise ValueError(f"method=ppo needs an encoder of single frames, got {encoder.past}")
        if metadata.student.chunk != 1:
            raise ValueError(f"method=ppo needs student.chunk=1, got {metadata.student.chunk}")
        for name in ("dropout", "noise"):  # PPO compares the actor with the one that acted, without
            if value := getattr(metadata.student, name):
                raise ValueError(f"method=ppo needs student.{name}=0, got {value}")
        self._metadata, self._encoder = metadata, encoder
        super().__init__(*args, **settings)

    def _make_environments(
        self, env: EnvConfig, num_workers: int, keys: tuple[str, ...] | None = None
    ) -> Any:
        names = () if self._encoder is None else self._metadata.interface.camera_names
        keys = ("proprio", *(f"image_{name}" for name in names))
        if isinstance(self._metadata.vision, StateVision):
            keys = (*keys, STATE)
        environments = super()._make_environments(env, num_workers, keys)
        return _embedded_class()(environments, self._metadata, self._encoder, self.clock)

    def _collect(self, progress: Callable[[int], object]) -> None:
        before = dict(self.seconds)
        super()._collect(progress)
        encoder_s = sum(self.seconds.get(one, 0.0) - before.get(one, 0.0) for one in ENCODER_PHASES)
        add_seconds(self.seconds, {"environments": -encoder_s})  # a phase of its own

    def _networks(self) -> dict[str, Any]:
        return {
            "net_arch": {"pi": [], "vf": []},
            "features_extractor_class": partial(_StudentFeatures, metadata=self._metadata),
            "share_features_extractor": False,
        }

    def _normalise(self, inputs: Tensor) -> None:
        policy: Any = self._model.policy
        for extractor in (policy.pi_features_extractor, policy.vf_features_extractor):
            extractor.update(inputs)

    def student(self) -> StudentPolicy:
        """Return a copy of the actor as a student."""
        policy: Any = self._model.policy
        copy = StudentPolicy(self._metadata)
        copy.load_state_dict(policy.pi_features_extractor.student.state_dict())
        last: Any = copy.mlp[-1]
        last.load_state_dict(policy.action_net.state_dict())
        return copy.requires_grad_(False).eval()


class _StudentFeatures(nn.Module):
    """The layers of a student except the last, with running statistics of its inputs.

    Attributes:
        features_dim: number of outputs; Stable-Baselines3 reads this name.
    """

    def __init__(self, space: spaces.Box, *, metadata: StudentMetadata) -> None:
        super().__init__()
        self.student = StudentPolicy(metadata).requires_grad_(True)
        self.statistics = Normaliser(space.shape[0], metadata.student.clip)
        self.features_dim = metadata.student.hidden[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features [b h] of inputs [b n]: embeddings, then proprioception."""
        shape = self.student.embedding_mean.shape
        embeddings = inputs[:, : shape.numel()].unflatten(1, shape)
        return self.student.features(embeddings, inputs[:, shape.numel() :])

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """Update the statistics with which the student standardises its inputs, from [b n]."""
        self.statistics.update(inputs)
        student, mean, std = self.student, self.statistics.mean, self.statistics.std
        shape = student.embedding_mean.shape
        size = shape.numel()
        if not isinstance(student.metadata.vision, CnnVision):
            student.embedding_mean.copy_(mean[:size].view(shape))
            smallest = student.metadata.student.smallest_std
            student.embedding_std.copy_(std[:size].clamp(min=smallest).view(shape))
        student.proprio_mean.copy_(mean[size:])
        student.proprio_std.copy_(std[size:].clamp(min=1e-2))


@cache
def _embedded_class() -> Any:
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class Embedded(VecEnvWrapper):
        """A wrapper whose observations are vectors: embeddings, then proprioception."""

        def __init__(
            self,
            venv: Any,
            metadata: StudentMetadata,
            encoder: FrameEncoder | None,
            clock: PhaseClock,
        ) -> None:
            self._metadata, self._encoder, self._clock = metadata, encoder, clock
            size = len(metadata.interface.proprio)
            if encoder is not None:
                size += len(metadata.interface.cameras) * encoder.dim
            super().__init__(venv, spaces.Box(-np.inf, np.inf, (size,), np.float32))

        def reset(self) -> Any:
            return self._vectors(self.venv.reset())

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = self.venv.step_wait()
            for info in infos:
                if (last := info.get("terminal_observation")) is not None:
                    one = {key: value[None] for key, value in last.items()}
                    info["terminal_observation"] = self._vectors(one)[0]
            return self._vectors(observations), rewards, dones, infos

        def _vectors(self, observations: Any) -> Any:
            proprio = proprio_for(self._metadata.vision, observations)
            if self._encoder is None:
                return proprio
            names = self._metadata.interface.camera_names
            frames = [
                observations[f"image_{name}"][row] for row in range(len(proprio)) for name in names
            ]
            with self._clock("tokenizer"):
                codes = compress_each(self._encoder, frames)
            with self._clock("transformer"):
                embeddings = self._encoder.embed(codes)
            rounded = embeddings.astype(np.float16).reshape(len(proprio), -1)  # as in rollouts
            return np.concatenate([rounded.astype(np.float32), proprio], axis=1)

    return Embedded


def reinforce(
    learner: Learner, pool: RolloutPool, config: ReinforcementConfig, plan: Plan, out: Path
) -> None:
    """Train a student by PPO, evaluate the last one on held-out seeds, and write the results.

    The files are those of `policies.train`, without a store. A stopped run continues after its
    newest round; the episodes that were running begin again, so its results can differ from those
    of a run without a stop.

    Args:
        learner: seed, encoder and network of the student.
        pool: the worker processes for validation and evaluation.
        config: settings of the training.
        plan: numbers of validation and evaluation episodes.
        out: the run's folder.
    """
    env, interface = pool.spec.env, pool.spec.interface()
    assert isinstance(env, EnvConfig)  # checked by TrainConfig
    folders = [out / "rounds" / f"{number:02d}" for number in range(config.rounds)]
    done = [json.loads((one / "round.json").read_text()) for one in folders if one.is_dir()]
    state = None
    if done:
        state = torch.load(
            folders[len(done) - 1] / _STATE_FILE, weights_only=True, map_location="cpu"
        )
    trainer = StudentTrainer(
        learner.metadata(interface, env), learner.encoder, config.ppo, env, seed=learner.seed,
        iterations=config.rounds * config.validate_every, num_workers=config.num_workers,
        device=learner.device, state=state,
    )  # fmt: skip
    total = config.rounds * config.validate_every * config.ppo.batch
    with closing(trainer), tqdm(total=total, initial=trainer.env_steps, unit="step") as bar:
        for number in range(len(done), config.rounds):
            done.append(_run_round(number, trainer, pool, config, plan, folders[number], bar))
            for old in folders[:number]:
                (old / _STATE_FILE).unlink(missing_ok=True)
            write_tensorboard(out, done)
            draw_curve(out, done, None)
    clock = PhaseClock()
    before, seeds = dict(pool.seconds), evaluation_seeds(plan.evaluation_episodes)
    final = evaluate_policy(pool, folders[-1] / "policy", seeds)
    add_seconds(clock.seconds, pool.seconds_since(before))
    student = load_student(folders[-1] / "policy", learner.encoder, interface)
    student.save(out / "policy", evaluation={name: final[name] for name in ("rate", "wilson_95")})
    write_json(out / "evaluation.json", final)
    draw_curve(out, done, final)
    if plan.video_episodes:
        acting = TrainedPolicy(student, learner.encoder)
        film(out / "rollout.mp4", env, acting, seeds[: plan.video_episodes])
    for entry in done:
        add_seconds(clock.seconds, entry.pop("seconds"))
    write_json(out / "timings.json", clock.seconds)
    write_json(out / "metrics.json", {"seed": learner.seed, "rounds": done, "evaluation": final})


def _run_round(
    number: int,
    trainer: StudentTrainer,
    pool: RolloutPool,
    config: ReinforcementConfig,
    plan: Plan,
    folder: Path,
    bar: "tqdm[Any]",
) -> Json:
    """Run the iterations of a round and its validation; write and return its results."""
    before, spent, begin = dict(pool.seconds), dict(trainer.seconds), trainer.gradient_steps
    rows, loss_steps = [], []
    for _ in range(config.validate_every):
        rows.append(trainer.iterate(bar.update))
        loss_steps.append(trainer.gradient_steps)
        bar.set_postfix_str(f"training success {rows[-1].get('success/training', 0.0):.0%}")
    with written_aside(folder) as aside:
        trainer.student().save(aside / "policy", round=number)
        validation = evaluate_policy(
            pool, aside / "policy", validation_seeds(plan.validation_episodes)
        )
        seconds = pool.seconds_since(before)
        training = {name: now - spent.get(name, 0.0) for name, now in trainer.seconds.items()}
        add_seconds(seconds, training)
        entry: Json = {
            "round": number,
            "beta": None,
            "episodes": 0,
            "env_steps": trainer.env_steps,
            "expert_acted": None,
            "collected_success": rows[-1].get("success/training"),
            "round_gradient_steps": loss_steps[-1] - begin,
            "gradient_steps": loss_steps[-1],
            "losses": [row["ppo/value_loss"] for row in rows],
            "loss_steps": loss_steps,
            "validation": validation,
            "seconds": seconds,
        }
        torch.save(trainer.state(), aside / _STATE_FILE)
        (aside / "round.json").write_text(json.dumps(entry, indent=1) + "\n")
    return entry
