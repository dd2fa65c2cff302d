"""Make a function and its config class a command; only this module imports Hydra.

    main = command("train", TrainConfig)(train)      # in policies/train.py

The function `main` reads `train.yaml`, applies the settings of the command line, builds a
`TrainConfig` and calls `train(config, out)`. `toto_robot.overrides` reads the command line.
docs/commands.md has the rules for YAML files.
"""

import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

from .config import from_dict
from .config_files import RootFile, search_path
from .overrides import quoted, read_arguments
from .runs import goes_on, stop_signals, stopped_after
from .usage import discard_output, help_text, print_any_text, show

__all__ = ["command", "compose", "config_dirs", "configure"]

C = TypeVar("C")
_RECORDS_OF_A_FILE = (  # only a multirun leaves records, beside the file
    "hydra/job_logging=none", "hydra.output_subdir=null", "hydra.run.dir=.",
    "hydra.sweep.dir='${out}.hydra'",
)  # fmt: skip


def command(
    name: str,
    config_class: type[C],
    renamed: Mapping[str, str] | None = None,
    *,
    result: Literal["folder", "file"] = "folder",
) -> Callable[[Callable[[C, Path], object]], Callable[[], None]]:
    """Return a decorator that converts `verb(config, out)` to a `main` without arguments.

    `main` reads the command line, prints the settings and the path of the results, then calls
    `verb`. The path is the top-level key `out` of the settings. A multirun (`-m seed=0,1,2`) calls
    `verb` once for each combination of the values; these calls are the jobs of the multirun. Each
    job has a separate folder below `out`, named after its settings. The same command with the same
    `out` resumes a stopped run. `--help` and `--dry-run` do not call `verb`.

    Args:
        name: name of the command's YAML file, without `.yaml`.
        config_class: a frozen dataclass with the keys of the YAML file, except `out`.
        renamed: maps old names of settings, such as `data.path`, to new names; the command line may
            use both. None: no setting was renamed.
        result: `folder` if `out` is a folder, `file` if it is one file. In a multirun, the file of
            each job has the job's number in its name, such as `x-0.npy`. A single run with a file
            as result leaves no records of Hydra.
    """

    def decorate(verb: Callable[[C, Path], object]) -> Callable[[], None]:
        def run(composed: Any, swept: Sequence[str]) -> None:
            # imported here, so that a command can be imported without Hydra
            from hydra.core.hydra_config import HydraConfig
            from hydra.types import RunMode

            try:
                data, out = _plain(composed)
                config = from_dict(config_class, data)
            except ValueError as error:
                sys.exit(f"{name}: {error}")
            job = HydraConfig.get()
            if job.mode == RunMode.MULTIRUN:
                numbered = out.with_stem(f"{out.stem}-{job.job.num}")
                out = numbered if result == "file" else _job_folder(out, job, swept)
            try:
                if os.environ.get("RANK", "0") == "0":  # one process of torchrun
                    _print(name, data, out)
                with _stoppable(name, out):
                    verb(config, out)
                if stop_signals:
                    sys.exit(128 + stop_signals.pop())
            except _user_errors() as error:
                # a mistake in the settings or on the disk, which the message describes
                if "HYDRA_FULL_ERROR" in os.environ:
                    raise
                if isinstance(error, BrokenPipeError):
                    discard_output()
                sys.exit(f"{name}: {error or type(error).__name__}")

        def main() -> None:
            print_any_text()
            folders = search_path(getattr(verb, "__globals__", {}).get("__package__"))
            root = _find_root(name, folders)
            try:
                asked = read_arguments(
                    sys.argv[1:], config_class, root.groups, folders, renamed or {}
                )
                for notice in asked.notices:
                    print(f"{name}: {notice}", file=sys.stderr)
                if asked.wants_help:
                    overrides = () if asked.multirun else asked.overrides
                    show(_help(root, [*asked.config_dirs, *folders], config_class, overrides))
                    return
                # mistakes are reported before a folder is created
                jobs = _jobs(asked.overrides) if asked.multirun else [asked.overrides]
                checked = [_plain(_composed(root, folders, job, asked.config_dirs)) for job in jobs]
                for data, out in checked:
                    from_dict(config_class, data)
                    _check_place(out, result)
                if asked.dry_run:
                    _print(name, *checked[0])
                    more = " (shown: the first run's)" if len(checked) > 1 else ""
                    print(f"dry run: the settings are valid{more}; nothing was run")
                    return
                if result == "folder" and not asked.prints_only:
                    (checked[0][1] / "hydra").mkdir(parents=True, exist_ok=True)
            except (ValueError, OSError, *_composition_errors()) as error:  # pyrefly: ignore
                if isinstance(error, BrokenPipeError):
                    discard_output()
                sys.exit(f"{name}: {_in_short(error)}")
            import hydra

            search = _search_override(root, folders)
            records = _RECORDS_OF_A_FILE if result == "file" else ()
            sys.argv = [sys.argv[0], *asked.flags, *asked.overrides, search, *records]
            place = str(root.path.parent)
            swept = _swept(asked.overrides)

            def run_job(composed: Any) -> None:
                run(composed, list(swept))

            with _stoppable(name, None):
                hydra.main(version_base="1.3", config_path=place, config_name=name)(run_job)()

        return main

    return decorate


class _Stopped(KeyboardInterrupt):
    """An interrupt by Ctrl-C, with the progress of the command as its message."""


@contextmanager
def _stoppable(name: str, out: Path | None) -> Iterator[None]:
    """Print one line about the progress, without a traceback, if Ctrl-C stops the block."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once
        raise _Stopped(_progress(out))

    is_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if is_main_thread and before is not signal.SIG_IGN:  # ignored for commands in the background
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            progress = str(error) if isinstance(error, _Stopped) else ""
            print(f"\n{name}: {progress or 'stopped'}", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    finally:
        if is_main_thread:
            signal.signal(signal.SIGINT, before)


def _progress(out: Path | None) -> str:
    """Return a text with the progress of the outermost progress bar; empty if there is no bar."""
    module = sys.modules.get("tqdm.std")  # a command without bars has not imported it
    bars = [] if module is None else list(getattr(module.tqdm, "_instances", ()))
    bars = [bar for bar in bars if not bar.disable and bar.total]
    if not bars or out is None:
        return ""
    bar = min(bars, key=lambda one: abs(one.pos))
    return stopped_after(int(bar.n), int(bar.total), bar.unit, goes_on=goes_on(out))


def config_dirs() -> tuple[Path, ...]:
    """Return the folders of `--config-dir` of the running command, as absolute paths."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ()
    return tuple(Path(one.path).absolute() for one in sources if one.provider == "command-line")


def compose(
    name: str,
    overrides: Sequence[str] = (),
    config_class: type | None = None,
    config_dirs: Sequence[Path] = (),
) -> tuple[dict[str, Any], Path]:
    """Return the settings of a command as plain data, and its `out`.

    It can also be called while a command runs, whose own settings stay as they are.

    Args:
        name: name of the command's YAML file, without `.yaml`.
        overrides: settings `key=value` in Hydra's grammar, which replace those of the file.
        config_class: the command's dataclass. With it, `overrides` are read as on the command line,
            so that `encoder=FOLDER` is possible. None: `overrides` are passed to Hydra unchanged.
        config_dirs: folders with further choices of groups, as of `--config-dir`.

    Raises:
        ValueError: a value is missing (`???`) or not finite, or a setting is unknown.
    """
    folders = search_path(__package__)
    root = _find_root(name, folders)
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra  # Hydra permits one composition at a time
    GlobalHydra.instance().clear()
    try:
        if config_class is not None:
            words = list(overrides)
            search = [*config_dirs, *folders]
            overrides = read_arguments(words, config_class, root.groups, search, {}).overrides
        return _plain(_composed(root, folders, overrides, config_dirs))
    except _composition_errors() as error:  # pyrefly: ignore
        raise ValueError(_in_short(error)) from error
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = outer


def configure(name: str, config_class: type[C], words: Sequence[str]) -> C:
    """Return the settings of a command for the words of a command line, such as `model=base`.

    Unlike in `compose`, the words are as a user types them. The function may be called while
    another command runs.

    Args:
        name: name of the command's YAML file, without `.yaml`.
        config_class: dataclass of the command's settings.
        words: settings `key=value`.

    Raises:
        ValueError: a setting is unknown or has a wrong value.
    """
    from hydra.core.global_hydra import GlobalHydra

    folders = search_path(config_class.__module__)
    root = _find_root(name, folders)
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        asked = read_arguments(words, config_class, root.groups, folders, {})
        return from_dict(config_class, _plain(_composed(root, folders, asked.overrides))[0])
    except (ValueError, *_composition_errors()) as error:  # pyrefly: ignore
        raise ValueError(f"{name} {' '.join(words)}: {_in_short(error)}") from error
    finally:
        GlobalHydra.instance().hydra = running


def _composed(
    root: RootFile,
    folders: Sequence[Path],
    overrides: Sequence[str],
    config_dirs: Sequence[Path] = (),
) -> Any:
    import hydra

    search = _search_override(root, [*config_dirs, *folders])
    with hydra.initialize_config_dir(str(root.path.parent), version_base="1.3"):
        return hydra.compose(root.path.stem, [*overrides, search])


def _swept(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each key with several values in a multirun, one `key=value` per value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {
        key: [f"{key}={value}" for value in one.sweep_string_iterator()]
        for one in parsed
        if one.is_sweep_override() and (key := one.get_key_element())
    }


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the settings of some jobs of a multirun, to check the values before it starts.

    These are the first job, and for each further value of a key the first job with this value.
    """
    swept = _swept(overrides)
    fixed = [text for text in overrides if text.partition("=")[0] not in swept]
    first = {key: values[0] for key, values in swept.items()}
    others = [{**first, key: value} for key, values in swept.items() for value in values[1:]]
    return [[*fixed, *values.values()] for values in (first, *others)]


def _job_folder(out: Path, job: Any, swept: Sequence[str]) -> Path:
    """Return the folder of a multirun's job, named after the settings that differ between jobs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    before = (
        out / job.job.override_dirname
    )  # until version 0.2: named for all settings of the command line
    texts = {text.partition("=")[0]: text for text in job.overrides.task}
    parsed = OverridesParser.create().parse_overrides([texts[key] for key in swept])
    values = [one.value() for one in parsed]
    plain = [
        f"{key}={value}" if isinstance(value, str) else texts[key]
        for key, value in zip(swept, values, strict=True)
    ]
    name = ",".join(sorted(plain)) or str(job.job.num)
    safe = re.sub(r"[/\\\x00-\x1f]", "-", name).encode()[:200].decode(errors="ignore")
    if safe != name:
        safe += f"-{sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return before if before != out and os.path.isdir(before) else out / safe


def _check_place(out: Path, result: str) -> None:
    """Check that the results can be written to `out`.

    Raises:
        ValueError: `out` or a parent folder of it exists, but is a file instead of a folder.
    """
    for place in (out, *out.parents):
        if os.path.lexists(place):
            if not place.is_dir() and (place != out or result == "folder"):
                raise ValueError(f"out: {place} is a file, so {out} cannot be a {result}")
            return


def _search_override(root: RootFile, folders: Sequence[Path]) -> str:
    """Return the setting of Hydra that adds the other folders of YAML files to its search path."""
    places = [f"file://{folder.absolute()}" for folder in folders if folder != root.path.parent]
    return f"hydra.searchpath=[{','.join(quoted(place) for place in places)}]"


def _plain(composed: Any) -> tuple[dict[str, Any], Path]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        data: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        name = error.full_key or str(error).splitlines()[0].rpartition(": ")[2]
        raise ValueError(f"{name}= must be given; see --help") from error
    _check_finite(data, "")
    out = data.pop("out", None)
    if not isinstance(out, str) or not out:
        raise ValueError(f"out: expected a folder, got {out!r}")
    return data, Path(out)


def _check_finite(data: Any, place: str) -> None:
    if isinstance(data, float) and not math.isfinite(data):
        raise ValueError(f"{place}: expected a finite number, got {data}")
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            _check_finite(value, f"{place}.{key}" if place else str(key))


def _print(name: str, data: dict[str, Any], out: Path) -> None:
    from omegaconf import OmegaConf

    print(f"# {name}\n{OmegaConf.to_yaml(OmegaConf.create(data))}results: {out}", flush=True)


def _help(
    root: RootFile, folders: Sequence[Path], config_class: type, overrides: Sequence[str]
) -> str:
    from omegaconf import OmegaConf

    composed = _composed(root, folders, overrides)
    data: Any = OmegaConf.to_container(composed, resolve=True)
    caller = Path(sys.argv[0]).name
    module = root.example.split(" ")[2] if root.example.startswith("python -m ") else caller
    program = sys.argv[0] if caller.startswith("toto-robot") else f"python -m {module}"
    return help_text(program, root, folders, config_class, data, str(data.pop("out")))


def _in_short(error: Exception) -> str:
    """Return an error's message, without the notes that Hydra and OmegaConf add for developers."""
    if isinstance(error, (ValueError, OSError)):
        return str(error)
    from hydra.errors import OverrideParseException

    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override}; a list is [1,2], a mapping {{a: 1}}, and a text with "
            """= or : has quotation marks: 'settings=["seed=1"]'"""
        )
    text = str(error).partition("Config search path:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "See "))]
    return "; ".join(kept) or type(error).__name__


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that are mistakes of the user, and are reported without a traceback."""
    gymnasium = sys.modules.get("gymnasium.error")  # for example an unknown id
    return (ValueError, OSError, ImportError, *([gymnasium.Error] if gymnasium else []))


def _composition_errors() -> tuple[type[Exception], ...]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return HydraException, OmegaConfBaseException, YAMLError


def _find_root(name: str, folders: Sequence[Path]) -> RootFile:
    try:
        import hydra as hydra
    except ImportError:
        sys.exit("commands need Hydra: pip install 'toto-robot[train]'")
    root = RootFile.find(name, folders)
    if root is None:
        sys.exit(
            f"{name}: there is no {name}.yaml in {' or '.join(map(str, folders))}; this command "
            "runs from a checkout: git clone, then make demo"
        )
    return root
