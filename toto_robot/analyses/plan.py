"""Compute the cost of a scaling study: the operations and the device hours of each model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..models import TotoConfig, count_parameters, model_flops

__all__ = [
    "Budget",
    "Cost",
    "Hardware",
    "Member",
    "Study",
    "cost",
    "model_of",
    "plan_row",
    "plan_table",
]

FLOPS_PER_MAC = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A model of a study.

    Attributes:
        name: name of the model.
        dim: width of the residual stream.
        layers: number of blocks.
        heads: number of attention heads.
        mlp_hidden: hidden width of the SwiGLU MLP.
    """

    name: str
    dim: int
    layers: int
    heads: int
    mlp_hidden: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A family of models and the training settings that they share.

    Attributes:
        codes: number of codes of the tokenizer.
        tie_embeddings: true uses the token embedding also as the output projection.
        frames: number of frames in a training sequence.
        batch: number of sequences in an optimizer step.
        part: number of sequences that each rank processes in one forward pass.
        tokens_per_parameter: number of training tokens of a model divided by its number of
            parameters.
        lr: peak learning rate of all models.
        mup_base_dim: width at which the maximal update parametrisation (muP) equals the standard
            parametrisation. null trains with the standard parametrisation.
        warmup_share: warm-up steps as a share of all steps.
        points: number of validations in a run. The number of steps between two validations is
            constant.
        seeds: random seeds. Each model is trained once with each seed.
        members: the models, the smallest first.
    """

    codes: int
    tie_embeddings: bool
    frames: int
    batch: int
    part: int
    tokens_per_parameter: float
    lr: float
    mup_base_dim: int | None
    warmup_share: float
    points: int
    seeds: tuple[int, ...]
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        """Check that names are distinct and that all settings are in range."""
        names = [member.name for member in self.members]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"members must be two or more with distinct names, got {names}")
        if not self.seeds:
            raise ValueError("seeds must have an entry")
        if not self.tokens_per_parameter > 0 or not 0 <= self.warmup_share < 1 or self.points < 1:
            raise ValueError(
                "tokens_per_parameter must be above 0, warmup_share in [0, 1), points at least 1; "
                f"got {self.tokens_per_parameter}, {self.warmup_share}, {self.points}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """A compute device.

    Attributes:
        name: name of the device.
        peak_tflops: peak speed of the device, TFLOP/s (10^12 operations per second).
        utilisation: share of the peak speed that training reaches, 0 to 1. The training log prints
            this share.
    """

    name: str
    peak_tflops: float
    utilisation: float

    def __post_init__(self) -> None:
        """Check the ranges of peak and utilisation."""
        if not self.peak_tflops > 0 or not 0 < self.utilisation <= 1:
            raise ValueError(
                f"peak_tflops must be above 0 and utilisation in (0, 1], got {self.peak_tflops} "
                f"and {self.utilisation}"
            )

    def hours(self, flops: float) -> float:
        """Return the hours that one device needs for a number of operations."""
        return flops / (self.peak_tflops * 1e12 * self.utilisation) / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The available compute.

    Attributes:
        hardware: name of a device in the list of devices.
        hours: device hours, summed over all devices.
    """

    hardware: str
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of training one model once.

    Attributes:
        name: name of the model.
        parameters: number of parameters.
        tokens: number of training tokens.
        steps: number of optimizer steps.
        flops_per_token: floating-point operations per token, forward and backward pass.
    """

    name: str
    parameters: int
    tokens: int
    steps: int
    flops_per_token: float

    @property
    def flops(self) -> float:
        """Number of floating-point operations of the training run."""
        return self.tokens * self.flops_per_token


def cost(study: Study, base: TotoConfig, member: Member) -> Cost:
    """Compute the cost of training a model once, from its sizes. The model is not built."""
    model = model_of(study, base, member)
    parameters = count_parameters(model)
    step = study.batch * study.frames * model.tokens_per_frame
    steps = max(1, round(parameters * study.tokens_per_parameter / step))
    return Cost(
        name=member.name,
        parameters=parameters,
        tokens=steps * step,
        steps=steps,
        flops_per_token=model_flops(model, study.frames),
    )


def model_of(study: Study, base: TotoConfig, member: Member) -> TotoConfig:
    """Return the transformer config of a model: ``base``, with the sizes that the study sets."""
    return dataclasses.replace(
        base,
        codes=study.codes,
        tie_embeddings=study.tie_embeddings,
        frames=study.frames,
        mup_base_dim=study.mup_base_dim,
        dim=member.dim,
        layers=member.layers,
        heads=member.heads,
        mlp_hidden=member.mlp_hidden,
    )


def plan_row(item: Cost, runs: int, hardware: Sequence[Hardware]) -> dict[str, Any]:
    """Return the row of a model in `plan.csv`. Hours are for ``runs`` trainings of the model."""
    row: dict[str, Any] = dataclasses.asdict(item) | {
        "runs": runs,
        "flops": item.flops,
        "macs": item.flops / FLOPS_PER_MAC,
    }
    for device in hardware:
        row[f"{device.name} hours"] = device.hours(item.flops) * runs
    return row


def plan_table(
    costs: Sequence[Cost], study: Study, hardware: Sequence[Hardware], budget: Budget
) -> str:
    """Return a text table of the models' costs, with a line on what the budget covers."""
    runs = len(study.seeds)
    lines = [
        f"{'member':<8}{'parameters':>15}{'tokens':>10}{'steps':>9}{'FLOPs a token':>15}"
        f"{'FLOPs':>10}" + "".join(f"{device.name + ' hours':>16}" for device in hardware)
    ]
    lines += [
        f"{item.name:<8}{item.parameters:>15,}{item.tokens:>10.2g}{item.steps:>9}"
        f"{item.flops_per_token:>15.2e}{item.flops:>10.1e}"
        + "".join(f"{device.hours(item.flops) * runs:>16.3g}" for device in hardware)
        for item in costs
    ]
    total = sum(item.flops for item in costs) * runs
    lines.append(
        f"{f'{runs} run(s) each':<67}"
        + "".join(f"{device.hours(total):>16.3g}" for device in hardware)
    )
    shares = [f"{d.utilisation:.0%} of {d.peak_tflops:g} TFLOP/s ({d.name})" for d in hardware]
    lines.append(f"at {', '.join(shares)}")
    device = next(item for item in hardware if item.name == budget.hardware)
    needed = device.hours(total)
    afford = study.tokens_per_parameter * budget.hours / needed
    affordable: list[str] = []
    spent = 0.0
    for item in costs:
        spent += device.hours(item.flops) * runs
        if spent <= budget.hours:
            affordable.append(item.name)
    verdict = "sufficient" if needed <= budget.hours else "not sufficient"
    lines.append(
        f"budget: {budget.hours:g} hours of {budget.hardware}, {verdict} for {needed:.3g} hours; "
        f"it covers {', '.join(affordable) or 'no member'}, or all members with {afford:.3g} "
        f"tokens a parameter (planned: {study.tokens_per_parameter:g})"
    )
    return "\n".join(lines)
