"""Teleoperation devices, and the motions of the arm that they cause."""

import contextlib
import os
import struct
from dataclasses import replace

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA
from envs.arms.kinematics import tool_pose
from real_robot.episode import Agent, Observation
from real_robot.limits import FR3
from real_robot.teleoperation.agent import TeleoperationAgent, TeleoperationConfig
from real_robot.teleoperation.device import REST, Command, Device, DeviceError, Toggle
from real_robot.teleoperation.gamepad import Gamepad
from real_robot.teleoperation.guiding import record_guided
from real_robot.teleoperation.keyboard import Keyboard
from real_robot.teleoperation.spacemouse import SpaceMouse
from real_robot.translator import Translator
from tests.real_robot.control.loop_cases import INTERFACE, PERIOD_S, Bench
from tests.real_robot.safety.safety_cases import HOME, state_at

CONFIG = TeleoperationConfig(max_speed_m_s=0.1, max_turn_rad_s=0.5, hold_s=0.2)


def command(translation=(0, 0, 0), rotation=(0, 0, 0), **more):
    return Command(
        translation=np.array(translation, float), rotation=np.array(rotation, float), **more
    )


class Script:
    """A device that says one command after another, the last one for ever."""

    name, help = "a script", ""

    def __init__(self, *commands):
        self.commands = [REST, *commands]  # the first is read when an episode begins

    def read(self):
        return self.commands.pop(0) if len(self.commands) > 1 else self.commands[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def agent_of(*commands):
    translator = Translator(INTERFACE, FRANKA_PANDA, FR3)
    translator.begin(state_at(HOME, 0.0))
    agent = TeleoperationAgent(Script(*commands), FRANKA_PANDA, translator, CONFIG)
    seen = Observation(
        stamp_s=1.0,
        frames={},
        state=state_at(HOME, 0.0),
        proprio=translator.proprio(state_at(HOME, 0.0)),
    )
    agent.reset(seen)
    return agent, translator, seen


# the agent


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tool_moves_along_the_axis_asked_for_at_the_speed_allowed(axis, sign) -> None:
    requested = np.zeros(3)
    requested[axis] = sign
    agent, translator, seen = agent_of(command(requested))
    assert isinstance(agent, Agent)
    before = tool_pose(FRANKA_PANDA, HOME)
    for _ in range(5):
        translator.sent(translator.target(agent.act(seen).actions[0]))
    after = tool_pose(FRANKA_PANDA, translator.joint_targets_rad)
    moved = after[:3, 3] - before[:3, 3]
    np.testing.assert_allclose(moved, 5 * PERIOD_S * 0.1 * requested, atol=2e-3)
    np.testing.assert_allclose(after[:3, :3], before[:3, :3], atol=0.01)


def test_the_tool_turns_about_the_vertical_and_stays_where_it_is() -> None:
    agent, translator, seen = agent_of(command(rotation=(0, 0, 1)))
    before = tool_pose(FRANKA_PANDA, HOME)
    for _ in range(5):
        translator.sent(translator.target(agent.act(seen).actions[0]))
    after = tool_pose(FRANKA_PANDA, translator.joint_targets_rad)
    turn = after[:3, :3] @ before[:3, :3].T
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(5 * PERIOD_S * 0.5, abs=0.02)
    np.testing.assert_allclose(after[:3, 3], before[:3, 3], atol=2e-3)


def test_without_input_the_targets_stay_exactly() -> None:
    agent, _, seen = agent_of(command())
    np.testing.assert_array_equal(agent.act(seen).actions[0, :7], 0)
    agent, _, seen = agent_of(command((1, 0, 0), is_held=False))
    np.testing.assert_array_equal(agent.act(seen).actions[0, :7], 0)


def test_two_keys_are_no_faster_than_one() -> None:
    one, translator, seen = agent_of(command((1, 0, 0)))
    step = translator.target(one.act(seen).actions[0]).joint_positions_rad
    x_m = np.linalg.norm(
        tool_pose(FRANKA_PANDA, step)[:3, 3] - tool_pose(FRANKA_PANDA, HOME)[:3, 3]
    )
    two, translator, seen = agent_of(command((1, 1, 1)))
    step = translator.target(two.act(seen).actions[0]).joint_positions_rad
    xyz_m = np.linalg.norm(
        tool_pose(FRANKA_PANDA, step)[:3, 3] - tool_pose(FRANKA_PANDA, HOME)[:3, 3]
    )
    assert xyz_m == pytest.approx(x_m, rel=0.15)


def test_the_gripper_keeps_its_last_command() -> None:
    agent, _, seen = agent_of(command(), command(gripper=-1.0), command(), command(gripper=1.0))
    openings = [float(agent.act(seen).actions[0, 7]) for _ in range(5)]
    assert openings == [1.0, -1.0, -1.0, 1.0, 1.0]  # it begins as it is: open


def test_an_episode_by_a_person_ends_as_the_person_says() -> None:
    bench = Bench(max_steps=50)
    end = ("success", "the operator marked success (Enter)")
    device = Script(command((0, 0, 1)), command((0, 0, 1)), command(end=end))
    agent = TeleoperationAgent(device, FRANKA_PANDA, bench.translator, CONFIG)
    record = bench.run(agent)
    assert (record.reason, record.message, record.success) == (*end, True)
    assert record.agent == "operator with a script"
    assert len(record.steps) == 2
    up_m = (
        tool_pose(FRANKA_PANDA, bench.robot.positions)[2, 3] - tool_pose(FRANKA_PANDA, HOME)[2, 3]
    )
    assert up_m > 0.01


def test_a_device_that_is_unplugged_stops_the_arm() -> None:
    class Gone(Script):
        def read(self):
            if len(self.commands) == 1:
                raise DeviceError("the SpaceMouse is disconnected: unplugged")
            return super().read()

    bench = Bench(max_steps=50)
    device = Gone(*[command((0, 0, 1))] * 3)
    record = bench.run(TeleoperationAgent(device, FRANKA_PANDA, bench.translator, CONFIG))
    assert record.reason == "policy"
    assert "the SpaceMouse is disconnected" in record.message
    assert bench.robot.mode == "idle"


@pytest.mark.parametrize("name", ["max_speed_m_s", "max_turn_rad_s", "hold_s"])
def test_caps_must_be_positive(name) -> None:
    values = {"max_speed_m_s": 1.0, "max_turn_rad_s": 1.0, "hold_s": 1.0, name: 0.0}
    with pytest.raises(ValueError, match=name):
        TeleoperationConfig(**values)


def test_a_command_is_finite_and_within_its_limits() -> None:
    np.testing.assert_array_equal(command((5, -5, 0.5)).translation, [1, -1, 0.5])
    with pytest.raises(ValueError, match="rotation must be 3 finite"):
        command(rotation=(np.nan, 0, 0))


def test_a_toggle_acts_when_the_button_goes_down() -> None:
    toggle = Toggle()
    downs = [False, True, True, False, True, False]
    assert [toggle.press(down) for down in downs] == [None, -1.0, None, None, 1.0, None]


# the keyboard, on a real pseudo-terminal


@pytest.fixture
def terminal():
    leader, follower = os.openpty()
    yield leader, follower
    for end in (leader, follower):
        with contextlib.suppress(OSError):
            os.close(end)


def typed(keyboard, leader, keys):
    os.write(leader, keys.encode())
    return keyboard.read()


def test_keys_move_for_a_moment_and_then_no_more(terminal) -> None:
    import termios

    leader, follower = terminal
    now_s = [0.0]
    before = termios.tcgetattr(follower)
    with Keyboard(hold_s=0.2, file_descriptor=follower, clock=lambda: now_s[0]) as keyboard:
        assert isinstance(keyboard, Device)
        assert not keyboard.read().moves
        held = typed(keyboard, leader, "wR")
        np.testing.assert_array_equal(held.translation, [1, 0, 1])
        now_s[0] = 0.15
        assert keyboard.read().moves
        held = typed(keyboard, leader, "w")
        now_s[0] = 0.25  # r has been let go, w not
        np.testing.assert_array_equal(keyboard.read().translation, [1, 0, 0])
        now_s[0] = 0.5
        assert not keyboard.read().moves
        np.testing.assert_array_equal(typed(keyboard, leader, "ad").translation, 0)
        np.testing.assert_array_equal(typed(keyboard, leader, "u").rotation, [0, 0, 1])
        assert typed(keyboard, leader, " ").gripper == -1.0
        assert keyboard.read().gripper is None
        assert typed(keyboard, leader, " ").gripper == 1.0
        assert typed(keyboard, leader, "\n").end[0] == "success"
        assert typed(keyboard, leader, "\x7f").end[0] == "failure"
        assert typed(keyboard, leader, "q").end[0] == "operator"
    assert termios.tcgetattr(follower) == before


@pytest.mark.parametrize("keys", ["\x1b[A", "\x1b[D", "\x1b[F", "\x1bOR", "\x1b[1;5C", "\x1b[[A"])
def test_arrow_and_function_keys_move_nothing(terminal, keys) -> None:
    leader, follower = terminal
    with Keyboard(hold_s=0.2, file_descriptor=follower) as keyboard:
        assert not typed(keyboard, leader, keys).moves
        for received in keys[:-1], keys[-1]:  # in two parts
            assert not typed(keyboard, leader, received).moves
        np.testing.assert_array_equal(typed(keyboard, leader, keys + "w").translation, [1, 0, 0])


def test_a_closed_terminal_is_reported(terminal) -> None:
    leader, follower = terminal
    with Keyboard(hold_s=0.2, file_descriptor=follower) as keyboard:
        os.close(leader)
        with pytest.raises(DeviceError, match="the terminal is closed"):
            keyboard.read()


def test_a_keyboard_needs_a_terminal(tmp_path) -> None:
    with (tmp_path / "file").open("w") as file:
        keyboard = Keyboard(hold_s=0.2, file_descriptor=file.fileno())
        with pytest.raises(DeviceError, match="needs a terminal"):
            keyboard.__enter__()


# the gamepad, on a module of a few lines


class FakePygame:
    def __init__(self, num_axes=6, num_buttons=11):
        self.num, self.num_axes, self.num_buttons = 1, num_axes, num_buttons
        self.axes, self.buttons = [0, 0, -1, 0, 0, -1], set()
        self.display = self.joystick = self.event = self

    def init(self):
        pass

    def quit(self):
        pass

    def pump(self):
        pass

    def get_count(self):
        return self.num

    def Joystick(self, index):
        return self

    def get_name(self):
        return "a pad"

    def get_numaxes(self):
        return self.num_axes

    def get_numbuttons(self):
        return self.num_buttons

    def get_axis(self, index):
        return self.axes[index]

    def get_button(self, index):
        return index in self.buttons


def test_a_gamepad_moves_only_while_its_button_is_held() -> None:
    pygame = FakePygame()
    with Gamepad(pygame) as pad:
        assert isinstance(pad, Device)
        assert not pad.read().moves
        pygame.axes = [0.0, -1.0, -1, 0, 0, -1]
        assert not pad.read().moves
        pygame.buttons = {5}
        np.testing.assert_allclose(pad.read().translation, [1, 0, 0])
        pygame.axes = [1.0, 0.05, -1, 0, 0, 1]  # to the right, and up; 0.05 is play
        np.testing.assert_allclose(pad.read().translation, [0, -1, 1])
        pygame.axes = [0, 0, -1, 0.55, 0, -1]
        np.testing.assert_allclose(pad.read().rotation, [0.5, 0, 0])
        pygame.buttons = {5, 4}
        np.testing.assert_allclose(pad.read().rotation, [0, 0, -0.5])
        pygame.buttons = {5, 0}
        assert [pad.read().gripper, pad.read().gripper] == [-1.0, None]
        pygame.buttons = {7}
        assert pad.read().end[0] == "success"
        pygame.num = 0
        with pytest.raises(DeviceError, match="the gamepad is disconnected"):
            pad.read()


def test_a_missing_or_unsuitable_gamepad_is_reported() -> None:
    pygame = FakePygame()
    pygame.num = 0
    with pytest.raises(DeviceError, match="no gamepad"):
        Gamepad(pygame).__enter__()
    with pytest.raises(DeviceError, match="a pad has 2 axes"):
        Gamepad(FakePygame(num_axes=2)).__enter__()


# the SpaceMouse, by its reports


class FakeHid:
    def __init__(self, *reports, vendor=0x256F):
        self.reports, self.vendor, self.error = list(reports), vendor, None

    def enumerate(self):
        keyboard = {"vendor_id": 1, "product_id": 1, "path": b"no"}
        mouse = {"vendor_id": self.vendor, "product_id": 0xC635, "path": b"yes", "usage": 8}
        return [keyboard, mouse]

    def device(self):
        return self

    def open_path(self, path):
        assert path == b"yes"

    def set_nonblocking(self, value):
        pass

    def read(self, size):
        if self.error is not None:
            raise self.error
        return list(self.reports.pop(0)) if self.reports else []

    def close(self):
        pass


def report(number, *values):
    return bytes([number]) + struct.pack(f"<{len(values)}h", *values)


def test_a_spacemouse_gives_translation_and_rotation() -> None:
    hid = FakeHid(report(1, 0, -350, -175), report(2, 0, 0, 350))
    with SpaceMouse(hid) as mouse:
        assert isinstance(mouse, Device)
        held = mouse.read()  # pushed away from the person, and pulled up a little; turned
        np.testing.assert_allclose(held.translation, [1, 0, 0.5])
        np.testing.assert_allclose(held.rotation, [0, 0, -1])
        assert mouse.read().moves  # it only reports what changes
        hid.reports = [report(1, 0, 0, 3), report(2, 0, 0, 0)]
        assert not mouse.read().moves
        hid.reports = [report(1, -350, 0, 0, 0, 175, 0)]  # a newer device: all in one
        held = mouse.read()
        np.testing.assert_allclose(held.translation, [0, 1, 0])
        np.testing.assert_allclose(held.rotation, [-0.5, 0, 0])
        hid.reports = [bytes([3, 1, 0]), bytes([3, 0, 0])]  # pressed and let go within a tick
        assert mouse.read().gripper == -1.0
        hid.reports = [bytes([3, 2, 0])]
        assert mouse.read().end[0] == "operator"
        hid.error = OSError("read error")
        with pytest.raises(DeviceError, match="disconnected: read error"):
            mouse.read()


def test_a_missing_spacemouse_is_reported() -> None:
    with pytest.raises(DeviceError, match="no SpaceMouse"):
        SpaceMouse(FakeHid(vendor=0x046D)).__enter__()


# leading by hand


def led(bench, path, *, before=3):
    """Lead the fake along a path [n 7], one pose a tick; then let go."""
    poses = [HOME] * before + list(path)
    begun_s = bench.clock.now_s()
    state = bench.robot.state

    def state_now():
        tick = round((bench.clock.now_s() - begun_s) / PERIOD_S + 0.2)
        bench.robot.positions = np.array(poses[min(tick, len(poses) - 1)])
        bench.robot.mode = "guiding" if before <= tick < len(poses) else "idle"
        return state()

    bench.robot.state = state_now


def guided(bench, **more):
    """Record a guided episode of the bench."""
    return record_guided(
        bench.robot, [bench.camera], bench.translator, task="lead", clock=bench.clock, **more
    )


def test_a_guided_episode_has_actions_that_bring_the_arm_where_the_hand_did() -> None:
    bench = Bench()
    path = HOME + 0.05 * np.arange(8)[:, None] * np.array([1, 0.5, -1, 0.2, 0, 0, 1.0])
    led(bench, path)
    said = iter([command(), command(gripper=-1.0)])
    record = guided(bench, max_steps=50, wait_s=5.0, read=lambda: next(said, command()))
    assert (record.reason, record.success) == ("operator", None)
    assert "let go" in record.message
    assert bench.robot.log == []  # nothing was sent
    targets = np.array([step.requested.joint_positions_rad for step in record.steps])
    np.testing.assert_allclose(targets, [*path[1:], path[-1]], atol=1e-6)
    assert all(np.abs(step.action[:7]).max() <= 1 for step in record.steps)
    # first the open hand's width, then its commands
    assert [float(step.action[7]) for step in record.steps] == [1.0] + [-1.0] * (len(targets) - 1)
    assert {step.decision.verdict for step in record.steps} == {"hold"}
    assert all(step.decision.target is None for step in record.steps)


def test_guiding_that_does_not_start_is_reported() -> None:
    bench = Bench()
    record = guided(bench, max_steps=50, wait_s=1.0)
    assert (record.reason, record.steps) == ("safety", ())
    assert "guiding did not start within 1.0 s: the robot is idle" in record.message


def test_a_guided_episode_ends_by_the_device_and_by_time() -> None:
    for max_steps, read, reason in (
        (50, lambda: command(end=("success", "done")), "success"),
        (3, None, "time"),
    ):
        bench = Bench()
        led(bench, np.tile(HOME, (20, 1)))
        record = guided(bench, max_steps=max_steps, wait_s=5.0, read=read)
        assert record.reason == reason
        assert len(record.steps) == (3 if reason == "time" else 0)


def test_what_was_guided_is_kept_whatever_fails_after_it() -> None:
    class Viewer:
        def begin(self, task, agent):
            raise RuntimeError("the viewer is gone")

    bench = Bench()
    led(bench, np.tile(HOME, (20, 1)))
    reads = iter([command()] * 5)

    def read():
        if (found := next(reads, None)) is None:
            raise DeviceError("the terminal is closed")
        return found

    record = guided(bench, max_steps=50, wait_s=5.0, read=read, listeners=[Viewer()])
    assert (record.reason, len(record.steps)) == ("error", 4)
    assert "the terminal is closed" in record.message
    assert record.notes["listeners_lost"] == ["Viewer: the viewer is gone"]


@pytest.mark.parametrize("pressed_at", [0, 1, 4])
def test_a_user_stop_during_guiding_must_be_acknowledged(pressed_at) -> None:
    bench = Bench()
    led(bench, np.tile(HOME, (20, 1)))
    state, looks = bench.robot.state, []

    def seen():
        looks.append(1)
        found = state()
        return replace(found, mode="user_stopped") if len(looks) == pressed_at + 1 else found

    bench.robot.state = seen
    guided(bench, max_steps=8, wait_s=5.0, notice=bench.layer.notice)
    assert bench.layer.attention.cause == "the user stop was pressed"
