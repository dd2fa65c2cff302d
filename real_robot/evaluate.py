"""`python -m real_robot.evaluate`: how often a policy succeeds on an arm, trial by trial.

python -m real_robot.evaluate policy=runs/train/policy robot=twin trials=16
python -m real_robot.evaluate policy=runs/one/policy against=runs/two/policy robot=twin
python -m real_robot.evaluate policy=runs/train/policy robot=172.16.0.2 station=table \
    overlay.calibration=runs/calibrate/front.json

Poses are drawn and written down before the first trial, away from those of the demonstrations. With
two policies each pose is tried with both. The same command with the same `out` goes on where it was
stopped, and refuses when a setting or a policy's weights are not the same any more.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from envs.arms.kinematics import forward_kinematics
from envs.catalogue import variant
from envs.interface import Interface
from policies.demonstrations.lerobot.reader import DatasetReader
from toto_robot.cli import command
from toto_robot.config import to_dict

from .agents.expert import ScriptedAgent
from .agents.student import PolicyConfig
from .calibration.calibration import Calibration, load
from .cameras.camera import CameraError, Image
from .control.home import NotHomeError
from .control.loop import LoopConfig
from .episode import Agent, EpisodeRecord, Listener, Step
from .operator import ask_person
from .recording import Recorder
from .session import EXPECTED, bring_home, open_policy, pose_notes
from .station import TWIN, Station, StationConfig, TwinStation, open_station
from .translator import Translator
from .trials.images import illustrate
from .trials.operators import SceneOperator, TerminalOperator, enter_ends, screen
from .trials.overlay import calibration_of_scene, draw_overlay
from .trials.poses import Pose, PoseArea, draw_poses, nearest_m
from .trials.report import PAGE, write_report
from .trials.runner import (
    Operator,
    Plan,
    PolicyKey,
    TrialResult,
    TrialsStoppedError,
    keep_plan,
    load_results,
    load_spoilt,
    make_plan,
    run_trials,
)
from .viewer import ViewerConfig, watching

EXPERT = "expert"
_FRAME_S = 5.0

MakeAgent = Callable[[Translator], Agent]

# What may change between the calls that make up one evaluation.
_FREE = ("viewer", "max_spoilt")


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayConfig:
    """Say how the operator is shown where the object goes.

    Attributes:
        camera: into whose picture it is drawn.
        calibration: of that camera, as `python -m real_robot.calibrate` writes it; None on a twin,
            whose cameras are known, and where nothing is to be drawn.
        size_m: edge of the object.
    """

    camera: str
    calibration: Path | None
    size_m: float

    def __post_init__(self) -> None:
        if not 0 < self.size_m < 1:
            raise ValueError(f"size_m must be the edge of an object, m: {self.size_m}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialsConfig:
    """Say what is judged, where and how.

    Attributes:
        policy: a checkpoint's folder, `server:HOST:PORT`, or `expert` (on a twin).
        against: another one, tried at the same poses; None for one alone.
        robot: `twin`, the address of a twin that runs, or an arm's address.
        station: what there is.
        acting: where and how policies run.
        trials: poses; with two policies there are twice as many trials.
        seed: of poses and order.
        area: where objects are put.
        demonstrations: data sets whose poses are kept away from.
        least_distance_m: how far each pose is from all of theirs.
        verdict: `check` asks the scene; `operator` asks a person; None: the scene where there is
            one, on a twin, and a person elsewhere.
        blind: whether the person is kept from knowing which policy comes.
        overlay: how the person is shown where the object goes.
        loop: how an episode runs.
        max_spoilt: a trial that was spoilt more often than this stops the evaluation.
        viewer: live view.
    """

    policy: str
    against: str | None
    robot: str
    station: StationConfig
    acting: PolicyConfig
    trials: int
    seed: int
    area: PoseArea
    demonstrations: tuple[Path, ...]
    least_distance_m: float
    verdict: Literal["check", "operator"] | None
    blind: bool
    overlay: OverlayConfig
    loop: LoopConfig
    max_spoilt: int
    viewer: ViewerConfig

    def __post_init__(self) -> None:
        if self.trials < 1 or self.max_spoilt < 0:
            raise ValueError("trials must be at least 1, max_spoilt not negative")
        if self.loop.rehearsal:
            raise ValueError("a rehearsal moves nothing: there is nothing to judge")
        if not 0 <= self.least_distance_m < math.inf:
            raise ValueError(f"least_distance_m must not be negative: {self.least_distance_m}")
        if not isinstance(self.station, TwinStation):
            if self.verdict == "check":
                raise ValueError("nothing checks an arm's trials: take verdict=operator")
            if EXPERT in (self.policy, self.against):
                raise ValueError("the expert must know where the object is, which a twin does")
        names = _camera_names(self.station)
        if self.overlay.camera not in names:
            raise ValueError(
                f"overlay.camera: no camera {self.overlay.camera!r}; there are {', '.join(names)}"
            )

    @property
    def is_checked(self) -> bool:
        """Say whether the scene judges, and not a person."""
        if self.verdict is None:
            return isinstance(self.station, TwinStation)
        return self.verdict == "check"

    @property
    def names(self) -> dict[PolicyKey, str]:
        """Give the policies' names."""
        if self.against is None:
            return {"a": self.policy}
        if self.against == self.policy:  # a policy against itself: how much chance alone does
            return {"a": f"{self.policy} (a)", "b": f"{self.policy} (b)"}
        return {"a": self.policy, "b": self.against}


def evaluate(config: TrialsConfig, out: Path) -> None:
    """Do the trials that are missing; write and print what they say."""
    who = " and ".join(config.names.values())
    print(f"{config.trials} poses on {config.robot} for {who}", flush=True)
    try:
        with ExitStack() as stack:
            station = stack.enter_context(open_station(config.station, config.robot))
            print(f"robot: {station.robot.description}")
            agents: dict[PolicyKey, MakeAgent] = {}
            weights: dict[PolicyKey, str | None] = {}
            rivals: dict[PolicyKey, str | None] = {"a": config.policy, "b": config.against}
            for key, name in rivals.items():
                if name is not None:
                    agents[key], weights[key] = _open(name, config, station, stack)
            recorder = stack.enter_context(Recorder(out / "dataset", station.interface))
            viewers = stack.enter_context(watching(config.viewer))
            bench = Bench(config, station, agents, viewers)
            _run(config, bench, weights, recorder, out / "report")
    except EXPECTED as error:
        sys.exit(f"trials: {error}")


def _run(
    config: TrialsConfig,
    bench: "Bench",
    weights: dict[PolicyKey, str | None],
    recorder: Recorder,
    folder: Path,
) -> None:
    settings = settings_of(config, bench.station.interface, weights)
    plan = keep_plan(folder, settings, lambda: plan_of(config, settings))
    for line in plan.facts["said"]:
        print(line)
    stopped: str | None = None
    bar = tqdm(total=len(plan.trials), desc="trials", unit="trial")

    def tell(result: TrialResult) -> None:
        if result.judgement.success is not None:
            bar.update()
        bar.write(_line(result))
        _report(config, plan, folder)

    with bar:
        bar.update(len(load_results(folder)))
        try:
            run_trials(
                plan,
                folder,
                prepare=bench.prepare,
                run=bench.run,
                operator=bench.operator(),
                keep=recorder.save,
                illustrate=illustrate,
                max_spoilt=config.max_spoilt,
                tell=tell,
            )
        except TrialsStoppedError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            stopped = "stopped between episodes; the same command goes on"
    _report(config, plan, folder, say=True)
    if stopped is not None:
        sys.exit(f"trials: {stopped}")


class Masked:
    """Keep from a listener which policy acts."""

    def __init__(self, listener: Listener) -> None:
        """Pass everything else on to a listener."""
        self._listener = listener

    def begin(self, task: str, agent: str) -> None:
        """Begin, without the name."""
        self._listener.begin(task, "a policy whose name is kept back")

    def step(self, step: Step) -> None:
        """Pass it on."""
        self._listener.step(step)

    def end(self, record: EpisodeRecord) -> None:
        """Pass it on."""
        self._listener.end(record)


class Bench:
    """Run episodes for trials on a station, and make it ready in between."""

    def __init__(
        self,
        config: TrialsConfig,
        station: Station,
        agents: dict[PolicyKey, MakeAgent],
        viewers: Sequence[Listener],
    ) -> None:
        """Use an open station."""
        self.station = station
        self._config = config
        self._agents = agents
        hidden = config.blind and not config.is_checked
        self._viewers = [Masked(viewer) for viewer in viewers] if hidden else viewers
        self._last: EpisodeRecord | None = None
        self._unattended = config.is_checked

    def prepare(self) -> None:
        """Recover from how the last episode ended, and bring the arm home; a person is warned.

        Raises:
            TrialsStoppedError: the arm cannot go on.
            NotHomeError: it cannot get home by itself, and no person is there to help.
        """
        if self._last is not None and not self.station.recover(self._last.reason, self._confirm):
            raise TrialsStoppedError(
                f"the arm cannot go on after {self._last.reason}: {self._last.message}; the same "
                "command does, when that is mended"
            )
        if self.station.scene is None:
            ask_person(
                "next the gripper opens and the arm goes to its start pose: take the object if it "
                "holds one, step back, and press Enter: "
            )
        while True:
            try:
                if self._unattended:
                    bring_home(self.station)
                else:
                    self.station.go_home()
                return
            except NotHomeError as error:
                if self._unattended:
                    raise
                ask_person(f"{error}\nEnter to try again: ")

    def run(self, pose: Pose, policy: PolicyKey) -> EpisodeRecord:
        """Run an episode; its notes say where the object was."""
        station = self.station
        translator = station.translator(station.interface)
        ends = None
        if not self._unattended and sys.stdin.isatty():
            tqdm.write("it runs; Enter ends it, Ctrl-C ends it and all trials")
            ends = enter_ends(sys.stdin.fileno())
        self._last = station.run(
            self._agents[policy](translator),
            translator,
            self._config.loop,
            operator=ends,
            listeners=self._viewers,
            notes={**pose_notes(pose), "seed": self._config.seed},
        )
        return self._last

    def _confirm(self, question: str) -> bool:
        if self._unattended:  # a twin: nobody is in reach of it
            return True
        return ask_person(f"{question} yes or no: ").lower() in ("y", "yes")

    def operator(self) -> Operator:
        """Give who places and judges."""
        config, scene = self._config, self.station.scene
        if config.is_checked:
            assert scene is not None
            return SceneOperator(scene, self.draw)
        return TerminalOperator(
            self.draw,
            scene=scene,
            ask=ask_person,
            tell=tqdm.write,
            show=screen(),
            names=None if config.blind else config.names,
        )

    def draw(self, pose: Pose, text: str) -> Image | None:
        """Give the picture of where the object goes; None, and why, where there can be none."""
        station, name = self.station, self._config.overlay.camera
        calibration = self._calibration()
        if calibration is None:
            return None
        (camera,) = (camera for camera in station.cameras if camera.name == name)
        try:
            seen = camera.wait(_FRAME_S)
            # one that was taken after the arm had come to rest, and the object
            frame = camera.wait(_FRAME_S, sequence=seen.sequence + 2)
            return draw_overlay(
                frame.image,
                pose,
                calibration,
                size_m=self._config.overlay.size_m,
                table_m=station.config.safety.workspace.table_m,
                T_base_hand=forward_kinematics(
                    station.arm, station.robot.state().joint_positions_rad
                ),
                text=text,
            )
        except (CameraError, ValueError) as error:
            tqdm.write(f"no picture of where the object goes: {error}")
            return None

    def _calibration(self) -> Calibration | None:
        overlay, station = self._config.overlay, self._config.station
        if overlay.calibration is not None:
            found = load(overlay.calibration)
            if found.camera != overlay.camera:
                raise ValueError(
                    f"{overlay.calibration} is of camera {found.camera!r}, not {overlay.camera!r}"
                )
            return found
        if not isinstance(station, TwinStation):
            return None
        chosen = variant(station.twin.env_id)
        scene = chosen.task.scene(chosen.arm)
        (camera,) = (camera for camera in scene.cameras if camera.name == overlay.camera)
        size = station.twin.image_size
        return calibration_of_scene(
            camera,
            size,
            size,
            base_position_m=scene.base_position_m,
            base_yaw_rad=scene.base_yaw_rad,
        )


def settings_of(
    config: TrialsConfig, interface: Interface, weights: Mapping[PolicyKey, str | None]
) -> dict[str, Any]:
    """Give what must stay the same from the first trial to the last."""
    said = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    if isinstance(config.station, TwinStation):
        said["robot"] = TWIN  # each twin has an address of its own, and all are alike
    return {**said, "weights": dict(weights), "interface": interface.to_dict()}


def plan_of(config: TrialsConfig, settings: Mapping[str, Any]) -> Plan:
    """Draw poses and order, away from the demonstrations.

    Raises:
        ValueError: a data set does not say where its objects were, or leaves no room.
    """
    places = [place for folder in config.demonstrations for place in places_of(folder)]
    poses = draw_poses(
        config.area,
        config.trials,
        np.random.default_rng((config.seed, 0)),
        avoid=places,
        least_distance_m=config.least_distance_m,
    )
    if places:
        nearest = min(nearest_m(pose, places) for pose in poses)
        said = (
            f"{len(poses)} poses, none nearer than {nearest:.4f} m to any of the {len(places)} of "
            f"the demonstrations (least distance asked for: {config.least_distance_m} m)"
        )
    else:
        said = (
            f"{len(poses)} poses; no demonstrations were named, so a policy may have been trained "
            "on some of these places"
        )
    return make_plan(
        poses,
        paired=config.against is not None,
        rng=np.random.default_rng((config.seed, 1)),
        settings=settings,
        facts={"said": [said]},
    )


def places_of(dataset: Path) -> list[tuple[float, float]]:
    """Give x and y of the object, m, at the beginning of each episode of a data set.

    Raises:
        ValueError: no episode says it.
    """
    reader = DatasetReader(dataset)
    places = []
    for index in range(len(reader)):
        notes = reader.facts(index).get("notes", {})
        if (found := notes.get("object_pose")) is not None:
            places.append((float(found[0]), float(found[1])))
        elif (planned := notes.get("pose")) is not None:
            places.append((float(planned["x_m"]), float(planned["y_m"])))
    if not places:
        raise ValueError(
            f"{dataset}: none of {len(reader)} episodes says where the object was, so poses cannot "
            "be kept away from theirs; leave it out of `demonstrations`"
        )
    return places


def _open(
    name: str, config: TrialsConfig, station: Station, stack: ExitStack
) -> tuple[MakeAgent, str | None]:
    """Give what makes the agent of an episode, and its weights' hash."""
    if name == EXPERT:
        twin, scene = config.station, station.scene
        assert isinstance(twin, TwinStation)
        assert scene is not None
        env_id = twin.twin.env_id
        return lambda translator: ScriptedAgent(env_id, scene, translator, noise=0.0, seed=0), None
    agent = open_policy(name, config.acting, station)
    stack.callback(agent.close)
    return lambda _: agent, agent.weights_hash


def _report(config: TrialsConfig, plan: Plan, folder: Path, *, say: bool = False) -> None:
    results, spoilt = load_results(folder), load_spoilt(folder)
    title = f"{config.station.task}: {' against '.join(config.names.values())}"
    conclusions = write_report(
        folder, plan, results, spoilt, title=title, names=config.names, area=config.area
    )
    if not say:
        return
    for key, rate in conclusions.rates.items():
        print(f"success of {config.names[key]}: {rate}")
    if conclusions.comparison is not None:
        print(f"sign test on pairs: p = {conclusions.comparison.sign_p:.4f}")
    for sentence in conclusions.may_say:
        print(f"may be said:     {sentence}")
    for sentence in conclusions.may_not_say:
        print(f"may not be said: {sentence}")
    if spoilt:
        print(f"{len(spoilt)} attempts were spoilt and done again; the report says why")
    print(f"report: {folder / PAGE}")
    print(f"data set: {folder.parent / 'dataset'}")


def _line(result: TrialResult) -> str:
    judgement = result.judgement
    word = {True: "success", False: "failure", None: "spoilt"}[judgement.success]
    # the check's note is the message itself
    note = f"; {judgement.note}" if judgement.note and judgement.by == "operator" else ""
    return (
        f"pose {result.trial.pose_index}: {word} after {result.duration_s:.1f} s, ended by "
        f"{result.reason}: {result.message}{note}"
    )


def _camera_names(station: StationConfig) -> tuple[str, ...]:
    if isinstance(station, TwinStation):
        return station.cameras
    return tuple(camera.settings.name for camera in station.cameras)


main = command("trials", TrialsConfig)(evaluate)

if __name__ == "__main__":
    main()
