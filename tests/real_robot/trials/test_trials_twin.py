"""The evaluation on the twin: a short trial of the expert, from placing the cube to the page."""

from dataclasses import replace

import pytest

from policies.demonstrations.lerobot.reader import DatasetReader
from real_robot.evaluate import TrialsConfig, evaluate
from real_robot.recording import object_positions
from real_robot.trials.plan import load_plan
from real_robot.trials.results import load_results
from tests.real_robot.twin_fixture import require_twin, twin

__all__ = ["twin"]


def test_a_trial_of_the_expert_is_run_judged_and_reported(twin, tmp_path, capsys) -> None:
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    require_twin("franky")
    data, _ = compose(
        "trials",
        ["policy=expert", f"robot={twin.address}", "trials=1", "seed=4", "loop.max_steps=15"],
    )
    config = from_dict(TrialsConfig, data)
    evaluate(config, tmp_path)
    folder = tmp_path / "report"
    (result,) = load_results(folder)
    (trial,) = load_plan(folder).trials

    assert result.judgement.by == "check"
    assert result.num_steps > 0
    assert set(result.files) == {"overlay.png", "first.png", "last.png", "video.mp4"}
    reader = DatasetReader(tmp_path / "dataset")
    facts = reader.facts(result.episode)
    assert facts["success"] is result.judgement.success
    assert facts["notes"]["trial"] == "000-a"
    (place,) = object_positions(tmp_path / "dataset")[-1:]
    assert place == pytest.approx((trial.pose.x_m, trial.pose.y_m), abs=0.003)  # m
    assert "report: " in capsys.readouterr().out
    evaluate(replace(config, max_invalid=9), tmp_path)  # done: nothing moves, and it says so again
    assert load_results(folder) == (result,)
