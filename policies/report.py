"""Tell how a run went: learning curve, TensorBoard, and where the time went."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.success_rates import wilson_interval

from .rollouts.rollout import STAGES

_ENCODER_STAGES = ("tokenizer", "transformer")


def write_tensorboard(folder: Path, rounds: Sequence[Mapping[str, Any]], log_every: int) -> None:
    """Write all scalars anew, from what the rounds say; so a resumed run has each of them once."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    board = SummaryWriter(str(folder))
    for entry in rounds:
        number, validation = entry["round"], entry["validation"]
        for name in ("env_steps", "episodes", "beta", "expert_acted", "collected_success"):
            if entry[name] is not None:
                board.add_scalar(f"collection/{name}", entry[name], number)
        rate = validation["successes"] / max(1, validation["episodes"])
        board.add_scalar("success/by_round", rate, number)
        board.add_scalar("success/by_env_step", rate, entry["env_steps"])
        first = entry["gradient_steps"] - entry["round_gradient_steps"]
        for index, loss in enumerate(entry["losses"]):
            step = first + min((index + 1) * log_every, entry["round_gradient_steps"])
            board.add_scalar("loss/imitation", loss, step)
    board.close()


def draw_curve(
    path: Path,
    title: str,
    rounds: Sequence[Mapping[str, Any]],
    final: Mapping[str, Any] | None,
    log_every: int,
) -> None:
    """Draw success by round and by environment steps, with its Wilson band, and the loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_round, by_step, loss_axes = figure.subplots(1, 3)
    tried = [(e["validation"]["successes"], e["validation"]["episodes"]) for e in rounds]
    rates = [successes / max(1, episodes) for successes, episodes in tried]
    bands = [wilson_interval(*numbers) for numbers in tried]
    low, high = [band[0] for band in bands], [band[1] for band in bands]
    for axes, key, label in (
        (by_round, "round", "DAgger round (0: demonstrations)"),
        (by_step, "env_steps", "environment steps collected"),
    ):
        x = [entry[key] for entry in rounds]
        axes.fill_between(x, low, high, alpha=0.2, linewidth=0)
        axes.plot(x, rates, marker="o", label="validation, Wilson 95 %")
        if final is not None:
            rate = final["successes"] / final["episodes"]
            low_final, high_final = final["wilson_95"]
            axes.errorbar(
                x[-1],
                rate,
                yerr=[[rate - low_final], [high_final - rate]],
                marker="*",
                markersize=11,
                capsize=4,
                color="tab:red",
                label=f"held-out seeds: {rate:.0%}",
            )
        axes.set(xlabel=label, ylabel="success rate", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    for entry in rounds:
        first = entry["gradient_steps"] - entry["round_gradient_steps"]
        steps = [
            first + min((index + 1) * log_every, entry["round_gradient_steps"])
            for index in range(len(entry["losses"]))
        ]
        loss_axes.plot(steps, entry["losses"], color=f"C{entry['round'] % 10}")
    loss_axes.set(xlabel="gradient steps (a colour a round)", ylabel="mean squared error")
    loss_axes.set_yscale("log")
    loss_axes.grid(alpha=0.3)
    figure.suptitle(title)
    aside = path.with_name(f".{path.stem}.part.png")
    figure.savefig(aside, dpi=110)
    aside.replace(path)


def write_cloning_board(folder: Path, metrics: Mapping[str, Any], log_every: int) -> None:
    """Write the scalars of behaviour cloning without an environment."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    board = SummaryWriter(str(folder))
    for step, loss, error in _logged(metrics, log_every):
        board.add_scalar("loss/imitation", loss, step)
        board.add_scalar("held_out/error_over_mean_action", error, step)
    board.close()


def draw_cloning(path: Path, title: str, metrics: Mapping[str, Any], log_every: int) -> None:
    """Draw the loss, and the error on held-out episodes beside that of the mean action."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, error_axes = figure.subplots(1, 2)
    steps, losses, errors = zip(*_logged(metrics, log_every), strict=True)
    loss_axes.plot(steps, losses)
    loss_axes.set(xlabel="gradient steps", ylabel="mean squared error", yscale="log")
    number = len(metrics["held_out"])
    error_axes.plot(steps, errors, label=f"{number} of {metrics['episodes']} episodes held out")
    error_axes.axhline(1.0, color="0.5", linestyle="--", label="the mean action")
    error_axes.set(xlabel="gradient steps", ylabel="error over that of the mean action")
    error_axes.set_ylim(bottom=0)
    error_axes.legend()
    for axes in (loss_axes, error_axes):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    aside = path.with_name(f".{path.stem}.part.png")
    figure.savefig(aside, dpi=110)
    aside.replace(path)


def _logged(metrics: Mapping[str, Any], log_every: int) -> list[tuple[int, float, float]]:
    """Give gradient step, loss and held-out error of each entry of the log."""
    last = metrics["gradient_steps"]
    return [
        (min((index + 1) * log_every, last), loss, error)
        for index, (loss, error) in enumerate(
            zip(metrics["losses"], metrics["held_out_errors"], strict=True)
        )
    ]


def time_table(seconds: Mapping[str, float]) -> str:
    """Give a table of wall seconds and shares, the encoder's two parts summed below."""
    total = sum(seconds.values())
    order = [stage for stage in (*STAGES, *seconds) if stage in seconds]
    lines = [f"{'where the time went':28}  seconds   share"]
    lines += [_row(stage, seconds[stage], total) for stage in dict.fromkeys(order)]
    lines.append(_row("total", total, total))
    lines.append(_row("the encoder alone", encoder_seconds(seconds), total))
    return "\n".join(lines)


def encoder_seconds(seconds: Mapping[str, float]) -> float:
    """Give the wall seconds spent in tokenizer and transformer."""
    return sum(seconds.get(stage, 0.0) for stage in _ENCODER_STAGES)


def _row(name: str, value: float, total: float) -> str:
    return f"{name:28} {value:8.1f}  {value / total if total else 0.0:6.1%}"
