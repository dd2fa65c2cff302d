"""The README tells the truth: its snippet runs, its files and commands are there."""

import re
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


@pytest.mark.parametrize("index", range(len(blocks(README, "python"))))
def test_a_snippet_of_the_readme_runs(index) -> None:
    names: dict[str, object] = {}
    exec(blocks(README, "python")[index], names)
    names["env"].close()
    assert names["observation"]["embedding_hand"].shape == (names["env"].encoder.dim,)


def test_the_files_of_the_tree_are_there() -> None:
    (tree,) = blocks(README, "text")
    folder = ROOT
    for line in tree.splitlines():
        match = re.match(r"( *)(\S+)  ", line)
        if not match:
            continue
        indent, name = match.groups()
        if not indent and name.endswith("/"):
            folder = ROOT / name
        path = folder / name if indent else ROOT / name
        assert path.exists(), f"the tree names {name}, and there is no {path}"


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
        assert path.with_suffix(".py").is_file(), f"{page.name} names {module}"
