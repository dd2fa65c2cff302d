"""Old module paths still work, say where things are now, and are all in the change log."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

import envs
import policies
import real_robot
import toto_robot
from toto_robot.moved import _OldPaths

PACKAGES = {package.__name__ for package in (toto_robot, envs, policies, real_robot)}
ROOT = Path(__file__).parents[1]
TABLE = {
    old: news
    for one in sys.meta_path
    if isinstance(one, _OldPaths)
    for old, news in one.table.items()
}


def test_every_package_has_a_table() -> None:
    assert {old.split(".")[0] for old in TABLE} == PACKAGES


@pytest.mark.parametrize("old", sorted(TABLE))
def test_an_old_path_warns_and_leads_to_the_new_module(old, monkeypatch) -> None:
    for name in [
        one for one in sys.modules if one == old or (old.startswith(f"{one}.") and one in TABLE)
    ]:
        monkeypatch.delitem(sys.modules, name)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    assert any(f"{old} is now {TABLE[old][0]}" in str(one.message) for one in given)
    for new in TABLE[old]:
        try:
            found = importlib.import_module(new)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] in PACKAGES:
                raise
            pytest.skip(f"an extra is missing: {error}")
        for name, value in vars(found).items():
            if getattr(value, "__module__", None) == new and not name.startswith("_"):
                assert getattr(module, name) is value
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_the_change_log_lists_every_old_path() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert [old for old in TABLE if f"`{old}`" not in text] == []
