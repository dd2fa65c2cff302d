"""`python -m toto_robot.analyses.lr_sweep`: the best learning rate for each width (paper Fig. 11).

The command trains a model of each width with each learning rate, in two parametrisations. In the
standard parametrisation, the best rate falls with the width. In the maximal update parametrisation
(muP), the best rate should not depend on the width. The main result is the transfer cost: how much
the loss of the widest model increases if it is trained with the best rate of the narrowest model.
The paper finds the best rate 2^-7 for all its widths.

Models of the same seed are trained on the same sequences in the same order.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..cli import command
from ..files import write_csv
from ..models import TotoConfig
from ..plots import drawing
from ..training.pretrain import PretrainConfig
from .members import train_member, writes_results

__all__ = ["Cell", "LrSweepConfig", "Width", "best_log2_rate", "lr_sweep", "transfer_cost"]

STANDARD, MUP = PARAMETRISATIONS = ("standard", "muP")


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """A width of the trained models.

    Attributes:
        dim: width of the residual stream.
        mlp_hidden: hidden width of the SwiGLU MLP.
    """

    dim: int
    mlp_hidden: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LrSweepConfig:
    """Settings of `lr_sweep`.

    Attributes:
        widths: model widths, the narrowest first.
        log2_rates: base-2 logarithms of the learning rates.
        mup_base_dim: width at which muP equals the standard parametrisation.
        seeds: random seeds of the weights and of the order of the training sequences. Each pair of
            rate and width is trained once with each seed.
        pretrain: all other settings of the training. The sweep replaces `model.dim`,
            `model.mlp_hidden`, `model.mup_base_dim`, `optimizer.lr` and `seed`.
    """

    widths: tuple[Width, ...]
    log2_rates: tuple[float, ...]
    mup_base_dim: int
    seeds: tuple[int, ...]
    pretrain: PretrainConfig

    def __post_init__(self) -> None:
        """Check that there are at least two widths, two rates and one seed."""
        dims = [width.dim for width in self.widths]
        if len(dims) < 2 or dims != sorted(set(dims)):
            raise ValueError(f"widths must be two or more, in increasing order, got {dims}")
        if len(set(self.log2_rates)) < 2 or not self.seeds:
            raise ValueError("log2_rates must have two entries or more, and seeds at least one")
        if not isinstance(self.pretrain.model, TotoConfig):
            raise ValueError(
                f"muP needs pretrain.model of kind llama, got {self.pretrain.model.kind}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One trained model of the sweep with its held-out loss.

    Attributes:
        parametrisation: `standard` or `muP`.
        dim: width of the model.
        log2_rate: base-2 logarithm of the learning rate.
        seed: random seed.
        loss: held-out loss, nats. Infinite if the training diverged.
    """

    parametrisation: str
    dim: int
    log2_rate: float
    seed: int
    loss: float


def lr_sweep(config: LrSweepConfig, out: Path) -> None:
    """Train all models, print their losses, and write `lr_sweep.csv` and `lr_sweep.png`.

    The models are kept in `out/members`. Finished models are not trained again.

    Raises:
        ValueError: a model cannot be trained, or has no held-out loss.
    """
    todo = list(itertools.product(config.seeds, PARAMETRISATIONS, config.widths, config.log2_rates))
    cells: list[Cell] = []
    for seed, parametrisation, width, rate in tqdm(todo, desc="members", unit="member"):
        member = _member(config, parametrisation, width, rate, seed)
        name = f"{parametrisation}-{width.dim}-rate{rate:g}-seed{seed}"
        outcome = train_member(member, out / "members" / name)
        if not outcome.finished:
            print(f"stopped at {name}; the same command resumes")
            return
        cells.append(
            Cell(
                parametrisation=parametrisation,
                dim=width.dim,
                log2_rate=rate,
                seed=seed,
                loss=outcome.loss,
            )
        )
    if not writes_results():
        return
    write_csv(out / "lr_sweep.csv", [dataclasses.asdict(cell) for cell in cells])
    _draw(out / "lr_sweep.png", cells)
    print(_table(cells))
    print(f"results: {out / 'lr_sweep.csv'}, lr_sweep.png")


def best_log2_rate(cells: Sequence[Cell]) -> float:
    """Return the base-2 logarithm of the rate with the lowest mean loss over the seeds.

    The result is the minimum of a parabola through the best tried rate and its two neighbours. If
    the best tried rate is the lowest or the highest, or a neighbour diverged, then the result is
    the best tried rate.
    """
    rates, losses = _means(cells)
    k = int(np.argmin(losses))
    if k in (0, len(rates) - 1) or not np.isfinite(losses[k - 1 : k + 2]).all():
        return rates[k]
    a, b, _ = np.polyfit(np.array(rates[k - 1 : k + 2]) - rates[k], losses[k - 1 : k + 2], 2)
    return rates[k] - float(b / (2 * a)) if a > 0 else rates[k]


def transfer_cost(cells: Sequence[Cell]) -> list[float]:
    """Return the transfer cost of each seed; see the docstring of the module.

    Args:
        cells: the models of one parametrisation.

    Returns:
        Loss of the widest model at the best rate of the narrowest model, minus the loss of the
        widest model at its own best tried rate, nats. Infinite if the training diverged.
    """
    dims = sorted({cell.dim for cell in cells})
    costs = []
    for seed in sorted({cell.seed for cell in cells}):
        narrow, wide = (
            {c.log2_rate: c.loss for c in cells if (c.seed, c.dim) == (seed, dim)}
            for dim in (dims[0], dims[-1])
        )
        costs.append(wide[min(narrow, key=narrow.__getitem__)] - min(wide.values()))
    return costs


def _member(
    config: LrSweepConfig, parametrisation: str, width: Width, rate: float, seed: int
) -> PretrainConfig:
    base = config.pretrain
    assert isinstance(base.model, TotoConfig)
    model = dataclasses.replace(
        base.model,
        dim=width.dim,
        mlp_hidden=width.mlp_hidden,
        mup_base_dim=config.mup_base_dim if parametrisation == MUP else None,
    )
    optimizer = dataclasses.replace(base.optimizer, lr=2.0**rate)
    return dataclasses.replace(base, model=model, optimizer=optimizer, seed=seed)


def _means(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    """Return the base-2 logarithms of the rates, and for each rate the mean loss over the seeds."""
    rates = sorted({cell.log2_rate for cell in cells})
    return rates, [float(np.mean([c.loss for c in cells if c.log2_rate == r])) for r in rates]


def _groups(cells: Sequence[Cell], parametrisation: str) -> dict[int, list[Cell]]:
    mine = [cell for cell in cells if cell.parametrisation == parametrisation]
    return {dim: [c for c in mine if c.dim == dim] for dim in sorted({c.dim for c in mine})}


def _table(cells: Sequence[Cell]) -> str:
    rates, _ = _means(cells)
    seeds = len({cell.seed for cell in cells})
    lines = [
        f"held-out loss, nats, mean of {seeds} seed(s), by log2 of the learning rate",
        f"{'':<10}{'width':>6}" + "".join(f"{rate:>9g}" for rate in rates) + f"{'best':>9}",
    ]
    for name in PARAMETRISATIONS:
        groups = _groups(cells, name)
        for dim, mine in groups.items():
            shown = "".join(f"{loss:>9.3f}" for loss in _means(mine)[1])
            lines.append(f"{name:<10}{dim:>6}{shown}{best_log2_rate(mine):>9.2f}")
        bests = [best_log2_rate(mine) for mine in groups.values()]
        costs = transfer_cost([cell for mine in groups.values() for cell in mine])
        spread = f" ({min(costs):.3f} to {max(costs):.3f})" if len(costs) > 1 else ""
        lines.append(
            f"{name}: from width {min(groups)} to {max(groups)} the best rate moves by "
            f"2^{bests[-1] - bests[0]:+.2f}; the widest with the narrowest's rate loses "
            f"{np.mean(costs):.3f} nats{spread}"
        )
    return "\n".join(lines)


def _draw(path: Path, cells: Sequence[Cell]) -> None:
    with drawing(path, columns=2, width=11.0, height=4.5) as (_, panels):
        finite = [cell.loss for cell in cells if math.isfinite(cell.loss)]
        for axes, name in zip(panels, PARAMETRISATIONS, strict=True):
            for dim, mine in _groups(cells, name).items():
                rates, losses = _means(mine)
                (line,) = axes.plot(rates, losses, marker="o", label=f"width {dim}")
                axes.plot(
                    [c.log2_rate for c in mine], [c.loss for c in mine],
                    ".", color=line.get_color(), alpha=0.4,
                )  # fmt: skip
            axes.set(
                title=name,
                xlabel="log2 of the learning rate",
                ylabel="held-out loss, nats",
                ylim=(min(finite) - 0.1, min(max(finite), min(finite) + 3) + 0.1),
            )
            axes.grid(alpha=0.3)
            axes.legend()


main = command("lr_sweep", LrSweepConfig)(lr_sweep)

if __name__ == "__main__":
    main()
