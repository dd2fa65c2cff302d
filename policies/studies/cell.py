"""Run one cell of a study: demonstrations, training, evaluation suites, and `result.json`.

    python -m policies.studies.cell STUDY/cells/COLUMN/ROW/seed_N/cell.json

A cell is an ordinary run of `policies.train`, whose demonstrations are given. Cells with the same
environment, expert, seed and tokenizer share the demonstrations, which are recorded and tokenised
only once.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from toto_robot import FrameEncoder
from toto_robot.config import from_dict, to_dict
from toto_robot.device import choose_device
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.files import write_json, written_aside
from toto_robot.locks import lock

from ..demonstrations.store import StoreHeader, create_store
from ..evaluate import EvaluateConfig, evaluate
from ..learning.config import TrainConfig
from ..learning.dagger import Round, collect
from ..rollouts.job import add_seconds
from ..rollouts.pool import RolloutPool
from ..rollouts.rollout import RolloutSpec
from ..rollouts.seeds import EVALUATION_SEEDS, NUM_RUN_SEEDS
from ..rollouts.video import film
from ..student import load_student, read_metadata
from ..teacher_policy import teacher_inputs
from ..train import train
from ..trained_policy import TrainedPolicy
from .config import ATTACHED, Cell, cell_folder, result_path

# Demonstrations are of other environment seeds than the episodes that DAgger collects.
_DEMONSTRATION_SEED = 50
_SECONDS = "seconds.json"  # wall time of the phases outside of `train`


def run_cell(out: Path, cell: Cell) -> None:
    """Run a cell, and write `result.json` at the end; do nothing if this file exists.

    Args:
        out: folder of the study.
        cell: the cell.

    Raises:
        ValueError: the settings are not valid, or the folder holds results of other settings.
    """
    folder = cell_folder(out, cell)
    if result_path(out, cell).is_file():
        return
    config = cell.train_config()
    if cell.filmed:
        _spec(config).require_video()
    encoder = config.encoder.build(torch.device(choose_device(config.device)))
    if config.method != "ppo":
        place = _demonstrations(out / "demonstrations", config, encoder, folder)
        config = replace(config, data=place)
    train(config, folder / "train")
    suites = {}
    for name in cell.suites:
        with _timed(folder, "suites"):
            evaluate(_evaluation(cell, config, folder, name), folder / "suites" / name)
        suites[name] = _read(folder / "suites" / name / "evaluation.json")
    metrics = _read(folder / "train/metrics.json")
    if cell.filmed:
        with _timed(folder, "videos"):
            _film(folder, config, encoder, metrics["evaluation"]["seeds"])
    _write_result(cell, config, encoder, metrics, suites, folder)


@contextmanager
def _timed(folder: Path, phase: str) -> Iterator[None]:
    """Add the wall time of the block to `seconds.json`, which has that of earlier starts, too."""
    start = time.perf_counter()
    yield
    seconds = _seconds(folder)
    add_seconds(seconds, {phase: time.perf_counter() - start})
    write_json(folder / _SECONDS, seconds)


def _seconds(folder: Path) -> dict[str, float]:
    path = folder / _SECONDS
    return _read(path) if path.is_file() else {}


def _spec(config: TrainConfig) -> RolloutSpec:
    """Return what the rollouts of the student need; no expert acts or labels."""
    assert config.env is not None  # without an environment, `data` would have to be set
    return RolloutSpec(
        env=config.env,
        vision=config.encoder,
        privileged=False,
        device=choose_device(config.device),
        teacher=config.teacher,
        expert=config.expert,
    )


def _demonstrations(
    folder: Path, config: TrainConfig, encoder: FrameEncoder | None, cell_folder: Path
) -> Path:
    """Return the folder with the demonstrations of a cell; record them if they do not exist yet.

    Args:
        folder: folder of all demonstrations of the study.
        config: settings of the cell.
        encoder: the encoder, whose tokenizer compresses the frames.
        cell_folder: folder of the cell, to whose time a recording is added.
    """
    spec = replace(_spec(config), privileged=True)
    header = StoreHeader.of(spec.env.id, spec.interface(), encoder)
    key = {
        "env": to_dict(spec.env),
        "expert": [config.expert, str(config.teacher), *teacher_inputs(config.teacher).values()],
        "seed": config.seed,
        "episodes": config.demonstrations,
        "steps_after_success": config.steps_after_success,
        "header": to_dict(header),
    }
    name = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    place = folder.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, wait=True, name=f"{name}.lock"):
        if place.is_dir():
            return place
        print(f"demonstrations: {config.demonstrations} episodes of {spec.env.id}", flush=True)
        # shared: without locks, two cells may record at the same time
        with (
            _timed(cell_folder, "demonstrations"),
            written_aside(place, shared=True) as aside,
            RolloutPool(spec, config.rollout) as pool,
        ):
            collect(pool, create_store(aside, header), None, _demonstrated(config), None)
            write_json(aside / "recorded_with.json", key)
    return place


def _demonstrated(config: TrainConfig) -> Round:
    """Return the settings for the episodes in which the expert demonstrates the task."""
    return Round(
        number=0,
        first=0,
        episodes=config.demonstrations,
        beta=1.0,
        mixing="step",
        seed=(config.seed + _DEMONSTRATION_SEED) % NUM_RUN_SEEDS,
        steps_after_success=config.steps_after_success,
    )


def _evaluation(cell: Cell, config: TrainConfig, folder: Path, suite: str) -> EvaluateConfig:
    return EvaluateConfig(
        policy=str(folder / "train/policy"),
        env=None,
        encoder=None,
        suite=suite,
        episodes=cell.suite_episodes,
        first_seed=EVALUATION_SEEDS.start,
        video_episodes=0,
        rollout=config.rollout,
        device=config.device,
    )


def _film(
    folder: Path, config: TrainConfig, encoder: FrameEncoder | None, seeds: list[dict[str, Any]]
) -> None:
    """Film a success and a failure of the evaluation, if there are any.

    The filmed episode is the first that has the same outcome once more: here the student acts in a
    single episode, and its actions can differ by rounding from those in a batch of episodes.
    """
    assert config.env is not None
    interface = read_metadata(folder / "train/policy").interface
    policy = TrainedPolicy(load_student(folder / "train/policy", encoder, interface), encoder)
    candidate = folder / ".candidate.mp4"
    for name, outcome in (("success", True), ("failure", False)):
        path = folder / f"{name}.mp4"
        same = [one["seed"] for one in seeds if one["success"] == outcome]
        for seed in () if path.is_file() else same:
            if film(candidate, config.env, policy, [seed]) == [outcome]:
                candidate.replace(path)
                break
    candidate.unlink(missing_ok=True)


def _write_result(
    cell: Cell,
    config: TrainConfig,
    encoder: FrameEncoder | None,
    metrics: dict[str, Any],
    suites: dict[str, Any],
    folder: Path,
) -> None:
    plain = to_dict(config)
    phases = _read(folder / "train/timings.json")
    rounds, final = metrics["rounds"], metrics["evaluation"]
    measured = [final, *suites.values(), *(entry["validation"] for entry in rounds)]
    steps = rounds[-1]["env_steps"] + sum(
        one["steps"] for result in measured for one in result["seeds"]
    )
    cameras = len(read_metadata(folder / "train/policy").interface.cameras)
    labelled = 0
    curve = []
    for entry in rounds:
        labelled += entry["episodes"]
        curve.append(
            {
                "env_steps": entry["env_steps"],
                "labelled_episodes": labelled,
                "successes": entry["validation"]["successes"],
                "episodes": entry["validation"]["episodes"],
            }
        )
    write_json(
        folder / "result.json",
        {
            "row": cell.row,
            "column": cell.column,
            "seed": cell.seed,
            "settings": list(cell.settings),
            "config": plain,
            "config_sha256": sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(),
            "encoder": _about(encoder),
            "curve": curve,
            "evaluation": final,
            "suites": suites,
            "frames": 0 if encoder is None else steps * cameras,
            "seconds": sum(phases.values()) + sum(_seconds(folder).values()),
            "phases": phases,
        },
    )


def _about(encoder: FrameEncoder | None) -> dict[str, Any] | None:
    if encoder is None:
        return None
    module = encoder.encoder if isinstance(encoder, StreamedEncoder) else encoder
    parameters = module.parameters() if isinstance(module, torch.nn.Module) else ()
    return {
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "parameters": sum(one.numel() for one in parameters),
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _end_with_parent() -> None:
    """End this process when its standard input ends, because the study was killed or stopped."""
    os.read(0, 1)  # the study writes nothing
    os._exit(1)


def main(words: list[str] | None = None) -> None:
    """Run the cell of a `cell.json`; with `--attached`, end when the standard input ends."""
    words = sys.argv[1:] if words is None else words
    if words[1:] == [ATTACHED]:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    elif len(words) != 1:
        sys.exit("usage: python -m policies.studies.cell STUDY/cells/COLUMN/ROW/seed_N/cell.json")
    path = Path(words[0])
    try:
        run_cell(path.resolve().parents[4], from_dict(Cell, _read(path)))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main()
