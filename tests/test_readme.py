"""The README tells the truth: its snippet runs, its files and commands are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_snippet_of_the_readme_runs() -> None:
    (snippet,) = blocks(README, "python")
    names: dict[str, object] = {}
    # in a checkout the environments have the name of their folder; the smoke test runs it as it is
    exec(snippet.replace("toto_robot_envs:", "envs:"), names)
    names["env"].close()
    assert names["observation"]["embedding_hand"].shape == (names["env"].encoder.dim,)


def test_the_readme_is_one_page() -> None:
    assert len(README.split()) <= 1000


def test_the_citation_is_that_of_this_version() -> None:
    import tomllib

    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for key in ("version", "license"):
        assert citation[key] == project[key]
    assert citation["title"] == project["name"]


def test_the_tree_names_folders_that_exist() -> None:
    (tree,) = blocks(README, "text")
    package = ""
    for line in tree.splitlines():
        indent, names = re.match(r"( *)((?:\S+/ ?)+)", line).groups()
        package = package if indent else names.strip()
        for name in names.split():
            assert (ROOT / (package if indent else "") / name).is_dir(), line


def test_the_page_of_all_modules_is_up_to_date() -> None:
    command = [sys.executable, "docs/layout.py"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs/layout.md").read_text(), (
        "run: python docs/layout.py > docs/layout.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page) -> None:
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"there is no make {target}"
    for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)+)", text):
        path = ROOT / module.replace(".", "/")
        found = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        assert found, f"{page.name} names {module}"
