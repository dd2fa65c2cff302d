"""The policy server and its client: who is believed, what is said when not, and who stops whom."""

import dataclasses
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from envs.interface import Interface
from real_robot.agents import serving as serving_module
from real_robot.agents.remote import RemoteAgent
from real_robot.agents.serving import PolicyServer
from real_robot.agents.wire import (
    GREETING,
    ClosedError,
    Connection,
    WireError,
    make_key,
    parse_address,
    read_key,
)
from real_robot.cameras.camera import Frame
from real_robot.episode import TRANSPORT_FAULT, Observation
from tests.real_robot.control.loop_cases import INTERFACE, Bench, FakeAgent, one, turn
from tests.real_robot.safety.safety_cases import HOME, state_at

TIMEOUT_S = 10.0


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys" / "policy.key"
    make_key(path)
    return path


@contextmanager
def serving(agent, key_file, *, interface=INTERFACE, lines=None, idle_timeout_s=TIMEOUT_S):
    server = PolicyServer(
        agent,
        interface,
        read_key(key_file),
        host="127.0.0.1",
        port=0,
        idle_timeout_s=idle_timeout_s,
        log=(lambda _: None) if lines is None else lines.append,
    )
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield "{}:{}".format(*server.address), server
    finally:
        server.close()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def remote(address, key_file, interface=INTERFACE, timeout_s=TIMEOUT_S):
    return RemoteAgent(address, key_file, interface, timeout_s=timeout_s)


def wait_for(condition):
    end_s = time.monotonic() + TIMEOUT_S
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.005)
    assert condition()


# what an episode meets


def test_an_episode_by_a_server_is_that_of_the_agent_itself(key_file) -> None:
    def acts(observation, calls):
        # what it sees decides, so pictures and proprio must come through to the bit
        amount = float(observation.frames["hand"].image.mean()) / 255
        action = turn(1, 0.1 + amount)
        action[1] = observation.proprio[0]
        return one(action, observation, surprise=2.5, timings_s={"policy": 0.001})

    near = Bench(max_steps=4).run(FakeAgent(acts))
    with serving(FakeAgent(acts), key_file) as (address, _):
        agent = remote(address, key_file)
        assert agent.name == f"a fake at {address}"
        assert agent.weights_hash == "abc"
        far = Bench(max_steps=4, patience_s=TIMEOUT_S).run(agent)
        agent.close()
    assert far.reason == near.reason == "time"
    for one_step, other in zip(near.steps, far.steps, strict=True):
        np.testing.assert_array_equal(one_step.action, other.action)
        np.testing.assert_array_equal(one_step.sent_rad, other.sent_rad)
        assert other.surprise == 2.5
        assert other.timings_s["policy"] == 0.001
        assert other.timings_s["network"] >= 0


SERVER = """
import sys
from pathlib import Path
from real_robot.agents.serving import PolicyServer
from real_robot.agents.wire import read_key
from tests.real_robot.control.loop_cases import INTERFACE, FakeAgent, turn
server = PolicyServer(FakeAgent(action=turn(1, 0.5)), INTERFACE, read_key(Path(sys.argv[1])),
                      host="127.0.0.1", port=0, idle_timeout_s=60.0, log=lambda _: None)
print(server.address[1], flush=True)
server.serve()
"""


def test_a_server_that_is_killed_stops_the_arm_with_its_name(key_file) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(key_file)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        agent = remote(address, key_file)
        calls = []

        class Killed(FakeAgent):
            name = agent.name

            def act(self, observation):
                calls.append(1)
                if len(calls) == 3:
                    process.kill()
                    process.wait(TIMEOUT_S)
                return agent.act(observation)

        bench = Bench(max_steps=50, patience_s=TIMEOUT_S)
        record = bench.run(Killed())
        agent.close()
    assert record.reason == "policy"
    assert f"the policy server at {address}: the other side" in record.message
    assert len(record.steps) == 3
    assert bench.robot.mode == "idle"
    np.testing.assert_allclose(bench.robot.log[-1], bench.robot.log[-2], atol=1e-12)


def test_a_policy_that_fails_at_the_server_is_quoted(key_file) -> None:
    def fails(observation, calls):
        raise ArithmeticError("no such thing")

    lines = []
    with serving(FakeAgent(fails), key_file, lines=lines) as (address, _):
        agent = remote(address, key_file)
        record = Bench(patience_s=TIMEOUT_S).run(agent)
        agent.close()
    assert record.reason == "policy"
    assert f"the policy server at {address}: ArithmeticError: no such thing" in record.message
    assert "ArithmeticError: no such thing" in lines


def test_a_server_that_is_too_slow_is_given_up(key_file) -> None:
    release = threading.Event()

    def stalls(observation, calls):
        release.wait(TIMEOUT_S)
        return one(turn(), observation)

    with serving(FakeAgent(stalls), key_file) as (address, _):
        agent = remote(address, key_file, timeout_s=0.1)
        record = Bench(max_steps=50, patience_s=0.3).run(agent)
        release.set()
        agent.close()
    assert record.reason == "policy"
    assert "no answer came in time" in record.message


def numbered(release, stall_at=(3,)):
    """Act by the observation's own number, and stall at some calls until `release` is set."""

    def acts(observation, calls):
        number = float(observation.proprio[0])
        if calls in stall_at:
            release.wait(TIMEOUT_S)
        return one(turn(1, number / 100), observation)

    return FakeAgent(acts)


def seen(number):
    proprio = np.full(8, number, np.float32)
    image = np.zeros((8, 8, 3), np.uint8)
    return Observation(
        stamp_s=float(number),
        frames={"hand": Frame(camera="hand", image=image, stamp_s=0.0, sequence=number)},
        state=state_at(HOME, 0.0),
        proprio=proprio,
    )


@pytest.mark.parametrize("stall_at", [(1,), (3,), (3, 5)])
def test_an_answer_that_comes_late_is_not_taken_for_the_next_one(key_file, stall_at) -> None:
    release, faults = threading.Event(), 0
    with serving(numbered(release, stall_at), key_file) as (address, _):
        agent = remote(address, key_file, timeout_s=2.0)
        agent.reset(seen(0))
        for number in range(1, 9):
            try:
                proposal = agent.act(seen(number))
            except ConnectionError:
                faults += 1
                with pytest.raises(ConnectionError, match=r"; call reset\(\) first"):
                    agent.act(seen(number))
                threading.Timer(0.2, release.set).start()
                agent.reset(seen(0))  # while the server is still busy with what was given up
                release.clear()
                continue
            assert proposal.actions[0, 0] == pytest.approx(number / 100)
            assert proposal.observed_s == number
        agent.close()
    assert faults == len(stall_at)


@pytest.mark.parametrize("timeout_s", [0.3, 5.0], ids=["its limit", "the watchdog"])
def test_one_stall_costs_one_episode(key_file, timeout_s) -> None:
    release, agent_there = threading.Event(), FakeAgent()

    def acts(observation, calls):
        if calls == 3:
            release.wait(TIMEOUT_S)
        return one(turn(1, 0.1 * observation.proprio[0] + 0.01), observation)

    agent_there.function = acts
    with serving(agent_there, key_file) as (address, _):
        agent = remote(address, key_file, timeout_s=timeout_s)
        first = Bench(max_steps=50, patience_s=0.1).run(agent)
        assert first.reason == "policy"
        fault = first.notes[TRANSPORT_FAULT]
        assert f"the policy server at {address}" in fault
        threading.Timer(0.3, release.set).start()
        bench = Bench(max_steps=5, patience_s=TIMEOUT_S)
        second = bench.run(agent)
        assert second.reason == "time", second.message
        assert TRANSPORT_FAULT not in second.notes
        for step in second.steps:
            expected = 0.1 * step.observation.proprio[0] + 0.01
            assert step.action[0] == pytest.approx(expected, abs=1e-6)
        agent.close()


def test_a_policy_that_fails_by_itself_is_no_fault_of_the_way(key_file) -> None:
    def fails(observation, calls):
        raise ConnectionError("a policy's own")

    with serving(FakeAgent(fails), key_file) as (address, _):
        agent = remote(address, key_file)
        record = Bench(patience_s=TIMEOUT_S).run(agent)
        agent.close()
    assert record.reason == "policy"
    assert TRANSPORT_FAULT not in record.notes


def test_a_server_that_came_back_with_another_policy_is_not_taken(key_file) -> None:
    other = FakeAgent()
    with serving(other, key_file) as (address, _):
        agent = remote(address, key_file)
        agent.reset(seen(0))
        agent.close()
        other.weights_hash = "xyz"
        with pytest.raises(
            ConnectionError, match="another policy now: weights xyz, previously abc"
        ):
            agent.reset(seen(0))


# who is believed


def test_another_interface_is_refused_with_the_difference(key_file) -> None:
    slow = dataclasses.replace(INTERFACE, rate_hz=5.0)
    with (
        serving(FakeAgent(), key_file) as (address, _),
        pytest.raises(ValueError, match=r"rate_hz: 10\.0 != 5\.0"),
    ):
        remote(address, key_file, slow)


def test_a_robot_may_tell_more_than_the_policy_looks_at(key_file) -> None:
    def acts(observation, calls):
        assert observation.proprio.shape == (len(INTERFACE.proprio),)
        return one(turn(1, observation.proprio[0] / 10), observation)

    more = dataclasses.replace(INTERFACE, proprio=("beside", *INTERFACE.proprio))
    with serving(FakeAgent(acts), key_file) as (address, _):
        agent = remote(address, key_file, more)
        image = np.zeros((8, 8, 3), np.uint8)
        observation = Observation(
            stamp_s=1.0,
            frames={"hand": Frame(camera="hand", image=image, stamp_s=1.0, sequence=1)},
            state=state_at(HOME, 0.0),
            proprio=np.arange(len(more.proprio), dtype=np.float32),
        )
        np.testing.assert_allclose(agent.act(observation).actions[0, 0], 0.1)
        agent.close()


def test_a_panda_policy_serves_an_fr3_and_says_so(key_file) -> None:
    fr3 = dataclasses.replace(INTERFACE, arm="franka_fr3")
    with serving(FakeAgent(), key_file) as (address, _):
        agent = remote(address, key_file, fr3)
        assert "was trained for franka_panda and acts on franka_fr3" in agent.note
        agent.close()
    with (
        serving(FakeAgent(), key_file, interface=fr3) as (address, _),
        pytest.raises(ValueError, match="'franka_fr3' != 'franka_panda'"),
    ):
        remote(address, key_file, INTERFACE)  # not the other way round


def test_another_key_is_refused_on_both_sides(key_file, tmp_path) -> None:
    other = tmp_path / "other.key"
    make_key(other)
    lines = []
    with serving(FakeAgent(), key_file, lines=lines) as (address, _):
        with pytest.raises(ConnectionError, match=r"has another key than .*other\.key"):
            remote(address, other)
        wait_for(lambda: any("not authentic" in line for line in lines))


def test_no_server_is_told_with_its_address(key_file) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no policy server at 127.0.0.1:{port}"):
        remote(f"127.0.0.1:{port}", key_file)


def test_a_second_client_is_turned_away_and_the_first_goes_on(key_file) -> None:
    lines = []
    with serving(FakeAgent(), key_file, lines=lines) as (address, _):
        first = remote(address, key_file)
        busy = r"it serves another client now, whose last request was \d+ s ago"
        with pytest.raises(ConnectionError, match=busy):
            remote(address, key_file)
        assert Bench(max_steps=2, patience_s=TIMEOUT_S).run(first).reason == "time"
        first.close()
        wait_for(lambda: any("is disconnected" in line for line in lines))
        remote(address, key_file).close()


def test_a_client_that_vanished_is_noticed_by_the_system(key_file, monkeypatch) -> None:
    """Its computer lost power: nothing arrives, and nothing closes the connection."""
    opened, handle = [], PolicyServer._handle

    def handles(server, raw, client):
        opened.append(raw)
        handle(server, raw, client)

    monkeypatch.setattr(PolicyServer, "_handle", handles)
    with serving(FakeAgent(), key_file) as (address, _):
        agent = remote(address, key_file)
        (raw,) = opened
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle_s, every_s, most = (raw.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert idle_s + every_s * most <= 30
        agent.close()


def test_after_a_long_pause_the_next_episode_begins_a_new_session(key_file) -> None:
    lines = []
    with serving(FakeAgent(), key_file, lines=lines, idle_timeout_s=0.05) as (address, _):
        agent = remote(address, key_file)
        wait_for(lambda: any("no answer came in time" in line for line in lines))
        assert Bench(max_steps=2, patience_s=TIMEOUT_S).run(agent).reason == "time"
        agent.close()


def test_a_client_that_says_nothing_is_let_go(key_file) -> None:
    lines = []
    with serving(FakeAgent(), key_file, lines=lines, idle_timeout_s=0.05) as (address, _):
        agent = remote(address, key_file)
        wait_for(lambda: any("no answer came in time" in line for line in lines))
        agent.close()


@pytest.mark.parametrize(
    "arrays",
    [
        {"proprio": np.zeros(8, np.float32)},
        {"proprio": np.zeros(8, np.float32), "image_hand": np.zeros((4, 8, 3), np.uint8)},
        {"proprio": np.zeros(8, np.float64), "image_hand": np.zeros((8, 8, 3), np.uint8)},
        {"proprio": np.zeros(9, np.float32), "image_hand": np.zeros((8, 8, 3), np.uint8)},
    ],
    ids=["missing", "size", "dtype", "length"],
)
def test_an_observation_of_another_shape_is_refused(key_file, arrays) -> None:
    with serving(FakeAgent(), key_file) as (address, _):
        agent = remote(address, key_file)
        with pytest.raises(ValueError, match="an observation must have"):
            agent._ask({"do": "act"}, arrays)
        with pytest.raises(ValueError, match="unknown request 'dance'; known: hello, reset, act"):
            agent._ask({"do": "dance"}, {})
        agent.close()


def test_who_drips_before_the_proof_holds_no_place(key_file, monkeypatch) -> None:
    monkeypatch.setattr(serving_module, "_PROOF_S", 0.5)
    with serving(FakeAgent(), key_file) as (_, server):
        opening = GREETING + b"n" * 32 + struct.pack("<I", 2**20) + b"m" * 1000
        with socket.create_connection(server.address) as dripping:
            begun_s, ended_s = time.monotonic(), None
            for index in range(100):
                try:
                    dripping.sendall(opening[index : index + 1])
                except OSError:
                    ended_s = time.monotonic()
                    break
                if index == 2:  # meanwhile somebody with the key
                    remote("{}:{}".format(*server.address), key_file).close()
                time.sleep(0.03)
        assert ended_s is not None
        assert ended_s - begun_s < 2.0


@pytest.mark.parametrize("said", [b"", GREETING, GREETING + b"n" * 32, b"GET / HTTP/1.1\r\n"])
def test_connections_without_a_proof_are_bounded(key_file, said) -> None:
    before = threading.active_count()
    with serving(FakeAgent(), key_file) as (address, server):
        silent = []
        try:
            for _ in range(150):
                silent.append(socket.create_connection(server.address, timeout=TIMEOUT_S))
                silent[-1].sendall(said)
            wait_for(lambda: threading.active_count() <= before + serving_module._MAX_UNPROVEN + 2)
            agent = remote(address, key_file)
            agent.reset(seen(0))
            assert agent.act(seen(1)).actions.shape == (1, 8)
            agent.close()
        finally:
            for connection in silent:
                connection.close()


def send_body(connection, header):
    """Send a proved message with any header, bytes."""
    body = struct.pack("<I", len(header)) + header
    mac = connection._mac(connection._out, connection._num_sent, body)
    connection._num_sent += 1
    connection._raw.sendall(struct.pack("<I", len(body) + len(mac)) + mac + body)


ODD = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"data": {}}',
    b'{"data": [], "arrays": {}}',
    b'{"data": {}, "arrays": []}',
    b'{"data": {}, "arrays": {"x": 3}}',
    b'{"data": {}, "arrays": {"x": {"dtype": ["uint8"], "shape": [1]}}}',
    b'{"data": {}, "arrays": {"x": {"dtype": "float32", "shape": [1e400]}}}',
    b'{"data": {}, "arrays": {"x": {"dtype": "float32", "shape": [-1]}}}',
    b'{"data": {}, "arrays": {"x": {"dtype": "float32", "shape": 7}}}',
    b'{"data": {}, "arrays": {"x": {"dtype": "float32", "shape": [4294967296, 4294967296]}}}',
    b'{"data": {}, "arrays": {"x": {"dtype": "uint8", "shape": ['
    + b",".join([b"1"] * 100)
    + b"]}}}",
    b'{"data": {"do": ["hello"]}, "arrays": {}}',
    b'{"data": {"do": "hello", "interface": {"arm": {}}}, "arrays": {}}',
    b'{"data": {"do": "hello", "interface": 1e400}, "arrays": {}}',
    b'{"data": {"do": "act"}, "arrays": {"\\ud800": {"dtype": "uint8", "shape": [0]}}}',
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("header", ODD, ids=[header[:40].decode("latin1") for header in ODD])
def test_odd_headers_of_who_has_the_key_are_answered(key_file, header, is_first) -> None:
    with serving(FakeAgent(), key_file) as (_, server):
        raw = socket.create_connection(server.address, timeout=TIMEOUT_S)
        with raw:
            connection = Connection(raw, read_key(key_file), is_server=False)
            hello = {"do": "hello", "interface": INTERFACE.to_dict()}
            if not is_first:
                connection.send(hello, {})
                assert connection.receive()[0]["ok"]
            for _ in range(2):
                send_body(connection, header)
                answer, arrays = connection.receive()
                assert answer["ok"] is False
                assert answer["error"]
                assert arrays == {}
            connection.send(hello, {})
            assert connection.receive()[0]["ok"]


def test_what_an_agent_says_and_does_not_travel_is_told(key_file) -> None:
    odd = [np.float32(2.5), np.int64(2), 2.5]

    def acts(observation, calls):
        return one(turn(), observation, surprise=odd[calls - 1])

    with serving(FakeAgent(acts), key_file) as (address, _):
        agent = remote(address, key_file)
        for number in range(2):
            with pytest.raises(RuntimeError, match="TypeError"):
                agent.act(seen(number))
        assert agent.act(seen(2)).surprise == 2.5
        agent.close()


@pytest.mark.parametrize(
    ("hello", "act"),
    [
        ({"ok": True}, None),
        ({"ok": True, "name": "x", "weights_hash": None, "note": None}, {"ok": True}),
        (None, {"timings_s": [], "end": None, "surprise": None}),
        (None, {"timings_s": {"x": 10**400}, "end": None, "surprise": None}),
        (None, {"timings_s": {}, "end": [], "surprise": None}),
        (None, {"timings_s": {}, "end": ["bogus", "x"], "surprise": None}),
        (None, {"timings_s": {}, "end": 3, "surprise": None}),
        (None, {"timings_s": {}, "end": None, "surprise": "much"}),
        (None, {"timings_s": {"x": float("nan")}, "end": None, "surprise": None}),
    ],
    ids=range(9),
)
def test_a_server_that_answers_nonsense_is_not_believed(key_file, hello, act) -> None:
    told = hello or {"ok": True, "name": "x", "weights_hash": None, "note": None}

    def serve(listening):
        raw, _ = listening.accept()
        with raw:
            connection = Connection(raw, read_key(key_file), is_server=True)
            connection.receive()
            connection.send(told, {})
            if act is not None:
                connection.receive()
                connection.send({"ok": True, **act}, {"actions": np.zeros((1, 8), np.float32)})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def asks():
            with closing(remote(address, key_file)) as agent:
                agent.act(seen(1))

        with pytest.raises(ConnectionError, match="sent an invalid answer"):
            asks()
        thread.join(TIMEOUT_S)


# the wire itself


@contextmanager
def wired(server_key=b"k" * 32, client_key=b"k" * 32):
    """Two ends of a connection, and the client's raw socket."""
    left, right = socket.socketpair()
    left.settimeout(TIMEOUT_S)
    right.settimeout(TIMEOUT_S)
    ends = {}
    thread = threading.Thread(
        target=lambda: ends.update(server=Connection(left, server_key, is_server=True))
    )
    thread.start()
    client = Connection(right, client_key, is_server=False)
    thread.join(TIMEOUT_S)
    with left, right:
        yield ends["server"], client, left, right


def test_plain_data_and_arrays_travel_both_ways() -> None:
    with wired() as (server, client, *_):
        arrays = {
            "a": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
            "b": np.array([np.nan, 1.5], np.float32),
            "empty": np.zeros((0, 3), np.float64),
        }
        for sender, receiver in ((client, server), (server, client), (client, server)):
            sender.send({"do": "x", "n": [1, None]}, arrays)
            data, found = receiver.receive()
            assert data == {"do": "x", "n": [1, None]}
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
                assert found[name].dtype == array.dtype


def captured(client, raw_peer):
    """Send a message and give its bytes, taken from the other end."""
    client.send({"n": 1}, {})
    head = raw_peer.recv(4)
    return head + raw_peer.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL)


def test_a_message_that_is_repeated_is_refused() -> None:
    with wired() as (server, client, left, right):
        message = captured(client, left)
        right.sendall(message + message)
        assert server.receive()[0] == {"n": 1}
        with pytest.raises(WireError, match="not authentic"):
            server.receive()


def test_a_message_of_an_earlier_session_is_refused() -> None:
    with wired() as (_, client, left, _right):
        message = captured(client, left)
    with wired() as (server, _, _left, right):
        right.sendall(message)
        with pytest.raises(WireError, match="not authentic"):
            server.receive()


def test_a_message_that_is_sent_back_is_refused() -> None:
    with wired() as (_, client, left, _right):
        left.sendall(captured(client, left))
        with pytest.raises(WireError, match="not authentic"):
            client.receive()


def test_a_message_that_was_changed_is_refused() -> None:
    with wired() as (server, client, left, right):
        message = bytearray(captured(client, left))
        message[-1] ^= 1
        right.sendall(message)
        with pytest.raises(WireError, match="not authentic"):
            server.receive()


@pytest.mark.parametrize("length", [0, 3, 2**31])
def test_lengths_that_cannot_be_are_refused_before_anything_is_read(length) -> None:
    with wired() as (server, _, _left, right):
        right.sendall(struct.pack("<I", length))
        with pytest.raises(WireError, match=f"{length} bytes is refused"):
            server.receive()


def test_who_speaks_something_else_is_told_apart() -> None:
    left, right = socket.socketpair()
    with left, right:
        right.sendall(b"GET / HTTP/1.1\r\n\r\n"[: len(GREETING)] + b"x" * 32)
        with pytest.raises(WireError, match="does not use the protocol toto-policy-1"):
            Connection(left, b"k" * 32, is_server=True)
    left, right = socket.socketpair()
    right.close()
    with left, pytest.raises(ClosedError):
        Connection(left, b"k" * 32, is_server=True)


def test_what_does_not_travel_is_refused_where_it_is_sent() -> None:
    with wired() as (_, client, *_rest):
        with pytest.raises(ValueError, match="object cannot be sent"):
            client.send({}, {"x": np.array([{}], dtype=object)})
        with pytest.raises(ValueError, match="too long"):
            client.send({}, {"x": np.zeros(2**26, np.uint8)})


# keys and addresses


def test_a_key_is_for_its_owner_alone(tmp_path) -> None:
    path = tmp_path / "key"
    key = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == key
    assert len(key) == 32
    with pytest.raises(FileExistsError):
        make_key(path)
    path.chmod(0o640)
    with pytest.raises(ValueError, match=r"mode 0640\): run chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ValueError, match="must contain a key of 32 bytes"):
        read_key(path)
    with pytest.raises(FileNotFoundError, match="the policy server writes one"):
        read_key(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "5555", ":5555", "host:", "host:x", "host:70000"])
def test_an_address_that_is_none_is_refused(text) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_an_interface_travels_as_plain_data() -> None:
    assert Interface.from_dict(json.loads(json.dumps(INTERFACE.to_dict()))) == INTERFACE
    for data in ({"arm": "x"}, None):
        with pytest.raises(ValueError, match="interface: "):
            Interface.from_dict(data)


def test_a_client_has_nothing_of_the_client_before(key_file) -> None:
    agent = FakeAgent()
    with serving(agent, key_file) as (address, _):
        first = remote(address, key_file)
        first.reset(seen(1))
        first.act(seen(1))
        first.close()
        second = None
        end_s = time.monotonic() + TIMEOUT_S
        while second is None and time.monotonic() < end_s:
            try:
                second = remote(address, key_file)
            except ConnectionError:  # the first is still being let go
                time.sleep(0.02)
        with closing(second):
            second.act(seen(1))
            second.act(seen(1))
    assert agent.resets == 2


def answering(key_file, answer):
    """Listen, and answer each message by what `answer(data, how many)` gives, in order."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        raw, _ = listening.accept()
        connection, count = Connection(raw, read_key(key_file), is_server=True), 0
        try:
            while True:
                data, _ = connection.receive()
                for one_answer in answer(data, count):
                    connection.send(one_answer, {})
                count += 1
        except WireError:
            raw.close()

    threading.Thread(target=serve, daemon=True).start()
    return listening, "{}:{}".format(*listening.getsockname())


HELLO = {"ok": True, "name": "odd", "weights_hash": None, "note": None, "origin": {}}


@pytest.mark.parametrize("odd", [{"name": ["a"]}, {"weights_hash": 5}, {"note": {"a": 1}}])
def test_a_server_that_names_itself_oddly_is_refused_with_words(key_file, odd) -> None:
    listening, address = answering(key_file, lambda data, _: [{**HELLO, **odd}])
    with listening, pytest.raises(ConnectionError, match="sent an invalid answer"):
        remote(address, key_file)


def test_an_answer_to_another_question_ends_the_session(key_file) -> None:
    def twice(data, count):
        if count == 0:
            return [{**HELLO, "question": data["question"]}]
        return [{"ok": True, "question": data["question"]}] * 2

    listening, address = answering(key_file, twice)
    with listening, closing(remote(address, key_file)) as agent:
        agent.reset(seen(1))
        with pytest.raises(ConnectionError, match="an answer to question 2, not 3"):
            agent.act(seen(1))


def test_a_key_is_whole_or_not_there_and_never_another_s(tmp_path) -> None:
    path = tmp_path / "policy.key"
    key = make_key(path)
    with pytest.raises(FileExistsError):
        make_key(path)
    assert read_key(path) == key
    assert [each.name for each in tmp_path.iterdir()] == ["policy.key"]
