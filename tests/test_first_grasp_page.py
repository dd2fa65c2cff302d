"""Each command of docs/first_grasp.md exists and takes the words that are given there."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "first_grasp.md").read_text()
# What stands there for the reader's own.
OWN = {"station=lab": "station=table"}


def commands():
    """Return each `python -m` of the page's blocks, as module and words."""
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"]:
                yield words[2], [OWN.get(word, word) for word in words[3:]]


def source_of(module):
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize(("module", "words"), list(commands()), ids=lambda part: str(part)[:60])
def test_a_command_takes_its_words(module, words) -> None:
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    source = source_of(module)
    assert source.is_file(), f"there is no {module}"
    found = re.search(r'^main = command\("(\w+)", (\w+)\b', source.read_text(), re.MULTILINE)
    name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
    data, _ = compose(found[1], words)
    from_dict(getattr(importlib.import_module(name), found[2]), data)


def test_the_page_has_commands_of_every_part() -> None:
    named = {module for module, _ in commands()}
    for module in ("record", "deploy", "evaluate", "calibrate", "franka", "policy_server"):
        assert f"real_robot.{module}" in named
    assert "policies.train" in named


def test_files_that_the_page_names_are_there() -> None:
    for path in re.findall(r"`(configs/[\w/]+\.yaml)`", PAGE):
        assert path == "configs/station/lab.yaml" or (ROOT / path).is_file(), path


def test_keys_that_the_page_names_are_in_the_configs() -> None:
    from toto_robot.cli import compose

    known = set()

    def gather(data):
        for key, value in data.items():
            known.add(key)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    gather(item)

    for root, words in (
        ("trials", ["station=table"]),
        ("calibrate", []),
        ("deploy", ["station=table"]),
        ("record", ["station=table"]),
    ):
        gather(compose(root, words)[0])
    named = re.findall(r"`(?:[\w.]+\.)?(\w+_\w+)`", PAGE.split("## 10.")[0])
    assert named
    of_others = ("real_robot", "communication_constraints_violation")  # the robot's own word
    assert [key for key in named if key not in known and not key.startswith(of_others)] == []
