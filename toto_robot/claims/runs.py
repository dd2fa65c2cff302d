"""The runs of a claim: ordinary commands, each run once or with each seed, which resume.

In the settings of a run, `<name>` stands for a value: `<data>` (the folder of the data), `<train>`
(its subfolder `train`, if there is one), `<seed>`, `<seeds>`, the name of an earlier run (its
folder, with the same seed), or a setting of `Scale`, such as `<steps>`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..analyses.positions import PositionsConfig, positions
from ..analyses.scaling import ScalingConfig, scaling
from ..cli import configure
from ..config import to_dict
from ..data.decode import DecodeConfig, decode
from ..data.labelled_images import find_test_folder
from ..data.tokenise import TokeniseConfig, tokenise
from ..recognition.davis_resolution import DavisResolutionConfig, davis_resolution
from ..recognition.imagenet import ImageNetConfig, imagenet
from ..training.patches import PatchTrainingConfig, train_patches
from ..training.pretrain import PretrainConfig, pretrain
from ..training.tokenizer import TokenizerTrainingConfig, train_tokenizer

__all__ = ["Run", "Runs", "Scale"]

# command: its settings, its function, and the file that exists once it has finished
COMMANDS: dict[str, tuple[Any, Callable[[Any, Path], object], str]] = {
    "davis_resolution": (DavisResolutionConfig, davis_resolution, "results.json"),
    "decode": (DecodeConfig, decode, "*/manifest.json"),
    "imagenet": (ImageNetConfig, imagenet, "correct.npz"),
    "patches": (PatchTrainingConfig, train_patches, "encoder/config.json"),
    "positions": (PositionsConfig, positions, "positions.png"),
    "pretrain": (PretrainConfig, pretrain, "encoder/config.json"),
    "scaling": (ScalingConfig, scaling, "fits.csv"),
    "tokenise": (TokeniseConfig, tokenise, "report.json"),
    "tokenizer": (TokenizerTrainingConfig, train_tokenizer, "tokenizer/config.json"),
}
PLACE = re.compile(r"<(\w+)>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Sizes of models, data and training. A claim uses some of these values.

    Attributes:
        engine: choice of the training loop's settings, `cpu` or `gpu`.
        device: device of the commands that do not train, such as `cpu` or `cuda`.
        encoder: choice or folder of the encoder of the claims that train none.
        tokenizer: tokenizer of the trained encoders: a checkpoint folder, or `toto-nano`.
        codes: number of codes of `tokenizer`.
        dim: width of the trained encoders.
        layers: number of blocks of the trained encoders.
        heads: number of attention heads.
        mlp_hidden: hidden width of the MLP of a LLaMA.
        gpt2_mlp_hidden: hidden width of the MLP of a GPT-2 with as many parameters.
        mamba_layers: number of blocks of a Mamba with as many parameters.
        steps: steps of a training.
        fewer_steps: steps of a training that continues another one.
        short_steps: steps of a training with as much compute as both of these together.
        warmup_steps: steps in which the learning rate rises.
        batch: sequences in a step.
        part: sequences in a forward pass.
        tokenizer_steps: steps of the training of a tokenizer.
        epochs: epochs of the probes.
        probe_lr: learning rate of the probes.
        splits: divisions into training and test images, for the claims that train no encoder.
        test_share: share of the images that are tested.
        cache_gb: largest size of the cached features of the probes, GB.
        frames: frames of a video sequence.
        sequences: largest number of video sequences.
        compute: choice of the models of the study of compute.
        tokens_per_parameter: training tokens per parameter in this study.
        image_sizes: image sizes of tracking, pixels, in ascending order.
        max_frames: frames of a video that are tracked; null: all.
    """

    engine: str
    device: str
    encoder: str
    tokenizer: str
    codes: int
    dim: int
    layers: int
    heads: int
    mlp_hidden: int
    gpt2_mlp_hidden: int
    mamba_layers: int
    steps: int
    fewer_steps: int
    short_steps: int
    warmup_steps: int
    batch: int
    part: int
    tokenizer_steps: int
    epochs: int
    probe_lr: float
    splits: int
    test_share: float
    cache_gb: float
    frames: int
    sequences: int
    compute: str
    tokens_per_parameter: float
    image_sizes: tuple[int, ...]
    max_frames: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A command that a claim runs.

    Attributes:
        name: name of the run, and of its folder.
        command: name of the command, such as `pretrain`.
        settings: settings as on a command line, after those of `Claim.common`.
        per_seed: true to run the command with each seed, false to run it once.
        tries: settings such as `optimizer.lr=1e-3`. The first seed is trained with each of them,
            and the one with the lowest held-out loss is used for all seeds. Empty: nothing is
            tried.
    """

    name: str
    command: str
    settings: tuple[str, ...]
    per_seed: bool
    tries: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the command is one that a claim can run."""
        if self.command not in COMMANDS:
            raise ValueError(f"command: {self.command!r} is not one of {sorted(COMMANDS)}")
        if self.tries and not self.per_seed:
            raise ValueError(f"run {self.name}: only a run with per_seed=true can have tries")


class Runs:
    """The runs of a claim, with their settings and folders."""

    def __init__(
        self,
        runs: Sequence[Run],
        common: Mapping[str, Sequence[str]],
        scale: Scale,
        data: Path | None,
        seeds: Sequence[int],
        out: Path,
    ) -> None:
        self._runs = {run.name: run for run in runs}
        self._common, self._seeds, self._out = common, tuple(seeds), out / "runs"
        plain = {**to_dict(scale), "seeds": list(seeds)}
        values = {
            key: value if isinstance(value, str) else json.dumps(value).replace(" ", "")
            for key, value in plain.items()
        }
        if data is not None:
            train = data if find_test_folder(data) is None else data / "train"
            values |= {"data": str(data), "train": str(train)}
        self._values = values
        if taken := {*values, "seed"} & self._runs.keys():
            raise ValueError(f"runs: the names {sorted(taken)} have another meaning in `<...>`")

    def units(self) -> list[tuple[Run, int, str | None]]:
        """Return what is run: each run with its seeds; the last value is one of `tries`, or None.

        Of a run with `tries`, the first seed is run with each of them, and the other seeds follow.
        """
        units: list[tuple[Run, int, str | None]] = []
        for run in self._runs.values():
            units += [(run, self._seeds[0], one) for one in run.tries]
            rest = self._seeds if run.per_seed else self._seeds[:1]
            units += [(run, seed, None) for seed in rest[bool(run.tries) :]]
        return units

    def check(self) -> None:
        """Check the settings of all runs.

        Raises:
            ValueError: a setting is wrong, or names something that does not exist.
        """
        for run, seed, tried in self.units():
            self._config(run, seed, tried or (run.tries[0] if run.tries else None))

    def unfinished_trainings(self) -> list[Any]:
        """Return the settings of the runs of `pretrain` and `patches` that are not finished."""
        return [
            self._config(run, seed, tried or (run.tries[0] if run.tries else None))
            for run, seed, tried in self.units()
            if run.command in ("pretrain", "patches")
            and not any(self._folder(run, seed, tried).glob(COMMANDS[run.command][2]))
        ]

    def execute(self) -> bool:
        """Run everything that is not finished; return False if a run was asked to stop."""
        units = self.units()
        for run, seed, tried in tqdm(units, desc="runs", unit="run", disable=not units):
            folder = self._folder(run, seed, tried)
            if tried is None and run.tries:
                tried = self._chosen(run)
            _, verb, product = COMMANDS[run.command]
            if not any(folder.glob(product)):
                print(f"\n## {run.name}: toto-robot {run.command} ... out={folder}", flush=True)
                verb(self._config(run, seed, tried), folder)
            if not any(folder.glob(product)):
                print("stopped; run the same command to continue", flush=True)
                return False
        return True

    def of(self, name: str) -> Iterator[tuple[Path, Any]]:
        """Yield the folder and the settings of a finished run, for each of its seeds."""
        run = self._runs[name]
        chosen = self._chosen(run)
        for seed in self._seeds if run.per_seed else self._seeds[:1]:
            yield self.folder(name, seed), self._config(run, seed, chosen)

    def trained_configs(self) -> dict[str, Any]:
        """Return the settings of all runs of `pretrain`, by the folder of their encoder."""
        return {
            str(folder / "encoder"): config
            for name, run in self._runs.items()
            if run.command == "pretrain"
            for folder, config in self.of(name)
        }

    def folder(self, name: str, seed: int) -> Path:
        """Return the folder of a run."""
        run = self._runs[name]
        first = run.tries and seed == self._seeds[0]
        return self._folder(run, seed, self._chosen(run) if first else None)

    def _folder(self, run: Run, seed: int, tried: str | None) -> Path:
        number = "" if tried is None else f"-try{run.tries.index(tried)}"
        return self._out / f"{run.name}{f'-seed{seed}' if run.per_seed else ''}{number}"

    def _chosen(self, run: Run) -> str | None:
        """Return the setting of `tries` with the lowest held-out loss; None if nothing is tried."""
        losses = {one: self._held_out_loss(run, one) for one in run.tries}
        return min(losses, key=losses.__getitem__) if losses else None

    def _held_out_loss(self, run: Run, tried: str) -> float:
        log = self._folder(run, self._seeds[0], tried) / "log.jsonl"
        if not log.is_file():
            return float("inf")
        return json.loads(log.read_text().splitlines()[-1])["validation_loss"]

    def _config(self, run: Run, seed: int, tried: str | None) -> Any:
        words = [*self._common.get(run.command, ()), *run.settings, *([tried] if tried else [])]
        filled = [PLACE.sub(lambda found: self._value(found[1], seed), word) for word in words]
        return configure(run.command, COMMANDS[run.command][0], filled)

    def _value(self, name: str, seed: int) -> str:
        if name == "seed":
            return str(seed)
        if name in self._runs:
            return str(self.folder(name, seed))
        if name not in self._values:
            known = sorted({*self._values, *self._runs, "seed"})
            raise ValueError(f"<{name}> has no value; known: {', '.join(known)}")
        return self._values[name]
