"""The control loop: what it sends, when it ends, and that the arm is at rest whatever happened."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from real_robot.cameras.camera import FrozenFrameError
from real_robot.control.signals import interruptible
from real_robot.control.timing import loop_report
from real_robot.episode import Agent, Proposal
from real_robot.robot import CommandRefusedError, ConnectionLostError
from tests.real_robot.control.loop_cases import (
    LOOP,
    PERIOD_S,
    Bench,
    FakeAgent,
    JumpingClock,
    one,
    turn,
)
from tests.real_robot.safety.safety_cases import CONFIG, HOME


def assert_at_rest(bench, record):
    """The controller has ended, and the last target was reached with a last step of 0."""
    assert bench.robot.mode != "moving"
    assert record.notes["rest"]["at_rest"] is True
    sent = bench.robot.log
    if len(sent) > 1:
        np.testing.assert_allclose(sent[-1], sent[-2], atol=1e-12)


def test_the_fake_is_an_agent() -> None:
    assert isinstance(FakeAgent(), Agent)


def test_actions_reach_the_arm_through_the_safety_layer_and_are_recorded() -> None:
    bench = Bench(max_steps=4)
    record = bench.run(FakeAgent(action=turn(1, 0.2)))
    assert (record.reason, record.success, len(record.steps)) == ("time", None, 4)
    assert record.weights_hash == "abc"
    sent = np.array([step.sent_rad for step in record.steps])
    # 0.2 of 0.1 rad a tick, from where the arm was
    np.testing.assert_allclose(sent[:, 0] - HOME[0], 0.02 * np.arange(1, 5), atol=1e-9)
    np.testing.assert_allclose(sent[:, 1:], np.tile(HOME[1:], (4, 1)), atol=1e-9)
    assert [step.decision.verdict for step in record.steps] == ["move"] * 4
    assert bench.robot.width_m == pytest.approx(0.08)
    assert_at_rest(bench, record)


def test_increments_are_added_to_what_was_sent_not_to_what_was_wished() -> None:
    bench = Bench(max_steps=3)  # 0.3 of 2.62 rad/s at 10 Hz is 0.0786 rad a tick at most
    record = bench.run(FakeAgent(action=turn(1, 1.0)))
    assert len(record.steps) == 3
    for before, after in itertools.pairwise(record.steps):
        assert after.requested.joint_positions_rad[0] == pytest.approx(before.sent_rad[0] + 0.1)
        assert after.decision.interventions


def test_ticks_have_absolute_deadlines() -> None:
    bench = Bench(max_steps=4)
    record = bench.run(FakeAgent())
    stamps = [step.observation.stamp_s for step in record.steps]
    np.testing.assert_allclose(np.diff(stamps), PERIOD_S, atol=1e-9)
    assert all(step.late_s == 0 for step in record.steps)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_an_action_is_sent_at_its_time_however_fast_the_agent(share) -> None:
    bench = Bench(send_share=share)
    sent_s = []
    command = bench.robot.command
    bench.robot.command = lambda rad: (sent_s.append(bench.clock.now_s()), command(rad))[1]
    bench.run(FakeAgent(action=turn()))
    planned_s = 100.0 + PERIOD_S * np.arange(bench.config.max_steps)
    np.testing.assert_allclose(
        sent_s[: bench.config.max_steps], planned_s + share * PERIOD_S, atol=1e-9
    )


def test_a_missed_tick_is_told_and_not_made_up_for() -> None:
    bench = Bench(max_steps=3)

    def slow(step):
        if step.index == 0:
            bench.clock.time_s += 0.25

    class Slow:
        def begin(self, task, agent):
            pass

        def step(self, step):
            slow(step)

        def end(self, record):
            pass

    record = bench.run(FakeAgent(), listeners=[Slow()])
    stamps = np.array([step.observation.stamp_s for step in record.steps])
    # the first was sent at 0.08 s, and 0.25 s later it was time for the fourth
    np.testing.assert_allclose(stamps - stamps[0], [0.0, 0.33, 0.4], atol=1e-9)
    np.testing.assert_allclose([step.late_s for step in record.steps], [0, 0.23, 0], atol=1e-9)


def test_an_agent_that_stalls_ends_with_a_stopped_arm() -> None:
    bench = Bench(max_steps=50, patience_s=0.02)
    release = threading.Event()

    def stalls(observation, calls):
        if calls > 2:
            release.wait(10)
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(stalls))
    release.set()
    assert record.reason == "policy"
    assert "a fake" in record.message
    assert "the action is" in record.message
    verdicts = [step.decision.verdict for step in record.steps]
    assert verdicts[:2] == ["move", "move"]
    assert "hold" in verdicts
    assert verdicts[-1] == "stop"
    assert_at_rest(bench, record)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda o, _: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda o, _: exit(1), "SystemExit"),
        (lambda o, _: one(turn() * np.nan, o), "the action of joint 1 is nan"),
        (lambda o, _: one(np.zeros(3), o), "an action must have shape (8,), got (3,)"),
        (lambda o, _: "left", "must be a Proposal, got str"),
        (lambda o, _: one(turn(), o, label=np.zeros(2, np.float32)), "a label must have shape"),
    ],
    ids=["raises", "exits", "nan", "shape", "kind", "label"],
)
def test_a_policy_that_fails_ends_the_episode_with_its_name(answer, words) -> None:
    bench = Bench(max_steps=50)

    def fails(observation, calls):
        return one(turn(1, 0.5), observation) if calls < 4 else answer(observation, calls)

    record = bench.run(FakeAgent(fails))
    assert record.reason == "policy"
    assert "a fake" in record.message
    assert words in record.message
    assert len(record.steps) == 4
    assert record.steps[-1].decision.verdict == "stop"
    assert record.success is None
    assert_at_rest(bench, record)


def test_an_agent_that_cannot_begin_moves_nothing() -> None:
    class Broken(FakeAgent):
        def reset(self, observation):
            raise OSError("its server is gone")

    bench = Bench()
    record = bench.run(Broken())
    assert (record.reason, record.steps) == ("policy", ())
    assert "OSError: its server is gone" in record.message
    assert bench.robot.log == []


def test_the_agent_s_own_wish_ends_the_episode() -> None:
    bench = Bench(max_steps=50)

    def ends(observation, calls):
        end = ("operator", "the button was pressed") if calls == 3 else None
        return one(turn(1, 0.3), observation, end=end)

    record = bench.run(FakeAgent(ends))
    assert (record.reason, record.message) == ("operator", "the button was pressed")
    assert len(record.steps) == 2
    assert_at_rest(bench, record)


def test_a_wish_to_end_counts_also_when_it_comes_late() -> None:
    bench = Bench(max_steps=50, patience_s=0.05)

    def ends_late(observation, calls):
        if calls > 1:
            return one(turn(1, 0.3), observation)
        time.sleep(0.08)  # into the next tick, whose own answer comes at once
        return one(turn(1, 0.3), observation, end=("operator", "the button was pressed"))

    record = bench.run(FakeAgent(ends_late))
    assert (record.reason, record.message) == ("operator", "the button was pressed")


def test_an_episode_runs_in_any_thread() -> None:
    bench, found = Bench(max_steps=3), []
    thread = threading.Thread(target=lambda: found.append(bench.run(FakeAgent())))
    thread.start()
    thread.join(10)
    assert found[0].reason == "time"


def test_the_operator_ends_the_episode() -> None:
    bench = Bench(max_steps=50)
    answers = iter([None, None, ("failure", "it fell")])
    record = bench.run(FakeAgent(action=turn(1, 0.3)), operator=lambda: next(answers))
    assert (record.reason, record.success, len(record.steps)) == ("failure", False, 2)
    assert_at_rest(bench, record)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_brakes_and_keeps_the_record(number) -> None:
    bench, before = Bench(max_steps=50), signal.getsignal(number)

    def kills(observation, calls):
        if calls == 3:
            os.kill(os.getpid(), number)
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(kills))
    assert record.reason == "interrupted"
    assert ("Ctrl-C" if number == signal.SIGINT else number.name) in record.message
    assert len(record.steps) >= 2
    assert_at_rest(bench, record)
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once_and_keeps_the_record() -> None:
    bench = Bench(max_steps=50)

    def kills():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    record = bench.run(FakeAgent(action=turn(1, 0.5)), operator=kills)
    assert record.reason == "interrupted"
    assert "at once" in record.message
    assert bench.robot.mode == "idle"


def test_a_closed_terminal_that_signals_twice_still_brakes() -> None:
    """The shell and the kernel both send SIGHUP."""
    bench = Bench(max_steps=50)

    def hangs_up():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)

    record = bench.run(FakeAgent(action=turn(1, 0.5)), operator=hangs_up)
    assert (record.reason, record.message) == ("interrupted", "SIGHUP ended the episode")
    assert_at_rest(bench, record)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As in a process that was started with nohup."""
    bench, before = Bench(max_steps=3), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            record = bench.run(FakeAgent(), operator=lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert record.reason == "time"


@pytest.mark.parametrize(
    ("mode", "errors", "reason"),
    [
        ("reflex", ("cartesian_reflex",), "reflex"),
        ("user_stopped", (), "user_stop"),
        ("guiding", (), "operator"),
    ],
)
def test_a_robot_that_does_not_follow_ends_the_episode(mode, errors, reason) -> None:
    bench = Bench(max_steps=50)

    def fails(observation, calls):
        if calls == 3:
            bench.robot.fails(mode, *errors)
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(fails))
    assert record.reason == reason
    assert all(error in record.message for error in errors)
    assert record.steps[-1].decision.verdict == "end"
    assert record.steps[-1].sent_rad is None
    assert bench.robot.mode == mode  # nothing tried to move it, or to recover it


def test_a_refused_command_is_the_robot_s_word() -> None:
    bench = Bench(max_steps=50)
    sends = bench.robot.command

    def refuses(positions):
        if len(bench.robot.log) == 2:
            bench.robot.fails("reflex", "joint_velocity_violation")
            raise CommandRefusedError("the motion was aborted")
        return sends(positions)

    bench.robot.command = refuses
    record = bench.run(FakeAgent(action=turn(1, 0.5)))
    assert record.reason == "reflex"
    assert "the motion was aborted" in record.message
    assert "joint_velocity_violation" in record.message


def test_a_robot_that_is_gone_ends_the_episode() -> None:
    bench = Bench(max_steps=50)

    def cut(observation, calls):
        if calls == 3:

            def gone():
                raise ConnectionLostError("172.16.0.2 does not answer")

            bench.robot.state = gone
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(cut))
    assert (record.reason, record.message) == ("connection", "172.16.0.2 does not answer")
    assert record.notes["rest"]["at_rest"] is None


def test_a_robot_that_falls_silent_ends_the_episode() -> None:
    bench = Bench(max_steps=50)

    def cut(observation, calls):
        if calls == 3:
            bench.robot.cut_s = bench.clock.now_s()
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(cut))
    assert record.reason == "connection"
    assert "the robot's state is" in record.message
    assert "hold" in [step.decision.verdict for step in record.steps]


def test_a_camera_that_is_lost_ends_the_episode_with_its_own_words() -> None:
    bench = Bench(max_steps=50)

    def unplug(observation, calls):
        if calls == 3:
            bench.camera.lost_s = bench.clock.now_s()
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(unplug))
    assert record.reason == "camera"
    assert "'hand'" in record.message
    assert "the cable is out" in record.message
    assert_at_rest(bench, record)


def test_a_camera_that_freezes_ends_the_episode() -> None:
    bench = Bench(max_steps=50)

    def freeze(observation, calls):
        if calls == 3:
            bench.camera.error = FrozenFrameError("camera 'hand' is frozen")
        return one(turn(1, 0.5), observation)

    record = bench.run(FakeAgent(freeze))
    assert (record.reason, record.message) == ("camera", "camera 'hand' is frozen")
    assert_at_rest(bench, record)


def test_a_bug_ends_the_episode_with_its_traceback() -> None:
    bench = Bench(max_steps=50)
    bench.robot.move_gripper = lambda width_m: {}["typo"]
    record = bench.run(FakeAgent(action=turn(1, 0.5)))
    assert (record.reason, record.message) == ("error", "KeyError: 'typo'")
    assert "KeyError" in record.notes["traceback"]
    assert_at_rest(bench, record)


def test_a_bug_while_the_arm_is_brought_to_rest_does_not_lose_the_record() -> None:
    bench = Bench(max_steps=3)
    decide = bench.layer.command

    def breaks(requested, state, ages, now_s):
        if np.isinf(ages.action_s):
            raise AssertionError("our mistake")
        return decide(requested, state, ages, now_s)

    bench.layer.command = breaks
    record = bench.run(FakeAgent(action=turn(1, 0.3)))
    assert (record.reason, len(record.steps)) == ("time", 3)
    assert "bringing the arm to rest failed: AssertionError('our mistake')" in record.message
    assert bench.robot.mode == "idle"


def test_a_wrong_start_pose_moves_nothing() -> None:
    bench = Bench()
    record = bench.run(FakeAgent(), start=HOME + 0.2)
    assert (record.reason, record.steps) == ("safety", ())
    assert "from the start pose" in record.message
    assert bench.robot.log == []


def test_success_is_held_for_some_steps_and_ends_the_episode() -> None:
    bench = Bench(max_steps=50, success_steps=2, steps_after_success=3)
    answers, asked = iter([False, True, False] + [True] * 100), threading.Semaphore(0)

    def act(observation, calls):
        asked.acquire(timeout=20.0)  # the check runs beside the loop, whose clock does not wait
        return one(turn(1, 0.1), observation)

    def check():
        asked.release()
        return next(answers)

    record = bench.run(FakeAgent(act), check=check)
    assert (record.reason, record.success) == ("success", True)
    assert 7 <= len(record.steps) <= 12  # the check runs beside the loop
    assert "the task was done after" in record.message


def test_a_task_that_is_not_done_in_time_has_failed() -> None:
    looked = threading.Event()

    def act(observation, calls):
        looked.wait(20.0)  # the check runs beside the loop, and this clock waits for nobody
        return one(turn(1, 0.1), observation)

    def check():
        looked.set()
        return False

    record = Bench(max_steps=10).run(FakeAgent(act), check=check)
    assert (record.reason, record.success) == ("time", False)


def test_a_check_that_fails_is_noted() -> None:
    bench = Bench(max_steps=10)
    record = bench.run(FakeAgent(), check=lambda: {}["gone"])
    assert (record.reason, record.success) == ("time", None)
    assert "gone" in record.notes["check_failed"]


def test_rehearsal_sends_nothing_and_shows_everything() -> None:
    bench = Bench(max_steps=4, rehearsal=True)
    record = bench.run(FakeAgent(action=turn(1, 0.5)))
    assert (record.reason, len(record.steps)) == ("time", 4)
    assert bench.robot.log == []
    assert bench.robot.mode == "idle"
    for step in record.steps:
        assert step.sent_rad is None
        assert step.decision.verdict == "move"
        # each tick is the first one from where the arm is
        assert step.requested.joint_positions_rad[0] == pytest.approx(HOME[0] + 0.05)


def test_small_targets_lie_on_the_line_between_decisions() -> None:
    bench = Bench(max_steps=3, num_targets=5)
    bench.run(FakeAgent(action=turn(1, 0.5)))
    sent = np.array(bench.robot.log)[:15, 0]
    np.testing.assert_allclose(np.diff(sent[:15], prepend=HOME[0]), 0.03 / 5, rtol=0.7)
    assert len(bench.robot.log) >= 15


def test_a_listener_that_fails_is_left_out_and_noted() -> None:
    class Bad:
        def begin(self, task, agent):
            pass

        def step(self, step):
            raise OSError("the viewer is closed")

        def end(self, record):
            raise AssertionError

    bench = Bench(max_steps=3)
    record = bench.run(FakeAgent(), listeners=[Bad()])
    assert (record.reason, len(record.steps)) == ("time", 3)
    assert record.notes["listeners_lost"] == ["Bad: the viewer is closed"]


def test_cameras_must_be_those_of_the_interface() -> None:
    bench = Bench()
    bench.camera.name = "front"
    with pytest.raises(ValueError, match="front"):
        bench.run(FakeAgent())


def test_the_report_tells_stages_and_jitter() -> None:
    bench = Bench(max_steps=5)
    report = loop_report(bench.run(FakeAgent()))
    assert report.num_steps == 5
    assert report.rate_hz == pytest.approx(10.0)
    assert report.interval.p99_s == pytest.approx(PERIOD_S)
    assert set(report.stages) == {"observe", "wait", "safety", "send", "age"}
    assert "5 ticks, 10.00 Hz" in report.lines()[0]
    assert loop_report() is None


def test_the_age_is_that_of_the_observation_which_the_action_is_from() -> None:
    bench = Bench(patience_s=0.05, max_steps=6)

    def answers_one_step_late(observation, calls):
        earlier.append(observation)
        return one(turn(1, 0.01), earlier[max(0, calls - 2)])

    earlier = []
    record = bench.run(FakeAgent(answers_one_step_late))
    ages = [step.timings_s["age"] for step in record.steps[2:] if "age" in step.timings_s]
    assert ages
    assert min(ages) == pytest.approx((1 + LOOP.send_share) * PERIOD_S)  # not send_share * PERIOD_S


def test_a_time_step_without_an_action_has_no_age() -> None:
    bench, release = Bench(patience_s=0.05, max_steps=4), threading.Event()

    def hangs(observation, calls):
        if calls == 2:
            release.wait(10.0)
        return one(turn(1, 0.01), observation)

    try:
        record = bench.run(FakeAgent(hangs))
    finally:
        release.set()
    without = [not np.isfinite(step.action).all() for step in record.steps]
    assert any(without)
    assert without == ["age" not in step.timings_s for step in record.steps]


class LateClock(JumpingClock):
    """Something takes up time, once, at a moment and for so long."""

    def __init__(self, at_s, late_s):
        super().__init__()
        self.at_s, self.late_s = at_s, late_s

    def wait(self, news, until_s):
        found = super().wait(news, until_s)
        if self.time_s >= self.at_s:
            self.time_s, self.late_s = self.time_s + self.late_s, 0.0
        return found


@pytest.mark.parametrize("late_s", [0.0, 0.004, 0.02, 0.06, 0.095, 0.3])
@pytest.mark.parametrize("at_s", [100.0, 100.2, 100.25, 100.31])
def test_small_targets_that_are_overdue_never_leave_together(at_s, late_s) -> None:
    bench = Bench(max_steps=12, num_targets=10)
    bench.clock = LateClock(at_s, late_s)
    bench.robot.clock = bench.clock.now_s
    bench.camera.clock = bench.clock.now_s
    sent, command = [(bench.clock.now_s(), HOME)], bench.robot.command

    def notes(positions):
        sent.append((bench.clock.now_s(), np.array(positions)))
        return command(positions)

    bench.robot.command = notes
    record = bench.run(FakeAgent(action=turn(1, 1.0)))
    assert record.reason == "time", record.message
    assert record.notes["rest"]["at_rest"]
    times, places = np.array([s for s, _ in sent]), np.array([place for _, place in sent])
    steps = np.abs(np.diff(places, axis=0)).max(axis=1)
    # within rounding no step is larger than a tenth of what a period allows
    assert steps.max() <= CONFIG.motion.max_step_rad / 10 + 1e-9
    assert np.diff(times)[1:].min() >= 0.5 * PERIOD_S / 10 - 1e-9
    # and what the layer thinks that it sent is what was sent
    for step in record.steps:
        assert step.sent_rad is not None
    assert places[-1, 0] > places[0, 0]


def test_a_signal_while_a_hung_agent_is_awaited_keeps_the_record() -> None:
    release = threading.Event()

    def hangs(observation, calls):
        release.wait(10.0)
        return one(turn(), observation)

    bench, before = Bench(patience_s=0.01, max_steps=50), signal.getsignal(signal.SIGINT)

    class Late:
        """A listener of the end alone; by then the loop has waited for the agent."""

        def begin(self, task, agent):
            pass

        def step(self, step):
            # the arm is at rest and the loop waits for the agent's thread when this comes
            if step.decision.verdict == "stop":
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

        def end(self, record):
            pass

    record = bench.run(FakeAgent(hangs), listeners=[Late()])
    release.set()
    assert record.reason == "interrupted"
    assert "Ctrl-C after the episode had ended by policy" in record.message
    assert record.notes["agent_still_busy"]
    assert record.steps
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_while_an_agent_does_not_begin_ends_the_waiting() -> None:
    release = threading.Event()

    class Hangs(FakeAgent):
        def reset(self, observation):
            release.wait(20.0)

    bench, begun_s = Bench(start_timeout_s=20.0), time.monotonic()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    record = bench.run(Hangs())
    release.set()
    assert (record.reason, record.message) == ("interrupted", "Ctrl-C ended the episode")
    assert time.monotonic() - begun_s < 5.0
    assert bench.robot.log == []


@pytest.mark.parametrize(
    "requested",
    [("bogus", "it fell"), (None, "it fell"), ("", ""), ("success",), 7, ("Success", None)],
    ids=str,
)
def test_an_operator_s_bogus_reason_ends_the_episode_and_is_named(requested) -> None:
    bench = Bench(max_steps=50)
    answers = iter([None, None, requested])
    record = bench.run(FakeAgent(action=turn(1, 0.3)), operator=lambda: next(answers))
    assert (record.reason, record.success, len(record.steps)) == ("error", None, 2)
    if isinstance(requested, tuple) and len(requested) == 2:
        assert f"{requested[0]!r} is not a reason to end" in record.message
    assert_at_rest(bench, record)


@pytest.mark.parametrize("end", [("success",), "success", ("bogus", "x"), 3, ("time", "x", "y")])
def test_an_agent_s_bogus_end_is_the_policy_s_fault(end) -> None:
    record = Bench().run(FakeAgent(lambda observation, _: one(turn(), observation, end=end)))
    assert record.reason == "policy"
    assert record.success is None


def test_agents_cannot_write_into_what_is_recorded() -> None:
    kept = []

    def scribbles(observation, calls):
        # an agent that goes on to use its own arrays, also those that it has answered with
        for actions in kept:
            actions[:] = 99.0
        observation.frames["hand"].image[:] = 255
        observation.proprio[:] = 99.0
        with pytest.raises(ValueError, match="read-only"):
            observation.state.joint_positions_rad[:] = 99.0
        kept.append(np.array(turn(1, 0.1)[None]))
        return Proposal(actions=kept[-1], observed_s=observation.stamp_s, label=kept[-1][0])

    record = Bench(max_steps=4).run(FakeAgent(scribbles))
    assert record.reason == "time", record.message
    for step in record.steps:
        image = step.observation.frames["hand"].image
        assert image.max() < 20
        assert image.min() == image.max()
        assert np.abs(step.observation.proprio).max() < 4.0
        np.testing.assert_array_equal(step.label, turn(1, 0.1))
        np.testing.assert_array_equal(step.action, turn(1, 0.1))


def test_a_user_stop_that_is_pressed_while_the_arm_comes_to_rest_is_not_forgotten() -> None:
    bench = Bench(max_steps=3)
    stop = bench.robot.stop

    def pressed():
        stop()
        bench.robot.fails("user_stopped")

    bench.robot.stop = pressed
    assert bench.run(FakeAgent(action=turn(1, 0.5))).reason == "time"
    bench.robot.stop = stop
    bench.robot.fails("idle")  # released: nobody has looked
    again = bench.run(FakeAgent(), start=None)
    assert again.reason != "time"
    assert "user stop was pressed: a person must check the arm" in again.message
    bench.layer.acknowledge()
    assert bench.run(FakeAgent(), start=None).reason == "time"


@pytest.mark.parametrize("early_s", [-1e308, 0.05])
def test_an_answer_has_the_stamp_of_what_it_answers(early_s) -> None:
    def lies(observation, calls):
        stamp_s = observation.stamp_s + early_s
        return Proposal(actions=np.float32([turn()] * 4), observed_s=stamp_s)

    record = Bench().run(FakeAgent(lies))
    assert record.reason == "policy"
    assert "must be that timestamp" in record.message


@pytest.mark.parametrize(
    "more",
    [{"label": np.array(["a"] * 8)}, {"surprise": 10**400}],
    ids=["words for a label", "a surprise beyond all numbers"],
)
def test_what_cannot_be_recorded_is_the_policy_s_fault(more) -> None:
    record = Bench().run(FakeAgent(lambda observation, _: one(turn(), observation, **more)))
    assert record.reason == "policy"


def test_a_label_is_recorded_as_float32() -> None:
    agent = FakeAgent(lambda seen, _: one(turn(), seen, label=np.full(8, 0.5)))
    assert {step.label.dtype for step in Bench().run(agent).steps} == {np.dtype("float32")}


def test_half_a_character_in_words_can_be_printed() -> None:
    def act(observation, calls):
        raise RuntimeError("\ud800")

    record = Bench().run(FakeAgent(act), task="\udcff")
    assert (record.task + record.message).encode()


def test_a_driver_may_write_into_its_arrays() -> None:
    bench, buffer = Bench(), np.zeros(7)
    drives = bench.robot.command

    def command(joints):
        buffer[:] = drives(joints.copy())
        joints += 0.01
        return buffer

    bench.robot.command = command
    record = bench.run(FakeAgent(action=turn()))
    for step in record.steps:
        np.testing.assert_array_equal(step.sent_rad, step.decision.target.joint_positions_rad)
