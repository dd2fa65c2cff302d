"""Command `python -m real_robot.first_grasp`: record, train, deploy and evaluate on the twin.

    python -m real_robot.first_grasp                        # `make arm` runs this
    python -m real_robot.first_grasp demonstrations=240 out=runs/first_grasp_240
    python -m real_robot.first_grasp "record=['expert_noise=0.0']" out=runs/first_grasp_calm

It runs four commands, and prints each command before it runs. They can also be run alone:

    1. real_robot.record    records demonstrations of the scripted expert as a LeRobot data set
    2. policies.train       trains a policy by behaviour cloning on frozen Toto features
    3. real_robot.deploy    runs one episode of the policy, and prints the time of each stage
    4. real_robot.evaluate  runs trials at poses that are not in the demonstrations, and reports

If the command is stopped, the same command resumes it. On an arm, use the four commands with the
address of the arm instead of `twin`. A person then demonstrates instead of the expert, and assesses
the trials: see docs/first_grasp.md.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toto_robot.cli import command


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstGraspConfig:
    """Settings of a run of the four commands; each command has a config with further settings.

    Attributes:
        demonstrations: number of demonstrations for the training: episodes of the expert that are
            complete and did not fail.
        trials: number of trials at the end.
        seed: seed of all four commands.
        record: further arguments of `real_robot.record`, such as `expert_noise=0.0`.
        train: further arguments of `policies.train`, such as `student.chunk=16`.
        deploy: further arguments of `real_robot.deploy`.
        evaluate: further arguments of `real_robot.evaluate`.
    """

    demonstrations: int
    trials: int
    seed: int
    record: tuple[str, ...]
    train: tuple[str, ...]
    deploy: tuple[str, ...]
    evaluate: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.demonstrations < 1 or self.trials < 1:
            raise ValueError("demonstrations and trials must be at least 1")


def first_grasp(config: FirstGraspConfig, out: Path) -> None:
    """Run the four commands one after the other; stop if a command fails."""
    steps = commands(config, out)
    for number, words in enumerate(steps, start=1):
        line = " ".join(words)
        print(f"\n# {number} of {len(steps)}: python -m {line}", flush=True)
        status = subprocess.run([sys.executable, "-m", *words], check=False).returncode
        if status:
            sys.exit(
                f"first_grasp: step {number} of {len(steps)} ended with status {status}; "
                "the same command resumes there"
            )
    print(f"\ndemonstrations: {out / 'record' / 'dataset'}")
    print(f"policy:         {out / 'train' / 'policy'}")
    print(f"latency:        {out / 'deploy'}")
    print(f"report:         {out / 'trials' / 'report' / 'index.html'}")


def commands(config: FirstGraspConfig, out: Path) -> list[Sequence[str]]:
    """Return the four commands, each as a list of the arguments that follow `python -m`."""
    dataset, policy = out / "record" / "dataset", out / "train" / "policy"
    seed = f"seed={config.seed}"
    return [
        (
            "real_robot.record",
            "robot=twin",
            "agent=expert",
            f"episodes={config.demonstrations}",
            seed,
            f"out={out / 'record'}",
            *config.record,
        ),
        (
            "policies.train",
            "method=bc",
            "env=none",
            f"data={dataset}",
            seed,
            f"out={out / 'train'}",
            *config.train,
        ),
        (
            "real_robot.deploy",
            "robot=twin",
            f"policy={policy}",
            f"out={out / 'deploy'}",
            *config.deploy,
        ),
        (
            "real_robot.evaluate",
            "robot=twin",
            f"policy={policy}",
            f"demonstrations=[{dataset}]",
            f"trials={config.trials}",
            seed,
            f"out={out / 'trials'}",
            *config.evaluate,
        ),
    ]


main = command("first_grasp", FirstGraspConfig)(first_grasp)

if __name__ == "__main__":
    main()
