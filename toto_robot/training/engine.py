"""The training loop of all pre-trained models: all kinds of Toto, and the MAE baseline.

    result = fit(model, phases, config, out, seed=0, title="next-token loss, nats")

A row is one training example. A step reads ``batch`` rows by their numbers. A row depends only on
its number and the seed (see `toto_robot.data.mixture`). Each rank accumulates gradients over
forward passes of ``part`` rows. Then the optimizer makes one update, unless the guard rejects the
loss or the gradient. So the config determines a run completely, and the rows are the same for any
number of ranks. A resumed run equals an uninterrupted run. On a CPU, the two are bit-identical.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from tqdm import tqdm

from ..config import to_dict
from ..data.loader import read_ahead
from ..runs import report_found, stop_signals, stopped_after
from .checkpoints import Checkpoints
from .guard import Guard, GuardConfig
from .optimizer import AnyOptimizer, build_optimizer
from .parallel import (
    Precision,
    PrecisionSetting,
    Ranks,
    Trainable,
    arithmetic,
    choose_precision,
    defer_reduction,
    distribute,
    whole,
)
from .phase import Phase, Rows
from .run import RunLog
from .stopping import StopSignals
from .throughput import Throughput, settle

__all__ = ["EngineConfig", "Fit", "Phase", "Rows", "fit"]

ESTIMATED_FROM = 100  # number of remaining steps from which the duration is estimated
SHARE_OF_STEPS = 0.9  # share of `max_minutes`; the rest is for validation and checkpoints


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Settings of the training loop, for any model.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``. ``auto`` uses a GPU if there is one.
        precision: precision of matrix products: ``float32``, ``bfloat16``, or ``auto``, which
            chooses bfloat16 if the device has instructions for it. Weights and optimizer state are
            always float32.
        compile: true compiles each block with TorchInductor.
        recompute: true does not store the activations inside a block, and computes them again for
            the gradient (activation checkpointing). It needs less memory and about a third more
            time.
        shard_ranks: number of ranks that share one copy of the model. null shards it over all
            ranks.
        read_threads: number of threads that read batches in advance.
        log_every: number of steps between two lines of the log. Each line has a validation loss.
        keep_every: number of steps between two checkpoints.
        keep_most: maximum number of checkpoints on the disk. Older checkpoints are deleted.
        keep_in_background: true continues the training while checkpoints are written. It has an
            effect only with several ranks.
        guard: conditions under which an update is skipped.
        max_minutes: approximate maximum duration of the training. If it would take longer, the
            number of steps of each phase is reduced in proportion before the first step, and the
            learning rate follows the smaller number. So the result depends on the speed of the
            machine. null trains all steps.
    """

    device: str
    precision: PrecisionSetting
    compile: bool
    recompute: bool
    shard_ranks: int | None
    read_threads: int
    log_every: int
    keep_every: int
    keep_most: int
    keep_in_background: bool
    guard: GuardConfig
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        """Check that intervals, counts and the duration are positive."""
        for name in ("log_every", "keep_every", "keep_most", "read_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes must be above 0, got {self.max_minutes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The result of `fit`.

    Attributes:
        weights: the full state dict, on the CPU of rank 0. Empty on the other ranks.
        steps: number of completed steps, over all phases.
        all_steps: number of planned steps, over all phases.
        tokens: number of training tokens.
        skipped: number of steps whose update the guard skipped.
        finished: True if all steps are completed. False if the run was stopped.
        precision: precision of matrix products.
        scores: losses and other values of the last line of the log.
    """

    weights: dict[str, Tensor]
    steps: int
    all_steps: int
    tokens: int
    skipped: int
    finished: bool
    precision: Precision
    scores: Mapping[str, float | int]

    def stopped(self) -> str:
        """Return a message that states the step at which the run stopped, and how to resume it."""
        return stopped_after(self.steps, self.all_steps, "step")

    def load(self, model: nn.Module, ranks: Ranks) -> bool:
        """Load the weights into a new model on the first rank, if all steps are completed.

        Returns:
            True if all steps are completed. Otherwise a message says how to resume the run.
        """
        if ranks.first and not self.finished:
            print(self.stopped())
        elif ranks.first:
            model.load_state_dict(self.weights)
        return self.finished

    def notes(self, config: object) -> dict[str, object]:
        """Return the metadata that a checkpoint records, such as the config and last scores."""
        return {
            "config": to_dict(config),
            "precision": self.precision,
            "skipped_steps": self.skipped,
            "scores": dict(self.scores),
        }


def fit(
    model: nn.Module,
    phases: Sequence[Phase],
    optimizer: AnyOptimizer,
    config: EngineConfig,
    out: Path,
    ranks: Ranks,
    *,
    title: str,
) -> Fit:
    """Train a model. If ``out`` has checkpoints, training resumes from the newest checkpoint.

    On Ctrl-C, the current step is completed, a checkpoint is written, and the function returns. The
    same happens on SIGTERM and SIGUSR1, which schedulers send before they kill a job.

    Args:
        model: a `Trainable` with initial weights, equal on all ranks. It is trained in place.
        phases: the training phases, the first phase first.
        optimizer: settings of the optimizer and of its learning rate over the steps of all phases.
        config: the other settings.
        out: folder of checkpoints, log and curve.
        ranks: this process and its group.
        title: title of the loss curve.
    """
    for phase in phases:
        phase.check_shares(ranks.world)
    return _Run(model, phases, optimizer, config, out, ranks, title).train()


def _with_steps(phases: Sequence[Phase], steps: Sequence[int]) -> list[Phase]:
    return [replace(phase, steps=count) for phase, count in zip(phases, steps, strict=True)]


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        phases: Sequence[Phase],
        optimizer: AnyOptimizer,
        config: EngineConfig,
        out: Path,
        ranks: Ranks,
        title: str,
    ) -> None:
        self._model, self._phases, self._config = model, phases, config
        self._ranks, self._title, self._schedule = ranks, title, optimizer
        self._planned = sum(phase.steps for phase in phases)  # without `max_minutes`
        self._begun = time.perf_counter()
        self._precision, why = choose_precision(config.precision, ranks)
        if ranks.first:
            print(f"precision of matrix products: {self._precision} ({why})", flush=True)
        distribute(
            model,
            ranks,
            precision=self._precision,
            recompute=config.recompute,
            compile_blocks=config.compile,
        )
        self._optimizer = build_optimizer(model, optimizer)
        self._guard = Guard(config.guard)
        self._checkpoints = Checkpoints(
            out / "checkpoints",
            model,
            self._optimizer,
            ranks,
            background=config.keep_in_background,
            most=config.keep_most,
        )
        self._done = self._tokens = 0
        self._loss_sum, self._loss_count = 0.0, 0  # since the last line of the log
        state = self._checkpoints.resume()
        if state is not None:
            self._done, self._tokens = state["step"], state["tokens"]
            self._loss_sum, self._loss_count = state["losses"]
            self._guard.restore(state["guard"])
            if state.get("steps"):
                self._phases = _with_steps(phases, state["steps"])
        self._steps = sum(phase.steps for phase in self._phases)
        if state is not None and ranks.first:
            report_found(self._done, self._steps, "step")
        self._kept = self._done
        self._log = RunLog(out, self._done) if ranks.first else None
        self._scores: Mapping[str, float | int] = (
            self._log.rows[-1] if self._log and self._log.rows else {}
        )
        self._speed = Throughput(ranks.device, self._precision, ranks.world)
        self._stop = StopSignals(ranks)

    def train(self) -> Fit:
        """Run the remaining steps of all phases, and return the result."""
        self._plan()
        warmup = round(self._schedule.warmup_steps * self._steps / self._planned)
        self._schedule = replace(self._schedule, warmup_steps=warmup)
        if self._ranks.first and (note := self._schedule.note(self._steps)):
            print(note, flush=True)
        bar = tqdm(
            total=self._steps,
            initial=self._done,
            desc="train",
            unit="step",
            disable=not self._ranks.first,
        )
        with self._stop.handling(), bar:
            end = 0
            for phase in self._phases:
                begin, end = end, end + phase.steps
                if self._done >= end:
                    continue
                if self._done == begin:
                    self._guard.reset()
                if not self._phase(phase, begin, bar):
                    break
        if self._kept != self._done:
            self._keep()
        self._checkpoints.finish()
        if self._log is not None:
            self._log.close(self._title, ("loss", "validation_loss"))
        weights = get_model_state_dict(
            self._model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        return Fit(
            weights={name: cast(Tensor, tensor) for name, tensor in weights.items()},
            steps=self._done,
            all_steps=self._steps,
            tokens=self._tokens,
            skipped=self._guard.skipped,
            finished=self._done == self._steps,
            precision=self._precision,
            scores=self._scores,
        )

    def _plan(self) -> None:
        """Print how long the remaining steps will take, and reduce them to ``max_minutes``."""
        most = self._config.max_minutes
        if self._steps - self._done < ESTIMATED_FROM and (most is None or self._done):
            return
        seconds = self._remaining_seconds()
        if most is not None and not self._done:
            limit = 60 * most * SHARE_OF_STEPS - self._spent()
            if seconds > limit:
                share = max(limit, 0.0) / seconds
                counts = [max(1, int(share * phase.steps)) for phase in self._phases]
                self._phases = _with_steps(self._phases, counts)
                self._steps, seconds = sum(counts), share * seconds
        if self._ranks.first:
            left = self._steps - self._done
            print(
                f"training: {left:,} of {self._steps:,} steps, about {seconds / 3600:.2f} hours on "
                "this machine at its present speed, without validation and checkpoints",
                flush=True,
            )

    def _spent(self) -> float:
        """Return the seconds since the start of the run. They are equal on all ranks."""
        settle(self._ranks.device)
        spent = torch.tensor(time.perf_counter() - self._begun, device=self._ranks.device)
        return self._ranks.mean(spent).item()

    def _remaining_seconds(self) -> float:
        """Estimate the duration of the remaining steps from one forward and backward pass each.

        The passes do not change the model, not even the running averages of a batch norm.
        """
        before = [(one, one.clone()) for one in self._model.buffers()]
        total, end = 0.0, 0
        for phase in self._phases:
            begin, end = end, end + phase.steps
            left = end - max(begin, self._done)
            if left <= 0:
                continue
            batch = phase.rows(0, phase.part)
            self._loss(batch).backward()  # the first pass is slower
            start = self._spent()
            self._loss(batch).backward()
            passes = phase.batch // (self._ranks.world * phase.part)
            total += left * passes * (self._spent() - start)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        return total

    def _phase(self, phase: Phase, begin: int, bar: Any) -> bool:
        """Run the steps of one phase, and return True, or False if the run was stopped."""
        share = phase.batch // self._ranks.world
        offsets = range(0, share, phase.part)
        numbers = (
            phase.first_row + (step - begin) * phase.batch + self._ranks.rank * share + offset
            for step in range(self._done, begin + phase.steps)
            for offset in offsets
        )
        batches = read_ahead(
            lambda first: phase.rows(first, phase.part), numbers, self._config.read_threads
        )
        try:
            self._speed.go_on()
            while self._done < begin + phase.steps:
                self._step(phase, itertools.islice(batches, len(offsets)), len(offsets), bar)
                last = self._done == self._steps
                self._speed.pause()
                if self._done % self._config.log_every == 0 or last:
                    self._report(phase, bar)
                if self._done % self._config.keep_every == 0 or last:
                    self._keep()
                asked, writing = self._ranks.any(self._stop.asked, self._checkpoints.writing)
                if not writing:
                    self._checkpoints.finish()
                if asked:
                    if not last:
                        stop_signals.append(self._stop.number)
                    return last
                self._speed.go_on()
        except FloatingPointError:  # of the guard, which raises it on all ranks
            self._checkpoints.finish()
            raise
        finally:
            batches.close()
        return True

    def _step(
        self, phase: Phase, parts: Iterator[tuple[Tensor, ...]], count: int, bar: Any
    ) -> None:
        rate = self._schedule.lr_at(self._done, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._ranks.device)
        for index, batch in enumerate(parts):
            defer_reduction(self._model, last=index == count - 1)
            loss = self._loss(batch) / count
            loss.backward()
            total += loss.detach()
        gradients = [p for p in self._model.parameters() if p.grad is not None]
        norm = whole(nn.utils.clip_grad_norm_(gradients, self._schedule.clip_norm))
        loss_value, norm_value = torch.stack([self._ranks.mean(total), norm]).tolist()
        fault = self._guard.fault(loss_value, norm_value)
        if fault is None:
            self._optimizer.step()
            if (after_step := getattr(self._model, "after_step", None)) is not None:
                after_step()  # such as an average of the weights
            self._loss_sum += loss_value
            self._loss_count += 1
        elif self._ranks.first:
            bar.write(f"step {self._done + 1}: {fault}; its update is skipped")
        self._done += 1
        self._tokens += phase.batch * phase.tokens_per_row
        self._norm = norm_value
        self._speed.add(phase.batch * phase.tokens_per_row, phase.batch * phase.flops_per_row)
        bar.update()
        bar.set_postfix(loss=f"{loss_value:.3f}", refresh=False)

    def _loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        placed = [tensor.to(self._ranks.device, non_blocking=True) for tensor in batch]
        with arithmetic(self._ranks, self._precision):
            return cast(Trainable, self._model).loss(*placed)

    def _report(self, phase: Phase, bar: Any) -> None:
        scores = {
            f"validation/{name}": self._validate(rows, phase.validation_rows)
            for name, rows in phase.validation.items()
            if phase.validation_rows
        }
        if scores:
            scores["validation_loss"] = sum(scores.values()) / len(scores)
        if phase.measure is not None:
            scores |= phase.measure(lambda rows: self._validate(rows, phase.validation_rows))
        if self._loss_count:  # all steps since the last line may have been skipped
            scores["loss"] = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        scores |= {"gradient_norm": self._norm, "skipped": self._guard.skipped}
        self._scores = scores
        if self._log is None:
            return
        self._log.add(self._done, tokens=self._tokens, **scores)
        bar.write(self._log.note_speed(self._done, self._speed.read()))

    @torch.no_grad()
    def _validate(self, rows: Rows, count: int) -> float:
        """Return the mean loss of rows 0 to ``count - 1``. The ranks share the computation."""
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()  # a batch norm uses its running averages: batches have one row
        turns = -(-count // self._ranks.world)
        total = torch.zeros(2, device=self._ranks.device)
        for turn in range(turns):
            row = turn * self._ranks.world + self._ranks.rank
            # All ranks must compute in each turn. In the last turn, some ranks repeat a row.
            loss = self._loss(rows(min(row, count - 1), 1))
            if row < count:
                total += torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32)])
        for module, mode in modes.items():
            module.training = mode
        loss_sum, number = self._ranks.total(total).tolist()
        return loss_sum / number

    def _keep(self) -> None:
        self._checkpoints.save(
            self._done,
            {
                "tokens": self._tokens,
                "losses": [self._loss_sum, self._loss_count],
                "guard": self._guard.state(),
                "steps": self._config.max_minutes and [phase.steps for phase in self._phases],
            },
        )
        self._kept = self._done
