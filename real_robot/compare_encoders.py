"""Command `python -m real_robot.compare_encoders`: paper Table 11 on the twin.

    python -m real_robot.compare_encoders                       # toto-nano against mae-nano
    python -m real_robot.compare_encoders demonstrations=240 out=runs/table11_240
    python -m real_robot.compare_encoders "encoders=[nano,'mvp encoder.name_or_path=mvp.pth']"

Demonstrations of the scripted expert are recorded once. From them, a policy is trained for each
encoder and training seed. For each seed, the policy of each further encoder and the policy of the
first encoder are tried at the same poses, in random order. Each seed has other poses.

If the command is stopped, the same command resumes it. More training seeds may be added later. The
files in `out`:

    record/                   the demonstrations, a run of real_robot.record
    train/ENCODER/seed_N/     a policy, a run of policies.train
    trials/ENCODER/seed_N/    trials of ENCODER against the first, a run of real_robot.evaluate
    report.html report.md     success rates, differences with intervals, and what they show
    results.json              all numbers of the report
    finished.json             the commands that have finished, and their seconds
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from policies.learning.config import TrainConfig
from toto_robot.cli import command, configure
from toto_robot.config import to_dict
from toto_robot.runs import claim

from .grasp_report import Group, write_report
from .pipeline import Step, recording_step, run_steps, training_step, trials_step


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareEncodersConfig:
    """Settings of the comparison.

    Attributes:
        encoders: two or more values of the setting `encoder=` of `policies.train`. Further settings
            may follow, separated by spaces: `nano encoder.pool=mean`. The first encoder is compared
            with each other one.
        training_seeds: number of training seeds: `seed`, `seed` + 1 and so on.
        seed: seed of the demonstrations, and the first training seed.
        demonstrations: number of demonstrations for each training.
        trials: number of poses for each training seed.
        record: further arguments of `real_robot.record`.
        train: further arguments of `policies.train`, for all encoders.
        evaluate: further arguments of `real_robot.evaluate`.
    """

    encoders: tuple[str, ...]
    training_seeds: int
    seed: int
    demonstrations: int
    trials: int
    record: tuple[str, ...]
    train: tuple[str, ...]
    evaluate: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("training_seeds", "trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.demonstrations < 2:
            raise ValueError(
                "demonstrations must be at least 2, because the training holds one out; got "
                f"{self.demonstrations}"
            )
        if len(self.encoders) < 2:
            raise ValueError(f"encoders: two or more are compared, got {list(self.encoders)}")
        labels = [_label(one) for one in self.encoders]
        if same := sorted({one for one in labels if labels.count(one) > 1}):
            raise ValueError(f"encoders: {', '.join(same)} is there twice; each must be different")

    @property
    def seeds(self) -> range:
        """Return the training seeds."""
        return range(self.seed, self.seed + self.training_seeds)


def compare_encoders(config: CompareEncodersConfig, out: Path) -> None:
    """Record, train and run the trials as far as this is not done yet, and write the report."""
    encoders = {one: _encoder(one, config, out) for one in config.encoders}
    claim(out, {**to_dict(config), "encoders": encoders})
    first, *others = config.encoders
    print(
        f"{len(config.encoders)} encoders ({', '.join(config.encoders)}), {config.demonstrations} "
        f"demonstrations recorded once, {config.training_seeds} training seeds, {config.trials} "
        f"poses each: {config.trials * config.training_seeds} trials of each encoder"
    )
    run_steps("compare_encoders", _steps(config, out), out)
    groups = [
        Group(
            names={"a": first, "b": other},
            reports={seed: _trials(out, other, seed) / "report" for seed in config.seeds},
        )
        for other in others
    ]
    facts = [
        f"{config.demonstrations} demonstrations of the scripted expert on the twin, recorded once",
        "behaviour cloning on frozen features; all encoders have the same demonstrations",
        f"{config.trials} poses for each training seed; the policies of two encoders are tried at "
        "the same poses, in random order",
        *(f"arguments of {name}: {' '.join(words)}" for name, words in _further(config) if words),
    ]
    title = f"Encoders on the twin: {', '.join(config.encoders)}"
    print(f"\n{write_report(out, title, facts, groups)}")
    print(f"report: {out / 'report.html'}")


def _steps(config: CompareEncodersConfig, out: Path) -> list[Step]:
    """Return all commands; those of a further seed come after those of the seeds before."""
    number, dataset = config.demonstrations, out / "record" / "dataset"
    steps = [recording_step(number, config.seed, out / "record", config.record)]
    first, *others = config.encoders
    for seed in config.seeds:
        for one in config.encoders:
            words = [*_words(one), *config.train]
            steps.append(training_step(number, dataset, seed, _train(out, one, seed), words))
        for other in others:
            policies = [
                f"{key}={_train(out, one, seed) / 'policy'}"
                for key, one in (("policy", first), ("against", other))
            ]
            folder = _trials(out, other, seed)
            steps.append(
                trials_step(policies, dataset, config.trials, seed, folder, config.evaluate)
            )
    return steps


def _encoder(one: str, config: CompareEncodersConfig, out: Path) -> Any:
    """Return the settings of an encoder as plain data; load it, to find mistakes at the start.

    Raises:
        ValueError: the encoder or a setting of the training is unknown.
        OSError: the encoder has no weights.
    """
    data = ["method=bc", "env=none", f"data={out / 'record' / 'dataset'}"]
    vision = configure("train", TrainConfig, [*data, *_words(one), *config.train]).encoder
    vision.build(torch.device("cpu"))
    return to_dict(vision)


def _further(config: CompareEncodersConfig) -> list[tuple[str, tuple[str, ...]]]:
    return [("record", config.record), ("train", config.train), ("evaluate", config.evaluate)]


def _words(encoder: str) -> list[str]:
    return f"encoder={encoder}".split()


def _label(encoder: str) -> str:
    """Return the name of an encoder's folders."""
    return re.sub(r"[^\w.=-]+", "_", encoder.strip())


def _train(out: Path, encoder: str, seed: int) -> Path:
    return out / "train" / _label(encoder) / f"seed_{seed}"


def _trials(out: Path, encoder: str, seed: int) -> Path:
    return out / "trials" / _label(encoder) / f"seed_{seed}"


main = command("compare_encoders", CompareEncodersConfig)(compare_encoders)

if __name__ == "__main__":
    main()
