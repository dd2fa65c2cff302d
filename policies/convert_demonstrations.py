"""`python -m policies.convert_demonstrations`: others' demonstrations as a data set of ours.

    python -m policies.convert_demonstrations layout.path=DOWNLOADS/pick out=runs/rpt
    python -m policies.convert_demonstrations layout=robomimic path.rate_hz=20 \
        layout.path=image.hdf5 out=runs/lift
    python -m policies.convert_demonstrations layout=robomimic path.rate_hz=20 path.every=1 \
        path.actions=own layout.path=image.hdf5 out=runs/lift_own
    python -m policies.train method=bc env=none data=runs/rpt out=runs/rpt_policy

What is read is described in `policies.demonstrations.rpt` and `policies.demonstrations.robomimic`,
and how joints become actions in `policies.demonstrations.joint_paths`; `path.actions=own` keeps the
file's own. LeRobot data sets are not converted: `policies.train layout=lerobot` reads them. `out`
is a LeRobotDataset v3.0; begun and stopped, it goes on.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from toto_robot.cli import command

from .demonstrations.joint_paths import PathConfig, demonstration
from .demonstrations.lerobot.others import LerobotLayout
from .demonstrations.lerobot.reader import DatasetReader
from .demonstrations.lerobot.writer import DatasetWriter
from .demonstrations.robomimic import RobomimicDemonstrations
from .demonstrations.rpt import RptDemonstrations

AnyDemonstrations = RptDemonstrations | RobomimicDemonstrations


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Say what is converted.

    Attributes:
        layout: where they are, and in which layout.
        path: how the arm's path becomes actions.
        episodes: how many, from the first; None: all.
    """

    layout: AnyDemonstrations | LerobotLayout
    path: PathConfig
    episodes: int | None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")


def convert(config: ConvertConfig, out: Path) -> None:
    """Write every episode that is not yet there.

    Raises:
        FileNotFoundError: there is nothing to convert.
        ValueError: a file is not of this layout, or `out` holds something else.
    """
    source = config.layout
    if isinstance(source, LerobotLayout):
        raise ValueError(
            "a LeRobot data set of others is not converted, but learned from as it is: "
            "python -m policies.train method=bc env=none layout=lerobot data=<folder>"
        )
    names = source.names()[: config.episodes]
    print(f"{len(names)} episodes of {source.kind} in {source.path}", flush=True)
    done = _done(out)
    if done != names[: len(done)]:
        raise ValueError(f"{out} was converted from other episodes: {', '.join(done)}")
    left, cut, steps = names[len(done) :], 0, 0
    writer: DatasetWriter | None = None
    try:
        paths = zip(left, source.read(left), strict=True)
        for name, path in tqdm(paths, total=len(left), desc="convert", unit="episode"):
            rate_hz = path.facts.get("rate_hz")
            if rate_hz is not None and rate_hz != config.path.rate_hz:
                raise ValueError(f"{source.path} says {rate_hz} Hz: path.rate_hz={rate_hz:g}")
            try:
                made = demonstration(path, config.path)
            except ValueError as error:
                raise ValueError(f"{source.path}: {name}: {error}") from error
            if writer is None:
                writer = DatasetWriter(out, made.interface, source.columns)
            writer.append(replace(made, facts={**made.facts, "source": name}))
            cut, steps = cut + made.facts["cut"], steps + made.num_steps
    finally:
        if writer is not None:
            writer.close()
    if cut:
        print(
            f"{cut} of {steps} steps go farther than path.joint_step_rad="
            f"{config.path.joint_step_rad:g} and were cut"
        )
    print(f"{len(names)} episodes: {out}")


def _done(out: Path) -> list[str]:
    """Give the names of the episodes that are there."""
    try:
        there = DatasetReader(out)
    except FileNotFoundError:
        return []
    return [str(there.facts(index).get("source")) for index in range(len(there))]


main = command("convert_demonstrations", ConvertConfig)(convert)

if __name__ == "__main__":
    main()
