"""Every fault ends with an arm at rest, a saved episode, and a message that names the cause.

The arm swings joint 1 to and fro at about 0.4 rad/s while a fault is provoked on a twin. That it
stands still is seen by the twin's own channel, not by the driver's: the joints move less than
`REST_RAD` in `LOOK_S`, and from the fault to rest no farther than `STOPS_WITHIN_RAD`.
"""

import os
import signal
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from policies.demonstrations.lerobot.reader import DatasetReader
from real_robot import station as station_module
from real_robot.agents.remote import RemoteAgent
from real_robot.agents.wire import make_key, read_key
from real_robot.policy_server import PolicyServer
from real_robot.recording import Recorder
from real_robot.robot import CommandRefusedError, ConnectionLostError
from real_robot.safety.config import Watchdog
from real_robot.safety.layer import UnsafeStartError
from real_robot.station import TwinStation, interface_of, open_station
from real_robot.twin import start_twin
from real_robot.twin.client import TwinCameraSource
from real_robot.twin.config import STANDARD
from tests.real_robot.control.loop_cases import LOOP as QUICK
from tests.real_robot.control.loop_cases import FakeAgent, one, turn
from tests.real_robot.starved import blame_the_machine
from tests.real_robot.twin_fixture import require_twin

REST_RAD, LOOK_S = 0.002, 0.2
STOPS_WITHIN_RAD = 0.35  # half a second at 0.4 rad/s until it is noticed, and the way to stop
NUM_STEPS_BEFORE = 8
MOST_STEPS_AFTER = 25
SMALL = replace(STANDARD, image_size=64, camera_rate_hz=15.0)
LOOP = replace(QUICK, max_steps=60, steps_after_success=None, start_timeout_s=20.0)


class Swing(FakeAgent):
    """Turn joint 1 to and fro; at one step something happens, beside it or `inside` of it."""

    def __init__(self, event=None, *, inside=None):
        super().__init__()
        self.event, self.inside, self.here = event, inside, None

    def act(self, observation):
        self.calls += 1
        action = turn(1, 0.4 if self.calls % 20 < 12 else -0.4)
        if self.calls == NUM_STEPS_BEFORE:
            self.here = observation.state.joint_positions_rad
            if self.event is not None:
                threading.Thread(target=self.event, daemon=True).start()
            if self.inside is not None:
                self.inside()
        return one(action, observation)


class NoisySource:
    """Return a twin's pictures a sensor's noise, until the sensor freezes."""

    def __init__(self, source):
        self.source, self.random = source, np.random.default_rng(0)
        self.is_frozen, self.last = False, None

    def open(self):
        self.source.open()

    def close(self):
        self.source.close()

    def read(self):
        image = self.source.read()
        if not self.is_frozen or self.last is None:
            noise = self.random.integers(0, 2, image.shape, dtype=np.uint8)
            self.last = np.maximum(image, noise)
        return self.last


@pytest.fixture(scope="module")
def twin():
    require_twin("franky")
    with start_twin(SMALL) as running:
        yield running


@pytest.fixture(scope="module")
def config():

    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    data, _ = compose("deploy", ["station=twin"])
    station = from_dict(TwinStation, {k: v for k, v in data["station"].items() if k != "kind"})
    # a camera that is late is one of the faults, a busy machine none
    camera = Watchdog(hold_after_s=0.5, stop_after_s=1.5)
    safety = replace(station.safety, camera=camera)
    return replace(station, twin=SMALL, cameras=("hand",), safety=safety)


@pytest.fixture
def client(twin):
    """Return the twin's own channel, and mend at the end what a test broke."""
    with twin.client() as client:
        client.release_user_stop()
        client.set_camera("hand", "live")
        client.reset()
        yield client
        client.release_user_stop()
        client.set_camera("hand", "live")


class Bench:
    """Run an episode on a twin, save it, and look at what is left."""

    def __init__(self, twin, client, config, folder):
        self.twin, self.client, self.config, self.folder = twin, client, config, folder

    def run(self, agent, *, after=None, **changes):
        """Return the record; `after(station)` is called while the station is still there."""
        with open_station(self.config, self.twin.address) as station:
            if station.robot.state().errors:
                station.robot.recover()
            translator = station.translator(station.interface)
            record = station.run(agent, translator, replace(LOOP, **changes))
            if after is not None:
                after(station)
            with Recorder(self.folder, station.interface) as recorder:
                recorder.save(record)
        return record

    def joints(self):
        return np.array(self.client.state()["positions"][:7])

    def check(self, record, reason, words, *, agent=None):
        """Hold the record, its copy on disk and the arm itself against what must be."""
        if (record.reason, words in record.message) != (reason, True):
            late_s = max((step.late_s for step in record.steps), default=0.0)
            failure = f"{record.reason}: {record.message}"
            blame_the_machine(self.client, failure, late_s=late_s)
            pytest.fail(failure)
        saved = DatasetReader(self.folder)
        facts = saved.facts(0)
        assert facts["reason"] == reason
        assert facts["message"] == record.message
        assert facts["complete"] == (reason == "time")
        assert saved.num_steps(0) == len(record.steps)
        assert len(saved[0].images["hand"]) == len(record.steps)
        if agent is not None:
            assert len(record.steps) <= NUM_STEPS_BEFORE + MOST_STEPS_AFTER
        before = self.joints()
        time.sleep(LOOK_S)
        after = self.joints()
        assert np.abs(after - before).max() < REST_RAD
        if agent is not None:
            assert np.abs(after - agent.here).max() < STOPS_WITHIN_RAD


@pytest.fixture
def bench(twin, client, config, tmp_path):
    return Bench(twin, client, config, tmp_path / "episodes")


def test_without_a_fault_it_runs_to_its_end(bench) -> None:
    record = bench.run(Swing(), max_steps=15)
    bench.check(record, "time", "15 steps")
    moved = record.steps[-1].observation.state.joint_positions_rad[0]
    assert abs(moved) > 0.2, "the arm must move, or the other tests show nothing"


# the robot's own errors


@pytest.mark.parametrize(
    "error",
    [
        "joint_motion_generator_velocity_discontinuity",
        pytest.param("joint_motion_generator_position_limits_violation", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_the_robot(bench, error) -> None:
    agent = Swing(lambda: bench.client.fail(error))
    seen = []

    def after(station):
        seen.append(station.robot.state())
        with pytest.raises(CommandRefusedError, match=error):
            station.robot.command(seen[0].joint_positions_rad)

    bench.check(bench.run(agent, after=after), "reflex", error, agent=agent)
    assert seen[0].mode == "reflex"
    assert error in seen[0].errors


def test_lost_commands(bench) -> None:
    agent = Swing(lambda: bench.client.drop_commands(0.2))
    record = bench.run(agent)
    bench.check(record, "reflex", "communication_constraints_violation", agent=agent)


def test_contact(bench, config) -> None:
    franka = replace(config.franka, collision_force_n=(15.0,) * 6)
    bench.config = replace(config, franka=franka)
    agent = Swing(lambda: bench.client.push("hand", (0.0, 30.0, 0.0), 0.1))
    record = bench.run(agent)
    bench.check(record, "reflex", "_reflex", agent=agent)


def test_a_joint_limit_is_not_reached_at_all(bench, config) -> None:
    """The safety layer stops before it; the margin is kept to 20 mrad."""
    agent = FakeAgent(action=turn(7, 1.0))
    record = bench.run(agent, max_steps=32)
    bench.check(record, "time", "32 steps")
    names = {change.name for step in record.steps for change in step.decision.interventions}
    assert names & {"joint_limit", "velocity"}, names
    upper = 3.0196 - config.safety.motion.joint_margin_rad
    assert upper - 0.2 < bench.joints()[6] < upper + 0.02


def test_the_user_stop(bench) -> None:
    agent = Swing(bench.client.press_user_stop)
    later = []

    def after(station):
        with pytest.raises(CommandRefusedError, match="user stop is pressed"):
            station.robot.recover()
        bench.client.release_user_stop()
        end_s = time.monotonic() + 5.0
        while station.robot.state().mode != "idle" and time.monotonic() < end_s:
            time.sleep(0.01)
        # it is released, and still a person must say so first
        try:
            station.layer.begin(station.robot.state(), start=None, now_s=time.monotonic())
        except UnsafeStartError as error:
            later.append(str(error))

    record = bench.run(agent, after=after)
    bench.check(record, "user_stop", "user_stopped", agent=agent)
    assert "a person must check the arm and acknowledge()" in later[0]


# the robot is gone


def test_a_frozen_robot(bench, twin) -> None:
    agent = Swing(twin.freeze)
    lost = []

    def after(station):
        end_s = time.monotonic() + 5.0
        while time.monotonic() < end_s and not lost:
            try:
                station.robot.state()
            except ConnectionLostError as error:
                lost.append(str(error))
            time.sleep(0.01)
        twin.thaw()

    try:
        record = bench.run(agent, after=after)
    finally:
        twin.thaw()
    bench.check(record, "connection", "robot", agent=agent)
    assert "does not answer any more" in lost[0]


@pytest.mark.slow  # a twin of its own, and seconds until it is given up
def test_a_killed_robot(config, tmp_path) -> None:
    """There is no arm left to look at: the record is there, and says that it could not look."""
    require_twin("franky")
    with start_twin(SMALL) as twin, twin.client() as client:
        bench = Bench(twin, client, config, tmp_path / "episodes")
        agent = Swing(lambda: os.kill(twin.pid, signal.SIGKILL))
        began_s = time.monotonic()
        record = bench.run(agent)
        assert time.monotonic() - began_s < 60.0
    assert record.reason in ("connection", "camera")
    assert "robot" in record.message or "camera" in record.message
    assert DatasetReader(bench.folder).facts(0)["reason"] == record.reason
    assert len(record.steps) <= NUM_STEPS_BEFORE + MOST_STEPS_AFTER


# cameras


def test_a_frozen_camera(bench, config, monkeypatch) -> None:
    sources = []

    def noisy(address, name):
        sources.append(NoisySource(TwinCameraSource(address, name)))
        return sources[-1]

    monkeypatch.setattr(station_module, "TwinCameraSource", noisy)
    bench.config = replace(config, frozen_after_s=0.3)

    def freeze():
        sources[0].is_frozen = True
        bench.client.set_camera("hand", "frozen")

    agent = Swing(freeze)
    record = bench.run(agent)
    bench.check(record, "camera", "frozen", agent=agent)


def test_an_unplugged_camera(bench) -> None:
    agent = Swing(lambda: bench.client.set_camera("hand", "unplugged"))
    record = bench.run(agent)
    bench.check(record, "camera", "hand", agent=agent)
    assert "unplugged" in record.message


# the policy


def test_an_action_that_is_no_number(bench) -> None:
    class Broken(Swing):
        def act(self, observation):
            proposal = super().act(observation)
            if self.calls > NUM_STEPS_BEFORE:
                proposal.actions[0, 2] = np.nan
            return proposal

    agent = Broken()
    bench.check(bench.run(agent), "policy", "the action of joint 3 is nan", agent=agent)


def test_a_policy_that_raises(bench) -> None:
    def fails():
        raise ZeroDivisionError("a bug in the policy")

    agent = Swing(inside=fails)
    record = bench.run(agent)
    bench.check(record, "policy", "ZeroDivisionError: a bug in the policy", agent=agent)


def test_a_policy_that_stalls(bench) -> None:
    agent = Swing(inside=lambda: time.sleep(2.5))
    bench.check(bench.run(agent), "policy", "the action is", agent=agent)


def test_a_policy_server_that_is_gone(bench, config, tmp_path) -> None:
    make_key(tmp_path / "policy.key")
    key = read_key(tmp_path / "policy.key")
    far = Swing()
    server = PolicyServer(
        far, interface_of(config), key, host="127.0.0.1", port=0, idle_timeout_s=20.0, log=print
    )
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    address = "{}:{}".format(*server.address)
    remote = RemoteAgent(address, tmp_path / "policy.key", interface_of(config), timeout_s=5.0)

    class Watched(Swing):
        name = remote.name

        def reset(self, observation):
            remote.reset(observation)

        def act(self, observation):
            super().act(observation)
            return remote.act(observation)

    # the process is gone: the system closes its sockets
    agent = Watched(lambda: remote._connection._raw.shutdown(socket.SHUT_RDWR))
    try:
        record = bench.run(agent)
    finally:
        remote.close()
        server.close()
        thread.join(10.0)
    bench.check(record, "policy", f"the policy server at {address}", agent=agent)


# a person


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, "Ctrl-C"),
        pytest.param(signal.SIGTERM, "SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c(bench, number, words) -> None:
    agent = Swing(lambda: os.kill(os.getpid(), number))
    record = bench.run(agent)
    bench.check(record, "interrupted", f"{words} ended the episode", agent=agent)
    assert record.notes["rest"]["at_rest"]
