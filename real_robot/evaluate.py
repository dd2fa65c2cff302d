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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tqdm import tqdm

from envs.interface import Interface
from toto_robot.cli import command
from toto_robot.config import to_dict
from toto_robot.moved import moved_names

from .agents.expert import ScriptedAgent
from .agents.opening import PolicyConfig
from .bench import Bench, MakeAgent, OverlayConfig
from .control.config import LoopConfig
from .recording import Recorder, places_of
from .session import EXPECTED, open_policy
from .station import TWIN, Station, StationConfig, TwinStation, open_station
from .trials.images import illustrate
from .trials.plan import Plan, PolicyKey, draw_plan, keep_plan
from .trials.poses import PoseArea
from .trials.report import PAGE, write_report
from .trials.results import TrialResult, load_invalid, load_results
from .trials.runner import TrialsStoppedError, run_trials
from .viewer import ViewerConfig, watching

EXPERT = "expert"
# What may change between the calls that make up one evaluation.
_FREE = ("viewer", "max_invalid", "max_spoilt")


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
        max_invalid: a trial that was spoilt more often than this stops the evaluation.
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
    max_invalid: int
    OLD_NAMES: ClassVar[dict[str, str]] = {"max_spoilt": "max_invalid"}
    viewer: ViewerConfig

    def __post_init__(self) -> None:
        if self.trials < 1 or self.max_invalid < 0:
            raise ValueError("trials must be at least 1, max_invalid not negative")
        if self.loop.rehearsal:
            raise ValueError("a rehearsal moves nothing: there is nothing to judge")
        if not 0 <= self.least_distance_m < math.inf:
            raise ValueError(f"least_distance_m must not be negative: {self.least_distance_m}")
        if not isinstance(self.station, TwinStation):
            if self.verdict == "check":
                raise ValueError("nothing checks an arm's trials: take verdict=operator")
            if EXPERT in (self.policy, self.against):
                raise ValueError("the expert must know where the object is, which a twin does")
        names = [camera.name for camera in self.station.camera_specs]
        if self.overlay.camera not in names:
            raise ValueError(
                f"overlay.camera: no camera {self.overlay.camera!r}; there are {', '.join(names)}"
            )

    @property
    def is_checked(self) -> bool:
        """Return whether the scene judges, and not a person."""
        if self.verdict is None:
            return isinstance(self.station, TwinStation)
        return self.verdict == "check"

    @property
    def names(self) -> dict[PolicyKey, str]:
        """Return the policies' names."""
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
                    agents[key], weights[key] = _open(name, config.acting, station, stack)
            recorder = stack.enter_context(Recorder(out / "dataset", station.interface))
            bench = Bench(
                station,
                agents,
                config.loop,
                config.overlay,
                checked=config.is_checked,
                names=None if config.blind else config.names,
                viewers=stack.enter_context(watching(config.viewer)),
                seed=config.seed,
            )
            _run(config, bench, weights, recorder, out / "report")
    except EXPECTED as error:
        sys.exit(f"trials: {error}")


def _run(
    config: TrialsConfig,
    bench: Bench,
    weights: dict[PolicyKey, str | None],
    recorder: Recorder,
    folder: Path,
) -> None:
    settings = settings_of(config, bench.station.interface, weights)
    plan = keep_plan(
        folder,
        settings,
        lambda: draw_plan(
            config.area,
            config.trials,
            config.seed,
            settings=settings,
            paired=config.against is not None,
            places=[place for each in config.demonstrations for place in places_of(each)],
            least_distance_m=config.least_distance_m,
        ),
    )
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
                max_invalid=config.max_invalid,
                tell=tell,
            )
        except TrialsStoppedError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            stopped = "stopped between episodes; the same command goes on"
    _report(config, plan, folder, say=True)
    if stopped is not None:
        sys.exit(f"trials: {stopped}")


def settings_of(
    config: TrialsConfig, interface: Interface, weights: Mapping[PolicyKey, str | None]
) -> dict[str, Any]:
    """Return what must stay the same from the first trial to the last."""
    said = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    if isinstance(config.station, TwinStation):
        said["robot"] = TWIN  # each twin has an address of its own, and all are alike
    return {**said, "weights": dict(weights), "interface": interface.to_dict()}


def _open(
    name: str, acting: PolicyConfig, station: Station, stack: ExitStack
) -> tuple[MakeAgent, str | None]:
    """Return what makes the agent of an episode, and its weights' hash."""
    if name == EXPERT:
        twin, scene = station.config, station.scene
        assert isinstance(twin, TwinStation)
        assert scene is not None
        env_id = twin.twin.env_id
        return lambda translator: ScriptedAgent(env_id, scene, translator, noise=0.0, seed=0), None
    agent = open_policy(name, acting, station)
    stack.callback(agent.close)
    return lambda _: agent, agent.weights_hash


def _report(config: TrialsConfig, plan: Plan, folder: Path, *, say: bool = False) -> None:
    results, invalid = load_results(folder), load_invalid(folder)
    title = f"{config.station.task}: {' against '.join(config.names.values())}"
    conclusions = write_report(
        folder, plan, results, invalid, title=title, names=config.names, area=config.area
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
    if invalid:
        print(f"{len(invalid)} attempts were spoilt and done again; the report says why")
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


__getattr__ = moved_names(
    __name__,
    {
        "Masked": "real_robot.bench:Masked",
    },
)

main = command("trials", TrialsConfig, TrialsConfig.OLD_NAMES)(evaluate)

if __name__ == "__main__":
    main()
