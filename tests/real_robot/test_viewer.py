"""The viewer shows each step, never blocks the loop, and reports dropped steps."""

import threading
from collections import defaultdict

import numpy as np
import pytest

from real_robot.episode import Listener
from real_robot.viewer import Viewer, ViewerConfig, watching
from tests.real_robot.fake_records import fake_record, fake_step


def config(to, most_waiting=100, jpeg_quality=None):
    return ViewerConfig(to=str(to), most_waiting=most_waiting, jpeg_quality=jpeg_quality)


def fake_viewer(to, rerun, most_waiting=100):
    return Viewer(to, config(to, most_waiting), rerun)


class FakeRerun:
    """A fake of the module that records all logs; `gate` blocks the first image."""

    def __init__(self, fails=False):
        self.gate, self.held, self.fails = threading.Event(), threading.Event(), fails
        self.gate.set()
        self.calls, self.logged = [], defaultdict(list)

    def RecordingStream(self, application):
        return self

    def __getattr__(self, name):
        if name in ("TextDocument", "TextLog", "SeriesLines", "Scalars", "Image"):
            return lambda *arguments, **named: (name, arguments, named)
        return lambda *arguments, **named: self.calls.append((name, *arguments))

    def log(self, path, what, static=False):
        self.held.set()
        if self.fails and path.startswith("joints"):
            raise OSError("the viewer was closed")
        assert self.gate.wait(10)
        self.logged[path].append(what)


def show(viewer, steps):
    viewer.begin("pick", "a fake")
    for step in steps:
        viewer.step(step)
    viewer.end(fake_record(success=True))


def texts(rerun):
    return [what[1][0] for what in rerun.logged["log"]]


def test_it_is_a_listener_and_shows_what_was() -> None:
    rerun = FakeRerun()
    with fake_viewer("rerun+http://127.0.0.1:9876/proxy", rerun) as viewer:
        assert isinstance(viewer, Listener)
        show(viewer, [fake_step(0), fake_step(1, interventions=("velocity",), surprise=2.5)])
    assert ("connect_grpc", "rerun+http://127.0.0.1:9876/proxy") in rerun.calls
    assert [what[1][0] for what in rerun.logged["joints/joint1"][1:]] == [
        pytest.approx([0.0, 0.0, -0.005]),  # rad: requested, sent, measured
        pytest.approx([0.01, 0.01, 0.005]),
    ]
    assert rerun.logged["gripper"][1][1][0] == pytest.approx([80.0, 80.0])  # mm
    assert (rerun.logged["images/hand"][1][1][0] == 10).all()
    assert rerun.logged["surprise"] == [("Scalars", (2.5,), {})]
    assert rerun.logged["timings/age"][1][1][0] == pytest.approx(31.0)  # ms
    assert [what[1][0] for what in rerun.logged["safety/changes"]] == [0, 1]
    assert texts(rerun) == [
        "move; velocity: 0.1000 rad, joint 1",
        "success; time: 5 steps were taken",
    ]
    assert rerun.calls[-1] == ("disconnect",)


def test_the_loop_never_waits_and_dropped_steps_are_reported() -> None:
    rerun = FakeRerun()
    rerun.gate.clear()
    viewer = fake_viewer("spawn", rerun, most_waiting=2)
    viewer.begin("pick", "a fake")
    assert rerun.held.wait(10)  # the thread hangs in the viewer's first call
    for index in range(6):
        viewer.step(fake_step(index))  # returns all the same
    assert viewer.num_dropped == 4
    rerun.gate.set()
    viewer.end(fake_record())
    viewer.close()
    viewer.close()
    assert len(rerun.logged["timings/late"]) == 2
    assert texts(rerun) == ["4 steps are not shown", "not evaluated; time: 5 steps were taken"]
    assert ("spawn",) in rerun.calls


def test_a_broken_viewer_is_reported_to_the_loop() -> None:
    rerun = FakeRerun(fails=True)
    viewer = fake_viewer("spawn", rerun)
    viewer.begin("pick", "a fake")
    viewer.step(fake_step(0))
    viewer.close()
    with pytest.raises(RuntimeError, match="the viewer failed: OSError: the viewer was closed"):
        viewer.step(fake_step(1))


def test_an_arm_that_was_sent_nothing_is_shown() -> None:
    step = fake_step(0)
    bad = np.zeros(2)  # an action of a wrong shape
    requested = type(step.requested)(joint_positions_rad=bad, gripper_width_m=None)
    decision = type(step.decision)(
        target=None, verdict="end", causes=("reflex",), interventions=(), ended=True
    )
    fields = {name: getattr(step, name) for name in step.__slots__}
    changed = type(step)(
        **{**fields, "requested": requested, "decision": decision, "sent_rad": None}
    )
    rerun = FakeRerun()
    with fake_viewer("spawn", rerun) as viewer:
        show(viewer, [changed])
    assert np.isnan(rerun.logged["joints/joint7"][1][1][0][:2]).all()
    assert np.isnan(rerun.logged["gripper"][1][1][0][0])
    assert texts(rerun)[0] == "end; reflex"
    assert rerun.logged["log"][0][2] == {"level": "ERROR"}


def test_no_viewer_is_no_listener() -> None:
    with watching(ViewerConfig(to=None, most_waiting=1, jpeg_quality=None)) as viewers:
        assert viewers == ()


def test_a_config_that_says_nothing_is_refused() -> None:
    for wrong in ({"to": ""}, {"to": "spawn", "most_waiting": 0}):
        with pytest.raises(ValueError, match=r"to must be spawn|most_waiting"):
            config(**wrong)
    with pytest.raises(ValueError, match="jpeg_quality"):
        config("spawn", jpeg_quality=0)


def test_files_of_episodes_can_be_read_back(tmp_path) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="needs toto-robot[viewer]")
    with watching(config(tmp_path / "rrd", jpeg_quality=90)) as (viewer,):
        show(viewer, [fake_step(index) for index in range(4)])
        show(viewer, [fake_step(0)])
    paths = sorted((tmp_path / "rrd").iterdir())
    assert [path.name for path in paths] == ["episode_000.rrd", "episode_001.rrd"]
    rows = defaultdict(list)
    for part in chunk.RrdReader(str(paths[0])).stream().to_chunks():
        batch = part.to_record_batch()
        if "Scalars:scalars" in batch.schema.names and "tick" in batch.schema.names:
            rows[str(part.entity_path)] += batch.column("Scalars:scalars").to_pylist()
    sent = [values[1] for values in rows["/joints/joint1"]]
    assert sent == pytest.approx([0.0, 0.01, 0.02, 0.03])  # rad
