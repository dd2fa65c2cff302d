"""Every command as a user types it: its help, usual mistakes, odd paths, and what the docs show."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.command_lines import run
from tests.test_commands import COMMANDS, config_class, root_file
from toto_robot.__main__ import SUMMARIES
from toto_robot.overrides import hints_at, quoted, read_arguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "layout.md"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does_an_example_and_all_its_settings(name) -> None:
    done = run(COMMANDS[name][0], ["--help"])
    assert done.code == 0, done.err
    module = COMMANDS[name][0].removesuffix(".__main__")
    root = root_file(name)
    assert done.out.startswith(
        f"python -m {module}: {root.summary}\n\nexample:\n  python -m {module}"
    )
    for field in dataclasses.fields(config_class(name)):
        assert re.search(rf"^  {field.name}=", done.out, re.MULTILINE), field.name
    for group in root.groups:
        assert group.place or f"  {group.folder}=" in done.out
    assert max(map(len, done.out.splitlines())) <= 200


def test_the_example_of_help_is_valid() -> None:
    for name, (module, _) in COMMANDS.items():
        words = shlex.split(root_file(name).example)[3:]
        done = run(module, [*words, "--dry-run"])
        assert done.code == 0, f"{name}: {done.err}"


def mistakes(name):
    """Yield ten kinds of mistakes, as words, each with what the answer must contain."""
    fields = [field.name for field in dataclasses.fields(config_class(name))]
    first = fields[0]
    yield [first[:-1] + "zz=1"], "unknown setting"
    yield [f"{first}.nowhere.deep=1"], r"."
    yield [first], f"{first}=..."
    yield [f"--{first}=1"], "settings have no dashes"
    yield ["--halp"], "unknown option '--halp'; did you mean '--help'"
    yield ["out="], "out: expected a folder"
    yield ["out=null"], "out: expected a folder"
    yield [f"{first}=???"], r"."
    yield ["=3"], "expected settings as key=value"
    yield ["+nonsense=1"], "nonsense"
    for group in root_file(name).groups:
        yield (
            [f"{group.folder if group.place in ('', group.folder) else group.place}=nonsens"],
            ("unknown choice 'nonsens'"),
        )
    numbers = {}
    for field in fields:
        hints = set(hints_at(config_class(name), field))
        for kind in (int, float):
            if kind in hints and str not in hints:
                numbers.setdefault(kind, field)
    if int in numbers:
        yield [f"{numbers[int]}=many"], numbers[int]
        yield [f"{numbers[int]}=[1,"], r"."
    if float in numbers:
        yield [f"{numbers[float]}=nan"], "finite"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, answer in mistakes(name):
        done = run(COMMANDS[name][0], words)
        assert done.code == 1, (words, done)
        assert done.err.startswith(f"{name}: "), (words, done.err)
        assert len(done.err.splitlines()) == 1, (words, done.err)
        assert re.search(answer, done.err), (words, done.err)
        assert "Traceback" not in done.err
        assert "HYDRA_FULL_ERROR" not in done.err
    assert not list(tmp_path.iterdir())


ODD = [
    "a,b",
    "a=b",
    "take (1)",
    "it's",
    "~x",
    '"',
    "a b",
    "$HOME",
    "${x}",
    "{a}",
    "[1]",
    "a#b",
    "null",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_path_may_have_any_characters(odd, tmp_path) -> None:
    place = tmp_path / odd
    words = [f"out={place}", f"data={place}", f"encoder={place}", "--dry-run"]
    done = run("toto_robot.sweep", words)
    assert done.code == 0, done.err
    import yaml

    text = done.out.partition("\nresults: ")[0]
    read = yaml.safe_load(text)
    assert read["data"] == read["encoder"]["name_or_path"] == str(place)
    assert f"\nresults: {place}\n" in done.out


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("'a,b'", "a,b"),
        ('"a b"', "a b"),
        ("'a','b'", "'a','b'"),
        ("'a'b'", "'a'b'"),
        (" x ", " x "),
        ("1e3", "1e3"),
        ("~no_such_user/x", "~no_such_user/x"),
        ("\n", "\n"),
    ],
)
def test_text_is_read_as_typed_and_quotes_around_all_of_it_are_left_out(typed, read) -> None:
    import yaml

    done = run("toto_robot.sweep", [f"data={typed}", f"array={typed}", "--dry-run"])
    assert done.code == 0, done.err
    printed = yaml.safe_load(done.out.partition("\nresults: ")[0])
    assert printed["data"] == printed["array"] == read


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("a,b", ["a", "b"]),
        ("take (1),it's", ["take (1)", "it's"]),
        ("'a,b',c", ["a,b", "c"]),
        ("it's,that's", ["it's", "that's"]),
        ("x={y},null", ["x={y}", None]),
    ],
)
def test_several_texts_of_a_multirun_are_read_as_typed(typed, values) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    arguments = read_arguments(["-m", f"array={typed}"], config_class("sweep"), (), (), {})
    (override,) = OverridesParser.create().parse_overrides(list(arguments.overrides))
    found = [one.text if hasattr(one, "text") else one for one in override.sweep_iterator()]
    assert found == values


def test_several_checkpoints_may_be_one_run_each() -> None:
    group = root_file("sweep").groups[0]
    words = ["-m", "encoder=runs/a,runs/b"]
    arguments = read_arguments(words, config_class("sweep"), (group,), (ROOT / "configs",), {})
    assert arguments.overrides == (
        "encoder=checkpoint",
        "encoder.name_or_path='runs/a','runs/b'",
    )


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("data=", "data: expected a path, got ''"),
        ("encoder=", "encoder: unknown choice ''"),
        ("encoder=null", "encoder: unknown choice 'null'"),
        ("encoder=" + "x" * 5000, "encoder: unknown choice"),
    ],
)
def test_an_empty_or_endless_value_is_refused(word, answer) -> None:
    done = run("toto_robot.sweep", [word, "--dry-run"])
    assert done.code == 1
    assert done.err.startswith(f"sweep: {answer}")


def test_choices_of_a_folder_of_one_s_own_are_shown_and_their_mistakes_named(tmp_path) -> None:
    (tmp_path / "encoder").mkdir()
    good = (ROOT / "toto_robot/configs/encoder/nano.yaml").read_text()
    for name, text in {"mine": good, "broken": "kind: [toto", "empty": ""}.items():
        (tmp_path / "encoder" / f"{name}.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path)]
    done = run("toto_robot.encode", [*words, "encoder=mine", "--help"])
    assert done.code == 0, done.err
    assert re.search(r"choices: .*\bmine\b", done.out)
    assert "broken" not in done.out
    done = run("toto_robot.encode", [*words, "images=x", "encoder=broken"])
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "encoder/broken.yaml" in done.err
    done = run("toto_robot.encode", [*words, "images=x", "encoder=empty"])
    assert done.err.startswith("encode: encoder")


def test_null_is_the_choice_of_a_group_that_has_none_by_default() -> None:
    done = run("policies.evaluate", ["encoder=null", "--dry-run"])
    assert done.code == 0, done.err


@settings(max_examples=200)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
@example("a\\'${b}\\")
@example("\\\n")
def test_hydra_gives_a_quoted_text_back(text) -> None:
    assume(text != "???")  # OmegaConf's mark of a missing value, which cannot be a text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    value = OverridesParser.create().parse_override(f"key={quoted(text)}").value()
    config = OmegaConf.create({"key": value, "other": "${key}/x"})
    read = OmegaConf.to_container(config, resolve=True)
    assert read == {"key": text, "other": f"{text}/x"}


def test_a_leading_tilde_is_the_home_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run("toto_robot.sweep", ["data=~/store", "--dry-run"])
    assert f"data: {tmp_path}/store\n" in done.out


def test_one_path_may_stand_for_a_list_of_paths() -> None:
    arguments = read_arguments(["data=a,b"], config_class("positions"), (), (), {})
    assert arguments.overrides == ("data=['a,b']",)


PLACES = {name: {group.place for group in root_file(name).groups} for name in COMMANDS}
CHOSEN = ["nano", "random", "toto-nano", "some/folder", "stream", "tokens"]


@pytest.mark.parametrize("name", [name for name in COMMANDS if "encoder" in PLACES[name]])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_an_encoder_is_chosen_alike_in_every_command(name, chosen) -> None:
    import yaml

    done = run(COMMANDS[name][0], [f"encoder={chosen}", "--dry-run"])
    assert done.code == 0, done.err
    read = yaml.safe_load(done.out.partition("\nresults: ")[0])["encoder"]
    assert read["kind"] == ("random" if chosen == "random" else "toto")
    assert read["name_or_path"] == (chosen if chosen == "some/folder" else "toto-nano")


def test_a_renamed_key_is_still_read() -> None:
    done = run("toto_robot.export", ["layer=3", "--dry-run"])
    assert done.err == "export: layer= was renamed to encoder.layer=\n"
    assert "\n  layer: 3\n" in done.out
    done = run("toto_robot.sweep", ["context=8", "--dry-run"])
    assert "\n    context: 8\n" in done.out


def documented():
    """Yield every command line of the docs: page, line number, and the words after the program."""
    demo = 'make demo ARGS="[^"]*"'
    line_of = re.compile(rf"\bpython -m [^`\n]*|\btoto-robot [a-z_]+[^`\n]*|{demo}")
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        lines = [line for block in blocks for line in block.splitlines()] + spans
        for line in lines:
            if found := line_of.search(line):
                yield page.name, found[0]


def words_of(line):
    """Return the module and the arguments of a documented line; None for other programs."""
    line = re.split(r"\s+#\s|\s+[|>&;]+(?:\s|$)", line)[0]
    if line.startswith("make demo ARGS="):
        return "policies.train", shlex.split(shlex.split(line)[2].removeprefix("ARGS="))
    words = shlex.split(line)
    if words[0] == "toto-robot":
        words = ["python", "-m", "toto_robot", *words[1:]]
    if "-m" not in words:
        return None
    start = words.index("-m")
    if start + 1 == len(words):
        return None
    module, arguments = words[start + 1], words[start + 2 :]
    if module == "toto_robot" and arguments and not arguments[0].startswith("-"):
        name = arguments[0].replace("-", "_")
        if name in SUMMARIES:  # without a YAML file
            return None
        module, arguments = COMMANDS[name][0], arguments[1:]
    ours = {module.removesuffix(".__main__"): module for module, _ in COMMANDS.values()}
    if module not in ours and module not in ours.values():
        return None
    return ours.get(module, module), [word for word in arguments if word != "..."]


LINES = sorted({line for line in documented() if words_of(line[1])})


def test_the_docs_show_most_commands() -> None:
    shown = {words_of(line)[0] for _, line in LINES}
    assert {module for module, _ in COMMANDS.values()} - shown == set()


@pytest.fixture
def own_choices(tmp_path, monkeypatch):
    """Folders of choices that the pages tell the reader to write."""
    page = (ROOT / "docs" / "wrap_your_own_robot.md").read_text()
    (choice,) = re.findall(
        r"^```yaml\n# (my_configs\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL
    )
    lab = (ROOT / "configs" / "station" / "table.yaml").read_text()
    for name, text in [choice, ("my_configs/station/lab.yaml", lab)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("page", "line"), LINES, ids=str)
def test_every_documented_command_line_is_valid(page, line, own_choices) -> None:
    module, words = words_of(line)
    words = [word.replace("<", "").replace(">", "") for word in words if word != "<setting>"]
    if "station=lab" in words and "--config-dir" not in words:
        words = ["--config-dir", "my_configs", *words]
    done = run(module, [*words, "--dry-run"])
    assert (done.code, done.err) == (0, ""), f"{page}: {line}\n{done.err}"


def test_the_console_script_lists_and_runs_commands(tmp_path) -> None:
    call = [sys.executable, "-m", "toto_robot"]
    listed = subprocess.run([*call, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", listed.stdout, re.MULTILINE), name
    done = subprocess.run([*call, "swep"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "did you mean sweep or lr_sweep?" in done.stderr
    done = subprocess.run([*call, "sweep", "stridee=3"], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "sweep: unknown setting 'stridee'; did you mean 'stride'?\n"
    done = subprocess.run([*call, "swp!"], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.endswith("All commands: toto-robot --help\n")
