"""The loop and what drives it on a twin: the expert picks the cube, and an arm that is led."""

from dataclasses import replace

import numpy as np
import pytest

from real_robot.agents.expert import ScriptedAgent
from real_robot.control.config import LoopConfig
from real_robot.control.timing import loop_report
from real_robot.session import prepare
from real_robot.station import TwinStation, open_station
from real_robot.teleoperation.device import REST
from real_robot.teleoperation.guiding import record_guided
from real_robot.trials.poses import Pose
from tests.real_robot.twin_fixture import require_twin
from toto_robot.cli import compose
from toto_robot.config import from_dict

ATTEMPTS = 3  # a machine that is too busy loses commands, and a robot of the real kind ends with it


@pytest.fixture(scope="module")
def station():
    require_twin("franky")
    data, _ = compose("record")
    with open_station(from_dict(TwinStation, data["station"]), "twin") as opened:
        yield opened


def loop_config(**changes):
    return replace(from_dict(LoopConfig, compose("record")[0]["loop"]), **changes)


def test_the_scripted_expert_picks_the_cube(station, record_property) -> None:
    env_id = station.config.twin.env_id
    ends = []
    for _ in range(ATTEMPTS):
        prepare(station, Pose(x_m=0.5, y_m=0.08, yaw_rad=0.4))
        translator = station.translator(station.interface)
        agent = ScriptedAgent(env_id, station.scene, translator, noise=0.0, seed=0)
        record = station.run(agent, translator, loop_config())
        ends.append((record.reason, record.message))
        if record.success:
            break
        station.recover(record.reason, lambda _: True)
    assert record.success, ends
    assert record.reason == "success"
    report = loop_report(record)
    record_property("loop", "\n".join(report.lines()))
    assert {"observe", "wait", "safety", "send", "age", "expert"} <= set(report.stages)
    assert record.notes["rest"]["at_rest"]
    # what was sent and where the arm was afterwards, rad
    sent = np.array([step.sent_rad for step in record.steps])
    measured = np.array([step.observation.state.joint_positions_rad for step in record.steps])
    assert np.abs(measured[1:] - sent[:-1]).max() < 0.25
    assert station.scene.object_pose()[2] > 0.6


def test_an_arm_that_is_led_is_recorded_as_if_it_had_been_driven(station) -> None:
    station.go_home()
    home = station.robot.state().joint_positions_rad
    turn = np.array([0.3, 0.1, 0.0, -0.2, 0.0, 0.2, 0.3])
    path = home + np.linspace(0, 1, 20)[:, None] * turn
    station.twin.lead(path, seconds=2.0)
    record = record_guided(
        station.robot,
        station.cameras,
        station.translator(station.interface),
        task="lead",
        max_steps=60,
        wait_s=5.0,
        read=lambda: REST,
    )
    assert record.reason in ("operator", "time"), record.message
    assert len(record.steps) >= 10
    targets = np.array([step.requested.joint_positions_rad for step in record.steps])
    after = [step.observation.state.joint_positions_rad for step in record.steps[1:]]
    # an action is cut at 0.1 rad a tick: a hand that is quicker is followed a little later
    assert np.abs(targets[:-1] - np.array(after)).max() < 0.1
    assert np.abs(targets[-1] - path[-1]).max() < 0.03
    assert all(step.sent_rad is None for step in record.steps)
