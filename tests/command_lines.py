"""Run a command in this process, as a user types it."""

import contextlib
import importlib
import io
import shlex
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def run(module, words):
    """Run `python -m <module> <words>`; Hydra's global state is as in a new process."""
    from hydra.core.global_hydra import GlobalHydra

    words = shlex.split(words) if isinstance(words, str) else list(words)
    GlobalHydra.instance().clear()
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    main = importlib.import_module(module).main
    sys.argv = [module, *words]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=err)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())
