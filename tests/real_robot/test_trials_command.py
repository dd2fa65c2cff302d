"""The command: poses away from demonstrations, resuming, refusing, and what it tells at the end."""

import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from envs.arms.franka import FRANKA_FR3
from real_robot import bench as bench_module
from real_robot import evaluate as module
from real_robot.agents.wire import make_key
from real_robot.bench import Bench, Masked
from real_robot.calibration.calibration import Calibration
from real_robot.calibration.calibration import save as save_calibration
from real_robot.cameras.camera import Frame, StaleFrameError
from real_robot.cameras.sources import RtspConfig
from real_robot.control.home import NotHomeError
from real_robot.episode import TRANSPORT_FAULT
from real_robot.evaluate import TrialsConfig, evaluate, settings_of
from real_robot.recording import Recorder, object_positions
from real_robot.station import interface_of
from real_robot.trials.overlay import calibration_of_scene
from real_robot.trials.plan import draw_plan, load_plan
from real_robot.trials.poses import Pose, nearest_m
from real_robot.trials.results import load_invalid, load_results
from real_robot.trials.runner import TrialsStoppedError
from tests.real_robot.control.loop_cases import FakeAgent as FakeActor
from tests.real_robot.control.loop_cases import one
from tests.real_robot.fake_records import fake_record, fake_step
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.fake_station import FakeScene as FakeStationScene
from tests.real_robot.fake_station import fake_station, opens, station_config
from tests.real_robot.records import interface, make_record
from tests.real_robot.test_policy_server import serving


def config_of(*overrides, **changes):
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    data, _ = compose("trials", list(overrides))
    return replace(from_dict(TrialsConfig, data), **changes)


class FakeScene:
    def __init__(self):
        self.placed, self.done = [], True

    def place(self, *pose):
        self.placed.append(pose)

    def object_pose(self):
        return None

    def succeeded(self):
        return self.done


class FakeCamera:
    name = "front"

    def __init__(self):
        self.fails = False

    def wait(self, timeout_s, *, sequence=0):
        if self.fails:
            raise StaleFrameError("unplugged")
        image = np.zeros((128, 128, 3), np.uint8)
        return Frame(camera="front", image=image, stamp_s=0.0, sequence=sequence)


class FakeStation:
    """Run episodes that never were; `records` are given one after the other, then successes."""

    def __init__(self, config, records=()):
        self.config, self.records = config, list(records)
        self.interface = interface_of(config)
        self.scene, self.cameras, self.twin = FakeScene(), [FakeCamera()], FakeStationScene()
        self.robot = FakeRobot(np.array(config.home_rad), clock=lambda: 0.0)
        self.robot.connect()
        self.arm = FRANKA_FR3
        self.homes, self.not_home, self.recovers, self.log = 0, 0, True, []

    def translator(self, interface):
        return None

    def go_home(self):
        self.homes += 1
        if self.not_home:
            self.not_home -= 1
            raise NotHomeError("the arm is outside of the workspace")

    def recover(self, reason, confirm):
        self.log.append((reason, confirm("go on?")))
        return self.recovers

    def run(self, agent, translator, loop, *, operator=None, listeners=(), notes=None):
        record = self.records.pop(0) if self.records else fake_record(success=True)
        return replace(record, weights_hash=agent.weights_hash, notes={**record.notes, **notes})


class FakeAgent:
    def __init__(self, weights_hash):
        self.weights_hash = weights_hash

    def close(self):
        pass


class FakeRecorder:
    def __init__(self, folder, interface):
        self.saved = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def save(self, record):
        self.saved.append(record)
        return len(self.saved) - 1


@pytest.fixture
def world(monkeypatch):
    """Put fakes in the place of robot, policies and data set; give the station once it is open."""
    opened = {"records": [], "weights": {"one": "w1", "two": "w2"}}

    @contextmanager
    def open_station(config, robot):
        opened["station"] = FakeStation(config, opened["records"])
        yield opened["station"]

    monkeypatch.setattr(module, "open_station", open_station)
    monkeypatch.setattr(
        module, "open_policy", lambda name, acting, station: FakeAgent(opened["weights"][name])
    )
    monkeypatch.setattr(module, "Recorder", FakeRecorder)
    return opened


def test_two_policies_from_begin_to_report(world, tmp_path, capsys) -> None:
    world["records"] = [fake_record(success=False, reason="time")]
    config = config_of(policy="one", against="two", trials=3)
    evaluate(config, tmp_path)
    results = load_results(tmp_path / "report")
    assert [result.judgement.success for result in results] == [False] + [True] * 5
    assert (tmp_path / "report" / "trials" / results[0].trial.key / "overlay.png").is_file()
    assert world["station"].homes == 6
    assert len(world["station"].scene.placed) == 6
    told = capsys.readouterr().out
    assert "success of one: " in told
    assert "sign test on pairs: p = 1.0000" in told
    assert "not shown: " in told
    assert f"report: {tmp_path / 'report' / 'index.html'}" in told
    evaluate(config, tmp_path)  # nothing is left to do
    assert world["station"].homes == 0
    with pytest.raises(SystemExit, match=r"trials: .*other settings(.|\n)*  trials: 3 != 4"):
        evaluate(replace(config, trials=4), tmp_path)
    world["weights"]["two"] = "w3"
    with pytest.raises(SystemExit, match=r"weights\.b: 'w2' != 'w3'"):
        evaluate(config, tmp_path)


def test_an_interrupted_evaluation_tells_and_goes_on(world, tmp_path, capsys) -> None:
    interrupted = fake_record(reason="interrupted", message="Ctrl-C ended the episode")
    world["records"] = [fake_record(success=True), interrupted]
    config = config_of(policy="one", trials=3)
    with pytest.raises(SystemExit, match="trials: trial 2 of 3 was interrupted"):
        evaluate(config, tmp_path)
    assert "success of one: 1/1" in capsys.readouterr().out
    plan = load_plan(tmp_path / "report")
    world["records"] = []
    evaluate(config, tmp_path)
    assert load_plan(tmp_path / "report") == plan
    assert "success of one: 3/3" in capsys.readouterr().out


def test_a_fault_on_the_way_to_a_policy_is_not_the_policy_s_failure(
    world, tmp_path, capsys
) -> None:
    lost = fake_record(reason="policy", message="no answer came in time")
    lost = replace(lost, notes={**lost.notes, TRANSPORT_FAULT: "the policy server at x: no answer"})
    world["records"] = [fake_record(success=True), lost]
    config = config_of(policy="one", trials=3)
    evaluate(config, tmp_path)
    assert "success of one: 3/3" in capsys.readouterr().out
    (invalid,) = load_invalid(tmp_path / "report")
    assert "the policy server at x: no answer" in invalid.judgement.note
    # one that failed by itself is its failure
    failed = replace(fake_record(reason="policy", message="it is nan"), success=False)
    world["records"] = [failed]
    evaluate(config, tmp_path / "other")
    assert "success of one: 2/3" in capsys.readouterr().out
    # and one that is always lost ends the evaluation
    world["records"] = [lost] * 20
    with pytest.raises(SystemExit, match=r"had \d invalid attempts .*connection to the policy"):
        evaluate(config, tmp_path / "lost")


def plan_of(*, places=(), least_distance_m=0.01):
    """Return the plan of the command's own area and number of trials."""
    config = config_of()
    return draw_plan(
        config.area,
        config.trials,
        config.seed,
        settings=settings_of(config, interface(), {"a": None}),
        paired=False,
        places=places,
        least_distance_m=least_distance_m,
    )


def test_poses_keep_away_from_those_of_the_demonstrations(tmp_path) -> None:
    rng = np.random.default_rng(0)
    with Recorder(tmp_path / "demos", interface()) as recorder:
        for index in range(12):
            x, y = rng.uniform([0.4, -0.2], [0.6, 0.2])
            notes = {"object_pose": [x, y, 0.42, 1.0, 0.0, 0.0, 0.0]}
            if index % 2:
                notes = {"pose": {"x_m": x, "y_m": y, "yaw_rad": 0.0}}
            recorder.save(replace(make_record(2, index), notes=notes))
    places = object_positions(tmp_path / "demos")
    assert len(places) == 12
    plan = plan_of(places=places, least_distance_m=0.02)
    nearest = min(nearest_m(trial.pose, places) for trial in plan.trials)
    assert nearest >= 0.02  # m
    (said,) = plan.facts["said"]
    assert said.startswith(f"16 poses, at least {nearest:.4f} m from each of the 12")
    assert plan_of(places=places, least_distance_m=0.02) == plan
    assert "no demonstrations were named" in plan_of().facts["said"][0]
    with Recorder(tmp_path / "mute", interface()) as recorder:
        recorder.save(replace(make_record(2), notes={}))
    with pytest.raises(ValueError, match="none of 1 episodes contains the pose of the object"):
        object_positions(tmp_path / "mute")


def test_settings_leave_out_what_may_change() -> None:
    one = settings_of(config_of(), interface(), {"a": "w"})
    other = config_of("robot=127.0.0.9", "viewer.to=spawn", "max_invalid=9")
    assert settings_of(other, interface(), {"a": "w"}) == one
    assert settings_of(config_of("seed=5"), interface(), {"a": "w"}) != one


def bench_of(config, station, agents=None, viewers=()):
    """Return the bench that the command makes of a config."""
    return Bench(
        station,
        agents or {},
        config.loop,
        config.overlay,
        checked=config.is_checked,
        names=None if config.blind else config.names,
        viewers=viewers,
        seed=config.seed,
    )


def test_the_bench_brings_the_arm_home_or_says_why_not() -> None:
    config = config_of()
    station = FakeStation(config.station, [fake_record(reason="reflex", message="pushed")])
    bench = bench_of(config, station, {"a": lambda translator: FakeAgent(None)})
    bench.prepare()
    bench.run(Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0), "a")
    bench.prepare()
    assert station.log == [("reflex", True)]  # on a twin nobody is in reach
    station.recovers = False
    with pytest.raises(TrialsStoppedError, match="cannot continue after reflex: pushed"):
        bench.prepare()
    fresh = bench_of(config, station)
    station.recovers, station.not_home, station.homes = True, 3, 0
    with pytest.raises(NotHomeError):
        fresh.prepare()
    assert station.homes == 3  # the twin was reset in between


def test_a_person_helps_an_arm_home(monkeypatch) -> None:
    table = config_of("station=table", "robot=172.16.0.2")
    station = FakeStation(table.station)
    station.scene = station.twin = None
    station.not_home, asked = 2, []
    monkeypatch.setattr(bench_module, "ask_person", lambda question: asked.append(question) or "y")
    bench = bench_of(table, station)
    bench.prepare()
    assert station.homes == 3
    assert asked.pop(0).startswith("next, the gripper opens and the arm moves to its start pose")
    assert len(asked) == 2
    assert all(question.endswith("and press Enter to try again: ") for question in asked)
    assert bench.draw(Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0), "") is None  # no calibration


def test_a_person_who_judges_does_not_see_the_name_in_the_viewer() -> None:
    class Listening:
        def __init__(self):
            self.heard = []

        def begin(self, task, agent):
            self.heard.append((task, agent))

        def step(self, step):
            self.heard.append(step)

        def end(self, record):
            self.heard.append(record)

    inner = Listening()
    masked = Masked(inner)
    masked.begin("pick", "runs/the_new_one")
    masked.step(fake_step(0))
    masked.end(fake_record())
    assert inner.heard[0] == ("pick", "a policy (name hidden)")
    assert len(inner.heard) == 3
    for blind, kind in (("true", Masked), ("false", Listening)):
        config = config_of("verdict=operator", f"blind={blind}")
        (viewer,) = bench_of(config, FakeStation(config.station), viewers=[inner])._viewers
        assert isinstance(viewer, kind)


@pytest.mark.parametrize("verdict", ["operator", "check"])
def test_a_person_who_judges_does_not_read_the_name_of_a_policy_that_fails(
    world, monkeypatch, tmp_path, capsys, verdict
) -> None:
    failed = fake_record(reason="policy", message="policy runs/two: the action is 1.2 s old")
    world["records"] = [replace(failed, success=False)]
    monkeypatch.setattr(bench_module, "ask_person", lambda question: "n")
    evaluate(config_of(policy="one", trials=1, verdict=verdict), tmp_path)
    assert ("runs/two" in capsys.readouterr().out) == (verdict == "check")


def test_the_password_of_a_camera_is_in_no_plan(tmp_path) -> None:
    url = "rtsp://user:p@ss/word@10.0.0.5/stream"
    table = config_of("station=table", "robot=172.16.0.2")
    source = RtspConfig(url=url, timeout_s=1.0)
    camera, *others = table.station.cameras
    cameras = (replace(camera, source=source), *others)
    config = replace(table, station=replace(table.station, cameras=cameras))
    text = json.dumps(settings_of(config, interface_of(config.station), {"a": None}))
    assert "rtsp://...@10.0.0.5/stream" in text
    assert "p@ss" not in text


def test_a_policy_may_be_tried_against_itself() -> None:
    assert config_of("policy=one", "against=one").names == {"a": "one (a)", "b": "one (b)"}
    assert config_of("policy=one", "against=two").names == {"a": "one", "b": "two"}


def test_a_calibration_of_another_camera_is_refused(tmp_path) -> None:
    twin = config_of()
    bench = bench_of(twin, FakeStation(twin.station))
    pose = Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0)
    assert bench.draw(pose, "here").shape == (640, 640, 3)
    assert bench.draw(replace(pose, x_m=-9.0), "") is None
    bench.station.cameras[0].fails = True
    assert bench.draw(pose, "") is None
    scene_camera = bench_module.variant("toto/FrankaPick-v0").task.cameras[0]
    hand = calibration_of_scene(
        scene_camera, 128, 128, base_position_m=(0.0, 0.0, 0.0), base_yaw_rad=0.0
    )
    assert isinstance(hand, Calibration)
    save_calibration(hand, tmp_path / "hand.json")
    wrong = replace(twin, overlay=replace(twin.overlay, calibration=tmp_path / "hand.json"))
    with pytest.raises(ValueError, match="is the calibration of camera 'hand', not of 'front'"):
        bench_of(wrong, FakeStation(twin.station)).draw(pose, "")


def test_a_calibration_at_another_capture_size_is_refused(tmp_path) -> None:
    table = config_of("station=table", "robot=172.16.0.2")
    camera = bench_module.variant("toto/FrankaPick-v0").task.cameras[1]
    for size, words in (((480, 640), None), ((720, 1280), "720 x 1280.*captures 480 x 640")):
        path = tmp_path / f"{size}.json"
        known = calibration_of_scene(
            camera, *size, base_position_m=(0.0, 0.0, 0.0), base_yaw_rad=0.0
        )
        save_calibration(known, path)
        given = replace(table, overlay=replace(table.overlay, calibration=path))
        bench = bench_of(given, FakeStation(table.station))
        if words is None:
            assert bench._calibration() == known
            continue
        with pytest.raises(ValueError, match=words):
            bench._calibration()


def test_what_cannot_be_judged_is_refused() -> None:
    table = ["station=table", "robot=172.16.0.2"]
    for overrides, words in (
        ([*table, "verdict=check"], "verdict=operator"),
        ([*table, "policy=expert"], "which only a twin knows"),
        (["overlay.camera=side"], "valid: hand, front"),
        (["loop.rehearsal=true"], "nothing to evaluate"),
        (["trials=0"], "at least 1"),
        (["least_distance_m=-1"], "not be negative"),
        (["overlay.size_m=0"], "edge of the object"),
    ):
        with pytest.raises(ValueError, match=words):
            config_of(*overrides)


def test_a_server_that_stalls_once_costs_one_attempt(monkeypatch, tmp_path, capsys) -> None:
    config = station_config("trials")
    station = fake_station(config, FakeStationScene(done_after=45))
    key, release, calls = tmp_path / "key", threading.Event(), []
    make_key(key)

    def stalls(observation, _):
        calls.append(1)
        if len(calls) == 2:
            threading.Timer(0.8, release.set).start()
            release.wait(10.0)
        return one(np.zeros(8), observation)

    monkeypatch.setattr(module, "open_station", opens(station))
    trials = config_of("trials=3")
    with serving(FakeActor(stalls), key, interface=station.interface) as (address, _):
        acting = replace(trials.acting, key_file=key, timeout_s=0.4)
        given = replace(trials, station=config, policy=f"server:{address}", acting=acting)
        evaluate(given, tmp_path / "out")
    told = capsys.readouterr().out
    assert f"success of server:{address}: 3/3" in told
    assert "1 attempts were invalid and repeated" in told
    (invalid,) = load_invalid(tmp_path / "out" / "report")
    assert invalid.reason == "policy"
    assert "no answer came in time" in invalid.judgement.note
