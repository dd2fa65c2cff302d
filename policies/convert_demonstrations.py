"""`python -m policies.convert_demonstrations`: convert demonstrations from and to other formats.

    python -m policies.convert_demonstrations layout=robomimic layout.path=image.hdf5 \
        path.every=2 out=runs/lift
    python -m policies.convert_demonstrations layout=robomimic layout.path=image.hdf5 \
        path.every=1 path.actions=own out=runs/lift_own
    python -m policies.convert_demonstrations layout.path=DOWNLOADS/pick path.rate_hz=30 \
        out=runs/rpt
    python -m policies.train method=bc env=none data=runs/rpt out=runs/rpt_policy
    python -m policies.convert_demonstrations layout=droid layout.path=runs/record/dataset \
        out=runs/droid
    python -m policies.convert_demonstrations layout=minari layout.path=DOWNLOADS/door/human-v2 \
        env=gymnasium env.id=gymnasium_robotics:AdroitHandDoor-v1 out=runs/door

The command writes a LeRobotDataset v3.0 to `out`. `policies.demonstrations.rpt`,
`policies.demonstrations.robomimic` and `policies.demonstrations.minari` describe the formats that
it reads. LeRobot data sets need no conversion, because `policies.train layout=lerobot` reads them.

For RPT and robomimic,
`policies.demonstrations.joint_paths` computes the actions from the joint positions. With
`path.actions=own` the actions in the file are used instead. The frame rate is read from the file
(robomimic: `control_freq`, RPT: `rate_hz`). If the file does not contain a rate, `path.rate_hz` is
required.

The same command resumes a stopped conversion, and adds episodes if `episodes` is larger. Other
settings, or another source, need another `out`. Episodes that cannot be converted are skipped, and
`out/left_out.json` lists them with the reasons.

`layout=droid` converts in the opposite direction: it exports recordings of this project with the
names, the rate and the units of DROID (see `policies.demonstrations.droid`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.data.lerobot import read_json
from toto_robot.files import write_json
from toto_robot.runs import LEFT_OUT, claim

from .demonstrations.droid import DroidView
from .demonstrations.joint_paths import PathConfig, demonstration, rate_of
from .demonstrations.lerobot.demonstration import Demonstration
from .demonstrations.lerobot.others import LerobotLayout
from .demonstrations.lerobot.reader import DatasetReader
from .demonstrations.lerobot.writer import DatasetWriter
from .demonstrations.minari import MinariDemonstrations
from .demonstrations.robomimic import RobomimicDemonstrations
from .demonstrations.rpt import RptDemonstrations
from .gymnasium_env import GymnasiumEnv

AnyDemonstrations = RptDemonstrations | RobomimicDemonstrations | MinariDemonstrations


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """Settings of the conversion.

    Attributes:
        layout: the demonstrations to convert, in the format `robomimic`, `rpt` or `minari`; or,
            with `droid`, the recordings to export.
        path: how actions are computed from the recorded joint positions; only for `robomimic` and
            `rpt`.
        episodes: number of episodes to convert, beginning with the first; None: all.
        env: the environment in which a Minari data set was recorded. The settings are those of
            `policies.train env=gymnasium`.
    """

    layout: AnyDemonstrations | DroidView | LerobotLayout
    path: PathConfig
    episodes: int | None
    env: GymnasiumEnv | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")


def convert(config: ConvertConfig, out: Path) -> None:
    """Convert all episodes that `out` does not contain yet; print those that cannot be converted.

    Raises:
        FileNotFoundError: no episodes were found.
        ValueError: a file does not have the chosen format, no episode can be converted, `out`
            contains other data or a conversion with other settings, `layout` is `lerobot`, which
            needs no conversion, or a setting is not for this layout.
    """
    source = config.layout
    if config.env is not None and not isinstance(source, MinariDemonstrations):
        raise ValueError(f"env is only for layout=minari, got layout={source.kind}")
    if isinstance(source, LerobotLayout):
        raise ValueError(
            "a LeRobot data set needs no conversion; train on it directly: "
            "python -m policies.train method=bc env=none layout=lerobot data=<folder>"
        )
    if isinstance(source, DroidView):
        claim(out, config)
        source.export(config.episodes, out)
        return
    names = source.names()[: config.episodes]
    print(f"{len(names)} episodes of {source.kind} in {source.path}", flush=True)
    done = _done(out)
    if not set(done) <= set(names):
        raise ValueError(f"{out} contains other episodes, choose another out: {', '.join(done)}")
    claim(out, config)
    reasons = source.unexpected()
    steps, num_done, rate_hz, facts = 0, len(done), None, list[dict[str, Any]]()
    for made in _append(config, source, [name for name in names if name not in done], out, reasons):
        steps, num_done = steps + made.num_steps, num_done + 1
        rate_hz = made.interface.rate_hz
        facts.append(dict(made.facts))
    if not num_done:
        raise ValueError(f"no episode of {source.path} can be used: {'; '.join(reasons.values())}")
    for line in _summary(config, facts, steps):
        print(line)
    if reasons:
        _report(out, reasons)
        print(f"{len(reasons)} episodes were skipped: {out / LEFT_OUT}")
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)
    at = "" if rate_hz is None else f" at {rate_hz:g} steps per second"
    print(f"{num_done} episodes{at}: {out}")


def _append(
    config: ConvertConfig,
    source: AnyDemonstrations,
    names: list[str],
    out: Path,
    reasons: dict[str, str],
) -> Iterator[Demonstration]:
    """Convert these episodes, append them to `out`, and yield each.

    Args:
        config: settings of the conversion.
        source: the demonstrations.
        names: names of the episodes to convert.
        out: folder of the data set.
        reasons: why episodes cannot be converted, by name of the episode; changed in place.
    """
    writer: DatasetWriter | None = None
    before = read_json(out / LEFT_OUT) if (out / LEFT_OUT).is_file() else {}
    try:
        read = zip(names, _read(config, source, names), strict=True)
        for name, made in tqdm(read, total=len(names), desc="convert", unit="episode"):
            if isinstance(made, ValueError):
                _leave_out(out, reasons, name, f"{source.path}: {name}", made)
                continue
            try:
                if writer is None:
                    writer = DatasetWriter(out, made.interface, source.columns(made.columns))
                writer.append(replace(made, facts={**made.facts, "source": name}))
            except ValueError as error:
                if writer is None and name not in before:  # `out` contains other data
                    raise
                _leave_out(out, reasons, name, f"{source.path}: {name}", error)
                continue
            yield made
    finally:
        if writer is not None:
            writer.close()


def _read(
    config: ConvertConfig, source: AnyDemonstrations, names: list[str]
) -> Iterator[Demonstration | ValueError]:
    """Return each episode, or an error that says why it cannot be converted."""
    if isinstance(source, MinariDemonstrations):
        if names:
            yield from source.demonstrations(names, config.env)
        return
    for name, path in zip(names, source.read(names), strict=True):
        if isinstance(path, ValueError):
            yield path
            continue
        rate_hz = rate_of(path, config.path.rate_hz, f"{source.path}: {name}")
        try:
            made = demonstration(path, replace(config.path, rate_hz=rate_hz))
        except ValueError as error:
            yield error
            continue
        yield made


def _summary(config: ConvertConfig, facts: list[dict[str, Any]], steps: int) -> list[str]:
    """Return the lines to print about the converted episodes, given the facts of each."""
    if isinstance(config.layout, MinariDemonstrations):
        return config.layout.summary(facts)
    cut = sum(one["cut"] for one in facts)
    limit = f"path.joint_step_rad={config.path.joint_step_rad:g}"
    return [f"{cut} of {steps} steps exceed {limit} and were clipped"] if cut else []


def _leave_out(
    out: Path, reasons: dict[str, str], name: str, place: str, error: ValueError
) -> None:
    text = str(error)
    reasons[name] = text if name in text else f"{place}: {text}"
    tqdm.write(f"skipped: {reasons[name]}")
    _report(out, reasons)


def _report(out: Path, reasons: dict[str, str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / LEFT_OUT, reasons)


def _done(out: Path) -> list[str]:
    """Return the names, in the source, of the episodes that `out` contains already."""
    try:
        reader = DatasetReader(out)
    except FileNotFoundError:
        return []
    return [str(reader.facts(index).get("source")) for index in range(len(reader))]


main = command("convert_demonstrations", ConvertConfig)(convert)

if __name__ == "__main__":
    main()
