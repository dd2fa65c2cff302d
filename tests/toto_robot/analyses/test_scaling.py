"""The compute study: its plan, its fits on curves whose exponent is known, and a tiny run."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
import yaml

from toto_robot.analyses.plan import cost, model_of
from toto_robot.analyses.power_law import Curve, fit_ends, fit_frontier, frontier
from toto_robot.analyses.scaling import ScalingConfig, scaling
from toto_robot.checkpoint import save_checkpoint, weights_hash
from toto_robot.cli import compose
from toto_robot.config import from_dict, to_dict
from toto_robot.config_files import LIBRARY
from toto_robot.data.mixture import HOLD_OUT
from toto_robot.files import write_json
from toto_robot.tokenizers import LightConfig

EXPONENT = -0.05  # of the curves below: 1 / (1 / 0.1 + 1 / 0.1), halved by C = 6 N D


def config_of(*overrides):
    data, _ = compose("scaling", list(overrides))
    return from_dict(ScalingConfig, data)


def family(noise, seed=0, seeds=1, tokens_per_parameter=20.0):
    """Curves of L = 5 N^-0.1 + 5 D^-0.1, whose best loss at a compute falls as C^-0.05."""
    generator = np.random.default_rng(seed)
    curves = []
    for number, parameters in enumerate(1e6 * 2.0 ** np.arange(6)):
        for _ in range(seeds):
            tokens = np.linspace(0.05, 1, 25) * tokens_per_parameter * parameters
            loss = 5 * parameters**-0.1 + 5 * tokens**-0.1
            loss = loss * np.exp(noise * generator.normal() + noise / 5 * generator.normal(size=25))
            curves.append(Curve(member=f"m{number}", compute=6 * parameters * tokens, loss=loss))
    return curves


def test_known_exponents_are_found():
    for curves in (family(0.0, tokens_per_parameter=1.0), family(0.0, tokens_per_parameter=30.0)):
        assert fit_ends(curves, 500, np.random.default_rng(0)).exponent == pytest.approx(EXPONENT)
    law = fit_frontier(family(0.0, tokens_per_parameter=4.0), 200, np.random.default_rng(0))
    assert law.exponent == pytest.approx(EXPONENT, abs=0.004)
    assert law.explained > 0.99


def test_the_interval_covers_the_known_exponent():
    covered, widths = 0, []
    for seed in range(60):
        law = fit_ends(family(0.005, seed), 300, np.random.default_rng(seed))
        covered += law.low <= EXPONENT <= law.high
        widths.append(law.high - law.low)
    assert covered >= 52  # of 60, where 57 are expected
    assert np.median(widths) < 0.01  # and it is no interval that covers everything
    few = fit_ends(family(0.005)[:3], 300, np.random.default_rng(0))
    assert np.isnan(few.low)
    assert few.points == 3


def test_the_interval_covers_the_exponent_if_the_seeds_of_a_size_deviate_together():
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        curves = [
            dataclasses.replace(curve, loss=curve.loss * np.exp(0.001 * generator.normal()))
            for one in family(0.01, seed)
            for curve in [one] * 3  # three seeds of each size, which deviate from the law together
        ]
        law = fit_ends(curves, 300, generator)
        covered += law.low <= EXPONENT <= law.high
        assert law.points == 6
    assert covered >= 52  # of 60, where 57 are expected
    sizes = [family(0.005)[k] for k in (0, 0, 0, 1, 1, 2)]
    assert np.isnan(fit_ends(sizes, 300, generator).low)  # three sizes, however many seeds


def test_the_frontier_is_what_no_cheaper_run_has_beaten():
    small = Curve(member="s", compute=np.array([1.0, 10.0, 100.0]), loss=np.array([5.0, 4.0, 3.9]))
    large = Curve(
        member="l", compute=np.array([10.0, 100.0, 1000.0]), loss=np.array([6.0, 3.0, 2.0])
    )
    compute, loss, members = frontier([small, large])
    assert (np.diff(compute) > 0).all()
    assert (np.diff(loss) < 0).all()
    assert members[0] == "s"
    assert members[-1] == "l"
    change = compute[members.index("l")]
    assert 10 < change < 100  # they cross
    law = fit_frontier([small, large], 100, np.random.default_rng(0))
    assert law.scale * 1000**law.exponent == pytest.approx(2.0, rel=0.05)
    worse = dataclasses.replace(large, loss=large.loss + 10)
    assert fit_frontier([small, worse], 100, np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="at least two distinct values of compute"):
        fit_ends([small, small], 100, np.random.default_rng(0))


def test_the_paper_study_is_table_15():
    config = config_of("compute=paper")
    members = config.compute.members
    assert [member.name for member in members] == ["a1", "a2", "a3", "a4", "a5", "a6"]
    for member in members:
        model = dataclasses.replace(
            model_of(config.compute, config.base, member), mup_base_dim=None
        )
        sizes = yaml.safe_load((LIBRARY / "model" / f"{member.name}.yaml").read_text())
        assert to_dict(model) == {"mup_base_dim": None} | sizes
    assert cost(config.compute, config.base, config.compute.members[0]).parameters == pytest.approx(
        14.8e6, rel=0.01
    )


def test_a_plan_is_arithmetic_and_trains_nothing(tmp_path, capsys):
    def plan(budget, members, seeds=(0,)):
        config = config_of("compute=paper", f"budget={{hardware: H100, hours: {budget}}}")
        study = dataclasses.replace(
            config.compute, members=config.compute.members[:members], seeds=seeds
        )
        scaling(dataclasses.replace(config, compute=study), tmp_path)
        return capsys.readouterr().out

    printed = plan(10, 4)
    with (tmp_path / "plan.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["name"] == "a1"
    parameters, tokens = int(first["parameters"]), int(first["tokens"])
    assert tokens == pytest.approx(20 * parameters, rel=0.01)
    assert tokens == int(first["steps"]) * 256 * 16 * 256  # the paper's million tokens a step
    # six operations for each weight but the input embedding, and causal attention over 4097 tokens
    expected = 6 * (parameters - 1027 * 256) + 6 * 12 * 256 * 4097
    assert float(first["flops_per_token"]) == pytest.approx(expected, rel=0.01)
    hours = float(first["flops"]) / (989e12 * 0.45) / 3600
    assert float(first["H100 hours"]) == pytest.approx(hours)
    assert "not sufficient" in printed
    assert "it covers a1, a2, a3, or all members with" in printed
    assert not (tmp_path / "members").exists()
    # twice the budget pays for twice the tokens, and twice the runs for half of them
    texts = [plan(1, 2), plan(2, 2), plan(2, 2, seeds=(0, 1))]
    afford = [float(text.split("all members with ")[1].split()[0]) for text in texts]
    assert afford[1] == pytest.approx(2 * afford[0], rel=0.02)
    assert afford[2] == pytest.approx(afford[0], rel=0.02)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"budget.hardware: 'abacus' is not one of \['H200'"):
        config_of("budget.hardware=abacus")
    with pytest.raises(ValueError, match=r"only: \['a9'\] are not among \['n1'"):
        config_of("only=[a9]")


@pytest.fixture
def overrides(tmp_path):
    """A study of two models that are trained within a second on tokens that repeat."""
    light = LightConfig(
        image_size=32, levels=(4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer = light.build()
    save_checkpoint(tmp_path / "tokenizer", "tokenizer", to_dict(light), tokenizer.state_dict())
    folder = tmp_path / "set"
    folder.mkdir()
    clips = [{"file": f"{i:02}.mp4", "start": 2 * i, "length": 2} for i in range(2 * HOLD_OUT)]
    codes = np.random.default_rng(0).integers(16, size=(2 * len(clips), 1))
    np.repeat(codes, 16, axis=1).astype(np.uint16).tofile(folder / "tokens.u16")
    np.zeros((2 * len(clips), 4, 4, 3), np.uint8).tofile(folder / "frames.u8")
    write_json(
        folder / "tokens.json", {"tokenizer": weights_hash(tokenizer), "tokens_per_frame": 16}
    )
    write_json(
        folder / "manifest.json",
        {"name": "set", "kind": "video", "size": 4, "stride": 1, "seed": 0,
         "frames": 2 * len(clips), "clips": clips, "skipped": []},
    )  # fmt: skip
    members = "[{name: n1, dim: 8, layers: 1, heads: 2, mlp_hidden: 8},"
    members += "{name: n2, dim: 16, layers: 1, heads: 2, mlp_hidden: 16}]"
    return [
        "action=run", "compute.codes=16", "compute.batch=2", "compute.part=2", "compute.points=2",
        "compute.seeds=[0]", "compute.tokens_per_parameter=1", f"compute.members={members}",
        "resamples=100",
        "pretrain.model.tokens_per_frame=16", f"pretrain.tokenizer_from={tmp_path / 'tokenizer'}",
        f"pretrain.data=[{{path: {folder}, weight: 1.0}}]", "pretrain.validation_sequences=2",
    ]  # fmt: skip


def test_members_are_trained_resumed_and_fitted(overrides, tmp_path, capsys):
    out = tmp_path / "study"
    scaling(config_of(*overrides, "only=[n1]"), out)
    assert "the fit waits for n2-seed0" in capsys.readouterr().out
    scaling(config_of(*overrides), out)
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["member"] for row in rows} == {"n1", "n2"}
    config = config_of(*overrides)
    for member in config.compute.members:
        mine = [row for row in rows if row["member"] == member.name]
        assert len(mine) >= 2
        assert float(mine[-1]["flops"]) == pytest.approx(
            cost(config.compute, config.base, member).flops
        )
        assert float(mine[-1]["macs"]) == float(mine[-1]["flops"]) / 2
        assert float(mine[-1]["loss"]) < float(mine[0]["loss"])  # it learns
    with (out / "fits.csv").open() as file:
        fits = list(csv.DictReader(file))
    assert fits[0]["fit"] == "ends"
    assert fits[0]["points"] == "2"
    assert (out / "scaling.png").stat().st_size > 0
    before = (out / "curves.csv").read_text()
    logs = [path.stat().st_mtime_ns for path in sorted(out.rglob("log.jsonl"))]
    scaling(config, out)
    assert (out / "curves.csv").read_text() == before
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("log.jsonl"))] == logs
