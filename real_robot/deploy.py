"""Command `python -m real_robot.deploy`: run a policy on an arm, or only print its actions.

python -m real_robot.deploy policy=runs/train/policy robot=twin
python -m real_robot.deploy policy=runs/train/policy robot=172.16.0.2 station=table \
    loop.rehearsal=true
python -m real_robot.deploy policy=server:127.0.0.1:5555 robot=twin

With `loop.rehearsal=true`, nothing is sent to arm and gripper, and every action is printed.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto_robot.cli import command

from .agents.opening import PolicyConfig
from .control.config import LoopConfig
from .control.timing import loop_report
from .episode import Agent, EpisodeRecord, Listener
from .recording import Recorder
from .session import EXPECTED, StepPrinter, draw_pose, may_go_on, open_policy, pose_notes, prepare
from .station import Station, StationConfig, open_station
from .trials.poses import Pose, PoseArea
from .viewer import ViewerConfig, watching


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployConfig:
    """Settings of a deployment: a trained policy controls an arm.

    Attributes:
        policy: folder of a training run or of a policy's checkpoint, or `server:HOST:PORT`.
        robot: `twin` to start a digital twin, the address of a running twin, or the address of an
            arm.
        station: settings of the robot setup: arm, cameras, safety limits, start pose and task.
        acting: where and how the policy is computed: device, threads, encoder, policy server.
        episodes: number of episodes.
        seed: seed of the poses at which the object is placed.
        area: area in which the object is placed.
        loop: settings of an episode; `loop.rehearsal=true` sends nothing to the arm.
        recorded: True to record the episodes as a LeRobot data set.
        viewer: settings of the live view in Rerun.
    """

    policy: str
    robot: str
    station: StationConfig
    acting: PolicyConfig
    episodes: int
    seed: int
    area: PoseArea
    loop: LoopConfig
    recorded: bool
    viewer: ViewerConfig

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")


def deploy(config: DeployConfig, out: Path) -> None:
    """Run the episodes, print how each episode ended, and print the timing of the loop."""
    what = "rehearses (nothing is sent)" if config.loop.rehearsal else "acts"
    print(f"{config.policy} {what} on {config.robot}, {config.episodes} episodes", flush=True)
    folder = out / "dataset" if config.recorded else None
    poses = [draw_pose(config.area, config.seed, number) for number in range(config.episodes)]
    notes = {"seed": config.seed, "policy": config.policy}
    try:
        with ExitStack() as stack:
            station = stack.enter_context(open_station(config.station, config.robot))
            print(f"robot: {station.robot.description}")
            agent = stack.enter_context(closing(open_policy(config.policy, config.acting, station)))
            viewers = stack.enter_context(watching(config.viewer))
            records = _run(station, agent, config.loop, poses, notes, viewers, folder)
    except EXPECTED as error:
        sys.exit(f"deploy: {error}")
    except KeyboardInterrupt:
        sys.exit("deploy: interrupted between episodes")
    _report(records, folder)
    last = records[-1]
    if len(records) < config.episodes or last.reason == "interrupted":
        sys.exit(
            f"deploy: {len(records)} of {config.episodes} episodes were run; the last ended by "
            f"{last.reason}: {last.message}"
        )


def _run(
    station: Station,
    agent: Agent,
    loop: LoopConfig,
    poses: Sequence[Pose],
    notes: Mapping[str, Any],
    viewers: Sequence[Listener],
    folder: Path | None,
) -> list[EpisodeRecord]:
    """Run one episode at each pose, and return the records.

    If the robot cannot continue after an episode, no further episode is run.
    """
    records: list[EpisodeRecord] = []
    with ExitStack() as stack:
        recorder = None
        if folder is not None:
            recorder = stack.enter_context(Recorder(folder, station.interface))
        for number, pose in enumerate(poses, start=1):
            if not loop.rehearsal:
                prepare(station, pose)
            record = station.run(
                agent,
                station.translator(station.interface),
                loop,
                listeners=[StepPrinter(every=loop.rehearsal), *viewers],
                notes={**pose_notes(pose), **notes},
            )
            records.append(record.without_images())
            if recorder is not None:
                recorder.save(record)
            if number < len(poses) and not may_go_on(station, record):
                break
    return records


def _report(records: Sequence[EpisodeRecord], folder: Path | None) -> None:
    report = loop_report(*records)
    if report is not None:
        print("\n".join(report.lines()))
    evaluated = [record.success for record in records if record.success is not None]
    if evaluated:
        cut = len(records) - len(evaluated)
        rest = f"; {cut} more were truncated or have no known outcome" if cut else ""
        print(f"success: {sum(evaluated)} of {len(evaluated)} episodes{rest}")
    if folder is not None:
        print(f"data set: {folder}", flush=True)


main = command("deploy", DeployConfig, {"encoder": "acting.encoder"})(deploy)

if __name__ == "__main__":
    main()
