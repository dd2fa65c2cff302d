"""A person is told where the object goes and asked how it went; a scene does both by itself."""

import os

import numpy as np
import pytest

from real_robot.trials.operators import SceneOperator, TerminalOperator, enter_ends, screen
from real_robot.trials.plan import Trial
from real_robot.trials.poses import Pose
from tests.real_robot.fake_records import fake_record

TRIAL = Trial(key="003-b", policy="b", pose=Pose(x_m=0.4, y_m=-0.1, yaw_rad=0.5), pose_index=3)


class FakeScene:
    def __init__(self, done=None):
        self.done, self.placed = done, []

    def place(self, x_m, y_m, yaw_rad):
        self.placed.append((x_m, y_m, yaw_rad))

    def object_pose(self):
        return None

    def succeeded(self):
        return self.done


def draw(pose, text):
    return np.zeros((8, 8, 3), np.uint8)


def terminal(answers, **more):
    told, answers = [], list(answers)

    def ask(question):
        told.append(question)
        return answers.pop(0)

    operator = TerminalOperator(more.pop("draw", draw), ask=ask, write=told.append, **more)
    return operator, told, answers


def test_a_person_sees_where_it_goes_and_not_which_policy_comes(tmp_path) -> None:
    shown = []
    operator, told, left = terminal(["p", ""], show=shown.append)
    operator.place(TRIAL, 4, 32, tmp_path / "overlay.png")
    text = "\n".join(told)
    assert "trial 4 of 32: x 0.400 m, y -0.100 m, yaw +29 deg" in text
    assert str(tmp_path / "overlay.png") in text
    assert "003-b" not in text.replace(str(tmp_path), "")
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert len(shown) == 2  # once more, as asked
    assert left == []
    failed = fake_record(reason="policy", message="runs/second failed: it is no number")
    blind, told, _ = terminal(["n", ""])
    blind.assess(TRIAL, failed)
    assert not any("runs/second" in line for line in told)
    seeing, told, _ = terminal(["n", ""], names={"b": "runs/second"})
    seeing.assess(TRIAL, failed)
    assert told[0] == "ended by policy: runs/second failed: it is no number"
    seeing, told, _ = terminal([""], names={"b": "runs/second"})
    seeing.place(TRIAL, 4, 32, tmp_path / "overlay.png")
    assert "trial 4 of 32 (runs/second)" in told[0]
    blind, told, _ = terminal([""], draw=lambda pose, text: None)
    blind.place(TRIAL, 4, 32, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert "p for a new image" not in told[-1]


def test_a_persons_word_is_taken_and_a_spoilt_trial_needs_a_reason() -> None:
    record = fake_record()
    operator, told, _ = terminal(["perhaps", "Y", "clean"])
    evaluated = operator.assess(TRIAL, record)
    assert (evaluated.success, evaluated.note, evaluated.by) == (True, "clean", "operator")
    assert any("'perhaps' is not y, n or again" in line for line in told)
    assert terminal(["no", ""])[0].assess(TRIAL, record).success is False
    operator, told, _ = terminal(["again", "", "again", "the cube was knocked over by me"])
    evaluated = operator.assess(TRIAL, record)
    assert (evaluated.success, evaluated.note) == (None, "the cube was knocked over by me")
    assert any("an invalid attempt needs a reason" in line for line in told)


def test_the_check_is_asked_first_where_it_may(tmp_path) -> None:
    operator, _, _ = terminal([], automatic=True, scene=FakeScene())
    evaluated = operator.assess(TRIAL, fake_record(success=False))
    assert (evaluated.success, evaluated.by) == (False, "check")
    asked, _, _ = terminal(["y", ""], automatic=True)
    assert asked.assess(TRIAL, fake_record(success=None)).by == "operator"
    scene = FakeScene()
    placed, _, _ = terminal([], scene=scene)
    placed.place(TRIAL, 1, 2, tmp_path / "overlay.png")
    assert scene.placed == [(0.4, -0.1, 0.5)]


def test_a_scene_places_and_judges(tmp_path) -> None:
    scene = FakeScene(done=False)
    operator = SceneOperator(scene, draw)
    operator.place(TRIAL, 1, 2, tmp_path / "overlay.png")
    assert scene.placed == [(0.4, -0.1, 0.5)]
    assert (tmp_path / "overlay.png").is_file()
    assert operator.assess(TRIAL, fake_record(success=True)).success is True
    assert operator.assess(TRIAL, fake_record()).success is False  # the scene says so
    for reason in ("policy", "safety", "reflex", "user_stop"):
        assert operator.assess(TRIAL, fake_record(reason=reason)).success is False
    for reason in ("connection", "camera", "error"):
        evaluated = operator.assess(TRIAL, fake_record(reason=reason, message="gone"))
        assert (evaluated.success, evaluated.note) == (None, f"{reason}: gone")
    late = "the robot reports communication_constraints_violation"
    assert operator.assess(TRIAL, fake_record(reason="reflex", message=late)).success is None
    done = fake_record(reason="connection", success=True)
    assert operator.assess(TRIAL, done).success is True
    with pytest.raises(ValueError, match="verdict=operator"):
        SceneOperator(FakeScene(), draw).assess(TRIAL, fake_record())


def test_enter_ends_an_episode_and_earlier_lines_do_not() -> None:
    reads, writes = os.pipe()
    os.write(writes, b"typed before\n")
    ends = enter_ends(reads)
    assert ends() is None
    os.write(writes, b"\n")
    assert ends() == ("operator", "the operator pressed Enter")
    assert ends() is None
    os.close(writes)
    assert ends() is None  # a terminal that is gone ends nothing
    assert enter_ends(reads)() is None
    os.close(reads)


def test_there_is_no_window_without_a_display(monkeypatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert screen() is None
    monkeypatch.setenv("DISPLAY", ":0")
    assert screen() is None  # the tests' OpenCV is the headless one
