"""`python -m real_robot.deploy`: let a policy act on an arm, or only say what it would do.

python -m real_robot.deploy policy=runs/train/policy robot=twin
python -m real_robot.deploy policy=runs/train/policy robot=172.16.0.2 station=table \
    loop.rehearsal=true
python -m real_robot.deploy policy=server:127.0.0.1:5555 robot=twin

A rehearsal sends nothing: arm and gripper stay as they are, and every step is shown.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from toto_robot.cli import command

from .agents import SERVER, StudentAgent, open_agent
from .episode import Agent, EpisodeRecord
from .home import NotHomeError
from .loop import LoopConfig
from .poses import PoseArea
from .recording import Recorder
from .remote import RemoteAgent
from .robot import RobotError
from .session import NoPersonError, Show, draw_pose, may_go_on, pose_notes, prepare
from .station import Station, StationConfig, open_station
from .timing import loop_report


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Say where and how a policy runs.

    Attributes:
        device: `cpu`, `cuda`, or `auto` (cuda if there is one).
        num_threads: of torch; on a small machine one, so that the robot has a core.
        encoder: where its encoder is now; None: where it was.
        surprise: whether it tells how unexpected the frames are, which costs time.
        key_file: of a policy server.
        timeout_s: how long a policy server may take to answer.
    """

    device: str
    num_threads: int
    encoder: str | None
    surprise: bool
    key_file: Path
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployConfig:
    """Say what acts where.

    Attributes:
        policy: a checkpoint's folder, or `server:HOST:PORT`.
        robot: `twin`, the address of a twin that runs, or an arm's address.
        station: what there is.
        acting: where and how the policy runs.
        episodes: how many.
        seed: of the objects' poses.
        area: where objects are put.
        loop: how an episode runs; `loop.rehearsal=true` sends nothing.
        recorded: whether episodes are kept, as a LeRobot dataset.
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

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")


def deploy(config: DeployConfig, out: Path) -> None:
    """Run the episodes, say how each went, and report on the loop's time."""
    what = "rehearses, nothing is sent" if config.loop.rehearsal else "acts"
    print(f"{config.policy} {what} on {config.robot}, {config.episodes} episodes", flush=True)
    try:
        with open_station(config.station, config.robot) as station:
            print(f"robot: {station.robot.description}")
            agent = open_policy(config.policy, config.acting, station)
            try:
                records = _episodes(config, station, agent, out / "dataset")
            finally:
                agent.close()
    except (RobotError, NotHomeError, NoPersonError, ImportError, FileNotFoundError) as error:
        sys.exit(f"deploy: {error}")
    except KeyboardInterrupt:
        sys.exit("deploy: interrupted between episodes")
    report = loop_report(*records)
    if report is not None:
        print("\n".join(report.lines()))
    judged = [record.success for record in records if record.success is not None]
    if judged:
        print(f"success: {sum(judged)} of {len(judged)} that were judged")
    if config.recorded:
        print(f"dataset: {out / 'dataset'}")


def open_policy(policy: str, acting: PolicyConfig, station: Station) -> StudentAgent | RemoteAgent:
    """Open a policy for a station, and say what a person should know.

    Raises:
        ValueError: it does not fit the robot.
        FileNotFoundError: no policy there.
    """
    if not policy.startswith(SERVER):
        import torch

        torch.set_num_threads(acting.num_threads)
    agent = open_agent(
        policy,
        station.interface,
        device=acting.device,
        encoder=acting.encoder,
        surprise=acting.surprise,
        key_file=acting.key_file,
        timeout_s=acting.timeout_s,
    )
    print(f"agent: {agent.name}, weights {(agent.weights_hash or 'none')[:12]}")
    if agent.note is not None:
        print(f"note: {agent.note}")
    return agent


def _episodes(
    config: DeployConfig, station: Station, agent: Agent, folder: Path
) -> list[EpisodeRecord]:
    records: list[EpisodeRecord] = []
    recorder = Recorder(folder, station.interface) if config.recorded else None
    try:
        for number in range(config.episodes):
            pose = draw_pose(config.area, config.seed, number)
            if not config.loop.rehearsal:
                prepare(station, pose)
            record = station.run(
                agent,
                station.translator(station.interface),
                config.loop,
                listeners=[Show(every=config.loop.rehearsal)],
                notes={**pose_notes(pose), "seed": config.seed, "policy": config.policy},
            )
            records.append(record)
            if recorder is not None:
                recorder.save(record)
            if not may_go_on(station, record):
                print(f"stopped after an episode that ended by {record.reason}")
                break
    finally:
        if recorder is not None:
            recorder.close()
    return records


main = command("deploy", DeployConfig)(deploy)

if __name__ == "__main__":
    main()
