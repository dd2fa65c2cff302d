"""Run PPO with checkpoints; each is validated, and the best one so far is the teacher.

<out>/log.jsonl       a line for each iteration
<out>/checkpoints/    the last two checkpoints
<out>/policy/         the teacher with the best validation
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
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


def evaluate_teacher(
    teacher: Path,
    env: EnvConfig,
    rollout: RolloutConfig,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
) -> Json:
    """Run a teacher on these seeds, and return the result of `evaluate_policy`."""
    spec = RolloutSpec(env=env, vision=NoVision(), privileged=True, device="cpu", teacher=teacher)
    with RolloutPool(spec, rollout) as pool:
        return evaluate_policy(pool, None, seeds, progress)


def resume(out: Path) -> tuple[Json | None, list[Json]]:
    """Return the trainer's state and the validations of the last checkpoint, if it exists."""

    def read(folder: Path) -> tuple[Json, list[Json], TeacherPolicy]:
        state = torch.load(folder / "train_state.pt", weights_only=True)
        return state, read_config(folder, KIND)["validations"], load_teacher(folder)

    found = newest_whole((out / "checkpoints").glob("step-*"), read)
    if found is None:
        return None, []
    state, validations, teacher = found[1]
    if best(validations) is validations[-1]:  # the kill may have come just before
        _save_best(teacher, validations[-1], out)
    return state, validations


class TeacherRun:
    """A training run of a teacher, with validations, checkpoints and a log.

    Attributes:
        rows: rows of the log, one per iteration.
        validations: results of the validations, one per checkpoint.
    """

    def __init__(
        self,
        trainer: PpoTrainer,
        teacher: TeacherPolicy,
        validate: Callable[[Path], Json],
        validations: list[Json],
        out: Path,
    ) -> None:
        """Begin or resume at the trainer's iteration.

        Args:
            trainer: the trainer of the networks.
            teacher: the policy into which the trained weights are copied at each checkpoint.
            validate: function that returns the result of a teacher's checkpoint on the validation
                seeds.
            validations: results of the run's earlier checkpoints.
            out: the run's folder.
        """
        self._trainer, self._teacher, self._validate = trainer, teacher, validate
        self._out, self._log = out, _Log(out, trainer.env_steps)
        self.rows, self.validations = self._log.rows, validations

    def learn(self, iterations: int, checkpoint_every: int) -> None:
        """Train up to this total number of iterations, including those before a resume."""
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
        """Validate the teacher and save a checkpoint; keep the last two and the best."""
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
    """A log with a row per iteration, in memory, in `log.jsonl` and in TensorBoard.

    A resumed run deletes the rows of iterations that it will repeat.
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
