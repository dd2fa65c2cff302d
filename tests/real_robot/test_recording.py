"""What is saved of an episode is what it was, whatever happened in it."""

import subprocess
import sys

import numpy as np
import pytest

from policies.demonstrations.lerobot.reader import DatasetReader
from real_robot.recording import PHASES, Recorder, columns_of
from real_robot.robot import Target
from real_robot.safety.layer import Decision
from tests.real_robot.records import interface, make_record, make_step


@pytest.fixture
def recorder(tmp_path):
    with Recorder(tmp_path / "demos", interface()) as opened:
        yield opened


def test_an_episode_comes_back_as_it_was(recorder):
    record = make_record(steps=4)
    assert recorder.save(record) == 0
    found = DatasetReader(recorder.folder)[0]
    assert found.interface == interface()
    assert found.task == "pick the cube"
    steps = record.steps
    for name in ("hand", "front"):
        assert np.array_equal(
            found.images[name], np.stack([s.observation.frames[name].image for s in steps])
        )
    assert np.array_equal(found.proprio, np.stack([s.observation.proprio for s in steps]))
    assert np.array_equal(found.actions, np.stack([s.label for s in steps]))
    assert found.labelled.all()
    columns = found.columns
    assert set(columns) == {column.name for column in columns_of(interface())}
    assert np.array_equal(
        columns["command.before.joints"], np.stack([s.requested.joint_positions_rad for s in steps])
    )
    assert np.array_equal(
        columns["command.after.joints"],
        np.stack([s.decision.target.joint_positions_rad for s in steps]),
    )
    assert columns["command.after.gripper"].tolist() == [0.04] * 4
    assert columns["verdict"].tolist() == ["move"] * 4
    assert columns["robot.mode"].tolist() == ["moving"] * 4
    assert columns["sequence.camera.hand"].tolist() == [0, 3, 6, 9]
    assert columns["stamp.tick"].tolist() == [s.observation.stamp_s for s in steps]
    assert np.isnan(columns["surprise"]).all()
    timings = columns["timings"]
    assert timings[0, PHASES.index("send")] == 0.002
    assert np.isnan(timings[0, PHASES.index("encoder")])


def test_its_facts_lie_beside_it(recorder):
    recorder.save(make_record(steps=2, weights_hash="abc"))
    (facts,) = recorder.records()
    assert facts["weights_hash"] == "abc"
    assert (facts["reason"], facts["message"], facts["success"]) == (
        "success", "the cube is up", True,
    )  # fmt: skip
    assert facts["complete"] is True
    assert facts["notes"] == {"seed": 0, "object": [0.5, 0.1], "score": None}
    assert facts["interventions"][1] == {
        "step": 1, "name": "step", "amount": 0.05, "unit": "rad", "detail": "joint 3",
    }  # fmt: skip
    assert facts["other_timings_s"] == [{"step": i, "thinking": 0.5} for i in range(2)]


def test_an_aborted_episode_is_kept_and_marked(recorder):
    rng = np.random.default_rng(1)
    ended = Decision(target=None, verdict="end", causes=("reflex",), interventions=(), ended=True)
    nan = np.full(8, np.nan, np.float32)
    steps = (
        make_step(0, rng, action=nan, label=nan),
        make_step(1, rng),
        make_step(2, rng, cameras=("hand",), errors=("joint_reflex",)),
        make_step(
            3, rng, action=np.zeros(3, np.float32), label=nan, decision=ended, sent_rad=None,
            requested=Target(joint_positions_rad=np.zeros(3), gripper_width_m=None),
        ),
    )  # fmt: skip
    record = make_record(steps_given=steps, reason="reflex", message="joint_reflex", success=None)
    assert recorder.save(record) == 0
    found = DatasetReader(recorder.folder)[0]
    assert not found.is_complete
    assert found.labelled.tolist() == [False, True, True, False]
    assert np.isfinite(found.actions).all()
    assert found.actions[0].tolist() == [0.0] * 8  # a hand half open
    assert found.actions[3, :7].tolist() == [0.0] * 7
    assert found.actions[3, 7] == found.actions[2, 7]
    assert np.isnan(found.columns["executed"][[0, 3]]).all()
    assert np.isnan(found.columns["command.after.joints"][3]).all()
    assert np.isnan(found.columns["command.before.joints"][3]).all()
    assert not found.images["front"][2].any()
    assert found.columns["sequence.camera.front"][2] == -1
    (facts,) = recorder.records()
    assert facts["errors"] == [{"step": 2, "errors": ["joint_reflex"]}]
    assert facts["causes"] == [{"step": 3, "verdict": "end", "causes": ["reflex"]}]


def test_an_episode_without_steps_has_its_record_alone(recorder):
    empty = make_record(steps_given=(), reason="connection", message="no answer", success=None)
    assert recorder.save(empty) is None
    assert recorder.save(make_record()) == 0
    assert recorder.save(empty) is None
    reader = DatasetReader(recorder.folder)
    assert len(reader) == recorder.num_episodes == 1
    assert [facts["message"] for facts in reader.empty_facts()] == ["no answer"] * 2


def test_recording_goes_on_where_it_ended(tmp_path):
    for number in range(3):
        with Recorder(tmp_path, interface()) as recorder:
            assert recorder.num_episodes == number
            assert recorder.save(make_record(seed=number)) == number
    assert [facts["notes"]["seed"] for facts in recorder.records()] == [0, 1, 2]


def test_two_do_not_write_at_once(recorder):
    with pytest.raises(ValueError, match="written to by another process"):
        Recorder(recorder.folder, interface())


def test_another_interface_is_refused(tmp_path):
    with Recorder(tmp_path, interface()):
        pass
    with pytest.raises(ValueError, match="cameras"):
        Recorder(tmp_path, interface(cameras=("hand",)))


def test_no_torch_is_needed_and_libraries_only_when_something_is_saved():
    code = (
        "import sys\n"
        "for name in ('torch', 'mujoco', 'gymnasium', 'pyarrow', 'av'): sys.modules[name] = None\n"
        "import real_robot.recording"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
