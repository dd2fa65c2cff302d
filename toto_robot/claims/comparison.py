"""Compare encoders in pairs, by the accuracy of their probes (and by their next-token loss)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..data.labelled_images import find_test_folder
from ..models import count_parameters, model_flops
from ..models.patches import patch_flops
from ..training.patches import PatchTrainingConfig
from ..training.pretrain import PretrainConfig
from .runs import Runs
from .verdict import Bound, Finding, Statement, by_sign, crossed_bootstrap, seed_interval

__all__ = ["Arm", "Comparison", "Pair"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A variant in a comparison, such as an encoder or a kind of pooling.

    Attributes:
        name: name in tables.
        probe: name of the run of `imagenet`. A run with several divisions counts as several seeds.
        trained: name of the run that trained the encoder; null: the encoder is not trained here.
        paper: the paper's top-1, %; null: it has none.
    """

    name: str
    probe: str
    trained: str | None
    paper: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two variants; in the paper, the first is better.

    Attributes:
        above: name of the variant that is better in the paper.
        below: name of the other variant.
        loss: true to compare also the next-token losses on held-out data.
        compute_at_most: largest training compute of `above`, as a share of that of `below`; null:
            the compute is not compared.
    """

    above: str
    below: str
    loss: bool
    compute_at_most: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Comparisons of pairs, at the best layer of each variant, on the same test images.

    Attributes:
        arms: the variants, in the order of the table.
        pairs: the pairs.
    """

    kind: ClassVar[str] = "comparison"
    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        """Check that the pairs contain names of `arms`."""
        known = {arm.name for arm in self.arms}
        if unknown := {n for pair in self.pairs for n in (pair.above, pair.below)} - known:
            raise ValueError(f"pairs: {sorted(unknown)} are not in `arms`: {sorted(known)}")

    def evaluate(self, runs: Runs) -> Finding:
        """Return the accuracy of each variant and the difference of each pair."""
        found = {arm.name: _measure(arm, runs) for arm in self.arms}
        statements = []
        for pair in self.pairs:
            one, two = found[pair.above], found[pair.below]
            statements.append(_better(pair, one, two))
            if pair.loss:
                losses = seed_interval([b - a for a, b in zip(one.losses, two.losses, strict=True)])
                text = f"{pair.above} has a lower next-token loss than {pair.below}"
                statements.append(
                    Statement(text=text, bound=losses, unit="nats", verdict=by_sign(losses))
                )
            if pair.compute_at_most is not None:
                spare = pair.compute_at_most - one.flops / two.flops
                bound = Bound(value=spare, low=spare, high=spare, by_seed=(spare,))
                text = f"{pair.above} has {100 * one.flops / two.flops:.0f} % of the compute of "
                text += f"{pair.below}, at most {100 * pair.compute_at_most:.0f} %"
                verdict = by_sign(bound)
                statements.append(Statement(text=text, bound=bound, unit="%", verdict=verdict))
        rows = [found[arm.name].row(arm) for arm in self.arms]
        return Finding(rows=rows, measure="top-1", unit="%", statements=statements)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Measured:
    """The answers of a variant's best layer for each seed, and facts about its training."""

    layer: int
    layers: int
    correct: list[NDArray[np.bool_]]
    examples: list[NDArray[np.int64]]
    losses: list[float]
    flops: float
    parameters: int | None
    tokens: int | None

    def row(self, arm: Arm) -> dict[str, Any]:
        bound = crossed_bootstrap(self.correct, self.examples)
        row: dict[str, Any] = {"name": arm.name, "value": bound.value, "low": bound.low}
        row |= {"high": bound.high, "paper": "" if arm.paper is None else f"{arm.paper:g}"}
        row |= {"by_seed": list(bound.by_seed), "layer": f"{self.layer} of {self.layers}"}
        row |= {"test_images": len(np.unique(np.concatenate(self.examples)))}
        if arm.trained is not None:
            row |= {"parameters": self.parameters, "tokens": self.tokens, "flops": self.flops}
            row |= {"held_out_loss": self.losses}
        return row


def _better(pair: Pair, one: _Measured, two: _Measured) -> Statement:
    for mine, other in zip(one.examples, two.examples, strict=True):
        if not np.array_equal(mine, other):
            raise ValueError(f"{pair.above} and {pair.below} were tested on other images")
    apart = [
        a.astype(np.float64) - b.astype(np.float64)
        for a, b in zip(one.correct, two.correct, strict=True)
    ]
    bound = crossed_bootstrap(apart, one.examples)
    text = f"{pair.above} has a higher top-1 than {pair.below}"
    return Statement(text=text, bound=bound, unit="%", verdict=by_sign(bound))


def read_probe(runs: Runs, name: str) -> tuple[list[int], list[dict[str, NDArray[Any]]]]:
    """Return the layers of a run of `imagenet`, and the answers of each seed.

    The answers of a seed are `correct` [l n], `labels` [n] and `groups` [n].
    """
    parts: list[dict[str, NDArray[Any]]] = []
    layers: list[int] = []
    for folder, config in runs.of(name):
        with np.load(folder / "correct.npz") as stored:
            layers = stored["layers"].tolist()
            whole = {key: stored[key] for key in ("correct", "labels", "groups")}
        number = config.splits if find_test_folder(config.data) is None else 1  # of divisions
        columns = np.split(np.arange(len(whole["labels"])), number)
        parts += [{key: one[..., mine] for key, one in whole.items()} for mine in columns]
    return layers, parts


def _measure(arm: Arm, runs: Runs) -> _Measured:
    layers, parts = read_probe(runs, arm.probe)
    best = int(np.mean([part["correct"].mean(1) for part in parts], axis=0).argmax())
    losses, flops, parameters, tokens = [], 0.0, None, None
    for folder, config in runs.of(arm.trained) if arm.trained is not None else []:
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses.append(rows[-1].get("validation_loss", float("nan")))
        flops, parameters, tokens = _cost(config, runs.trained_configs())
    return _Measured(
        layer=layers[best],
        layers=layers[-1],
        correct=[part["correct"][best] for part in parts],
        examples=[part["groups"] for part in parts],
        losses=losses,
        flops=flops,
        parameters=parameters,
        tokens=tokens,
    )


def _cost(
    config: PretrainConfig | PatchTrainingConfig, others: Mapping[str, Any]
) -> tuple[float, int, int]:
    """Return floating-point operations, parameters and tokens of a training.

    The operations include those of the training from which it continues, if that is in `others`.
    """
    if isinstance(config, PatchTrainingConfig):
        tokens = config.steps * config.batch * config.frames * config.model.tokens_per_frame
        parameters = sum(one.numel() for one in config.model.build().parameters())
        return patch_flops(config.model, config.frames) * tokens, parameters, tokens
    model = config.model
    flops, tokens = 0.0, 0
    for stage in config.stages:
        own = stage.steps * stage.batch * stage.frames * model.tokens_per_frame
        flops, tokens = flops + own * model_flops(model, stage.frames), tokens + own
    if (before := others.get(str(config.start_from))) is not None:
        flops += _cost(before, others)[0]
    return flops, count_parameters(model), tokens
