"""Command `python -m real_robot.record`: record demonstrations as a LeRobot data set.

python -m real_robot.record robot=twin agent=expert episodes=60 out=runs/demos
python -m real_robot.record robot=twin agent=keyboard episodes=5
python -m real_robot.record robot=172.16.0.2 station=table agent=spacemouse

If the recording is stopped, the same command with the same `out` continues it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from toto_robot.cli import command

from .agents.expert import ScriptedAgent
from .control.config import LoopConfig
from .control.timing import loop_report
from .episode import COMPLETE, EpisodeRecord, Listener
from .operator import NoPersonError, ask_yes_no
from .recording import Recorder
from .session import EXPECTED, draw_pose, may_go_on, outcome, pose_notes
from .session import prepare as prepare_episode
from .station import Station, StationConfig, TwinStation, open_station
from .teleoperation.agent import TeleoperationAgent, TeleoperationConfig
from .teleoperation.device import Device, DeviceError
from .teleoperation.gamepad import Gamepad
from .teleoperation.guiding import record_guided
from .teleoperation.keyboard import Keyboard
from .teleoperation.spacemouse import SpaceMouse
from .translator import Translator
from .trials.poses import PoseArea
from .viewer import ViewerConfig, watching

# Distance between the noise seeds of two runs, so that episodes of different runs differ in noise.
_SEEDS = 1_000_003

AgentName = Literal["expert", "keyboard", "gamepad", "spacemouse", "guiding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordConfig:
    """Settings of a recording.

    Attributes:
        robot: `twin` to start a digital twin, the address of a running twin, or the address of an
            arm.
        station: settings of the robot setup: arm, cameras, safety limits, start pose and task.
        agent: source of the actions. `expert` is the scripted expert (only on a twin). `keyboard`,
            `gamepad` and `spacemouse` are devices of a person. With `guiding`, a person moves the
            arm by hand.
        expert_noise: standard deviation of the disturbances that are added to the expert's executed
            actions, in units of the action range [-1, 1]. Labels are not disturbed (DART).
        episodes: the recording ends when the data set contains this number of episodes that are
            complete and did not fail.
        max_failures: greatest number of truncated or failed episodes in a row; one more stops the
            recording.
        seed: seed of the object's poses and of the noise.
        area: area in which the object is placed.
        teleoperation: limits on the speed of the tool, for the devices of a person.
        loop: settings of an episode.
        viewer: settings of the live view in Rerun.
    """

    robot: str
    station: StationConfig
    agent: AgentName
    expert_noise: float
    episodes: int
    max_failures: int
    seed: int
    area: PoseArea
    teleoperation: TeleoperationConfig
    loop: LoopConfig
    viewer: ViewerConfig

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.max_failures < 0:
            raise ValueError("episodes must be at least 1, max_failures not negative")
        if self.loop.rehearsal:
            raise ValueError("loop.rehearsal=true moves nothing: there is nothing to record")


def record(config: RecordConfig, out: Path) -> None:
    """Record until the data set has the requested number of complete, not failed episodes."""
    folder = out / "dataset"
    print(
        f"{config.episodes} episodes of {config.station.task!r} by {config.agent} on "
        f"{config.robot}, into {folder}",
        flush=True,
    )
    try:
        _require_fitting(config)
        with (
            open_station(config.station, config.robot) as station,
            watching(config.viewer) as viewers,
        ):
            _record(config, station, viewers, folder)
    except (*EXPECTED, DeviceError) as error:
        sys.exit(f"record: {error}")
    except KeyboardInterrupt:
        sys.exit(
            f"record: interrupted between episodes; {folder} has all episodes so far, and the same "
            "command resumes"
        )


def _require_fitting(config: RecordConfig) -> None:
    """Check that the agent can control this robot.

    Raises:
        ValueError: the agent cannot control this robot, for example the expert on a real arm.
    """
    on_twin = isinstance(config.station, TwinStation)
    if config.agent == "expert" and not on_twin:
        raise ValueError(
            "agent=expert needs the pose of the object, which only a twin knows; on an arm, use "
            "agent=keyboard, gamepad, spacemouse or guiding"
        )
    if config.agent == "guiding" and on_twin:
        raise ValueError("agent=guiding is for an arm: a twin cannot be led by hand")


def _record(
    config: RecordConfig, station: Station, viewers: Sequence[Listener], folder: Path
) -> None:
    print(f"robot: {station.robot.description}")
    records: list[EpisodeRecord] = []
    problem: str | None = None
    with Recorder(folder, station.interface) as recorder:
        num_good = sum(is_good(facts["reason"], facts["success"]) for facts in recorder.records())
        num_failures = 0
        with tqdm(total=config.episodes, initial=num_good, desc="record", unit="episode") as bar:
            while num_good < config.episodes and problem is None:
                number = recorder.num_episodes
                done = _one(config, station, viewers, number)
                try:
                    done = _with_result(config, done)
                except (KeyboardInterrupt, NoPersonError):  # keep the episode, but do not count it
                    why = "the question about its success was not answered"
                    recorder.save(replace(done, reason="interrupted", message=why))
                    raise
                recorder.save(done)
                records.append(done.without_images())
                if is_good(done.reason, done.success):
                    num_good, num_failures = num_good + 1, 0
                    bar.update()
                else:
                    num_failures += 1
                    bar.write(outcome(done))
                if num_failures > config.max_failures:
                    most = config.max_failures
                    problem = f"{num_failures} episodes in a row have failed (at most {most})"
                elif num_good < config.episodes and not _may_go_on(config, station, done):
                    problem = f"an episode ended by {done.reason}: {done.message}"
        total = recorder.num_episodes
    report = loop_report(*records)
    if report is not None:
        print("\n".join(report.lines()))
    print(f"{num_good} of {config.episodes} good episodes, {total} in all")
    print(f"data set: {folder}", flush=True)
    if num_good < config.episodes:
        sys.exit(f"record: {problem}; the same command resumes")


def _may_go_on(config: RecordConfig, station: Station, done: EpisodeRecord) -> bool:
    # The expert runs in this process. If its action is late, other programs used the CPUs.
    if config.agent == "expert" and done.reason == "policy":
        return True
    return may_go_on(station, done)


def is_good(reason: str, success: bool | None) -> bool:
    """Return whether an episode counts as a demonstration: it is complete and did not fail.

    Args:
        reason: why the episode ended.
        success: whether the task was done; None if unknown.
    """
    return reason in COMPLETE and success is not False


def _one(
    config: RecordConfig, station: Station, viewers: Sequence[Listener], number: int
) -> EpisodeRecord:
    pose = draw_pose(config.area, config.seed, number)
    prepare_episode(station, pose)
    notes = {**pose_notes(pose), "seed": config.seed, "number": number}
    translator = station.translator(station.interface)
    if config.agent == "expert":
        agent = _expert(config, station, translator, number)
        return station.run(agent, translator, config.loop, listeners=viewers, notes=notes)
    if config.agent == "guiding":
        return _guided(config, station, translator, viewers, notes)
    with open_device(config.agent, config.teleoperation) as device:
        tqdm.write(device.help)
        teleoperation = TeleoperationAgent(device, station.arm, translator, config.teleoperation)
        return station.run(teleoperation, translator, config.loop, listeners=viewers, notes=notes)


def _with_result(config: RecordConfig, done: EpisodeRecord) -> EpisodeRecord:
    """Return an episode with its result: if a person controlled the arm, ask that person."""
    if config.agent == "expert" or done.success is not None or done.reason not in COMPLETE:
        return done
    return replace(done, success=ask_yes_no("success?"))


def _expert(
    config: RecordConfig, station: Station, translator: Translator, number: int
) -> ScriptedAgent:
    assert isinstance(config.station, TwinStation)
    assert station.scene is not None
    return ScriptedAgent(
        config.station.twin.env_id,
        station.scene,
        translator,
        noise=config.expert_noise,
        seed=config.seed * _SEEDS + number,
    )


def _guided(
    config: RecordConfig,
    station: Station,
    translator: Translator,
    viewers: Sequence[Listener],
    notes: dict[str, Any],
) -> EpisodeRecord:
    """Record an episode in which a person guides the arm by hand.

    Keys of the keyboard move the gripper and end the episode.
    """
    with open_device("keyboard", config.teleoperation) as device:
        tqdm.write("lead the arm now, with its enabling button; space opens and closes the gripper")
        return record_guided(
            station.robot,
            station.cameras,
            translator,
            task=station.config.task,
            max_steps=config.loop.max_steps,
            wait_s=config.loop.start_timeout_s,
            read=device.read,
            listeners=viewers,
            notes=notes,
            notice=station.layer.notice,
        )


def open_device(
    name: Literal["keyboard", "gamepad", "spacemouse"], config: TeleoperationConfig
) -> Device:
    """Return the teleoperation device with this name; it is not open yet."""
    if name == "keyboard":
        return Keyboard(hold_s=config.hold_s)
    return Gamepad() if name == "gamepad" else SpaceMouse()


main = command("record", RecordConfig)(record)

if __name__ == "__main__":
    main()
