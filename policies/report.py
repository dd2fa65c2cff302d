"""Report a training run: plot the learning curve, write TensorBoard logs, print times per phase.

The settings of the run are read from `config.json` in the run's folder. A round is one DAgger
iteration.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.success_rates import describe_rate
from toto_robot.files import written_aside
from toto_robot.plots import draw_legend

from .rollouts.evaluation import best
from .rollouts.job import PHASES

if TYPE_CHECKING:  # imported where they are used: each takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

Json = dict[str, Any]
ENCODER_PHASES = ("tokenizer", "transformer")


def write_tensorboard(out: Path, rounds: Sequence[Json]) -> None:
    """Write the results of all rounds as TensorBoard scalars.

    Older TensorBoard files in `out` are replaced, so that a resumed run has no duplicates.

    Args:
        out: the run's folder.
        rounds: results of the rounds (DAgger iterations, or of PPO), as in their `round.json`.
    """
    board = _new_board(out)
    loss_name = "loss/value" if _config(out)["method"] == "ppo" else "loss/imitation"
    for entry in rounds:
        number, validation = entry["round"], entry["validation"]
        for name in ("env_steps", "episodes", "beta", "expert_acted", "collected_success"):
            if entry[name] is not None:
                board.add_scalar(f"collection/{name}", entry[name], number)
        if validation["episodes"]:
            board.add_scalar("success/by_round", validation["rate"], number)
            board.add_scalar("success/by_env_step", validation["rate"], entry["env_steps"])
        for step, loss in zip(_steps(out, entry), entry["losses"], strict=True):
            board.add_scalar(loss_name, loss, step)
    board.close()


def draw_curve(out: Path, rounds: Sequence[Json], final: Json | None) -> None:
    """Plot the success rate with Wilson intervals, and the loss of each round.

    The success rate is plotted over the rounds and over the number of environment steps.

    Args:
        out: the run's folder.
        rounds: results of the rounds (DAgger iterations, or of PPO), as in their `round.json`.
        final: result on the held-out seeds; None: not evaluated.
    """
    config = _config(out)
    is_ppo = config["method"] == "ppo"
    figure = _new_figure(12, 3.8)
    by_round, by_step, loss_axes = figure.subplots(1, 3)
    validated = [entry for entry in rounds if entry["validation"]["episodes"]]
    rates = [entry["validation"]["rate"] for entry in validated]
    bands = [entry["validation"]["wilson_95"] for entry in validated]
    low, high = [band[0] for band in bands], [band[1] for band in bands]
    for axes, key, label in (
        (by_round, "round", "round of PPO" if is_ppo else "DAgger round (0: demonstrations)"),
        (by_step, "env_steps", "environment steps collected"),
    ):
        if validated:
            x = [entry[key] for entry in validated]
            axes.fill_between(x, low, high, alpha=0.2, linewidth=0)
            axes.plot(x, rates, marker="o", label="validation, Wilson 95 %")
        if final is not None:
            _mark_final(axes, rounds[-1][key], final)
        axes.set(xlabel=label, ylabel="success rate", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        draw_legend(axes)
    for entry in rounds:
        loss_axes.plot(_steps(out, entry), entry["losses"], color=f"C{entry['round'] % 10}")
    loss_axes.set_xlabel("gradient steps (one colour per round)")
    loss_axes.set_ylabel("value loss" if is_ppo else "mean squared error")
    loss_axes.set_yscale("log")
    loss_axes.grid(alpha=0.3)
    what = f"{config['env']['id']}, {config['method']}"
    _save(figure, f"{what}, encoder: {config['encoder']['kind']}, seed {config['seed']}", out)


def write_cloning_board(out: Path, metrics: Json) -> None:
    """Write TensorBoard scalars for behaviour cloning without an environment."""
    board = _new_board(out)
    for step, loss, error in zip(
        _steps(out, metrics), metrics["losses"], metrics["held_out_errors"], strict=True
    ):
        board.add_scalar("loss/imitation", loss, step)
        board.add_scalar("held_out/error_over_mean_action", error, step)
    board.close()


def draw_cloning(out: Path, metrics: Json) -> None:
    """Plot the loss and the relative error on held-out episodes over gradient steps.

    `policies.learning.behaviour_cloning` defines the relative error.
    """
    figure = _new_figure(9, 3.8)
    loss_axes, error_axes = figure.subplots(1, 2)
    steps, losses, errors = _steps(out, metrics), metrics["losses"], metrics["held_out_errors"]
    loss_axes.plot(steps, losses)
    loss_axes.set(xlabel="gradient steps", ylabel="mean squared error", yscale="log")
    number = len(metrics["held_out"])
    error_axes.plot(steps, errors, label=f"{number} of {metrics['episodes']} episodes held out")
    error_axes.axhline(1.0, color="0.5", linestyle="--", label="the mean action")
    error_axes.set(xlabel="gradient steps", ylabel="error relative to the mean action")
    error_axes.set_ylim(bottom=0)
    error_axes.legend()
    for axes in (loss_axes, error_axes):
        axes.grid(alpha=0.3)
    config = _config(out)
    what = f"{config['data']}, bc"
    _save(figure, f"{what}, encoder: {config['encoder']['kind']}, seed {config['seed']}", out)


def draw_teacher(
    out: Path, rows: Sequence[Mapping[str, float]], validations: Sequence[Json], final: Json | None
) -> None:
    """Plot the success rate and the reward terms of a teacher over environment steps.

    Args:
        out: the run's folder.
        rows: one row per iteration of PPO, as in `log.jsonl`.
        validations: results on the validation seeds, one per checkpoint.
        final: result on the held-out seeds; None: not evaluated.
    """
    figure = _new_figure(11, 4)
    success, rewards = figure.subplots(1, 2)
    rows = [row for row in rows if "reward" in row]
    x = [row["env_steps"] for row in rows]
    success.plot(x, [row["success/training"] for row in rows], label="training, exploring")
    at = [entry["env_steps"] for entry in validations]
    bands = [entry["wilson_95"] for entry in validations]
    success.fill_between(
        at, [low for low, _ in bands], [high for _, high in bands], alpha=0.2, color="C1"
    )
    rates = [entry["rate"] for entry in validations]
    success.plot(at, rates, "o-", markersize=3, color="C1", label="validation, Wilson 95 %")
    if final is not None:
        _mark_final(success, best(validations)["env_steps"], final)
    success.set(xlabel="environment steps", ylabel="success rate", ylim=(-0.02, 1.02))
    names = sorted({name for row in rows for name in row if name.startswith("reward/")})
    for name in names:
        rewards.plot(x, [row[name] for row in rows], label=name.removeprefix("reward/"))
    rewards.plot(x, [row["reward"] for row in rows], color="black", label="sum")
    rewards.set(xlabel="environment steps", ylabel="reward of a step, training")
    for axes in (success, rewards):
        axes.grid(alpha=0.3)
        axes.legend()
    config = _config(out)
    _save(figure, f"{config['env']['id']}, PPO on the privileged state, seed {config['seed']}", out)


def conclude(out: Path) -> None:
    """Print the results of a finished run of `policies.train`."""
    metrics, seconds = (_read(out / f"{name}.json") for name in ("metrics", "timings"))
    print(time_table(seconds))
    print(f"policy:  {out / 'policy'}")
    print_files(out)
    if "held_out" in metrics:
        print(
            f"held out: {len(metrics['held_out'])} of {metrics['episodes']} episodes; error "
            f"{metrics['held_out_errors'][-1]:.3f} relative to the mean action"
        )
        return
    print(encoder_share(seconds))
    print_success(metrics["evaluation"])


def print_files(out: Path) -> None:
    """Print the paths of the plot and, if it exists, of the video."""
    print(f"curve:   {out / 'curve.png'}")
    if (out / "rollout.mp4").is_file():
        print(f"video:   {out / 'rollout.mp4'}")


def print_success(final: Json) -> None:
    """Print the success rate on held-out seeds."""
    print(f"success: {describe_rate(final['successes'], final['episodes'])} on held-out seeds")


def time_table(seconds: Mapping[str, float]) -> str:
    """Return a table of the wall time of each phase, in seconds and in percent of the total.

    The last line contains the total time of the encoder.
    """
    total = sum(seconds.values())
    order = [phase for phase in (*PHASES, *seconds) if phase in seconds]
    lines = [f"{'where the time went':28}  seconds   share"]
    lines += [_row(phase, seconds[phase], total) for phase in dict.fromkeys(order)]
    lines.append(_row("total", total, total))
    lines.append(_row("the encoder alone", _encoder_seconds(seconds), total))
    return "\n".join(lines)


def encoder_share(seconds: Mapping[str, float]) -> str:
    """Return a line of text with the encoder's percentage of the wall time."""
    share = _encoder_seconds(seconds) / max(1e-9, sum(seconds.values()))
    return f"encoder: {share:.0%} of the wall time"


def _encoder_seconds(seconds: Mapping[str, float]) -> float:
    return sum(seconds.get(phase, 0.0) for phase in ENCODER_PHASES)


def _row(name: str, value: float, total: float) -> str:
    return f"{name:28} {value:8.1f}  {value / total if total else 0.0:6.1%}"


def _steps(out: Path, entry: Json) -> list[int]:
    """Return the gradient step at which each loss in `entry` was logged.

    Args:
        out: the run's folder.
        entry: result of a round or of behaviour cloning, with the logged losses.
    """
    if "loss_steps" in entry:
        return list(entry["loss_steps"])
    log_every, last = _config(out)["imitation"]["log_every"], entry["gradient_steps"]
    here = entry.get("round_gradient_steps", last)
    return [
        last - here + min((index + 1) * log_every, here) for index in range(len(entry["losses"]))
    ]


def _config(out: Path) -> Json:
    return _read(out / "config.json")


def _read(path: Path) -> Json:
    return json.loads(path.read_text())


def _new_board(out: Path) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    return SummaryWriter(str(out / "tensorboard"))


def _mark_final(axes: "Axes", x: float, final: Json) -> None:
    """Plot the success rate on the held-out seeds as a star with its Wilson interval, at `x`."""
    rate, (low, high) = final["rate"], final["wilson_95"]
    axes.errorbar(
        x,
        rate,
        yerr=[[rate - low], [high - rate]],
        marker="*",
        markersize=11,
        capsize=4,
        color="tab:red",
        label=f"held-out seeds: {rate:.0%}",
    )


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", title: str, out: Path) -> None:
    figure.suptitle(title)
    with written_aside(out / "curve.png") as aside:
        figure.savefig(aside, dpi=110, format="png")
