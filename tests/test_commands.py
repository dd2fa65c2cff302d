"""Every command has its YAML, every YAML its command, and the YAML says everything."""

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from toto_robot.cli import compose
from toto_robot.config import from_dict, to_dict
from toto_robot.config_files import RootFile, search_path
from toto_robot.overrides import hints_at
from toto_robot.usage import field_descriptions

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "toto_robot" / "configs", ROOT / "configs")
COMMAND = re.compile(r'^main = command\(\s*"(\w+)", (\w+)', re.MULTILINE)

ONE_KIND = {"lr_sweep", "scaling"}  # they compare models of one kind


# what must be given with a choice
GIVEN = {
    "gymnasium": ["id=any"],
    "vit": ["name_or_path=vit.pth", "format=timm", "statistics=half"],
}


def find_commands():
    """Return module and config class of every command, by its name."""
    found = {}
    for package in ("toto_robot", "envs", "policies", "real_robot"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, config_class in COMMAND.findall(path.read_text()):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name] = (module, config_class)
    return found


COMMANDS = find_commands()


def config_class(name):
    module, class_name = COMMANDS[name]
    return getattr(importlib.import_module(module), class_name)


def root_file(name):
    found = RootFile.find(name, search_path("toto_robot"))
    assert found is not None, name
    return found


def choices():
    """Yield every root config with its defaults, and with each choice for each of its groups."""
    for name in COMMANDS:
        yield name, []
        for group in root_file(name).groups:
            hints = hints_at(config_class(name), group.place) if group.place else []
            kinds = {option: _kind(path) for option, path in group.files(FOLDERS).items()}
            for option in group.choices(FOLDERS, hints):
                if name in ONE_KIND and kinds[option] != kinds.get(group.default):
                    continue
                # the folder of a checkpoint must be given; without an environment, so must `data`
                if option != "checkpoint" and (name, option) != ("train", "none"):
                    given = [f"{group.place}.{one}" for one in GIVEN.get(option, ())]
                    yield name, [f"{group.hydra_key}={option}", *given]


def _kind(path):
    from omegaconf import OmegaConf

    return OmegaConf.load(path).get("kind")


def test_every_root_config_belongs_to_a_command() -> None:
    roots = [path.stem for folder in FOLDERS for path in folder.glob("*.yaml")]
    assert len(roots) == len(set(roots))
    assert set(roots) - {"command"} == set(COMMANDS)


def test_a_command_of_the_library_has_its_config_in_the_library() -> None:
    for name, (module, _) in COMMANDS.items():
        in_library = module.startswith("toto_robot.")
        assert (FOLDERS[0] / f"{name}.yaml").is_file() == in_library, name


def test_every_command_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]
    ours = points["toto_robot.commands"] | points["toto_robot.checkout_commands"]
    ours = {name: target for name, target in ours.items() if name in COMMANDS}
    assert ours == {name: f"{module}:main" for name, (module, _) in COMMANDS.items()}
    for name in points["toto_robot.commands"]:
        assert points["toto_robot.commands"][name].startswith("toto_robot."), name


@pytest.mark.parametrize(("name", "overrides"), list(choices()), ids=str)
def test_the_yaml_says_everything(name, overrides) -> None:
    data, _ = compose(name, overrides)
    assert to_dict(from_dict(config_class(name), data)) == data


@pytest.mark.parametrize("name", COMMANDS)
def test_a_root_key_with_the_name_of_a_group_is_that_group(name) -> None:
    """Otherwise Hydra takes `key=value` on the command line for a choice of the group."""
    names = {path.name for folder in FOLDERS for path in folder.iterdir() if path.is_dir()}
    groups = {group.place for group in root_file(name).groups}
    fields = {field.name for field in dataclasses.fields(config_class(name))}
    assert fields & names <= groups


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_is_described(name) -> None:
    missing = [
        f"{part.__name__}.{field.name}"
        for part in _parts(config_class(name))
        for field in dataclasses.fields(part)
        if field.init and field.name not in field_descriptions(part)
    ]
    assert not missing


def _parts(hint):
    """Yield the dataclasses that a config consists of."""
    from typing import get_args, get_type_hints

    if dataclasses.is_dataclass(hint):
        yield hint
        for inner in get_type_hints(hint).values():
            yield from _parts(inner)
    for inner in get_args(hint):
        yield from _parts(inner)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_of_the_yaml_is_an_example_and_a_summary(name) -> None:
    root = root_file(name)
    module = COMMANDS[name][0].removesuffix(".__main__")
    assert root.example.startswith(f"python -m {module}"), root.example
    assert root.summary, name


def test_every_command_runs_when_its_module_does() -> None:
    for module, _ in COMMANDS.values():
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert text.endswith('\nif __name__ == "__main__":\n    main()\n'), module


def test_the_yaml_stays_plain() -> None:
    for path in (path for folder in FOLDERS for path in folder.rglob("*.yaml")):
        text = path.read_text()
        assert "_target_" not in text, path
        if path.stem != "command":
            assert "${" not in text, f"{path}: no interpolation"
