"""Command `python -m real_robot.evaluate`: measure the success rate of a policy on an arm.

python -m real_robot.evaluate policy=runs/train/policy robot=twin trials=16
python -m real_robot.evaluate policy=runs/one/policy against=runs/two/policy robot=twin
python -m real_robot.evaluate policy=runs/train/policy robot=172.16.0.2 station=table \
    overlay.calibration=runs/calibrate/front.json

The evaluation consists of trials. The poses of the object are sampled and saved before the first
trial. Each has at least the distance `least_distance_m` from every pose in the demonstrations. Two
policies are tried at the same poses.
If the evaluation is stopped, the same command with the same `out` resumes it. The command refuses
to resume if a setting or the weights of a policy have changed.
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
from .cameras.sources import hidden_password
from .control.config import LoopConfig
from .recording import Recorder, object_positions
from .session import EXPECTED, open_policy
from .station import TWIN, Station, StationConfig, TwinStation, open_station
from .trials.images import illustrate
from .trials.operators import ended_by
from .trials.plan import Plan, PolicyKey, draw_plan, keep_plan
from .trials.poses import PoseArea
from .trials.report import PAGE, write_report
from .trials.results import TrialResult, load_invalid, load_results
from .trials.runner import TrialsStoppedError, run_trials
from .viewer import ViewerConfig, watching

EXPERT = "expert"
# Settings that may differ when an evaluation is resumed.
_FREE = ("viewer", "max_invalid", "max_spoilt")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialsConfig:
    """Settings of an evaluation on an arm, which consists of trials.

    Attributes:
        policy: folder of a training run or of a policy's checkpoint, `server:HOST:PORT`, or
            `expert` for the scripted expert (only on a twin).
        against: a second policy, which is tried at the same poses; null: only one policy.
        robot: `twin` to start a digital twin, the address of a running twin, or the address of an
            arm.
        station: settings of the robot setup: arm, cameras, safety limits, start pose and task.
        acting: where and how the policies are computed: device, threads, encoder, policy server.
        trials: number of poses. Each policy has one trial at each pose.
        seed: seed of the poses and of the order of the policies.
        area: area in which the object is placed.
        demonstrations: folders of the data sets with which the policies were trained; the poses of
            the object in them are avoided.
        least_distance_m: smallest distance between a pose of the trials and a pose in
            `demonstrations`, m.
        verdict: `check` if the simulated scene determines success, `operator` if a person does.
            null: `check` on a twin, `operator` on an arm.
        blind: True to hide the name of the current policy from the operator.
        overlay: settings of the image that shows the operator where to place the object.
        loop: settings of an episode.
        max_invalid: greatest number of invalid attempts of one trial; one more stops the
            evaluation.
        viewer: settings of the live view in Rerun.
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
            raise ValueError("loop.rehearsal=true moves nothing: there is nothing to evaluate")
        if not 0 <= self.least_distance_m < math.inf:
            raise ValueError(f"least_distance_m must not be negative: {self.least_distance_m}")
        if not isinstance(self.station, TwinStation):
            if self.verdict == "check":
                raise ValueError("an arm has no automatic check: use verdict=operator")
            if EXPERT in (self.policy, self.against):
                raise ValueError(
                    "the expert needs the pose of the object, which only a twin knows: "
                    "use robot=twin or another policy"
                )
        names = [camera.name for camera in self.station.camera_specs]
        if self.overlay.camera not in names:
            raise ValueError(
                f"overlay.camera: no camera {self.overlay.camera!r}; valid: {', '.join(names)}"
            )

    @property
    def is_checked(self) -> bool:
        """Return True if the simulated scene determines success, False if a person does."""
        if self.verdict is None:
            return isinstance(self.station, TwinStation)
        return self.verdict == "check"

    @property
    def names(self) -> dict[PolicyKey, str]:
        """Return the names of the policies for the report, by their keys `a` and `b`."""
        if self.against is None:
            return {"a": self.policy}
        # A policy may be compared with itself, to measure random differences.
        if self.against == self.policy:
            return {"a": f"{self.policy} (a)", "b": f"{self.policy} (b)"}
        return {"a": self.policy, "b": self.against}


def evaluate(config: TrialsConfig, out: Path) -> None:
    """Run the trials that are not done yet, write the report, and print the conclusions."""
    policies = " and ".join(config.names.values())
    print(f"{config.trials} poses on {config.robot} for {policies}", flush=True)
    try:
        with ExitStack() as stack:
            station = stack.enter_context(open_station(config.station, config.robot))
            print(f"robot: {station.robot.description}")
            agents: dict[PolicyKey, MakeAgent] = {}
            weights: dict[PolicyKey, str | None] = {}
            sources: dict[PolicyKey, str | None] = {"a": config.policy, "b": config.against}
            for key, name in sources.items():
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
            places=[place for each in config.demonstrations for place in object_positions(each)],
            least_distance_m=config.least_distance_m,
        ),
    )
    for line in plan.facts["said"]:
        print(line)
    stopped: str | None = None
    bar = tqdm(total=len(plan.trials), desc="trials", unit="trial")

    def on_result(result: TrialResult) -> None:
        if result.judgement.success is not None:
            bar.update()
        bar.write(_line(result, hidden=config.blind and not config.is_checked))
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
                on_result=on_result,
            )
        except TrialsStoppedError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            stopped = "stopped; the same command resumes"
    _report(config, plan, folder, printed=True)
    if stopped is not None:
        sys.exit(f"trials: {stopped}")


def settings_of(
    config: TrialsConfig, interface: Interface, weights: Mapping[PolicyKey, str | None]
) -> dict[str, Any]:
    """Return the settings that must not differ when the evaluation is resumed.

    Args:
        config: settings of the evaluation.
        interface: action and observation spec of the station.
        weights: hashes of the policies' weights, by the keys `a` and `b`; None without weights.
    """
    fixed = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    fixed = _without_passwords(fixed)
    if isinstance(config.station, TwinStation):
        fixed["robot"] = TWIN  # all twins are equal, except their addresses
    return {**fixed, "weights": dict(weights), "interface": interface.to_dict()}


def _without_passwords(value: Any) -> Any:
    """Return settings in which no address contains a user name or a password."""
    if isinstance(value, dict):
        return {name: _without_passwords(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_passwords(one) for one in value]
    return hidden_password(value) if isinstance(value, str) else value


def _open(
    name: str, acting: PolicyConfig, station: Station, stack: ExitStack
) -> tuple[MakeAgent, str | None]:
    """Open a policy or the expert.

    Return a function that creates the agent of an episode, and the hash of the weights (None for
    the expert).
    """
    if name == EXPERT:
        twin, scene = station.config, station.scene
        assert isinstance(twin, TwinStation)
        assert scene is not None
        env_id = twin.twin.env_id
        return lambda translator: ScriptedAgent(env_id, scene, translator, noise=0.0, seed=0), None
    agent = open_policy(name, acting, station)
    stack.callback(agent.close)
    return lambda _: agent, agent.weights_hash


def _report(config: TrialsConfig, plan: Plan, folder: Path, *, printed: bool = False) -> None:
    results, invalid = load_results(folder), load_invalid(folder)
    title = f"{config.station.task}: {' against '.join(config.names.values())}"
    conclusions = write_report(
        folder, plan, results, invalid, title=title, names=config.names, area=config.area
    )
    if not printed:
        return
    for key, rate in conclusions.rates.items():
        print(f"success of {config.names[key]}: {rate}")
    if conclusions.comparison is not None:
        print(f"sign test on pairs: p = {conclusions.comparison.sign_p:.4f}")
    for sentence in conclusions.may_say:
        print(f"shown:     {sentence}")
    for sentence in conclusions.may_not_say:
        print(f"not shown: {sentence}")
    if invalid:
        print(f"{len(invalid)} attempts were invalid and repeated; the report has the reasons")
    print(f"report: {folder / PAGE}")
    print(f"data set: {folder.parent / 'dataset'}")


def _line(result: TrialResult, *, hidden: bool) -> str:
    judgement = result.judgement
    word = {True: "success", False: "failure", None: "invalid"}[judgement.success]
    # a note of the success check would only repeat the message
    note = f"; {judgement.note}" if judgement.note and judgement.by == "operator" else ""
    return (
        f"pose {result.trial.pose_index}: {word} after {result.duration_s:.1f} s, ended by "
        f"{ended_by(result, hidden=hidden)}{note}"
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
