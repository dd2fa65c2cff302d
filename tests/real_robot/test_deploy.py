"""The commands around the loop: who is asked, what is placed, what is kept, and when it ends."""

import os
import select
import signal
import threading
import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from policies.demonstrations.source import Demonstrations
from policies.environment import EnvConfig
from policies.student import (
    StudentConfig,
    StudentMetadata,
    StudentPolicy,
    read_metadata,
    read_origin,
)
from policies.vision import encoder_id
from real_robot import deploy, record
from real_robot import station as station_module
from real_robot.agents.fitting import fit_interface
from real_robot.agents.opening import PolicyConfig, find_policy
from real_robot.agents.wire import make_key
from real_robot.control.config import LoopConfig
from real_robot.control.home import PersonNeededError
from real_robot.operator import NoPersonError, ask_person, ask_yes_no
from real_robot.recording import Recorder
from real_robot.robot import CommandRefusedError
from real_robot.session import bring_home, draw_pose, may_go_on, open_policy, prepare
from real_robot.station import interface_of, open_station
from real_robot.trials.poses import Pose
from tests.policies.fake_world import save_tiny_encoder, toto
from tests.real_robot.control.loop_cases import FakeAgent, one
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.fake_station import FakeScene, fake_station, opens, station_config
from tests.real_robot.teleoperation.test_teleoperation import Script, command
from tests.real_robot.test_policy_server import serving, wait_for
from toto_robot.cli import compose
from toto_robot.config import from_dict

POSE = Pose(x_m=0.45, y_m=0.1, yaw_rad=0.3)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A student for the Panda in simulation, with the station's cameras."""
    folder = tmp_path_factory.mktemp("policy")
    vision = toto(save_tiny_encoder(folder / "encoder"))
    encoder = vision.build(torch.device("cpu"))
    torch.manual_seed(0)
    interface = replace(interface_of(station_config()), arm="franka_panda")
    card = StudentMetadata(
        student=StudentConfig(projection=8, hidden=(8,), dropout=0.0, smallest_std=0.02),
        interface=interface,
        env=None,
        vision=vision,
        encoder=encoder_id(encoder),
    )
    StudentPolicy(card).save(folder / "policy")
    return folder / "policy"


def config_of(name, config_class, station, **changes):
    data, _ = compose(name)
    loop = from_dict(LoopConfig, {**data["loop"], **changes.pop("loop", {})})
    config = from_dict(config_class, {**data, **changes})
    return replace(config, station=station.config, loop=loop)


def deployed(monkeypatch, station, out, **changes):
    monkeypatch.setattr(deploy, "open_station", opens(station))
    deploy.deploy(config_of("deploy", deploy.DeployConfig, station, **changes), out)


def recorded(monkeypatch, station, out, **changes):
    monkeypatch.setattr(record, "open_station", opens(station))
    record.record(config_of("record", record.RecordConfig, station, **changes), out)


def kept(folder, station):
    with Recorder(folder, station.interface) as recorder:
        return recorder.records()


# deploy


def test_a_policy_acts_and_its_episodes_are_kept(monkeypatch, tmp_path, policy, capsys) -> None:
    scene = FakeScene()
    station = fake_station(station_config(), scene)
    deployed(monkeypatch, station, tmp_path, policy=str(policy), episodes=2, loop={"max_steps": 20})
    said = capsys.readouterr().out
    assert "trained for franka_panda and acts on franka_fr3" in said
    assert "success: 2 of 2" in said
    assert "late" in said
    assert "tokenizer" in said
    facts = kept(tmp_path / "dataset", station)
    assert [fact["reason"] for fact in facts] == ["success", "success"]
    assert all(fact["agent"] == f"policy {policy}" for fact in facts)
    # placed where the seed says, and so told
    planned = [fact["notes"]["pose"] for fact in facts]
    assert scene.places == [tuple(pose.values()) for pose in planned]
    assert facts[0]["notes"]["object_pose"][0] == pytest.approx(planned[0]["x_m"])
    assert planned[0] != planned[1]
    assert station.robot.log  # it moved
    assert station.robot.mode == "idle"


def test_a_rehearsal_neither_moves_nor_places(monkeypatch, tmp_path, policy, capsys) -> None:
    scene = FakeScene(done_after=1000)
    station = fake_station(station_config(), scene)
    loop = {"max_steps": 4, "rehearsal": True}
    deployed(monkeypatch, station, tmp_path, policy=str(policy), recorded=False, loop=loop)
    assert station.robot.log == []
    assert station.robot.width_m == 0.08
    assert scene.places == []
    said = capsys.readouterr().out
    assert "rehearses (nothing is sent)" in said
    assert sum(line.split()[1:2] == ["move"] for line in said.splitlines()) == 4
    assert not (tmp_path / "dataset").exists()


def test_after_a_failed_policy_there_is_no_next_episode(
    monkeypatch, tmp_path, policy, capsys
) -> None:
    station = fake_station(station_config(), FakeScene())
    monkeypatch.setattr(deploy, "open_policy", lambda *_: FakeAgent(lambda *_: 1 / 0))
    with pytest.raises(
        SystemExit, match="1 of 3 episodes were run; the last ended by policy: a fake"
    ):
        deployed(monkeypatch, station, tmp_path, policy=str(policy), episodes=3)
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert len(kept(tmp_path / "dataset", station)) == 1


@pytest.mark.parametrize(
    ("policy_name", "words"),
    [("/nowhere", "deploy: "), ("server:127.0.0.1:1", "there is no key file")],
)
def test_a_policy_that_is_not_there_is_a_plain_message(
    monkeypatch, tmp_path, policy_name, words
) -> None:
    station = fake_station(station_config(), FakeScene())
    with pytest.raises(SystemExit, match=words):
        deployed(
            monkeypatch, station, tmp_path, policy=policy_name, acting=acting(tmp_path / "key")
        )
    assert station.robot.log == []


def acting(key_file):
    return {
        "device": "cpu",
        "num_threads": 1,
        "encoder": None,
        "surprise": False,
        "key_file": str(key_file),
        "timeout_s": 1.0,
    }


# record


def test_the_expert_s_episodes_are_counted_over_several_runs(monkeypatch, tmp_path, capsys) -> None:
    scene = FakeScene(done_after=2)
    station = fake_station(station_config("record"), scene)
    recorded(monkeypatch, station, tmp_path, episodes=2)
    assert "2 of 2 good episodes, 2 in all" in capsys.readouterr().out
    recorded(monkeypatch, station, tmp_path, episodes=3)
    assert "3 of 3 good episodes, 3 in all" in capsys.readouterr().out
    assert len(scene.places) == 3
    assert len(set(scene.places)) == 3
    facts = kept(tmp_path / "dataset", station)
    assert [fact["success"] for fact in facts] == [True] * 3
    assert "scripted expert" in facts[0]["agent"]


def test_recording_stops_after_too_many_failures(monkeypatch, tmp_path, capsys) -> None:
    station = fake_station(station_config("record"), FakeScene(done_after=1000))
    loop = {"max_steps": 3}
    with pytest.raises(
        SystemExit, match=r"2 episodes in a row have failed \(at most 1\); the same command"
    ):
        recorded(monkeypatch, station, tmp_path, episodes=5, max_failures=1, loop=loop)
    assert "0 of 5 good episodes, 2 in all" in capsys.readouterr().out
    facts = kept(tmp_path / "dataset", station)
    assert [(fact["reason"], fact["success"]) for fact in facts] == [("time", False)] * 2


def test_a_person_records_with_a_device(monkeypatch, tmp_path) -> None:
    station = fake_station(station_config("record"), FakeScene(done_after=1000))
    end = ("success", "the operator marked success (Enter)")
    device = Script(*[command((0, 0, 1))] * 5, command(end=end))
    monkeypatch.setattr(record, "open_device", lambda *_: device)
    recorded(monkeypatch, station, tmp_path, agent="keyboard", episodes=1)
    (facts,) = kept(tmp_path / "dataset", station)
    assert (facts["reason"], facts["success"]) == ("success", True)
    assert facts["agent"] == "operator with a script"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), NoPersonError("closed")])
def test_an_episode_without_an_answer_is_kept_and_does_not_count(
    monkeypatch, tmp_path, end
) -> None:
    scene = FakeScene()
    scene.succeeded = lambda: None  # only a person can say
    station = fake_station(station_config("record"), scene)
    device = Script(*[command((0, 0, 1))] * 5, command(end=("operator", "q")))
    monkeypatch.setattr(record, "open_device", lambda *_: device)

    def asked(question):
        raise end

    monkeypatch.setattr(record, "ask_yes_no", asked)
    with pytest.raises(SystemExit, match=r"^record: "):
        recorded(monkeypatch, station, tmp_path, agent="keyboard", episodes=1)
    (facts,) = kept(tmp_path / "dataset", station)
    assert (facts["reason"], facts["complete"], facts["success"]) == ("interrupted", False, None)
    assert facts["num_steps"] > 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["agent=expert", "station=table"], "agent=expert needs the pose of the object"),
        (["agent=guiding"], "a twin cannot be led by hand"),
        (["agent=keyboard", "station=table", "robot=twin"], "set station=twin"),
        (["agent=keyboard", "robot=172.16.0.2"], "set station=table"),
    ],
)
def test_what_does_not_go_together_is_a_plain_message(tmp_path, overrides, words) -> None:
    data, _ = compose("record", overrides)
    with pytest.raises(SystemExit, match=f"record: .*{words}"):
        record.record(from_dict(record.RecordConfig, data), tmp_path)


def test_a_person_has_more_time_than_a_policy() -> None:
    assert compose("record", ["station=table", "agent=spacemouse"])[0]["loop"]["max_steps"] == 300
    assert compose("deploy")[0]["loop"]["max_steps"] == 80


# before and after an episode


def test_on_a_table_a_person_places_the_object() -> None:
    station = fake_station(station_config(), None)
    questions = []
    prepare(station, POSE, lambda question: questions.append(question) or "")
    assert len(questions) == 2
    assert questions[0].startswith("next, the gripper opens and the arm moves")
    assert str(POSE) in questions[1]


def test_the_arm_moves_only_after_a_person_has_stepped_back() -> None:
    station = fake_station(station_config(), None)
    station.robot.width_m = 0.0

    def refuse(question):
        raise NoPersonError(question)

    with pytest.raises(NoPersonError, match="step back"):
        prepare(station, POSE, refuse)
    assert station.robot.log == []
    assert station.robot.width_m == 0.0  # the hand still holds what it held


def test_after_a_reflex_a_person_is_asked_before_the_arm_moves_home() -> None:
    """The robot is still in reflex, or its user stop is pressed, when the command starts."""
    station = fake_station(station_config(), None)
    station.robot.fails("reflex", "cartesian_reflex")
    station.robot.positions = station.robot.positions + 0.05
    questions = []

    def answers(question):
        questions.append(question)
        if "user stop is pressed" in question:
            station.robot.fails("idle")  # the person releases it
        return "yes"

    prepare(station, POSE, answers)
    assert ["may it continue? yes or no" in question for question in questions].count(True) == 1
    np.testing.assert_allclose(station.robot.positions, station.config.home_rad, atol=1e-5)
    questions.clear()
    station.robot.fails("user_stopped")
    prepare(station, POSE, answers)
    assert any("press Enter to try again" in question for question in questions)
    station.robot.fails("reflex", "cartesian_reflex")
    sent = len(station.robot.log)
    with pytest.raises(PersonNeededError):
        prepare(station, POSE, lambda question: "no")
    assert len(station.robot.log) == sent


def test_a_motion_home_that_is_refused_is_tried_again() -> None:
    station = fake_station(station_config(), None)
    station.robot.fails("guiding")
    questions = []

    def answers(question):
        questions.append(question)
        station.robot.fails("idle")
        return ""

    bring_home(station, answers)
    assert len(questions) == 1
    assert questions[0].endswith("step back, and press Enter to try again: ")


def test_who_must_be_asked_and_is_not_there_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(NoPersonError, match="a question needs a terminal"):
        ask_person("well?")


def test_keys_from_before_a_question_are_not_its_answer(monkeypatch) -> None:
    leader, follower = os.openpty()
    with open(follower, closefd=True) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        os.write(leader, b"\n")  # a second press of Enter
        wait_for(lambda: select.select([follower], [], [], 0)[0])
        threading.Timer(0.2, os.write, [leader, b"yes\n"]).start()
        assert ask_person("is no person in reach? ") == "yes"
        threading.Timer(0.2, os.write, [leader, b"\x04"]).start()  # Ctrl-D
        with pytest.raises(NoPersonError, match="the terminal was closed at the question"):
            ask_person("well? ")
    os.close(leader)


def test_yes_or_no_is_asked_until_it_is_one(capsys) -> None:
    answers = ["", "yy", "N"]
    assert ask_yes_no("well?", lambda _: answers.pop(0)) is False
    assert "'yy' is not yes or no" in capsys.readouterr().out
    assert answers == []


def test_poses_are_drawn_by_seed_and_number() -> None:
    data, _ = compose("record")
    area = from_dict(record.RecordConfig, data).area
    poses = [draw_pose(area, 0, number) for number in range(200)]
    assert poses[:3] == [draw_pose(area, 0, number) for number in range(3)]
    assert poses[0] != draw_pose(area, 1, 0)
    places = np.array([[pose.x_m, pose.y_m] for pose in poses])
    assert (places.min(axis=0) >= [0.4, -0.2]).all()
    assert (places.max(axis=0) <= [0.6, 0.2]).all()


def ended(station, reason):
    loop = from_dict(LoopConfig, {**compose("deploy")[0]["loop"], "max_steps": 1})
    found = station.run(FakeAgent(), station.translator(station.interface), loop)
    return replace(found, reason=reason)


def test_after_a_reflex_a_person_is_asked_and_the_robot_recovered() -> None:
    station = fake_station(station_config(), None)
    episode = ended(station, "reflex")
    station.robot.fails("reflex", "cartesian_reflex")
    answers = ["no", "yes"]
    assert not may_go_on(station, episode, lambda _: answers.pop(0))
    assert station.robot.mode == "reflex"
    assert may_go_on(station, episode, lambda _: answers.pop(0))
    assert station.robot.mode == "idle"


def test_an_arm_that_a_person_still_guides_is_waited_for() -> None:
    station = fake_station(station_config(), None)
    episode = ended(station, "success")
    station.robot.fails("guiding")
    questions = []

    def let_go(question):
        questions.append(question)
        if len(questions) == 2:
            station.robot.fails("idle")
        return "yes"

    assert may_go_on(station, episode, let_go)
    assert len(questions) == 2
    assert "is guided by hand and accepts no commands" in questions[0]


def test_while_the_user_stop_is_pressed_nothing_recovers() -> None:
    station = fake_station(station_config(), None)
    episode = ended(station, "user_stop")
    station.robot.fails("user_stopped")
    with pytest.raises(CommandRefusedError, match="release it"):
        may_go_on(station, episode, lambda _: "yes")


@pytest.mark.parametrize(
    ("reason", "goes_on"),
    [
        ("success", True),
        ("failure", True),
        ("time", True),
        ("operator", True),
        ("safety", True),
        ("interrupted", False),
        ("connection", False),
        ("camera", False),
        ("policy", False),
        ("error", False),
    ],
)
def test_what_ends_more_than_the_episode(reason, goes_on) -> None:
    station = fake_station(station_config(), None)
    episode = ended(station, reason)
    assert may_go_on(station, episode, lambda _: pytest.fail("nobody need be asked")) is goes_on


# the station


def test_a_policy_of_the_simulated_task_fits_a_station() -> None:
    data, _ = compose("deploy")
    config = from_dict(deploy.DeployConfig, data).station
    env = gymnasium.make("envs:toto/FrankaPick-v0")
    simulated = env.get_wrapper_attr("interface")
    env.close()
    fitted, note = fit_interface(simulated, interface_of(config), "a policy")
    assert fitted == simulated
    assert note is not None


def test_rates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"period_s is 0\.02, at rate_hz 30\.0"):
        replace(station_config(), rate_hz=30.0)
    with pytest.raises(ValueError, match="priority"):
        replace(station_config(), priority=100)
    with pytest.raises(ValueError, match="7 joints"):
        replace(station_config(), home_rad=(0.0,))


def test_a_robot_that_is_not_this_station_s_is_refused_before_anything_starts() -> None:
    with (
        pytest.raises(ValueError, match="set station=table"),
        open_station(station_config(), "172.16.0.2"),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_episodes_stops_the_arm(monkeypatch, number) -> None:
    """Such as a terminal that is closed while the arm moves to its start pose."""
    config, before = station_config(), signal.getsignal(number)
    robot = FakeRobot(np.array(config.home_rad) + 0.3, time.monotonic)
    monkeypatch.setattr(station_module, "FrankaRobot", lambda _: robot)
    command = robot.command

    def interrupted(positions):
        command(positions)
        if len(robot.log) == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # the second does not interrupt the stop

    def opens_and_goes_home():
        with station_module._connected(config, "127.0.0.9", [], None) as station:
            station.go_home()

    monkeypatch.setattr(robot, "command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opens_and_goes_home()
    assert robot.mode == "idle"
    assert not robot.connected
    assert signal.getsignal(number) is before


def test_after_a_user_stop_nothing_moves_before_a_person_says_so() -> None:
    station = fake_station(station_config(), None)
    config = from_dict(LoopConfig, {**compose("deploy")[0]["loop"], "max_steps": 4})
    agent = FakeAgent(lambda observation, calls: stops(observation, calls))

    def stops(observation, calls):
        if calls == 2:
            station.robot.fails("user_stopped")
        return one(np.zeros(8), observation)

    record = station.run(agent, station.translator(station.interface), config)
    assert record.reason == "user_stop"
    station.robot.fails("idle")  # pressed and released
    sent = len(station.robot.log)
    with pytest.raises(PersonNeededError, match="user stop was pressed"):
        station.go_home()
    again = station.run(FakeAgent(), station.translator(station.interface), config)
    assert "a person must check the arm" in again.message
    assert len(station.robot.log) == sent
    # whatever the next episode is said to have ended by
    assert not may_go_on(station, replace(record, reason="time"), lambda _: "no")
    assert may_go_on(station, replace(record, reason="time"), lambda _: "yes")
    station.go_home()


def test_a_reflex_may_pass_and_a_user_stop_after_it_may_not() -> None:
    config = station_config()
    station = fake_station(replace(config, safety=replace(config.safety, max_recoveries=1)), None)
    episode = ended(station, "reflex")
    station.robot.fails("reflex", "cartesian_reflex")
    station.layer.notice(station.robot.state())
    station.robot.fails("user_stopped")
    station.layer.notice(station.robot.state())
    station.robot.fails("idle")
    asked = []
    assert not may_go_on(station, episode, lambda question: asked.append(question) or "no")
    assert "the user stop was pressed" in asked[0]


def saved_for(folder, policy, *, env=None, origin=None):
    """Save the student again, as one that was trained elsewhere."""
    card = read_metadata(policy)
    known = (
        None if env is None else EnvConfig(id=env, options={}, teacher_options={}, blind_options={})
    )
    notes = {} if origin is None else {"origin": origin}
    StudentPolicy(replace(card, env=known)).save(folder, **notes)
    return folder


PICK, CABINET = "toto/FrankaPick-v0", "toto/FrankaCabinet-v0"


@pytest.mark.parametrize(
    ("env", "origin", "twin_env", "warned"),
    [
        (PICK, None, PICK, None),
        (f"envs:{PICK}", None, PICK, None),
        (PICK, None, CABINET, f"was trained for {PICK}, and this twin has {CABINET}"),
        (None, None, CABINET, None),  # nobody knows
        (None, {"envs": [PICK], "tasks": ["pick up the cube"]}, PICK, None),
        (
            None,
            {"envs": [PICK], "tasks": ["pick up the cube"]},
            CABINET,
            f"this twin has {CABINET}",
        ),
        (None, {"envs": [PICK, CABINET], "tasks": []}, CABINET, None),
        (None, {"envs": [], "tasks": ["pick up the cube"]}, PICK, None),
        (
            None,
            {"tasks": ["fold a towel", "pour"]},
            PICK,
            "for 'fold a towel', 'pour'; the requested task",
        ),
    ],
)
@pytest.mark.parametrize("by", ["here", "a server"])
def test_a_policy_that_is_asked_for_another_task_is_warned_of(
    tmp_path, policy, capsys, env, origin, twin_env, warned, by
) -> None:
    config = station_config()
    station = fake_station(replace(config, twin=replace(config.twin, env_id=twin_env)), None)
    folder = saved_for(tmp_path / "policy", policy, env=env, origin=origin)
    data = compose("deploy")[0]["acting"]
    key = tmp_path / "key"
    acting = from_dict(PolicyConfig, {**data, "key_file": str(key)})
    if by == "here":
        open_policy(str(folder), acting, station)
    else:
        make_key(key)
        there = find_policy(str(folder), acting).open(station.interface)
        with serving(there, key, interface=read_metadata(folder).interface) as (address, _):
            open_policy(f"server:{address}", acting, station).close()
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(told) == (warned is not None)
    if warned is not None:
        assert warned in told[0]


def test_what_was_recorded_on_a_twin_says_where(monkeypatch, tmp_path, policy) -> None:
    station = fake_station(station_config("record"), FakeScene())
    recorded(monkeypatch, station, tmp_path, agent="expert", episodes=1)
    origin = Demonstrations(folder=tmp_path / "dataset", which="complete").origin()
    assert origin == {"tasks": ["pick up the cube"], "envs": [PICK]}
    folder = saved_for(tmp_path / "policy", policy, origin=origin)
    assert read_origin(folder) == origin
