"""Command `python -m real_robot.first_grasp`: record, train, deploy and evaluate on the twin.

    python -m real_robot.first_grasp                        # `make arm` runs this
    python -m real_robot.first_grasp demonstrations=240 out=runs/first_grasp_240
    python -m real_robot.first_grasp "record=['expert_noise=0.0']" out=runs/first_grasp_calm
    python -m real_robot.first_grasp repeats=3              # three times, with one table

It runs four commands, and prints each command before it runs. They can also be run alone:

    1. real_robot.record    records demonstrations of the scripted expert as a LeRobot data set
    2. policies.train       trains a policy by behaviour cloning on frozen Toto features
    3. real_robot.deploy    runs one episode of the policy, and prints the time of each stage
    4. real_robot.evaluate  runs trials at poses that are not in the demonstrations, and reports

If the command is stopped, the same command resumes it. On an arm, use the four commands with the
address of the arm instead of `twin`. A person then demonstrates instead of the expert, and assesses
the trials: see docs/first_grasp.md.
"""

from dataclasses import dataclass
from pathlib import Path

from toto_robot.cli import command
from toto_robot.runs import claim

from .grasp_report import Group, write_report
from .pipeline import Step, recording_step, run_steps, training_step, trials_step


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstGraspConfig:
    """Settings of a run of the four commands; each command has a config with further settings.

    Attributes:
        demonstrations: number of demonstrations for the training: episodes of the expert that are
            complete and did not fail.
        trials: number of trials at the end.
        seed: seed of all four commands.
        repeats: how many times to run the four commands, with the seeds `seed`, `seed` + 1 and so
            on. More than one: a report has all success rates. May be increased later.
        record: further arguments of `real_robot.record`, such as `expert_noise=0.0`.
        train: further arguments of `policies.train`, such as `student.chunk=16`.
        deploy: further arguments of `real_robot.deploy`.
        evaluate: further arguments of `real_robot.evaluate`.
    """

    demonstrations: int
    trials: int
    seed: int
    repeats: int
    record: tuple[str, ...]
    train: tuple[str, ...]
    deploy: tuple[str, ...]
    evaluate: tuple[str, ...]

    def __post_init__(self) -> None:
        if min(self.demonstrations, self.trials, self.repeats) < 1:
            raise ValueError("demonstrations, trials and repeats must be at least 1")


def first_grasp(config: FirstGraspConfig, out: Path) -> None:
    """Run the four commands one after the other, `repeats` times; stop if a command fails."""
    claim(out, config)
    seeds = range(config.seed, config.seed + config.repeats)
    # the first repeat is in `out` itself, so that more repeats can be added
    folders = {seed: out if seed == config.seed else out / f"seed_{seed}" for seed in seeds}
    steps = [step for seed, at in folders.items() for step in _steps(config, seed, at)]
    run_steps("first_grasp", steps, out)
    for folder in folders.values():
        print(f"\ndemonstrations: {folder / 'record' / 'dataset'}")
        print(f"policy:         {folder / 'train' / 'policy'}")
        print(f"latency:        {folder / 'deploy'}")
        print(f"report:         {folder / 'trials' / 'report' / 'index.html'}")
    if config.repeats > 1:
        reports = {seed: at / "trials" / "report" for seed, at in folders.items()}
        group = Group(names={"a": "the policy"}, reports=reports)
        facts = [
            f"{config.demonstrations} demonstrations of the scripted expert; each seed has its own"
        ]
        print(f"\n{write_report(out, 'First grasp', facts, [group])}")
        print(f"all repeats:    {out / 'report.html'}")


def _steps(config: FirstGraspConfig, seed: int, out: Path) -> list[Step]:
    """Return the four commands of one repeat."""
    dataset, policy = out / "record" / "dataset", out / "train" / "policy"
    deploy = out / "deploy"
    return [
        recording_step(config.demonstrations, seed, out / "record", config.record),
        training_step(config.demonstrations, dataset, seed, out / "train", config.train),
        Step(
            words=(
                "real_robot.deploy", "robot=twin", f"policy={policy}", f"out={deploy}",
                *config.deploy,
            ),
            result=deploy,
            minutes=0.5,
        ),
        trials_step(
            [f"policy={policy}"], dataset, config.trials, seed, out / "trials", config.evaluate
        ),
    ]  # fmt: skip


main = command("first_grasp", FirstGraspConfig)(first_grasp)

if __name__ == "__main__":
    main()
