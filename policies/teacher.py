"""`python -m policies.teacher`: learn a policy on the privileged state, by PPO, without an expert.

    python -m policies.teacher                  # the Franka's cabinet, configs/ppo/cpu.yaml
    python -m policies.teacher ppo=pixmc env_steps=8192000 +env.options.protocol=pixmc
    python -m policies.train env=franka_cabinet teacher=runs/teacher/policy     # a student of it

In `out`:

    config.json         what was asked for; a run is only resumed with the same
    log.jsonl           a line for each iteration
    checkpoints/        the last two: teachers, with all that a resumed run needs
    policy/             the teacher that did best on the validation seeds
    evaluation.json     that one on the held-out seeds
    metrics.json        all numbers
    curve.png rollout.mp4 tensorboard/

Killed at any moment, the same command with the same `out` goes on from the last checkpoint:
networks, optimizer, normalisers and counts are as they were, and all randomness is drawn from
(seed, iteration); but episodes that were under way begin anew, so the numbers that follow are not
those of a run that was never killed.

The success rate of training is that of the last 200 episodes with exploring actions; validation and
evaluation take the mean of the actions' distribution.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from envs.success_rates import describe_rate, wilson_interval
from toto_robot.checkpoint import read_config, save_checkpoint
from toto_robot.cli import command
from toto_robot.config import to_dict
from toto_robot.device import choose_device
from toto_robot.files import write_aside
from toto_robot.runs import claim

from .environment import EnvConfig, interface_of, make_env
from .learning.ppo import PpoConfig, PpoTrainer
from .rollouts.evaluation import evaluate_policy
from .rollouts.pool import RolloutConfig, RolloutPool
from .rollouts.rollout import Theatre
from .rollouts.seeds import check_run, evaluation_seeds, validation_seeds
from .rollouts.video import film
from .teacher_policy import (
    KIND,
    TeacherCard,
    TeacherPolicy,
    load_teacher,
    sightless,
    state_names_of,
)
from .vision import NoVision

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """Say where a teacher learns, how, and for how long.

    Attributes:
        seed: of everything; also chooses the training episodes (`policies.rollouts.seeds`).
        env: the environment; its pictures are not drawn.
        ppo: how it learns.
        env_steps: for how long, over all environments; rounded up to whole iterations.
        checkpoint_every: iterations from a checkpoint, and its validation, to the next.
        validation_episodes: episodes at each checkpoint.
        evaluation_episodes: held-out episodes at the end.
        video_episodes: how many of these are filmed.
        num_workers: processes for the training environments; 0: all in this one.
        rollout: how validation and evaluation are spread over the machine.
        device: where the networks learn: `cpu`, `cuda`, or `auto` (cuda if there is one). Networks
            of this size learn as quickly on a CPU.
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
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    @property
    def iterations(self) -> int:
        """Give the number of iterations."""
        return -(-self.env_steps // self.ppo.batch)


def teach(config: TeacherConfig, out: Path) -> None:
    """Train, evaluate_policy and report; see the module's docstring for what is written."""
    print(
        f"PPO on {config.env.id}: {config.iterations} iterations of {config.ppo.num_envs} "
        f"environments x {config.ppo.num_steps} steps; at the end "
        f"{config.evaluation_episodes} held-out seeds",
        flush=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    claim(out, config)
    if (out / "metrics.json").is_file():
        print(f"{out} is complete already; nothing to do")
        _conclude(config, out)
        return

    teacher = TeacherPolicy(_card(config))
    state, validations = _resume(out)
    trainer = PpoTrainer(
        config.ppo,
        config.env,
        seed=config.seed,
        iterations=config.iterations,
        num_workers=config.num_workers,
        device=choose_device(config.device),
        state=state,
    )
    step = trainer.iteration * config.ppo.batch
    log = _Log(out, step)
    with (
        closing(trainer),
        closing(log),
        tqdm(
            total=config.iterations * config.ppo.batch,
            initial=step,
            unit="step",
            unit_scale=True,
            smoothing=0.02,
        ) as bar,
    ):
        while trainer.iteration < config.iterations:
            bar.set_description("learn")
            row = trainer.iterate(bar.update)
            step = trainer.iteration * config.ppo.batch
            bar.set_postfix_str(f"training success {row.get('success/training', 0.0):.0%}")
            due = trainer.iteration % config.checkpoint_every == 0
            if not due and trainer.iteration < config.iterations:
                log.add(step, row)
                continue
            bar.set_description("validate")
            trainer.fill(teacher)
            validations.append(_validate(config, teacher, trainer, step, out))
            # before the checkpoint: a run resumed from it has the rows up to it
            log.add(step, row | {"success/validation": validations[-1]["rate"]})
            _keep(config, teacher, trainer, validations, step, out)
            draw_curve(out / "curve.png", _title(config), log.rows, validations, None)

    theatre = _theatre(config, out / "policy")
    seeds = evaluation_seeds(config.evaluation_episodes)
    with (
        RolloutPool(theatre, config.rollout) as pool,
        tqdm(total=len(seeds), desc="held-out seeds", unit="episode") as bar,
    ):
        final = evaluate_policy(pool, None, seeds, bar.update)
        trainer.seconds["evaluation"] = sum(pool.seconds.values())
    _finish(config, out, log.rows, validations, final, trainer)
    _conclude(config, out)


def draw_curve(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, float]],
    validations: Sequence[Json],
    final: Json | None,
) -> None:
    """Draw success and the reward's terms over environment steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    success, rewards = figure.subplots(1, 2)
    rows = [row for row in rows if "reward" in row]
    x = [row["env_steps"] for row in rows]
    success.plot(x, [row["success/training"] for row in rows], label="training, exploring")
    at = [entry["env_steps"] for entry in validations]
    bands = [entry["wilson_95"] for entry in validations]
    success.fill_between(
        at, [low for low, _ in bands], [high for _, high in bands], alpha=0.2, color="C1"
    )
    rates = [entry["rate"] for entry in validations]
    success.plot(at, rates, "o-", markersize=3, color="C1", label="validation, Wilson 95 %")
    if final is not None:
        low, high = final["wilson_95"]
        success.errorbar(
            _best(validations)["env_steps"],
            final["rate"],
            yerr=[[final["rate"] - low], [high - final["rate"]]],
            marker="*",
            markersize=11,
            capsize=4,
            color="tab:red",
            label=f"held-out seeds: {final['rate']:.0%}",
        )
    success.set(xlabel="environment steps", ylabel="success rate", ylim=(-0.02, 1.02))
    names = sorted({name for row in rows for name in row if name.startswith("reward/")})
    for name in names:
        rewards.plot(x, [row[name] for row in rows], label=name.removeprefix("reward/"))
    rewards.plot(x, [row["reward"] for row in rows], color="black", label="sum")
    rewards.set(xlabel="environment steps", ylabel="reward of a step, training")
    for axes in (success, rewards):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    aside = path.with_name(f".{path.stem}.part.png")
    figure.savefig(aside, dpi=110)
    aside.replace(path)


class _Log:
    """The rows of all iterations, in memory, in `log.jsonl` and in TensorBoard.

    A resumed run drops the rows of iterations that it is about to repeat.
    """

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = out / "log.jsonl"
        self.rows: list[dict[str, float]] = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            self.rows = [row for row in map(json.loads, lines) if row["env_steps"] <= start]
        write_aside(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self._file = path.open("a")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def add(self, env_steps: int, row: Mapping[str, float]) -> None:
        self.rows.append({"env_steps": env_steps, **row})
        self._file.write(json.dumps(self.rows[-1]) + "\n")
        self._file.flush()
        for name, value in row.items():
            self._board.add_scalar(name, value, env_steps)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _card(config: TeacherConfig) -> TeacherCard:
    env = make_env(config.env, sighted=False, privileged=True)
    card = TeacherCard(
        network=config.ppo.network,
        interface=sightless(interface_of(env)),
        state_names=state_names_of(env),
        env=config.env,
    )
    env.close()
    return card


def _resume(out: Path) -> tuple[Json | None, list[Json]]:
    """Give the trainer's state and the validations of the last checkpoint, if there is one."""
    found = sorted((out / "checkpoints").glob("step-*"))
    if not found:
        return None, []
    state = torch.load(found[-1] / "train_state.pt", weights_only=True)
    validations: list[Json] = read_config(found[-1], KIND)["validations"]
    if _best(validations) is validations[-1]:  # the kill may have come just before
        _save_best(load_teacher(found[-1]), validations[-1], out)
    return state, validations


def _validate(
    config: TeacherConfig, teacher: TeacherPolicy, trainer: PpoTrainer, step: int, out: Path
) -> Json:
    candidate, start = out / ".candidate", time.perf_counter()
    teacher.save(candidate)
    seeds = validation_seeds(config.validation_episodes)
    with RolloutPool(_theatre(config, candidate), config.rollout) as pool:
        found = evaluate_policy(pool, None, seeds)
    shutil.rmtree(candidate)
    spent = trainer.seconds.get("validation", 0.0) + time.perf_counter() - start
    trainer.seconds["validation"] = spent
    return {
        "env_steps": step,
        "episodes": found["episodes"],
        "successes": found["successes"],
        "rate": found["rate"],
        "wilson_95": list(wilson_interval(found["successes"], found["episodes"])),
    }


def _keep(
    config: TeacherConfig,
    teacher: TeacherPolicy,
    trainer: PpoTrainer,
    validations: list[Json],
    step: int,
    out: Path,
) -> None:
    """Write the checkpoint, and `policy/` if it is the best; keep the last two."""
    folder = out / "checkpoints" / f"step-{step:010d}"
    save_checkpoint(
        folder,
        KIND,
        to_dict(teacher.card),
        teacher.state_dict(),
        trainer.state(),
        env_steps=step,
        validations=validations,
    )
    if _best(validations) is validations[-1]:
        _save_best(teacher, validations[-1], out)
    for old in sorted(folder.parent.glob("step-*"))[:-2]:
        shutil.rmtree(old)


def _save_best(teacher: TeacherPolicy, validation: Json, out: Path) -> None:
    teacher.save(out / "policy", env_steps=validation["env_steps"], validation=validation)


def _best(validations: Sequence[Json]) -> Json:
    """Give the validation with the highest rate; of equals the last, which has learned longest."""
    return max(reversed(validations), key=lambda entry: entry["successes"])


def _finish(
    config: TeacherConfig,
    out: Path,
    rows: Sequence[Mapping[str, float]],
    validations: list[Json],
    final: Json,
    trainer: PpoTrainer,
) -> None:
    """Write curve, video and numbers, and last the metrics."""
    write_aside(out / "evaluation.json", (json.dumps(final, indent=1) + "\n").encode())
    draw_curve(out / "curve.png", _title(config), rows, validations, final)
    if config.video_episodes:
        start = time.perf_counter()
        seeds = evaluation_seeds(config.video_episodes)
        film(out / "rollout.mp4", config.env, load_teacher(out / "policy"), None, seeds)
        trainer.seconds["video"] = time.perf_counter() - start
    metrics = {
        "seed": config.seed,
        "env_steps": config.iterations * config.ppo.batch,
        "episodes": trainer.episodes,
        "policy_env_steps": _best(validations)["env_steps"],
        "validations": validations,
        "evaluation": final,
        "seconds": trainer.seconds,
    }
    write_aside(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())


def _conclude(config: TeacherConfig, out: Path) -> None:
    """Print what a finished run has to say."""
    metrics = json.loads((out / "metrics.json").read_text())
    spent = ", ".join(f"{stage} {value:.0f}" for stage, value in metrics["seconds"].items())
    print(f"seconds: {spent}")
    print(f"policy:  {out / 'policy'}, the best of {len(metrics['validations'])} by validation")
    print(f"curve:   {out / 'curve.png'}")
    if config.video_episodes:
        print(f"video:   {out / 'rollout.mp4'}")
    print(f"steps:   {metrics['env_steps']} in {metrics['episodes']} episodes")
    final = metrics["evaluation"]
    print(f"success: {describe_rate(final['successes'], final['episodes'])} on held-out seeds")


def _theatre(config: TeacherConfig, teacher: Path) -> Theatre:
    return Theatre(
        env=config.env, vision=NoVision(), privileged=True, device="cpu", teacher=teacher
    )


def _title(config: TeacherConfig) -> str:
    return f"{config.env.id}, PPO on the privileged state, seed {config.seed}"


main = command("teacher", TeacherConfig)(teach)

if __name__ == "__main__":
    main()
