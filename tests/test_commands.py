"""Every command has its YAML, every YAML its command, and the YAML says everything."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
COMMAND = re.compile(r'^main = command\("(\w+)", (\w+)\)\(', re.MULTILINE)


ONE_KIND = {"lr_sweep", "scaling"}  # they compare models of one kind


def commands():
    """Return module and config class of every command, by its name."""
    found = {}
    for package in ("toto_robot", "envs", "policies", "real_robot"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, config_class in COMMAND.findall(path.read_text()):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name] = (module, config_class)
    return found


def choices():
    """Return every root config with its defaults, and with each choice for each of its groups."""
    from omegaconf import OmegaConf

    for name in commands():
        yield name, []
        for entry in OmegaConf.load(CONFIGS / f"{name}.yaml").get("defaults", []):
            if isinstance(entry, str):
                continue
            ((group, default),) = entry.items()
            key, _, package = group.partition("@")
            override = key if package in ("", key) else group  # Hydra's own name for it
            folder = CONFIGS / key
            for option in sorted(folder.glob("*.yaml")):
                usual = folder / f"{default or option.stem}.yaml"
                if name in ONE_KIND and _kind(option) != _kind(usual):
                    continue
                if _same_shape(option, usual):
                    yield name, [f"{override}={option.stem}"]


def _kind(path):
    from omegaconf import OmegaConf

    return OmegaConf.load(path).get("kind")


def _same_shape(option, default):
    """Leave a choice out that belongs to another command: its `kind` or its keys tell."""
    from omegaconf import OmegaConf

    one, two = OmegaConf.load(option), OmegaConf.load(default)
    return "kind" in one or set(one) == set(two)


def test_every_root_config_belongs_to_a_command() -> None:
    roots = {path.stem for path in CONFIGS.glob("*.yaml")} - {"command"}
    assert roots == set(commands())


@pytest.mark.parametrize(("name", "overrides"), list(choices()), ids=str)
def test_the_yaml_says_everything(name, overrides) -> None:
    from toto_robot.cli import compose
    from toto_robot.config import from_dict, to_dict

    module, config_class = commands()[name]
    data, _ = compose(name, overrides)
    config = from_dict(getattr(importlib.import_module(module), config_class), data)
    assert to_dict(config) == data


def test_every_command_runs_when_its_module_does() -> None:
    for module, _ in commands().values():
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert text.endswith('\nif __name__ == "__main__":\n    main()\n'), module


def test_the_yaml_stays_plain() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        text = path.read_text()
        assert "_target_" not in text, path
        if path.stem != "command":
            assert "${" not in text, f"{path}: no interpolation"
