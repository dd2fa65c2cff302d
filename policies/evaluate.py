"""`python -m policies.evaluate`: measure the success rate of a policy on held-out seeds.

    python -m policies.evaluate policy=runs/train/policy episodes=200
    python -m policies.evaluate policy=expert env=franka_pick
    python -m policies.evaluate policy=expert env=gymnasium env.id=module:Id-v0 expert=module:act
    python -m policies.evaluate policy=runs/train/policy suite=camera
    python -m policies.evaluate policy=runs/teacher/policy                # a learned teacher
    python -m policies.evaluate policy=runs/mvp/policy encoder=/new/folder/mvp.pth

Held-out seeds are seeds that training and validation never use (see `policies.rollouts.seeds`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from envs.interface import OWN
from envs.randomisation import suite
from envs.success_rates import describe_rate
from toto_robot.cli import command
from toto_robot.config import to_dict
from toto_robot.device import choose_device
from toto_robot.files import write_json

from .environment import AnyEnv, EnvConfig, make_env
from .policy import Policy
from .report import encoder_share, time_table
from .rollouts.evaluation import run_policy, summarise
from .rollouts.job import Rollout
from .rollouts.pool import RolloutConfig, RolloutPool
from .rollouts.rollout import RolloutSpec
from .rollouts.seeds import evaluation_seeds
from .rollouts.video import film_each
from .student import KIND as STUDENT
from .student import load_student, read_metadata
from .teacher_policy import KIND as TEACHER
from .teacher_policy import load_teacher
from .trained_policy import TrainedPolicy, find_checkpoint, relocated
from .vision import NoVision, VisionConfig

EXPERT = "expert"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Settings of an evaluation.

    Attributes:
        policy: folder of a checkpoint that `policies.train` (a student) or `policies.teacher` (a
            teacher) wrote, or `expert` for the scripted expert of the environment.
        env: the environment; None: the environment in which the policy was trained.
        encoder: where the student's vision encoder is now: a name, a folder or a file; None: where
            it was in training.
        suite: name of an evaluation suite, which sets the randomisation: one of
            `envs.randomisation.suites()`. None: the randomisation in the options of the
            environment.
        expert: `module:function` that replaces the scripted expert, for `policy=expert`.
        episodes: number of episodes; each episode has its own held-out seed.
        first_seed: seed of the first episode, at least 2,000,000; each further episode adds 1.
            Choose another value for a second, independent evaluation. Seeds of training and
            validation are an error.
        video_episodes: number of episodes to film; failed episodes are filmed first.
        rollout: settings of the worker processes that run the episodes.
        device: device of the encoder: `cpu`, `cuda`, or `auto` (cuda if available).
    """

    policy: str
    expert: str | None = None
    env: AnyEnv | None
    encoder: VisionConfig | None
    suite: str | None
    episodes: int
    first_seed: int
    video_episodes: int
    rollout: RolloutConfig
    device: str

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        evaluation_seeds(self.episodes, self.first_seed)
        if not 0 <= self.video_episodes <= self.episodes:
            raise ValueError(f"video_episodes must be in [0, episodes], got {self.video_episodes}")
        if self.suite is not None:
            suite(self.suite)
            if isinstance(self.env, EnvConfig) and "randomise" in self.env.options:
                raise ValueError("set either suite or env.options.randomise, not both")
        if self.policy == EXPERT and self.env is None:
            raise ValueError("policy=expert needs an environment, for example env=franka_pick")
        if self.expert is not None and self.policy != EXPERT:
            raise ValueError("expert=module:function needs policy=expert")


def evaluate(config: EvaluateConfig, out: Path) -> None:
    """Run the episodes, write `evaluation.json` and the videos, and print the success rate."""
    device = choose_device(config.device)
    evaluated = _find_policy(config)
    env, student = evaluated.env, evaluated.student
    if config.suite is not None:
        env = on_suite(env, config.suite)
    spec = RolloutSpec(
        env=env,
        vision=evaluated.vision,
        privileged=student is None,
        device=device,
        teacher=evaluated.teacher,
        expert=config.expert,
    )
    where = env.id if config.suite is None else f"{env.id}, suite {config.suite}"
    first, last = config.first_seed, config.first_seed + config.episodes - 1
    print(
        f"{config.policy} on {config.episodes} held-out seeds, {first} to {last}, of {where}",
        flush=True,
    )
    print(spec.describe_env(), end="", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    policy = open_policy(student, spec)  # raises errors before any episode is run
    if config.video_episodes:
        spec.require_video()
    seeds = evaluation_seeds(config.episodes, config.first_seed)
    with (
        RolloutPool(spec, config.rollout) as pool,
        tqdm(total=len(seeds), desc="evaluate", unit="episode") as bar,
    ):
        rollouts = run_policy(pool, student, seeds, bar.update)
    result = summarise(rollouts)
    about = {
        "policy": config.policy,
        "suite": config.suite,
        "env": to_dict(env),
        "first_seed": first,
    }
    written = {**about, **result}
    write_json(out / "evaluation.json", written)
    start = time.perf_counter()
    if _film(out, env, policy, rollouts, config.video_episodes):
        pool.seconds["video"] = time.perf_counter() - start
    print(time_table(pool.seconds))
    print(encoder_share(pool.seconds))
    print(f"results: {out / 'evaluation.json'}")
    print(f"success: {describe_rate(result['successes'], result['episodes'])}")


def _film(out: Path, env: AnyEnv, policy: Policy, rollouts: Sequence[Rollout], number: int) -> int:
    """Film some of the evaluated episodes, failed ones first; return the number of videos.

    Videos of an earlier evaluation are deleted. In an environment that is not deterministic, a
    filmed episode can have another outcome than the evaluated episode. Then a note is printed.

    Args:
        out: folder of the videos.
        env: the environment.
        policy: the policy.
        rollouts: the evaluated episodes.
        number: number of episodes to film.
    """
    for old in (*out.glob("rollout-failure-*.mp4"), *out.glob("rollout-success-*.mp4")):
        old.unlink()
    chosen = sorted(rollouts, key=lambda rollout: rollout.success)[:number]
    filmed = film_each(out, env, policy, chosen) if chosen else {}
    for rollout, (path, success) in zip(chosen, filmed.items(), strict=True):
        print(f"video:   {path}")
        if success != rollout.success:
            words = ("failed", "succeeded")
            print(
                f"note:    seed {rollout.seed} {words[rollout.success]} when counted, but "
                f"{words[success]} when filmed"
            )
    return len(filmed)


def on_suite(env: AnyEnv, name: str) -> EnvConfig:
    """Return a copy of the config in which the evaluation suite `name` sets the randomisation.

    Raises:
        ValueError: `env` is a third-party environment, which has no suites.
    """
    if not isinstance(env, EnvConfig):
        raise ValueError(f"suite={name} needs an environment of this project, got {env.id}")
    options = {key: value for key, value in env.options.items() if key != "randomise"}
    groups = suite(name)
    return replace(env, options={**options, "randomise": groups} if groups else options)


def open_policy(folder: Path | None, spec: RolloutSpec) -> Policy:
    """Open the policy to film: a student with its encoder, a teacher, or the scripted expert.

    Args:
        folder: the student's checkpoint; None: the teacher of `spec` or, without one, the expert.
        spec: the environment, the encoder and the teacher.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        ValueError: the checkpoint is damaged, or was trained for another encoder or interface; or
            the environment has no expert.
    """
    if folder is None:
        env = make_env(spec.env, with_images=False, privileged=True)
        expert = spec.make_expert(env)
        env.close()
        return expert
    encoder = spec.vision.build(torch.device(spec.device))
    student = load_student(folder, encoder, spec.interface())
    return TrainedPolicy(student, encoder)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evaluated:
    """The policy to evaluate, and the environment. The policy is a student, a teacher or an expert.

    Attributes:
        env: the environment.
        vision: settings of the student's encoder; `NoVision` for a teacher or an expert.
        student: the student's checkpoint; None: the policy is not a student.
        teacher: the teacher's checkpoint; None: the policy is not a teacher. If `student` is also
            None, the policy is the scripted expert.
    """

    env: AnyEnv
    vision: VisionConfig
    student: Path | None
    teacher: Path | None


def _find_policy(config: EvaluateConfig) -> _Evaluated:
    if config.policy == EXPERT:
        assert config.env is not None
        _refuse_encoder(config, "the expert uses the privileged state")
        return _Evaluated(env=config.env, vision=NoVision(), student=None, teacher=None)
    folder, kind = find_checkpoint(Path(config.policy))
    if kind == TEACHER:
        _refuse_encoder(config, f"{folder} is a teacher, which uses the privileged state")
        env = load_teacher(folder).metadata.env if config.env is None else config.env
        return _Evaluated(env=env, vision=NoVision(), student=None, teacher=folder)
    if kind != STUDENT:
        raise ValueError(
            f"{folder} is not a policy but {kind!r}; valid are the folder of a {STUDENT} "
            f"(policies.train) or a {TEACHER} (policies.teacher), or {EXPERT!r}"
        )
    metadata = read_metadata(folder)
    vision = relocated(folder, metadata.vision, config.encoder)
    env = metadata.env if config.env is None else config.env
    if metadata.interface.action_kind == OWN:
        raise ValueError(
            f"{folder} has the actions of a third-party data set, so no environment here can "
            f"evaluate it. In your own program: policies.load_policy({str(folder)!r}).act("
            "observation)"
        )
    if env is None:
        raise ValueError(
            f"{folder} was trained on data without an environment; choose one for the evaluation: "
            "env=<one of configs/env>"
        )
    return _Evaluated(env=env, vision=vision, student=folder, teacher=None)


def _refuse_encoder(config: EvaluateConfig, why: str) -> None:
    if config.encoder is not None:
        raise ValueError(f"{why}: remove encoder=")


main = command("evaluate", EvaluateConfig)(evaluate)

if __name__ == "__main__":
    main()
