"""Whatever an agent stamps its answers with: the watchdog on its actions is not got around."""

import math
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_robot.episode import Proposal
from real_robot.safety.layer import Ages
from tests.real_robot.control.loop_cases import Bench, FakeAgent, turn
from tests.real_robot.safety.safety_cases import CONFIG, HOME, state_at, target
from tests.real_robot.safety.test_safety import layer_at

HANG_AT = 3  # the call that is not answered any more
MAX_STEPS = 30


def episode_stamped(stamp, rows):
    """Run an agent that stamps its second answer so, with so many rows, and then hangs."""
    release = threading.Event()
    bench = Bench(patience_s=0.05, max_steps=MAX_STEPS)

    def acts(observation, calls):
        if calls >= HANG_AT:
            release.wait(10.0)
        actions = np.repeat(turn(1, 0.5)[None], rows, axis=0)
        stamped = observation.stamp_s if calls < HANG_AT - 1 else stamp(observation.stamp_s)
        return Proposal(actions=actions, observed_s=stamped)

    try:
        return bench, bench.run(FakeAgent(acts))
    finally:
        release.set()


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize(
    "stamp",
    [
        lambda _: time.time(),
        lambda _: math.nan,
        lambda _: math.inf,
        lambda _: -math.inf,
        lambda now_s: now_s + 1e-3,
        lambda now_s: np.float32(now_s + 1e6),
        lambda _: 10**400,
        lambda _: "now",
        lambda _: None,
        lambda now_s: np.array([now_s]),
        lambda _: 1j,
    ],
    ids=[
        "wall clock",
        "nan",
        "inf",
        "-inf",
        "a moment ahead",
        "float32 ahead",
        "huge",
        "text",
        "none",
        "array",
        "complex",
    ],
)
def test_a_stamp_that_is_none_is_the_agent_s_fault_within_a_tick(stamp, rows) -> None:
    bench, record = episode_stamped(stamp, rows)
    assert record.reason == "policy", record.message
    assert "a fake failed" in record.message
    assert len(record.steps) == HANG_AT - 1
    assert record.steps[-1].decision.verdict == "stop"
    assert bench.robot.mode == "idle"
    # one step was sent, and what brakes it
    assert abs(bench.robot.positions[0] - HOME[0]) <= 2 * CONFIG.motion.max_step_rad


@settings(max_examples=30)
@given(
    offset_s=st.one_of(st.floats(-2.0, 2.0), st.floats(allow_nan=True, allow_infinity=True)),
    rows=st.sampled_from([1, 2, 30]),
)
def test_no_stamp_makes_an_arm_move_that_nobody_watches(offset_s, rows) -> None:
    bench, record = episode_stamped(lambda now_s: now_s + offset_s, rows)
    assert record.reason in ("policy", "time"), record.message
    answered = record.steps[HANG_AT - 2].observation.stamp_s
    if not answered + offset_s <= answered:
        assert len(record.steps) == HANG_AT - 1
        assert record.reason == "policy"
    for step in record.steps[HANG_AT - 1 :]:
        age_s = step.observation.stamp_s - answered
        assert step.decision.verdict != "move" or age_s <= CONFIG.action.hold_after_s
    assert len(record.steps) < MAX_STEPS
    assert bench.robot.mode == "idle"


@settings(max_examples=200)
@given(
    age=st.one_of(
        st.floats(allow_nan=True, allow_infinity=True),
        st.integers(-(10**400), 10**400),
        st.fractions(),
        st.none(),
        st.text(max_size=3),
    ),
    what=st.sampled_from(["action", "camera"]),
)
def test_an_age_is_a_number_of_the_recent_past_or_the_arm_stops(age, what) -> None:
    layer = layer_at()
    ages = Ages(
        action_s=age if what == "action" else 0.0,
        cameras_s={"hand": age} if what != "action" else {},
    )
    decision = layer.command(target(HOME), state_at(HOME, 0.0), ages, 0.0)
    watchdog = CONFIG.action if what == "action" else CONFIG.camera
    is_number = isinstance(age, int | float | Fraction)
    if is_number and 0 <= age <= watchdog.hold_after_s:
        assert decision.verdict == "move"
    elif is_number and watchdog.hold_after_s < age <= watchdog.stop_after_s:
        assert decision.verdict == "hold"
    elif not is_number or not -0.005 <= age < 0:  # of another thread, an instant later
        assert decision.verdict == "stop"
        assert decision.causes[0].startswith("the action" if what == "action" else "the frame")
