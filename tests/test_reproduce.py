"""What `toto-robot reproduce` lists: commands that are valid, and what the docs say."""

import importlib.metadata
import re
import shlex
from pathlib import Path

import pytest

from tests.command_lines import run
from tests.test_front_door import words_of
from toto_robot.reproduce import STATUSES, read_results

ROOT = Path(__file__).parents[1]
RESULTS = read_results()
LINES = {line: f"{one.name}-{k}" for one in RESULTS.values() for k, line in enumerate(one.commands)}
MADE = re.compile(r"(?:runs|data/(?:tokens|frames_\d+))/[\w/.=-]+")  # by a command of this project


def reproduce(words=""):
    return run("toto_robot.reproduce", words)


def test_all_tables_and_figures_of_the_paper_are_there() -> None:
    tables, figures = (f"table{k}" for k in range(1, 17)), (f"figure{k}" for k in range(1, 15))
    assert set(RESULTS) == {*tables, *figures, "a2", "a8"}
    assert {one.section for one in RESULTS.values()} >= {
        f"A.{k}" for k in (1, 2, 3, 4, 5, 6, 7, 8, 9)
    }


@pytest.mark.parametrize("line", LINES, ids=LINES.get)
def test_every_listed_command_is_valid(line) -> None:
    if shlex.split(line)[0] == "tensorboard":
        assert "tensorboard" in importlib.metadata.entry_points(group="console_scripts").names
        return
    module, words = words_of(line)
    done = run(module, [*words, "--dry-run"])
    assert (done.code, done.err) == (0, ""), f"{line}\n{done.err}"


@pytest.mark.parametrize("name", [n for n, one in RESULTS.items() if "GPU" in one.needs])
def test_what_needs_a_gpu_does_not_run_on_the_cpu(name) -> None:
    for line in RESULTS[name].commands:
        module, words = words_of(line)
        printed = run(module, [*words, "--dry-run"]).out
        devices = re.findall(r"^ *device: (\S+)", printed, re.MULTILINE)
        assert "cpu" not in devices, line
        warmup = re.search(r"warmup_steps: (\d+)", printed)
        steps = re.search(r"^ *(?:- )?steps: (\d+)", printed, re.MULTILINE)
        assert not (warmup and steps) or int(warmup[1]) < int(steps[1]), line


@pytest.mark.parametrize("name", RESULTS)
def test_what_a_command_reads_was_written_by_an_earlier_one(name) -> None:
    def lines_of(name, seen):
        assert name not in seen, f"circle: {seen}"
        for first in RESULTS[name].first:
            yield from lines_of(first, (*seen, name))
        yield from RESULTS[name].commands

    written = []
    for line in lines_of(name, ()):
        words = shlex.split(line)
        for path in MADE.findall(" ".join(word for word in words if not word.startswith("out="))):
            assert any(path == out or path.startswith(f"{out}/") for out in written), (line, path)
        written += [word.removeprefix("out=") for word in words if word.startswith("out=")]


def section(link):
    """Return the text of the section that a link names, with its subsections."""
    page, _, anchor = link.partition("#")
    text = (ROOT / page).read_text()
    found = list(re.finditer(r"^(#+) (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M))
    slugs = [re.sub(r"[^\w\- ]", "", head[2].lower()).replace(" ", "-") for head in found]
    if not anchor:
        return text
    assert anchor in slugs, f"{link}: the sections of this page are {slugs}"
    start = text.index(f"\n{found[slugs.index(anchor)][0]}\n")
    level = len(found[slugs.index(anchor)][1])
    end = re.search(rf"^#{{1,{level}}} ", text[start + level + 3 :], re.MULTILINE)
    return text[start:][: end.start() + level + 3] if end else text[start:]


@pytest.mark.parametrize("name", RESULTS)
def test_what_was_run_here_is_in_the_docs(name) -> None:
    one = RESULTS[name]
    text = section(one.docs).replace(",", "")
    for number in re.findall(r"\d+(?:\.\d+)?", one.run.replace(",", "")):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", text), (number, one.docs)
    if one.run:
        assert one.commands


def test_the_page_of_the_paper_has_the_same_table() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    assert reproduce("--markdown").out in page, "update docs/paper.md: reproduce --markdown"
    shown = reproduce("--list table5").out.split("\n\n")[0]
    assert f"```\n{shown}\n```" in page


def test_the_list_says_for_each_result_what_there_is() -> None:
    done = reproduce("--list")
    assert (done.code, done.err) == (0, "")
    blocks = done.out.split("\n\n")
    assert len(blocks) == len(RESULTS) + 1
    for block, one in zip(blocks, RESULTS.values(), strict=False):
        assert block.startswith(one.title)
        assert one.docs in block
        assert ("no command yet" in block) == (not one.commands and bool(one.missing))
        assert ("run here  no" in block) == (not one.run)
    assert reproduce().out == done.out


def test_one_result_has_all_its_commands_and_the_paper_s_numbers() -> None:
    for name in ("table4", "Table4", "table-4"):
        done = reproduce(name)
        assert all(line in done.out for line in RESULTS["table4"].commands)
        assert re.search(r"dVAE/16 to 32, RoPE base 50,000 +2\.13e17 +64\.4\n", done.out)
    assert reproduce("fig10").out.startswith("Figure 10, section A.1: ")


def titles(words):
    return re.findall(r"^(Table \d+|Figure \d+|Appendix A\.\d)", reproduce(words).out, re.MULTILINE)


def test_names_and_filters_select() -> None:
    assert titles("--list A.5") == titles("a5") == ["Table 15", "Figure 11"]
    assert len(titles("tables")) == 16
    assert len(titles("--list figures")) == 14
    by_status = [titles(f"status={status}") for status in STATUSES]
    assert all(by_status)
    assert sum(map(len, by_status)) == len(RESULTS)
    assert titles("command=kinetics") == ["Table 16", "Figure 8"]
    assert titles("figures command=kinetics") == ["Figure 8"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("tabel5", "the paper has no 'tabel5'; did you mean table5"),
        ("figure15", "the paper has no 'figure15'; did you mean "),
        ("9.9", "the paper has no '9.9'; all names: --list"),
        ("colour=red", "unknown setting 'colour=red'; known: status=..., command=..."),
        ("status=done", "status: unknown 'done'; possible: run, not_run, no_command"),
    ],
)
def test_an_unknown_word_is_answered_in_one_line(words, answer) -> None:
    done = reproduce(words)
    assert done.code == 1
    assert done.err.startswith(f"reproduce: {answer}")
    assert len(done.err.splitlines()) == 1
