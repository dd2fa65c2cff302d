"""`python -m toto_robot.analyses.scaling`: plan, train and fit loss against compute (Fig. 9).

    python -m toto_robot.analyses.scaling compute=paper budget.hours=200  # cost of all models
    python -m toto_robot.analyses.scaling compute=tiny action=run         # train, fit, draw

The models are of one family (paper Table 15). The number of training tokens of a model is
proportional to its number of parameters. All models use the same learning rate, which the maximal
update parametrisation (muP) makes possible. By default, the command only plans: it computes the
costs. With `only=[a3]`, a machine trains only model a3, so several machines with the same `out` can
share the work. Interrupted training resumes. The paper's curve is loss = 7.32 C^-0.0378, with C in
multiply-accumulates. The paper has another tokenizer and other data, so only the exponent is
comparable.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..cli import command
from ..files import write_csv
from ..models import TotoConfig
from ..plots import drawing
from ..training.pretrain import PretrainConfig, Stage
from .members import train_member, writes_results
from .plan import (
    FLOPS_PER_MAC,
    Budget,
    Cost,
    Hardware,
    Member,
    Study,
    cost,
    model_of,
    plan_row,
    plan_table,
)
from .power_law import Curve, PowerLaw, fit_ends, fit_frontier, frontier

__all__ = ["Budget", "Hardware", "Member", "ScalingConfig", "Study", "cost", "scaling"]

PAPER = (7.32, -0.0378)  # scale and exponent, paper section 4.9


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """Settings of `scaling`.

    Attributes:
        action: `plan` prints the cost. `run` also trains the models that are not yet trained, and
            then fits the power law.
        compute: the models of the study, and the training settings that they share.
        only: names of the models that this command trains. null trains all. The fit is made only
            when all models are trained.
        hardware: devices for which the plan computes the hours.
        budget: available compute. The plan states which models the budget covers.
        resamples: number of bootstrap resamples.
        seed: random seed of the bootstrap.
        pretrain: all other training settings. The study replaces the model sizes, stages, learning
            rate, warm-up, log interval and seed.
    """

    action: Literal["plan", "run"]
    compute: Study
    only: tuple[str, ...] | None
    hardware: tuple[Hardware, ...]
    budget: Budget
    resamples: int
    seed: int
    pretrain: PretrainConfig

    def __post_init__(self) -> None:
        """Check that the names in `budget` and `only` exist."""
        devices = [item.name for item in self.hardware]
        if self.budget.hardware not in devices:
            raise ValueError(f"budget.hardware: {self.budget.hardware!r} is not one of {devices}")
        names = [member.name for member in self.compute.members]
        if unknown := set(self.only or ()) - set(names):
            raise ValueError(f"only: {sorted(unknown)} are not among {names}")
        if not isinstance(self.pretrain.model, TotoConfig):
            raise ValueError(
                f"the study needs pretrain.model of kind llama, got {self.pretrain.model.kind}"
            )

    @property
    def base(self) -> TotoConfig:
        """The transformer config whose sizes the study replaces for each model."""
        assert isinstance(self.pretrain.model, TotoConfig)
        return self.pretrain.model


def scaling(config: ScalingConfig, out: Path) -> None:
    """Print the plan and write `plan.csv`. With `action=run`, also train the models and fit.

    The models are kept in `out/members`, and finished models are not trained again. `action=run`
    writes `curves.csv`, `fits.csv` and `scaling.png`.

    Raises:
        ValueError: a model cannot be trained, or has no held-out loss.
    """
    study, hardware = config.compute, config.hardware
    costs = [cost(study, config.base, member) for member in study.members]
    write_csv(out / "plan.csv", [plan_row(item, len(study.seeds), hardware) for item in costs])
    print(plan_table(costs, study, hardware, config.budget), flush=True)
    if config.action == "plan":
        print(f"results: {out / 'plan.csv'}; action=run trains the models")
        return
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    for member, item in zip(config.compute.members, costs, strict=True):
        for seed in config.compute.seeds:
            folder = out / "members" / f"{member.name}-seed{seed}"
            mine = config.only is None or member.name in config.only
            if not mine and not (folder / "outcome.json").is_file():
                missing.append(folder.name)
                continue
            outcome = train_member(run_of(config, member, item, seed), folder)
            if not outcome.finished:
                print(f"stopped at {folder.name}; the same command resumes")
                return
            if outcome.diverged:
                print(f"{folder.name} diverged, and is left out of the fit")
                continue
            rows += [_curve_row(line, member.name, seed, item) for line in outcome.rows]
    if not writes_results():
        return
    if rows:
        write_csv(out / "curves.csv", rows)
    if missing:
        print(f"results: {out / 'curves.csv'}; the fit waits for {', '.join(missing)}")
        return
    _report(rows, config, out)


def run_of(config: ScalingConfig, member: Member, item: Cost, seed: int) -> PretrainConfig:
    """Return the config that trains one model of the study with one seed."""
    base, study = config.pretrain, config.compute
    stage = Stage(steps=item.steps, frames=study.frames, batch=study.batch, part=study.part)
    return dataclasses.replace(
        base,
        model=model_of(study, config.base, member),
        stages=(stage,),
        optimizer=dataclasses.replace(
            base.optimizer, lr=study.lr, warmup_steps=max(1, round(study.warmup_share * item.steps))
        ),
        engine=dataclasses.replace(base.engine, log_every=max(1, item.steps // study.points)),
        seed=seed,
    )


def _curve_row(line: dict[str, Any], name: str, seed: int, item: Cost) -> dict[str, Any]:
    flops = line["tokens"] * item.flops_per_token
    return {
        "member": name,
        "seed": seed,
        "step": line["step"],
        "tokens": line["tokens"],
        "flops": flops,
        "macs": flops / FLOPS_PER_MAC,
        "loss": line["validation_loss"],
    }


def curves_of(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """Return the curve of each run from the rows of `curves.csv`.

    The compute of a curve is in multiply-accumulates. A run is a model trained with one seed.
    """
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["member"], row["seed"]), []).append(row)
    return [
        Curve(
            member=member,
            compute=np.array([row["macs"] for row in mine]),
            loss=np.array([row["loss"] for row in mine]),
        )
        for (member, _), mine in runs.items()
    ]


def _report(rows: Sequence[dict[str, Any]], config: ScalingConfig, out: Path) -> None:
    curves = curves_of(rows)
    generator = np.random.default_rng(config.seed)
    fits: dict[str, PowerLaw] = {"ends": fit_ends(curves, config.resamples, generator)}
    if (law := fit_frontier(curves, config.resamples, generator)) is not None:
        fits["frontier"] = law
    write_csv(
        out / "fits.csv", [{"fit": name} | dataclasses.asdict(law) for name, law in fits.items()]
    )
    _draw(out / "scaling.png", curves, fits)
    print(f"{'fit':<10}{'points':>7}{'a':>9}{'exponent':>11}{'95 %':>22}{'explained':>11}")
    for name, law in fits.items():
        bounds = f"{law.low:+.4f} to {law.high:+.4f}"
        print(
            f"{name:<10}{law.points:>7}{law.scale:>9.3g}{law.exponent:>+11.4f}{bounds:>22}"
            f"{law.explained:>11.3f}"
        )
    if "frontier" not in fits:
        print("no frontier: one model has the lowest loss at almost all computes")
    print(f"paper     {'':>7}{PAPER[0]:>9.3g}{PAPER[1]:>+11.4f}   (C in multiply-accumulates)")
    print(f"results: {out / 'curves.csv'}, fits.csv, scaling.png")


def _draw(path: Path, curves: Sequence[Curve], fits: dict[str, PowerLaw]) -> None:
    with drawing(path, columns=1, width=7.0, height=5.0) as (_, (axes,)):
        colours: dict[str, Any] = {}
        for curve in curves:
            new = curve.member not in colours
            (line,) = axes.loglog(
                curve.compute, curve.loss, marker=".", color=colours.get(curve.member),
                label=curve.member if new else None,
            )  # fmt: skip
            colours[curve.member] = line.get_color()
        compute, loss, _ = frontier(curves)
        axes.loglog(compute, loss, color="black", alpha=0.25, linewidth=5, label="frontier")
        span = np.geomspace(min(c.compute[0] for c in curves), compute[-1], 50)
        for (name, law), style in zip(fits.items(), ("-", ":"), strict=False):
            label = f"{name}: {law.scale:.3g} C^{law.exponent:.4f}"
            axes.loglog(span, law.scale * span**law.exponent, style, color="black", label=label)
        scale, exponent = PAPER
        axes.loglog(span, scale * span**exponent, "--", color="grey", label="paper: 7.32 C^-0.0378")
        axes.set(xlabel="training compute C, multiply-accumulates", ylabel="held-out loss, nats")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")


main = command("scaling", ScalingConfig)(scaling)

if __name__ == "__main__":
    main()
