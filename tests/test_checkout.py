"""The wheel is the library, the checkout is the lab: what keeps the two apart."""

import importlib
import itertools
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("toto_robot", "envs", "policies", "real_robot")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_come_from_this_checkout(name) -> None:
    # `envs` and `policies` are names that others use on the package index, too
    assert Path(importlib.import_module(name).__file__).parent == ROOT / name


def test_no_tests_folder_is_a_package() -> None:
    # tests/envs/__init__.py alone would hide the real envs
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_the_wheel_ships_the_library_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["toto_robot"]


def test_the_wheel_of_the_environments_asks_for_the_library_of_its_own_version() -> None:
    library = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environments = tomllib.loads((ROOT / "wheels/envs/pyproject.toml").read_text())["project"]
    assert environments["version"] == library["version"]
    assert environments["dependencies"] == [f"toto-robot[sim]=={library['version']}"]
    extras = {"train": [f"toto-robot[train]=={library['version']}"]}
    assert environments["optional-dependencies"] == extras
    assert environments["requires-python"] == library["requires-python"]


def test_everything_that_is_asked_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.partition("==")[0]) for line in lines if "==" in line}
    names = {plain(requirement) for requirement in asked}
    assert names <= pinned
    assert not [line for line in lines if "+" in line and not line.startswith("#")]


def plain(requirement: str) -> str:
    name = requirement.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip()
    return name.lower().replace("_", "-")
