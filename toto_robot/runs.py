"""Manage the folder of a run: lock it, check its config, and report its progress."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .config import differences, from_dict, to_dict
from .files import write_json
from .locks import hold

WEIGHTS = Path(__file__).parent / "weights"
RECORD = "weights.json"  # hashes of the weights of encoders that the config names
INPUTS = "inputs.json"  # hashes of files and folders that the config names
LEFT_OUT = "left_out.json"  # inputs that cannot be used, with the reasons
# What a folder may contain without results of a run. `drawn`, `frames` and `tokens` are folders of
# prepared data, which are compared with the config where they are used again.
NO_RESULTS = (
    "config.json", RECORD, INPUTS, LEFT_OUT, "drawn", "frames", "hydra", "tensorboard", "tokens",
)  # fmt: skip
# Last names of settings that change how a run computes or saves, but not its results beyond
# rounding. `pca_frames` is read only at the end of a training, which writes the result anew.
WITHOUT_EFFECT = frozenset(
    {
        "device", "num_workers", "read_threads", "memory_limit_gib", "batch_size", "keep_every",
        "keep_most", "keep_in_background", "video_episodes", "pca_frames", "shard_ranks", "part",
        "recompute", "compile",
    }
)  # fmt: skip
# Settings that may grow: existing results stay valid, and more are added. None means all.
MAY_GROW = frozenset(
    {"dagger.rounds", "episodes", "evaluation_episodes", "num_videos", "repeats", "training_seeds"}
)


def claim(
    out: Path, config: object, inputs: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Lock the folder of a run, and check that its results belong to the same config.

    If ``out`` contains no results, the config is written to ``config.json`` in it. If ``out``
    contains results, the config must equal the saved config, with two exceptions: settings without
    effect on the results (`WITHOUT_EFFECT`) may differ, and some numbers (`MAY_GROW`) may be larger
    than before. The new values are then saved. If the saved config does not have a setting, because
    the setting was added in a later version, the setting's default value is compared.

    A config names the encoders of this package, such as ``toto-nano``, without their weights, which
    may differ in another version. So the hashes of their weights are saved in ``weights.json``, and
    are compared too. The hashes of other inputs are saved in ``inputs.json``.

    Other processes cannot use ``out`` until this process ends.

    Args:
        out: folder of the run.
        config: config of the run.
        inputs: hash of each file or folder that the config names and whose content determines the
            results, by path. They are compared if the run in ``out`` has recorded them.

    Returns:
        The names of the settings that changed, such as ``dagger.rounds``.

    Raises:
        ValueError: another process uses ``out`` (the message names the process), or ``out`` holds a
            run with another config, other weights or other inputs (the message lists the
            differences).
    """
    hold(out)
    path = out / "config.json"
    asked = to_dict(config)
    if not path.exists() or not _has_results(out):
        write_json(path, asked)
        _write_weights(out, asked)
        (out / INPUTS).unlink(missing_ok=True)
        require_same_inputs(out, inputs)
        return ()
    require_same_weights(out)
    differing = require_same(read_record(path, out), config, out)
    require_same_inputs(out, inputs)
    if differing:
        write_json(path, asked)
    return differing


def read_record(path: Path, out: Path) -> Any:
    """Return the content of a JSON file that describes the results in `out`.

    Raises:
        ValueError: the file is damaged; the message says what to do with `out`.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}), so the content of {out} is unknown; choose another "
            "out=, or delete it"
        ) from error


def require_same(there: Any, config: object, out: Path) -> tuple[str, ...]:
    """Check that a config differs from that of the run in `out` only in allowed settings.

    Returns:
        The names of the settings that differ, such as `dagger.rounds`.

    Args:
        there: saved config of the run in `out`, as plain data.
        config: config of this run.
        out: folder of the results.

    Raises:
        ValueError: settings differ that must be equal; the message lists them.
    """
    asked = to_dict(config)
    with contextlib.suppress(ValueError):  # unknown settings are listed as differences
        there = to_dict(from_dict(type(config), there))
    lines = {line.partition(": ")[0]: line for line in differences(there, asked)}
    if barred := [line for name, line in lines.items() if not _is_free(name, there, asked)]:
        raise ValueError(
            f"{out} holds a run with another config (there != here); choose another out=, or "
            "delete it:\n  " + "\n  ".join(barred)
        )
    return tuple(lines)


def _write_weights(out: Path, asked: Any) -> None:
    """Save the hash of the weights of each encoder of this package that a config names."""
    if used := _shipped_in(asked):
        write_json(out / RECORD, used)
    else:
        (out / RECORD).unlink(missing_ok=True)


def require_same_inputs(out: Path, inputs: Mapping[str, str]) -> None:
    """Save the hashes of a run's inputs, or compare them with the saved hashes.

    A run before version 0.2 has not saved them. Then the present hashes are saved.

    Raises:
        ValueError: the content of an input has changed; the message names its path.
    """
    path = out / INPUTS
    before = read_record(path, out) if path.is_file() else {}
    if changed := [name for name, now in inputs.items() if before.get(name, now) != now]:
        raise ValueError(
            f"the content of {', '.join(changed)} has changed since the run in {out} began; choose "
            "another out=, or delete it"
        )
    if inputs and before != (after := before | dict(inputs)):
        write_json(path, after)


def require_same_weights(out: Path) -> None:
    """Check that the encoders of this package have the weights that they had in the run in `out`.

    A run of version 0.1 has no record of its weights. They are not those of this version.

    Raises:
        ValueError: the weights of an encoder have changed; the message names it.
    """
    path = out / "config.json"
    if (out / RECORD).is_file():
        record = read_record(out / RECORD, out)
    else:
        record = dict.fromkeys(_shipped_in(read_record(path, out)) if path.is_file() else (), "")
    shipped = _shipped()
    for name, before in record.items():
        if (now := shipped.get(name)) != before:
            raise ValueError(
                f"{out} holds a run with the encoder {name} of another version of toto-robot (its "
                f"weights: {before[:12] or 'of version 0.1'}, of this version: "
                f"{(now or 'none')[:12]}); choose another out=, or delete it"
            )


def _shipped_in(data: Any) -> dict[str, str]:
    """Return the encoders of this package that a config names, and the sha256 of their weights."""
    shipped = _shipped()
    return {name: shipped[name] for name in sorted(_texts(data)) if name in shipped}


def _shipped() -> dict[str, str]:
    """Return the names of the encoders of this package, and the sha256 of their weights."""
    configs = WEIGHTS.glob("*/config.json")
    return {path.parent.name: json.loads(path.read_text())["sha256"] for path in configs}


def _texts(data: Any) -> set[str]:
    """Return all texts in nested lists and mappings."""
    if isinstance(data, str):
        return {data}
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    return {text for part in parts for text in _texts(part)}


def work_folder(out: Path) -> Path:
    """Return the path of a hidden folder beside the file `out`, for unfinished work."""
    return out.with_name(f".{out.name}.run")


def report_found(found: int, total: int, unit: str) -> None:
    """Print how much of a run is already done; print nothing if `found` is 0."""
    if found:
        print(f"continuing: {found} of {total} {unit}s found", flush=True)


# Signals that stopped a training before its last step. A command then ends with the exit status
# 128 + signal, so that no script takes the training for finished.
stop_signals: list[int] = []


def stopped_after(done: int, total: int, unit: str, *, goes_on: bool = True) -> str:
    """Return a message for a run that the user stopped: its progress and how to continue."""
    then = "continue" if goes_on else "start again"
    return f"stopped after {unit} {done} of {total}; run the same command to {then}"


def goes_on(out: Path) -> bool:
    """Return whether a folder has the files with which a command can resume its run."""
    records = ("config.json", "manifest.json", "*/manifest.json", "meta/info.json")
    folders = (out, work_folder(out))
    return any(
        path.is_file() for name in records for folder in folders for path in folder.glob(name)
    )


def _has_results(out: Path) -> bool:
    """Return whether a folder contains results of a run, in addition to its config."""
    tops = [one for one in out.iterdir() if one.name not in NO_RESULTS and one.name[0] != "."]
    files = (file for one in tops for file in (one.rglob("*") if one.is_dir() else [one]))
    return any(
        file.is_file() and file.stat().st_size and file.name not in NO_RESULTS for file in files
    )


def _is_free(name: str, there: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Return whether the new value of a setting is allowed for a run that has results."""
    last = name.rpartition(".")[2]
    if last in WITHOUT_EFFECT:
        # a batch norm averages over the rows of a part
        return last != "part" or "batch_norm_linear" not in _texts(asked)
    if name not in MAY_GROW:
        return False
    before, now = _value(there, name), _value(asked, name)
    return isinstance(before, int) and (now is None or (isinstance(now, int) and now > before))


def _value(data: Any, name: str) -> Any:
    for part in name.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data
