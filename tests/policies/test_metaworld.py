"""The benchmark on Meta-World: the command as typed, with a tiny suite in place of Meta-World.

The worker process runs in this Python, with the folder `fake_suite` as the package `metaworld`.
"""

import csv
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.metaworld.process import SceneConfig, SuiteProcess, install_metaworld
from tests.command_lines import run
from tests.policies.fake_world import save_tiny_encoder

TINY = (
    "scene.image_size=32 scene.demonstrations=6 scene.max_steps=12 scene.steps_after_success=1 "
    "probes.stride=2 probes.folds=3 probes.width=8 probes.resamples=100 cloning.episodes=4 "
    "cloning.group=3 cloning.student.projection=8 cloning.student.hidden=[16] "
    "cloning.imitation.last_steps=60 cloning.time_limit=2 tasks=[reach-v3] device=cpu"
)
REAL = Path(os.environ.get("METAWORLD_PYTHON", "~/.cache/toto-robot/metaworld/bin/python"))
SCENE = SceneConfig(
    cameras=("corner3", "gripperPOV"), image_size=32, shadows=True, samples=4, demonstrations=5,
    steps_after_success=1, max_steps=12,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _suite(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_suite"))


def benchmark(folder, words, name="out"):
    given = f"data={folder}/data out={folder}/{name} metaworld_python={sys.executable} {TINY}"
    return run("policies.metaworld.__main__", f"{given} {words}")


def results(folder, name="out"):
    return json.loads((folder / name / "results.json").read_text())


def test_one_command_measures_an_encoder_beside_its_controls(tmp_path):
    words = "encoder=nano encoder.layer=1 encoder.pool=grid2 scene.demonstrations=20"
    words += " probes.width=32"
    done = benchmark(tmp_path, words)
    assert done.code == 0, done.err
    assert "4 cells of probes and 5 of cloning to measure: about" in done.out
    found = results(tmp_path)
    rows = {row["row"] for row in found["probes"]}
    assert rows == {
        "toto-nano layer 1 grid2", "untrained toto-nano layer 1 grid2", "16 x 16 pixels",
        "no vision",
    }  # fmt: skip
    score = {(row["row"], row["target"]): row["score"] for row in found["probes"]}
    assert score["16 x 16 pixels", "object at rest"] > 0.5 > score["no vision", "object at rest"]
    assert score["no vision", "hand"] > 0.99  # its input is the answer
    gain = next(row for row in found["probes"] if row["row"].startswith("toto-nano"))
    assert set(gain["minus"]) == rows - {gain["row"]}
    pixels = gain["minus"]["16 x 16 pixels"]
    assert pixels["low"] <= pixels["score"] <= pixels["high"]
    assert pixels["score"] == pytest.approx(gain["score"] - score["16 x 16 pixels", "object"])
    assert pixels["higher"] == (pixels["score"] > 0)  # there is one task
    cloned = {row["row"]: row for row in found["cloning"]}
    assert cloned.keys() == rows | {"scripted expert"}
    assert cloned["scripted expert"]["successes"] == cloned["no vision"]["episodes"] == 4
    assert cloned["no vision"]["against"]["16 x 16 pixels"]["p"] <= 1
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| toto-nano layer 1 grid2 |" in page
    assert "R2 of toto-nano layer 1 grid2 minus that of each other row" in page
    assert "Success rate of toto-nano layer 1 grid2 minus that of each other row" in page
    with (tmp_path / "out" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {"R2 inverse", "success, same"} < {line["measure"] for line in lines}
    assert (tmp_path / "out" / "results.png").stat().st_size > 1000
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/cells/*/*")}
    again = benchmark(tmp_path, words)
    assert "continuing: 9 of 9 cells found" in again.out
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/cells/*/*")}


def test_later_runs_add_rows_and_changed_appearances(tmp_path):
    assert benchmark(tmp_path, "encoder=pixels controls=[none] parts=[cloning]").code == 0
    more = "controls=[] parts=[cloning] appearances=[changed,same] training_seeds=[0,1]"
    joined = f"encoder=nano encoder.pool=mean encoder.layer=[0,1] {more}"
    assert benchmark(tmp_path, joined).code == 0
    assert len(list(tmp_path.glob("out/policies/toto*/*/weights.safetensors"))) == 2
    stream = "encoder=stream encoder.layer=1 encoder.stream.context=2 controls=[] parts=[probes]"
    done = benchmark(tmp_path, f"{stream} appearances=[same,changed]")
    assert done.code == 0, done.err
    found = results(tmp_path)
    (probed,) = {row["row"] for row in found["probes"]}
    assert probed.startswith("toto-nano layer 1")
    assert "2 frames" in probed
    assert {row["appearance"] for row in found["probes"]} == {"same", "changed"}
    same = {row["row"]: row for row in found["cloning"] if row["appearance"] == "same"}
    assert {"16 x 16 pixels", "no vision", "toto-nano layers 0+1 mean"} < same.keys()
    assert {row["training_seeds"] for row in same.values()} == {1}  # which all rows have
    changed = {row["row"]: row for row in found["cloning"] if row["appearance"] == "changed"}
    assert changed["toto-nano layers 0+1 mean"]["episodes"] == 8
    assert changed["scripted expert"]["episodes"] == 4  # it has no training seeds
    assert changed["scripted expert"]["each"]["reach-v3"][1] == 4


def test_clipped_inputs_limit_the_error_of_probes_in_changed_scenes(tmp_path):
    words = "encoder=pixels controls=[] parts=[probes] appearances=[same,changed]"
    for clip in ("2", "1000"):
        assert benchmark(tmp_path, f"{words} probes.clip={clip}", name=clip).code == 0

    def scores(clip):
        found = results(tmp_path, clip)["probes"]
        return {row["appearance"]: row["score"] for row in found if row["target"] == "hand"}

    clipped, free = scores("2"), scores("1000")
    assert clipped["changed"] > free["changed"] + 0.5
    assert clipped["same"] > free["same"] - 0.1


def test_two_encoders_of_one_name_are_two_rows(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / str(seed) / "mine"
        save_tiny_encoder(folder, seed)
        words = f"encoder=nano encoder.name_or_path={folder} controls=[] parts=[probes]"
        assert benchmark(tmp_path, words).code == 0
    rows = {row["row"]: row for row in results(tmp_path)["probes"] if row["target"] == "hand"}
    assert len(rows) == 2
    for name, row in rows.items():
        assert name == f"mine layer 1 grid4 ({row['key'][-12:]})"
        assert row["minus"].keys() == rows.keys() - {name}


def save_mvp(path, dim=12, layers=2, patch=4, side=16):
    """Write a small ViT with random weights, in the layout of MVP's files."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + (side // patch) ** 2, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
    }
    sizes = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    sizes |= {"mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
    for block in (f"blocks.{number}" for number in range(layers)):
        for name, (rows, columns) in sizes.items():
            shapes[f"{block}.{name}.weight"] = (rows, columns)
            shapes[f"{block}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}.{name}.{kind}": (dim,) for kind in ("weight", "bias")}
    shapes |= {f"norm.{kind}": (dim,) for kind in ("weight", "bias")}
    weights = {
        name: 0.2 * torch.randn(shape, generator=generator) + (".norm" in f".{name}")
        for name, shape in shapes.items()
    }
    torch.save({"model": weights}, path)


def test_the_users_vit_file_is_a_row(tmp_path):
    save_mvp(tmp_path / "mine.pth")
    words = f"encoder={tmp_path}/mine.pth encoder.format=mvp encoder.statistics=imagenet"
    done = benchmark(tmp_path, f"{words} encoder.heads=3 controls=[untrained] parts=[probes]")
    assert done.code == 0, done.err
    rows = {row["row"]: row for row in results(tmp_path)["probes"] if row["target"] == "hand"}
    assert rows.keys() == {"mine.pth layer 2 cls", "untrained mine.pth layer 2 cls"}
    assert rows["mine.pth layer 2 cls"]["score"] != rows["untrained mine.pth layer 2 cls"]["score"]
    done = benchmark(tmp_path, f"{words} encoder.heads=3 controls=[] parts=[cloning]")
    assert done.code == 0, done.err
    cloned = {row["row"]: row for row in results(tmp_path)["cloning"]}
    assert cloned["mine.pth layer 2 cls"]["episodes"] == 4
    for wrong, message in (
        ("encoder.heads=5", "5 heads do not divide the width 12"),
        ("encoder.heads=3 encoder.format=dinov2", "without layer scale"),
        (f"encoder.name_or_path={tmp_path}/none.pth", "none.pth"),
    ):
        done = benchmark(tmp_path, f"{words} {wrong} controls=[] parts=[probes]")
        assert done.code == 1
        assert message in done.err
        assert "Traceback" not in done.err


def test_demonstrations_are_episodes_of_the_project(tmp_path):
    assert benchmark(tmp_path, "encoder=none controls=[] parts=[probes]").code == 0
    done = run(
        "toto_robot.sweep",
        f"data={tmp_path}/data/reach-v3 out={tmp_path}/sweep target=state stride=2 folds=3 "
        "pools=[mean] width=8 resamples=100",
    )
    assert done.code == 0, done.err
    one = sorted((tmp_path / "data" / "reach-v3").glob("*.npz"))[0]
    with np.load(one, allow_pickle=False) as archive:
        assert archive["frames"].shape[1:] == (2, 32, 32, 3)
        assert len(archive["frames"]) == len(archive["labels"]) + 1
        assert bool(archive["success"][-2])


def test_cameras_that_hang_upside_down_are_turned(tmp_path):
    with SuiteProcess(Path(sys.executable), tmp_path / "log") as suite:
        versions = suite.open("reach-v3", SCENE, "same")
        assert any(one.startswith("mujoco ") for one in versions)
        state = suite.reset([0, 1])
    frame = state.frames[0, 0].astype(int)
    # the cube is farther from the robot than the hand, so it is above the hand in the image
    red, blue = (np.argwhere(frame[..., c] - frame.sum(2) / 3 > 40).mean(0) for c in (0, 2))
    assert blue[0] < red[0]


def test_an_episode_depends_only_on_its_seed_and_appearance(tmp_path):
    with SuiteProcess(Path(sys.executable), tmp_path / "log") as suite:
        suite.open("reach-v3", SCENE, "same")
        first, actions = suite.demonstrate(3, SCENE)
        again, _ = suite.demonstrate(3, SCENE)
        assert np.array_equal(first.frames, again.frames)
        suite.open("reach-v3", SCENE, "changed")
        changed, same_actions = suite.demonstrate(3, SCENE)
        assert np.array_equal(actions, same_actions)
        assert np.array_equal(first.proprio, changed.proprio)
        assert np.abs(first.frames.astype(int) - changed.frames).mean() > 5
        assert np.array_equal(suite.demonstrate(3, SCENE)[0].frames, changed.frames)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encoder=none tasks=[never-v3]", "never-v3: the expert failed in 11 episodes"),
        ("encoder=none tasks=[nothing]", "unknown task 'nothing'; known: reach-v3, never-v3"),
        ("encoder=none scene.cameras=[top]", "unknown cameras ['top']; known: corner3, gripperPOV"),
        ("encoder=pixels scene.cameras=[]", "scene.cameras is empty; only encoder=none"),
        ("encoder=nano encoder.layer=[1,1]", "layer must be a number or a list of different"),
        ("encoder=nano encoder.pool=pca65", "this encoder has 64 principal components, not 65"),
        ("encoder=none tasks=[]", "tasks must not be empty"),
        ("encoder=none probes.clip=0", "clip must be positive, got 0.0"),
        ("encoder=none probes.folds=7", "7 folds need at least as many demonstrations, got 6"),
        ("encoder=none metaworld_python=/nowhere/bin/python", "add install=true, or"),
    ],
)
def test_a_mistake_is_one_clear_line(words, message, tmp_path):
    done = benchmark(tmp_path, words)
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_process_that_ends_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    done = benchmark(tmp_path, "encoder=none controls=[] parts=[probes]")
    assert done.code == 1
    assert "No module named 'metaworld'" in done.err
    assert "pip install metaworld==3.1.1" in done.err


def test_data_with_other_settings_and_rows_of_another_protocol_are_refused(tmp_path):
    assert benchmark(tmp_path, "encoder=none controls=[] parts=[probes]").code == 0
    other = benchmark(tmp_path, "encoder=none scene.image_size=16", name="other")
    assert "demonstrations with other settings" in other.err
    assert "image_size: 32 != 16" in other.err
    assert "probes.stride: 2 != 3" in benchmark(tmp_path, "encoder=none probes.stride=3").err


def wheel(folder, name, version, code):
    """Write a wheel with one module, for pip without an index."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


def test_an_environment_that_cannot_import_the_suite_is_completed(tmp_path, monkeypatch):
    """A `metaworld` that is installed but misses a package, as gymnasium's renderer does."""
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, "metaworld", "3.1.1", "import packaging\n")
    wheel(tmp_path, "packaging", "1.0", "")
    python = tmp_path / "home" / "bin" / "python"
    install_metaworld(python)
    (module,) = python.parent.parent.glob("lib/*/site-packages/packaging/__init__.py")
    module.write_text("raise ImportError('half written')")
    with pytest.raises(ValueError, match="cannot be imported: ImportError: half written"):
        install_metaworld(python)
    shutil.rmtree(module.parent)
    shutil.rmtree(*module.parent.parent.glob("packaging-*"))
    install_metaworld(python)  # pip ran again
    assert module.exists()


def test_a_python_outside_of_virtual_environments_is_never_changed(tmp_path):
    python, called = tmp_path / "bin" / "python", tmp_path / "called"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n")
    python.chmod(0o755)
    install_metaworld(python)
    assert not called.exists()
    (tmp_path / "pyvenv.cfg").touch()
    with pytest.raises(ValueError, match="pip cannot install"):
        install_metaworld(python)
    assert called.exists()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.expanduser().exists(), reason="needs Meta-World: METAWORLD_PYTHON")
def test_the_suite_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    words = f"{TINY} scene.demonstrations=5 scene.max_steps=150 tasks=[push-v3] controls=[none]"
    given = f"data={tmp_path}/data out={tmp_path}/out metaworld_python={REAL}"
    done = run("policies.metaworld.__main__", f"{given} {words} encoder=pixels")
    assert done.code == 0, done.err
    found = results(tmp_path)
    rows = {row["row"]: row for row in found["cloning"]}
    assert rows["scripted expert"]["successes"] == 4
    hand = {row["row"]: row["score"] for row in found["probes"] if row["target"] == "hand"}
    assert hand["no vision"] > 0.99
    scene = json.loads((tmp_path / "data" / "scene.json").read_text())
    assert "metaworld 3.1.1" in scene["versions"]
