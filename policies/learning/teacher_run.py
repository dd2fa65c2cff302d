"""Train a teacher by PPO: write checkpoints, validate each, and keep the best teacher.

<out>/log.jsonl       one line per iteration of PPO
<out>/checkpoints/    the newest two checkpoints
<out>/policy/         the teacher with the highest success rate in validation
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from toto_robot.checkpoint import newest_whole, read_config, save_checkpoint
from toto_robot.config import to_dict
from toto_robot.files import write_aside

from ..environment import EnvConfig
from ..report import draw_teacher
from ..rollouts.evaluation import best, evaluate_policy
from ..rollouts.pool import RolloutConfig, RolloutPool
from ..rollouts.rollout import RolloutSpec
from ..teacher_policy import KIND, TeacherPolicy, load_teacher
from ..vision import NoVision
from .ppo import PpoTrainer

Json = dict[str, Any]


def teacher_spec(env: EnvConfig) -> RolloutSpec:
    """Return what the rollouts of a teacher need, without its checkpoint."""
    return RolloutSpec(env=env, vision=NoVision(), privileged=True, device="cpu")


def evaluate_teacher(
    teacher: Path,
    env: EnvConfig,
    rollout: RolloutConfig,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> Json:
    """Run a teacher on these environment seeds, and return the success rate.

    The result is that of `policies.rollouts.evaluation.evaluate_policy`.
    """
    with RolloutPool(replace(teacher_spec(env), teacher=teacher), rollout) as pool:
        return evaluate_policy(pool, None, seeds, progress)


def resume(out: Path) -> tuple[Json | None, list[Json]]:
    """Read the newest checkpoint of a run, to resume the run.

    If the checkpoint has the best validation result so far, its teacher is saved in `policy/` now,
    because a kill may have prevented this before.

    Returns:
        The state of the trainer, and the results of all validations so far; None and an empty list
        if there is no checkpoint.
    """

    def read(folder: Path) -> tuple[Json, list[Json], TeacherPolicy]:
        state = torch.load(folder / "train_state.pt", weights_only=True, map_location="cpu")
        return state, read_config(folder, KIND)["validations"], load_teacher(folder)

    found = newest_whole((out / "checkpoints").glob("step-*"), read)
    if found is None:
        return None, []
    state, validations, teacher = found[1]
    if best(validations) is validations[-1]:  # a kill may have prevented that this was saved
        _save_best(teacher, validations[-1], out)
    return state, validations


class TeacherRun:
    """A training run of a teacher, with validations, checkpoints and a log.

    Attributes:
        rows: the log values of each iteration.
        validations: the validation result of each checkpoint.
    """

    def __init__(
        self,
        trainer: PpoTrainer,
        teacher: TeacherPolicy,
        validate: Callable[[Path], Json],
        validations: list[Json],
        out: Path,
    ) -> None:
        """Begin a run, or resume it at `trainer.iteration`.

        Args:
            trainer: the trainer of the networks.
            teacher: the policy into which the trained weights are copied at each checkpoint.
            validate: function that takes the checkpoint folder of a teacher, and returns the result
                on the validation seeds.
            validations: validation results of earlier checkpoints of the run.
            out: the run's folder.
        """
        self._trainer, self._teacher, self._validate = trainer, teacher, validate
        self._out, self._log = out, _Log(out, trainer.env_steps)
        self.rows, self.validations = self._log.rows, validations

    def learn(self, iterations: int, checkpoint_every: int) -> None:
        """Train until `iterations` iterations are complete, including those before a resume.

        Args:
            iterations: total number of iterations.
            checkpoint_every: number of iterations between two checkpoints.
        """
        trainer = self._trainer
        with tqdm(
            total=iterations * trainer.batch,
            initial=trainer.env_steps,
            unit="step",
            unit_scale=True,
            smoothing=0.02,
        ) as bar:
            while trainer.iteration < iterations:
                bar.set_description("learn")
                row = trainer.iterate(bar.update)
                bar.set_postfix_str(f"training success {row.get('success/training', 0.0):.0%}")
                if trainer.iteration % checkpoint_every and trainer.iteration < iterations:
                    self._log.add(trainer.env_steps, row)
                    continue
                bar.set_description("validate")
                self._checkpoint(row)

    def close(self) -> None:
        """Close the log and the environments."""
        self._log.close()
        self._trainer.close()

    def _checkpoint(self, row: Mapping[str, float]) -> None:
        """Validate the teacher and save a checkpoint; delete all but the newest two checkpoints.

        If the validation result is the best so far, the teacher is also saved in `policy/`.

        Args:
            row: log values of the newest iteration.
        """
        trainer, teacher, step = self._trainer, self._teacher, self._trainer.env_steps
        trainer.fill(teacher)
        candidate = self._out / ".candidate"
        teacher.save(candidate)
        with trainer.clock("validation"):
            found = self._validate(candidate)
        shutil.rmtree(candidate)
        names = ("episodes", "successes", "rate", "wilson_95")
        self.validations.append({"env_steps": step} | {name: found[name] for name in names})
        # before the checkpoint, so that a run resumed from it has all rows up to it
        self._log.add(step, {**row, "success/validation": found["rate"]})
        folder = self._out / "checkpoints" / f"step-{step:010d}"
        save_checkpoint(
            folder,
            KIND,
            to_dict(teacher.metadata),
            teacher.state_dict(),
            trainer.state(),
            env_steps=step,
            validations=self.validations,
        )
        if best(self.validations) is self.validations[-1]:
            _save_best(teacher, self.validations[-1], self._out)
        for old in sorted(folder.parent.glob("step-*"))[:-2]:
            shutil.rmtree(old)
        draw_teacher(self._out, self.rows, self.validations, None)


class _Log:
    """A log that writes each iteration to memory, to `log.jsonl` and to TensorBoard.

    A resumed run deletes the entries of the iterations after its last checkpoint, because it
    repeats these iterations.
    """

    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = out / "log.jsonl"
        self.rows: list[dict[str, float]] = []
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            self.rows = [row for row in map(json.loads, lines) if row["env_steps"] <= start]
        write_aside(path, "".join(json.dumps(row) + "\n" for row in self.rows))
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


def _save_best(teacher: TeacherPolicy, validation: Json, out: Path) -> None:
    teacher.save(out / "policy", env_steps=validation["env_steps"], validation=validation)
