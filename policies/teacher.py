"""`python -m policies.teacher`: train a teacher by PPO on the privileged state.

A teacher is a policy that observes the true poses of objects (the privileged state) instead of
images. It can replace a scripted expert.

    python -m policies.teacher                  # Franka-cabinet, configs/ppo/cpu.yaml
    python -m policies.teacher ppo=pixmc env_steps=8192000 +env.options.protocol=pixmc
    python -m policies.train env=franka_cabinet teacher=runs/teacher/policy     # train its student

Files in `out`:

    config.json         the settings; a run is resumed only with the same settings
    log.jsonl           one line per iteration of PPO
    checkpoints/        the newest two checkpoints, from which a run can be resumed
    policy/             the teacher with the highest success rate in validation
    evaluation.json     results of this teacher on the held-out seeds
    metrics.json        all results
    curve.png rollout.mp4 tensorboard/

After a kill, the same command with the same `out` resumes from the newest checkpoint. Networks,
optimizer, normalisers and counters are restored, and the random numbers of an iteration depend only
on the seed and the iteration. But the episodes that were running begin again, so the later results
of a killed run differ from those of a run without a kill.

The success rate in training is measured on the last 200 training episodes, whose actions are
sampled from the action distribution. Validation and evaluation use the mean of this distribution.
"""

import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.device import choose_device
from toto_robot.files import write_json
from toto_robot.runs import claim, report_found

from .environment import EnvConfig, interface_of, make_env
from .learning.ppo import PpoConfig, PpoTrainer
from .learning.teacher_run import TeacherRun, evaluate_teacher, resume, teacher_spec
from .report import draw_teacher, print_files, print_success
from .rollouts.evaluation import best
from .rollouts.pool import RolloutConfig
from .rollouts.seeds import check_run, evaluation_seeds, validation_seeds
from .rollouts.video import film
from .teacher_policy import (
    TeacherMetadata,
    TeacherNetwork,
    TeacherPolicy,
    load_teacher,
    state_names_of,
    without_cameras,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """Settings for training a teacher.

    Attributes:
        seed: seed of all random numbers, from 0 to 99. It also determines the environment seeds of
            the training episodes (see `policies.rollouts.seeds`).
        env: the environment. Its images are not rendered.
        ppo: settings of PPO.
        env_steps: number of environment steps of the training, summed over all environments, and
            rounded up to whole iterations.
        checkpoint_every: number of iterations between two checkpoints. Each checkpoint is evaluated
            on the validation seeds.
        validation_episodes: number of validation episodes per checkpoint.
        evaluation_episodes: number of held-out episodes in the final evaluation.
        video_episodes: number of evaluation episodes to film.
        num_workers: number of worker processes for the training environments; 0: the environments
            run in the main process.
        rollout: settings of the worker processes that run the episodes of validation and
            evaluation.
        device: device of the networks: `cpu`, `cuda`, or `auto` (cuda if available). Networks of
            this size train as fast on a CPU.
    """

    seed: int
    env: EnvConfig
    ppo: PpoConfig
    env_steps: int
    checkpoint_every: int
    validation_episodes: int
    evaluation_episodes: int
    video_episodes: int
    num_workers: int
    rollout: RolloutConfig
    device: str

    def __post_init__(self) -> None:
        check_run(self.seed, 0, self.validation_episodes, self.evaluation_episodes)
        if self.env_steps < 1 or self.checkpoint_every < 1:
            raise ValueError("env_steps and checkpoint_every must be at least 1")
        if self.validation_episodes < 1 or self.evaluation_episodes < 1:
            raise ValueError("validation_episodes and evaluation_episodes must be at least 1")
        if not 0 <= self.video_episodes <= self.evaluation_episodes:
            raise ValueError("video_episodes must be in [0, evaluation_episodes]")
        if self.ppo.network is None:
            raise ValueError("ppo.network must be set: the actor of a teacher")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    @property
    def network(self) -> TeacherNetwork:
        """Return the settings of the actor."""
        assert self.ppo.network is not None
        return self.ppo.network

    @property
    def iterations(self) -> int:
        """Return the number of iterations of PPO that `env_steps` requires."""
        return -(-self.env_steps // self.ppo.batch)


def teach(config: TeacherConfig, out: Path) -> None:
    """Train and evaluate a teacher, and write the results; the module docstring lists the files."""
    print(
        f"PPO on {config.env.id}: {config.iterations} iterations of {config.ppo.num_envs} "
        f"environments x {config.ppo.num_steps} steps; at the end "
        f"{config.evaluation_episodes} held-out seeds",
        flush=True,
    )
    if not (out / "config.json").is_file():  # raise errors before the folder is claimed
        choose_device(config.device)
        _metadata(config.env, config.network)
        if config.video_episodes:
            teacher_spec(config.env).require_video()
    changed = claim(out, config)
    if "video_episodes" in changed:
        (out / "rollout.mp4").unlink(missing_ok=True)
    if _is_complete(config, out):
        print(f"{out} is complete already; nothing to do")
    else:
        _learn(config, out)
    _conclude(out)


def _is_complete(config: TeacherConfig, out: Path) -> bool:
    """Return whether all results that the settings request exist already.

    A finished run is not complete if its settings now request more evaluation episodes, or a video
    that does not exist.
    """
    if not (out / "metrics.json").is_file():
        return False
    episodes = json.loads((out / "metrics.json").read_text())["evaluation"]["episodes"]
    filmed = not config.video_episodes or (out / "rollout.mp4").is_file()
    return filmed and episodes == config.evaluation_episodes


def _learn(config: TeacherConfig, out: Path) -> None:
    """Train with validations, evaluate the best teacher, and write `metrics.json` last."""
    state, validations = resume(out)
    trainer = PpoTrainer(
        config.ppo,
        config.env,
        seed=config.seed,
        iterations=config.iterations,
        num_workers=config.num_workers,
        device=choose_device(config.device),
        state=state,
    )
    evaluate_in = partial(evaluate_teacher, env=config.env, rollout=config.rollout)
    validate = partial(evaluate_in, seeds=validation_seeds(config.validation_episodes))
    teacher = TeacherPolicy(_metadata(config.env, config.network))
    report_found(trainer.iteration, config.iterations, "iteration")
    with closing(TeacherRun(trainer, teacher, validate, validations, out)) as run:
        run.learn(config.iterations, config.checkpoint_every)
    seeds = evaluation_seeds(config.evaluation_episodes)
    with (
        trainer.clock("evaluation"),
        tqdm(total=len(seeds), desc="held-out seeds", unit="episode") as bar,
    ):
        final = evaluate_in(out / "policy", seeds=seeds, progress=bar.update)
    write_json(out / "evaluation.json", final)
    draw_teacher(out, run.rows, validations, final)
    if config.video_episodes:
        with trainer.clock("video"):
            best_teacher = load_teacher(out / "policy")
            filmed = seeds[: config.video_episodes]
            film(out / "rollout.mp4", config.env, best_teacher, filmed)
    metrics = {
        "seed": config.seed,
        "env_steps": trainer.env_steps,
        "episodes": trainer.episodes,
        "policy_env_steps": best(validations)["env_steps"],
        "validations": validations,
        "evaluation": final,
        "seconds": trainer.seconds,
    }
    write_json(out / "metrics.json", metrics)


def _metadata(env_config: EnvConfig, network: TeacherNetwork) -> TeacherMetadata:
    env = make_env(env_config, with_images=False, privileged=True)
    metadata = TeacherMetadata(
        network=network,
        interface=without_cameras(interface_of(env)),
        state_names=state_names_of(env),
        env=env_config,
    )
    env.close()
    return metadata


def _conclude(out: Path) -> None:
    """Print the results of a finished run."""
    metrics = json.loads((out / "metrics.json").read_text())
    spent = ", ".join(f"{phase} {value:.0f}" for phase, value in metrics["seconds"].items())
    print(f"seconds: {spent}")
    print(f"policy:  {out / 'policy'}, the best of {len(metrics['validations'])} by validation")
    print_files(out)
    print(f"steps:   {metrics['env_steps']} in {metrics['episodes']} episodes")
    print_success(metrics["evaluation"])


main = command("teacher", TeacherConfig)(teach)

if __name__ == "__main__":
    main()
