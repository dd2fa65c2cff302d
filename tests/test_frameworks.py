"""The recipes of docs/frameworks.md exist, are short, and name the versions they run with."""

import re

import pytest

from benchmarks.compatibility.frameworks import CHECKS, FRAMEWORKS, PAGE, recipe


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_each_framework_has_a_short_recipe_with_its_version(framework):
    code = recipe(framework.section)
    compile(code, framework.section, "exec")
    assert len(code.splitlines()) <= 20
    assert (CHECKS / f"check_{framework.name}.py").is_file()
    section = PAGE.read_text().partition(f"## {framework.section}\n")[2].partition("\n## ")[0]
    pins = dict(one.split("==") for one in (*framework.packages, *framework.alone) if "==" in one)
    assert f"{framework.name} {pins[framework.name]}" in section


def test_a_section_without_code_is_an_error():
    with pytest.raises(ValueError, match="no section 'Nothing'"):
        recipe("Nothing")


def test_the_page_names_no_module_that_is_not_there():
    for module in re.findall(r"(?:from|import) (toto_robot\.integrations\.\w+)", PAGE.read_text()):
        assert (PAGE.parents[1] / f"{module.replace('.', '/')}.py").is_file(), module
