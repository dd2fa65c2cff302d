"""Trials are planned before the first, done once each, and go on where they were stopped."""

import json
from collections import Counter

import numpy as np
import pytest

from real_robot.operator import NoPersonError
from real_robot.trials.plan import keep_plan, load_plan, make_plan
from real_robot.trials.poses import Pose
from real_robot.trials.results import Judgement, load_invalid, load_results
from real_robot.trials.runner import TrialsStoppedError, run_trials
from tests.real_robot.fake_records import fake_record

POSES = tuple(Pose(x_m=0.4 + 0.01 * index, y_m=-0.1, yaw_rad=0.5) for index in range(8))
SETTINGS = {"seed": 3, "loop": {"max_steps": 5}, "weights": {"a": "wa", "b": "wb"}}


def plan_of(folder, *, settings=SETTINGS, paired=True, seed=0):
    return keep_plan(
        folder,
        settings,
        lambda: make_plan(
            POSES,
            paired=paired,
            rng=np.random.default_rng(seed),
            settings=settings,
            facts={"nearest_m": 0.02},
        ),
    )


class Bench:
    """An arm and an operator of a few lines. `outcomes` are judgements by the trial's key."""

    def __init__(self, outcomes=None, reasons=None):
        self.outcomes, self.reasons = outcomes or {}, reasons or {}
        self.placed, self.tried, self.kept = [], [], []

    def place(self, trial, number, total, overlay):
        self.placed.append((number, total, trial.key))
        assert trial.key not in str(overlay)  # it would tell which policy comes
        overlay.write_bytes(b"picture")

    def run(self, pose, policy):
        self.tried.append((pose, policy))
        reasons = self.reasons.get(len(self.tried), ("time", "5 steps were taken"))
        return fake_record(reason=reasons[0], message=reasons[1], weights_hash=f"w{policy}")

    def assess(self, trial, record):
        outcomes = self.outcomes.get(trial.key, [])
        return outcomes.pop(0) if outcomes else Judgement(success=True, note="", by="check")

    def keep(self, record):
        self.kept.append(record)
        return len(self.kept) - 1

    def go(self, plan, folder, max_invalid=3):
        return run_trials(
            plan,
            folder,
            prepare=lambda: None,
            run=self.run,
            operator=self,
            keep=self.keep,
            illustrate=lambda record, success, there: ("first.png",),
            max_invalid=max_invalid,
        )


def test_pairs_have_one_pose_and_an_order_that_is_drawn(tmp_path) -> None:
    plan = plan_of(tmp_path)
    assert plan.policies == ("a", "b")
    assert len(plan.trials) == 16
    pairs = [plan.trials[index : index + 2] for index in range(0, 16, 2)]
    assert all(one.pose == other.pose == POSES[one.pose_index] for one, other in pairs)
    assert all({one.policy, other.policy} == {"a", "b"} for one, other in pairs)
    assert set(Counter(pair[0].policy for pair in pairs)) == {"a", "b"}  # neither always first
    alone = plan_of(tmp_path / "alone", paired=False)
    assert alone.policies == ("a",)
    assert [trial.pose for trial in alone.trials] == list(POSES)


def test_the_plan_is_written_before_the_first_trial(tmp_path) -> None:
    plan = plan_of(tmp_path)
    assert plan_of(tmp_path, seed=1) == load_plan(tmp_path) == plan  # not drawn again
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    changed = {**SETTINGS, "seed": 4, "weights": {"a": "wa", "b": "wc"}}
    with pytest.raises(ValueError, match="other settings") as refused:
        plan_of(tmp_path, settings=changed)
    assert str(refused.value).splitlines()[1:] == ["  seed: 3 != 4", "  weights.b: 'wb' != 'wc'"]
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match=r"plan\.json is not a plan of trials"):
        plan_of(tmp_path)


def test_all_trials_are_done_and_told(tmp_path) -> None:
    bench = Bench({"002-b": [Judgement(success=False, note="slipped", by="operator")]})
    plan = plan_of(tmp_path)
    results = bench.go(plan, tmp_path)
    assert results == load_results(tmp_path)
    assert [result.trial for result in results] == list(plan.trials)
    assert bench.placed == [
        (number, 16, trial.key) for number, trial in enumerate(plan.trials, start=1)
    ]
    assert bench.tried == [(trial.pose, trial.policy) for trial in plan.trials]
    assert sum(result.judgement.success for result in results) == 15
    (failed,) = (result for result in results if not result.judgement.success)
    assert failed.judgement.note == "slipped"
    assert failed.files == ("overlay.png", "first.png")
    assert failed.interventions == {"velocity": 2}
    assert failed.duration_s == pytest.approx(0.4)
    assert failed.latency_s == pytest.approx((0.032, 0.03396))
    assert failed.surprise == 2.0
    assert bench.kept[failed.episode].success is False
    assert bench.kept[failed.episode].notes == {"seed": 1, "trial": "002-b", "attempt": 1}
    assert Bench().go(plan, tmp_path) == results  # all done: nothing is tried again


def test_it_goes_on_where_it_was_stopped(tmp_path) -> None:
    plan = plan_of(tmp_path)
    bench = Bench(reasons={4: ("interrupted", "Ctrl-C ended the episode")})
    with pytest.raises(TrialsStoppedError, match="trial 4 of 16 was interrupted"):
        bench.go(plan, tmp_path)
    assert bench.kept[3].notes["spoilt"] == "Ctrl-C ended the episode"  # kept, and not counted
    assert len(load_results(tmp_path)) == 3
    crashed = tmp_path / "trials" / f".{plan.trials[5].key}.part"  # what a kill leaves
    crashed.mkdir()
    (crashed / "result.json").write_text("{")
    again = Bench()
    results = again.go(plan, tmp_path)
    assert again.tried == [(trial.pose, trial.policy) for trial in plan.trials[3:]]
    assert len(results) == 16
    assert not [path for path in (tmp_path / "trials").iterdir() if path.name.startswith(".")]


def test_a_spoilt_trial_is_done_again_and_counted(tmp_path) -> None:
    plan = plan_of(tmp_path)
    key = plan.trials[0].key
    invalid = Judgement(success=None, note="a cable came off", by="operator")
    bench = Bench({key: [invalid, invalid]})
    results = bench.go(plan, tmp_path)
    assert len(bench.tried) == 18
    assert results[0].judgement.success is True
    assert [result.judgement.note for result in load_invalid(tmp_path)] == ["a cable came off"] * 2
    assert bench.kept[1].success is None
    assert bench.kept[1].notes["spoilt"] == "a cable came off"
    assert bench.kept[2].notes["attempt"] == 3
    with pytest.raises(ValueError, match="needs a reason"):
        Judgement(success=None, note=" ", by="operator")


@pytest.mark.parametrize("end", [KeyboardInterrupt, NoPersonError])
def test_an_episode_whose_result_nobody_gave_stays_in_the_report(tmp_path, end) -> None:
    plan = plan_of(tmp_path)

    class Leaves(Bench):
        def assess(self, trial, record):
            if len(self.tried) == 3:
                raise end
            return super().assess(trial, record)

    bench = Leaves()
    with pytest.raises(end):
        bench.go(plan, tmp_path)
    assert len(load_results(tmp_path)) == 2
    (unanswered,) = load_invalid(tmp_path)
    assert "was not answered" in unanswered.judgement.note
    assert bench.kept[2].notes["spoilt"] == unanswered.judgement.note
    assert len(Bench().go(plan, tmp_path)) == 16


def test_a_trial_is_not_done_again_for_ever(tmp_path) -> None:
    plan = plan_of(tmp_path)
    invalid = Judgement(success=None, note="the camera is gone", by="check")
    key = plan.trials[0].key
    with pytest.raises(
        TrialsStoppedError,
        match=r"had 2 invalid attempts .max_invalid=1.*the camera is gone",
    ):
        Bench({key: [invalid] * 9}).go(plan, tmp_path, max_invalid=1)
    assert load_results(tmp_path) == ()
    assert len(load_invalid(tmp_path)) == 2


def test_other_weights_are_no_trial(tmp_path) -> None:
    plan = plan_of(tmp_path, settings={**SETTINGS, "weights": {"a": "wa", "b": "new"}})
    with pytest.raises(ValueError, match="has the weights wb, but the plan has new"):
        Bench().go(plan, tmp_path)


def test_a_damaged_result_is_named(tmp_path) -> None:
    plan = plan_of(tmp_path)
    Bench().go(plan, tmp_path)
    path = tmp_path / "trials" / "003-a" / "result.json"
    data = json.loads(path.read_text())
    del data["reason"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"003-a/result\.json is damaged"):
        load_results(tmp_path)
