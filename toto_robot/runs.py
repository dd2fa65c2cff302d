"""A run's folder: who may write into it, what it was asked for, and how far it has come."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config import differences, from_dict, to_dict
from .files import write_json
from .locks import hold

# Settings, by their last name, that say how a run computes or keeps, and never what comes of it.
WITHOUT_EFFECT = frozenset(
    {
        "device", "num_workers", "read_threads", "memory_limit_gib", "batch_size", "keep_every",
        "keep_most", "keep_in_background", "video_episodes",
    }
)  # fmt: skip
# Settings that may grow: what is there stays good, and more of it comes.
MAY_GROW = frozenset({"dagger.rounds", "evaluation_episodes"})


def claim(out: Path, config: object) -> tuple[str, ...]:
    """Write what the run in ``out`` is, or check that the run that is there is this one.

    Settings without effect on the results may differ, and some may be larger than they were; then
    the new ones are kept. A folder where a run began and left no result is free for any. A run
    that began before a setting was added has that setting's default.

    From then on ``out`` belongs to this process until it ends, however it ends.

    Returns:
        The dotted names of the settings that differ from before.

    Raises:
        ValueError: another process has ``out``; the message says which. Or it holds a run with
            another config; the message names what differs.
    """
    hold(out)
    path = out / "config.json"
    asked = to_dict(config)
    if not path.exists() or not _has_results(out):
        write_json(path, asked)
        return ()
    differing = require_same(read_record(path, out), config, out)
    if differing:
        write_json(path, asked)
    return differing


def read_record(path: Path, out: Path) -> Any:
    """Return what was written down of `out` in a JSON file.

    Raises:
        ValueError: it is damaged; the message says what to do with `out`.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}), so it is not known what {out} holds; choose another "
            "out=, or delete it"
        ) from error


def require_same(there: Any, config: object, out: Path) -> tuple[str, ...]:
    """Return the dotted names of the settings that differ from those of the run in `out`, and may.

    Raises:
        ValueError: others differ; the message names them.
    """
    asked = to_dict(config)
    with contextlib.suppress(ValueError):  # settings that are unknown now are among those named
        there = to_dict(from_dict(type(config), there))
    lines = {line.partition(": ")[0]: line for line in differences(there, asked)}
    if barred := [line for name, line in lines.items() if not _is_free(name, there, asked)]:
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(barred)
        )
    return tuple(lines)


def work_folder(out: Path) -> Path:
    """Return where a command whose result is one file keeps its work: hidden, beside that."""
    return out.with_name(f".{out.name}.run")


def tell_found(found: int, total: int, unit: str) -> None:
    """Say how much of a run was there already; nothing where there was nothing."""
    if found:
        print(f"continuing: {found} of {total} {unit}s found", flush=True)


def stopped_after(done: int, total: int, unit: str, *, goes_on: bool = True) -> str:
    """Return how far a run came that was asked to stop, and whether it goes on from there."""
    then = "continue" if goes_on else "begin again"
    return f"stopped after {unit} {done} of {total}; run the same command to {then}"


def goes_on(out: Path) -> bool:
    """Return whether a run's folder says what is in it, so that its command goes on from there."""
    told = ("config.json", "manifest.json", "*/manifest.json", "meta/info.json")
    folders = (out, work_folder(out))
    return any(path.is_file() for name in told for folder in folders for path in folder.glob(name))


def _has_results(out: Path) -> bool:
    """Return whether a run has left more in its folder than what it was asked for."""
    for path in out.iterdir():
        if path.name in ("config.json", "hydra", "tensorboard") or path.name.startswith("."):
            continue
        if path.is_dir() or path.stat().st_size:
            return True
    return False


def _is_free(name: str, there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Return whether a setting may differ from what a run began with."""
    if name.rpartition(".")[2] in WITHOUT_EFFECT:
        return True
    if name not in MAY_GROW:
        return False
    before, now = _value(there, name), _value(asked, name)
    return isinstance(before, int) and isinstance(now, int) and now > before


def _value(data: Any, name: str) -> Any:
    for part in name.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data
