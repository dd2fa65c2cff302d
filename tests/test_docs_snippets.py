"""What the page "Wrap your own robot" tells to do works, in the order in which it tells it."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from toto_robot.probing.episodes import read_demonstrations

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "wrap_your_own_robot.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


FEWER = {  # the page's commands with fewer episodes, and without records of Hydra's own
    "policies.train": ["demonstrations=1", "dagger.episodes=1", "evaluation_episodes=1"],
    "policies.evaluate": ["episodes=1", "rollout.num_workers=0"],
}
QUIET = ["video_episodes=0", "hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's, with the files that the page tells to save."""
    for _, text in BLOCKS:
        if saved := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            path = tmp_path / saved[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*get variables from other wrappers")
def test_python_of_the_page_runs_and_prints_what_it_says(folder, capsys) -> None:
    names: dict[str, object] = {"__name__": "page"}
    told = []
    for language, text in BLOCKS:
        if language == "python" and not text.startswith("# my_robot.py"):
            exec(compile(text, "wrap_your_own_robot.md", "exec"), names)
            told += re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    printed = [line for line in printed if not re.match(r"(Using|Wrapping|[-|])", line)]
    assert len(told) > 3
    assert len(printed) == len(told)
    for found, expected in zip(printed, told, strict=True):
        assert found.startswith(expected.removesuffix(" ..."))


def test_commands_of_the_page_train_and_evaluate(folder, monkeypatch, capsys) -> None:
    """In this process: another would import torch for seconds before each."""
    lines = [
        line
        for language, text in BLOCKS
        if language == "bash"
        for line in text.splitlines()
        if "runs/mine" in line and line.startswith("python -m policies")
    ]
    short = [line for line in lines if "mine_long" not in line]
    assert len(lines) == 3
    for line in short:
        module, *words = line.split()[2:]
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [module, *words, *FEWER[module], *QUIET])
        importlib.import_module(module).main()
    assert "success: " in capsys.readouterr().out
    assert (folder / "runs" / "mine" / "policy" / "weights.safetensors").is_file()


def test_demonstrations_of_the_page_can_be_read(folder) -> None:
    names: dict[str, object] = {"__name__": "page"}
    head = "import gymnasium, numpy as np, my_robot\nfrom my_robot import Expert\n"
    (text,) = [text for _, text in BLOCKS if "demonstrations/{episode" in text]
    exec(head + text, names)
    for kind, columns in (("action", None), ("state", ["goal"])):
        found = read_demonstrations(Path("demonstrations"), kind, None, columns, 1, None)
        assert found.view == "frames"
        assert len(found.paths) == 5
    assert found.names == ["goal_x", "goal_y"]


def test_python_of_the_library_page_names_what_is_there() -> None:
    """Blocks without a language are not run; their imports and calls are still looked up."""
    page = (ROOT / "docs" / "toto_robot.md").read_text()
    imports = re.findall(r"^from (toto_robot[\w.]*) import (.+)$", page, re.MULTILINE)
    assert imports
    for module, names in imports:
        loaded = __import__(module, fromlist=["x"])
        for name in names.split(","):
            assert hasattr(loaded, name.strip()), f"{module} has no {name}"
