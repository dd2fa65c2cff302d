"""Turn a function and its config class into a command: the only module that imports Hydra.

    main = command("train", TrainConfig)(train)      # in policies/train.py

composes `configs/train.yaml` with the overrides of the command line, reads it into `TrainConfig`
and calls `train(config, out)`. Hydra composes; from there on it is plain Python. The rules for
`configs/` are in docs/commands.md.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .config import from_dict
from .runs import goes_on, stopped_after

__all__ = ["command", "compose"]

C = TypeVar("C")
CONFIGS = Path(__file__).parents[1] / "configs"


def command(
    name: str, config_class: type[C]
) -> Callable[[Callable[[C, Path], object]], Callable[[], None]]:
    """Return a decorator that makes `verb(config, out)` a command without arguments.

    The command prints the resolved config and where the results go, then calls the verb. The
    folder is the config's top-level key `out`; in a multirun (`-m seed=0,1,2`) each job has its
    own folder below it, named for what differs. Running a command again with the same `out` is how
    one resumes.

    Args:
        name: the root config, `configs/<name>.yaml`.
        config_class: a frozen dataclass; what the YAML must say, without `out`.
    """

    def decorate(verb: Callable[[C, Path], object]) -> Callable[[], None]:
        def run(composed: Any) -> None:
            # imported here and not above: importing a command must not need Hydra
            from hydra.core.hydra_config import HydraConfig
            from hydra.types import RunMode
            from omegaconf import OmegaConf

            try:
                data, out = _plain(composed)
                config = from_dict(config_class, data)
            except ValueError as error:
                sys.exit(f"{name}: {error}")
            job = HydraConfig.get()
            if job.mode == RunMode.MULTIRUN:
                out = out / job.job.override_dirname
            if os.environ.get("RANK", "0") == "0":  # of those that torchrun started, one tells
                text = OmegaConf.to_yaml(OmegaConf.create(data))
                print(f"# {name}\n{text}results: {out}", flush=True)
            try:
                with _stoppable(name, out):
                    verb(config, out)
            except (ValueError, OSError, ImportError) as error:
                # what was asked for or what lies on the disk is wrong, and the message says what
                if "HYDRA_FULL_ERROR" in os.environ:
                    raise
                sys.exit(f"{name}: {error or type(error).__name__}")

        def main() -> None:
            _require_configs(name)
            import hydra

            with _stoppable(name, None):
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(run)()

        return main

    return decorate


class _Stopped(KeyboardInterrupt):
    """Ctrl-C, with how far the command had come."""


@contextmanager
def _stoppable(name: str, out: Path | None) -> Iterator[None]:
    """End a command on Ctrl-C with one line that says how far it came, and no traceback."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the next one is not explained
        raise _Stopped(_progress(out))

    hears = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if hears and before is not signal.SIG_IGN:  # ignored: of a command in the background
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            told = str(error) if isinstance(error, _Stopped) else ""
            print(f"\n{name}: {told or 'stopped'}", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    finally:
        if hears:
            signal.signal(signal.SIGINT, before)


def _progress(out: Path | None) -> str:
    """Return how far the outermost progress bar has come; empty where there is none."""
    module = sys.modules.get("tqdm.std")  # a command without bars has not imported it
    bars = [] if module is None else list(getattr(module.tqdm, "_instances", ()))
    bars = [bar for bar in bars if not bar.disable and bar.total]
    if not bars or out is None:
        return ""
    bar = min(bars, key=lambda one: abs(one.pos))
    return stopped_after(int(bar.n), int(bar.total), bar.unit, goes_on=goes_on(out))


def compose(name: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Path]:
    """Return what a command would read, as plain data, and its `out`; for tests and for notebooks.

    Raises:
        ValueError: a value is missing (`???`).
    """
    import hydra

    _require_configs(name)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return _plain(hydra.compose(name, list(overrides)))


def _plain(composed: Any) -> tuple[dict[str, Any], Path]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        data: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(str(error).splitlines()[0]) from error
    out = data.pop("out", None)
    if not isinstance(out, str) or not out:
        raise ValueError(f"out: expected a folder, got {out!r}")
    return data, Path(out)


def _require_configs(name: str) -> None:
    try:
        import hydra as hydra
    except ImportError:
        sys.exit("commands need Hydra: pip install 'toto-robot[train]'")
    if not (CONFIGS / f"{name}.yaml").is_file():
        sys.exit(
            f"{CONFIGS / name}.yaml is not there: the installed package is the library alone, "
            "commands run from a checkout (git clone, then make demo)"
        )
