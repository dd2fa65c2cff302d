"""`python -m policies.convert_demonstrations`: others' demonstrations as a data set of ours.

    python -m policies.convert_demonstrations layout=robomimic layout.path=image.hdf5 \
        path.every=2 out=runs/lift
    python -m policies.convert_demonstrations layout=robomimic layout.path=image.hdf5 \
        path.every=1 path.actions=own out=runs/lift_own
    python -m policies.convert_demonstrations layout.path=DOWNLOADS/pick path.rate_hz=30 \
        out=runs/rpt
    python -m policies.train method=bc env=none data=runs/rpt out=runs/rpt_policy

What is read is described in `policies.demonstrations.rpt` and `policies.demonstrations.robomimic`,
and how joints become actions in `policies.demonstrations.joint_paths`; `path.actions=own` keeps the
file's own. The rate is the file's (robomimic's `control_freq`, an RPT file's `rate_hz`); where it
says none, `path.rate_hz` must. LeRobot data sets are not converted: `policies.train layout=lerobot`
reads them. `out` is a LeRobotDataset v3.0; begun and stopped, it goes on. An episode that cannot be
used is named, with the reason, in `out/left_out.json`, and the others are converted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.data.lerobot import read_json
from toto_robot.files import write_json

from .demonstrations.joint_paths import PathConfig, demonstration, rate_of
from .demonstrations.lerobot.demonstration import Demonstration
from .demonstrations.lerobot.others import LerobotLayout
from .demonstrations.lerobot.reader import DatasetReader
from .demonstrations.lerobot.writer import DatasetWriter
from .demonstrations.robomimic import RobomimicDemonstrations
from .demonstrations.rpt import RptDemonstrations

LEFT_OUT = "left_out.json"

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
    """Write every episode that is not yet there; name those that cannot be used in a report.

    Raises:
        FileNotFoundError: there is nothing to convert.
        ValueError: a file is not of this layout, no episode can be used, or `out` holds something
            else.
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
    if not set(done) <= set(names):
        raise ValueError(f"{out} was converted from other episodes: {', '.join(done)}")
    reasons = source.unexpected()
    cut, steps, num_done, rate_hz = 0, 0, len(done), None
    for made in _append(config, source, [name for name in names if name not in done], out, reasons):
        cut, steps, num_done = cut + made.facts["cut"], steps + made.num_steps, num_done + 1
        rate_hz = made.interface.rate_hz
    if not num_done:
        told = "; ".join(reasons.values())
        raise ValueError(f"no episode of {source.path} can be used: {told}")
    if cut:
        print(
            f"{cut} of {steps} steps go farther than path.joint_step_rad="
            f"{config.path.joint_step_rad:g} and were cut"
        )
    if reasons:
        _report(out, reasons)
        print(f"{len(reasons)} episodes were left out: {out / LEFT_OUT}")
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)
    at = "" if rate_hz is None else f" of {rate_hz:g} steps a second"
    print(f"{num_done} episodes{at}: {out}")


def _append(
    config: ConvertConfig,
    source: AnyDemonstrations,
    names: list[str],
    out: Path,
    reasons: dict[str, str],
) -> Iterator[Demonstration]:
    """Write these episodes and yield each; add those that cannot be used to the reasons."""
    writer: DatasetWriter | None = None
    before = read_json(out / LEFT_OUT) if (out / LEFT_OUT).is_file() else {}
    try:
        paths = zip(names, source.read(names), strict=True)
        for name, path in tqdm(paths, total=len(names), desc="convert", unit="episode"):
            if isinstance(path, ValueError):
                _leave_out(out, reasons, name, f"{source.path}: {name}", path)
                continue
            rate_hz = rate_of(path, config.path.rate_hz, f"{source.path}: {name}")
            try:
                made = demonstration(path, replace(config.path, rate_hz=rate_hz))
            except ValueError as error:
                _leave_out(out, reasons, name, f"{source.path}: {name}", error)
                continue
            try:
                if writer is None:
                    writer = DatasetWriter(out, made.interface, source.columns(path))
                writer.append(replace(made, facts={**made.facts, "source": name}))
            except ValueError as error:
                if writer is None and name not in before:  # `out` holds something else
                    raise
                _leave_out(out, reasons, name, f"{source.path}: {name}", error)
                continue
            yield made
    finally:
        if writer is not None:
            writer.close()


def _leave_out(
    out: Path, reasons: dict[str, str], name: str, place: str, error: ValueError
) -> None:
    text = str(error)
    reasons[name] = text if name in text else f"{place}: {text}"
    tqdm.write(f"left out: {reasons[name]}")
    _report(out, reasons)


def _report(out: Path, reasons: dict[str, str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / LEFT_OUT, reasons)


def _done(out: Path) -> list[str]:
    """Return the names of the episodes that are there."""
    try:
        there = DatasetReader(out)
    except FileNotFoundError:
        return []
    return [str(there.facts(index).get("source")) for index in range(len(there))]


main = command("convert_demonstrations", ConvertConfig)(convert)

if __name__ == "__main__":
    main()
