"""Imitate the expert in rounds: collect episodes, fit a student to all of them, validate it.

    <out>/store/                  all episodes
    <out>/rounds/00/policy/       a round's student
    <out>/rounds/00/round.json    its results

A round's folder is written under a temporary name and renamed, so it exists once the round is
complete. All randomness is drawn from (seed, round, episode or step): a killed and resumed run gets
the same numbers. `learning.dagger` collects the episodes. Behaviour cloning has only round 0.
"""

import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from toto_robot.files import write_json, written_aside
from toto_robot.runs import report_found

from ..demonstrations.features import FeatureCache
from ..demonstrations.source import Demonstrations
from ..demonstrations.store import DemoStore, StoreHeader, create_store
from ..report import draw_curve, write_tensorboard
from ..rollouts.evaluation import evaluate_policy
from ..rollouts.job import PhaseClock, add_seconds
from ..rollouts.pool import RolloutPool
from ..rollouts.seeds import evaluation_seeds, validation_seeds
from ..rollouts.video import film
from ..student import load_student
from ..trained_policy import TrainedPolicy
from .dagger import Plan, Round, collect
from .learner import Learner

Json = dict[str, Any]


def imitate(
    learner: Learner, pool: RolloutPool, given: Demonstrations | None, plan: Plan, out: Path
) -> None:
    """Run all rounds, evaluate the last student on held-out seeds, and write the results.

    Args:
        learner: the learner that makes and fits the students.
        pool: the workers that run the episodes, with the expert.
        given: store of existing demonstrations; None: the expert collects them in round 0.
        plan: rounds and episodes of the run.
        out: the run's folder; completed rounds are not repeated.
    """
    env, interface = pool.spec.env, pool.spec.interface()
    stores = [create_store(out / "store", StoreHeader.of(env.id, interface, learner.encoder))]
    if given is not None:
        stores.insert(0, given.open(learner.encoder, out / "data", env.id, interface))
    clock = PhaseClock()
    report_found(_found(plan, stores[-1], out), plan.num_episodes, "episode")
    with tqdm(total=plan.num_episodes, unit="episode", smoothing=0.02) as bar:
        run = _Run(learner, pool, stores, plan, bar, out)
        for round in plan.all_rounds():
            run.do(round)
            with clock("curve and video"):
                write_tensorboard(out, run.done)
                draw_curve(out, run.done, None)
        bar.set_description("held-out seeds")
        before, seeds = dict(pool.seconds), evaluation_seeds(plan.evaluation_episodes)
        policy = run.policy(plan.rounds)
        final = evaluate_policy(pool, policy, seeds, bar.update)
        add_seconds(clock.seconds, pool.seconds_since(before))
    student = load_student(policy, learner.encoder, interface)
    student.save(out / "policy", evaluation={name: final[name] for name in ("rate", "wilson_95")})
    write_json(out / "evaluation.json", final)
    with clock("curve and video"):
        draw_curve(out, run.done, final)
        if plan.video_episodes:
            filmed = seeds[: plan.video_episodes]
            film(out / "rollout.mp4", env, TrainedPolicy(student, learner.encoder), filmed)
    for entry in run.done:
        add_seconds(clock.seconds, entry.pop("seconds"))
    write_json(out / "timings.json", clock.seconds)
    metrics = {"seed": learner.seed, "rounds": run.done, "evaluation": final}
    write_json(out / "metrics.json", metrics)


def _found(plan: Plan, store: DemoStore, out: Path) -> int:
    """Return the number of existing episodes of a run: collected ones, and those of validations."""
    rounds = sum((_folder(out, round.number)).is_dir() for round in plan.all_rounds())
    return len(store) + rounds * plan.validation_episodes


def _folder(out: Path, number: int) -> Path:
    return out / "rounds" / f"{number:02d}"


class _Run:
    """The rounds of a run, one after another.

    Attributes:
        done: results of the completed rounds, as in their `round.json`.
    """

    def __init__(
        self,
        learner: Learner,
        pool: RolloutPool,
        stores: list[DemoStore],
        plan: Plan,
        bar: "tqdm[Any]",
        out: Path,
    ) -> None:
        """Begin a run; its own episodes are in the last store, given ones in the store before."""
        self._learner, self._pool, self._stores = learner, pool, stores
        self._plan, self._bar, self._out = plan, bar, out
        self.done: list[Json] = []

    def policy(self, number: int) -> Path:
        """Return the folder of a round's student."""
        return self._folder(number) / "policy"

    def do(self, round: Round) -> None:
        """Run a round, or read its results if it is complete."""
        folder = self._folder(round.number)
        if folder.is_dir() and self._is_fitted(round, folder):
            self._bar.update(round.episodes + self._plan.validation_episodes)
        else:
            self._run_round(round, folder)
        self.done.append(json.loads((folder / "round.json").read_text()))

    def _is_fitted(self, round: Round, folder: Path) -> bool:
        """Return whether a round's student was fitted for the right number of steps.

        The last round has another number of steps. If a run is extended, its previous last round is
        fitted again, to the same episodes.
        """
        steps = self._steps(round)
        return json.loads((folder / "round.json").read_text())["round_gradient_steps"] == steps

    def _run_round(self, round: Round, folder: Path) -> None:
        before = dict(self._pool.seconds)
        if round.episodes:
            self._describe(round, "collect")
            self._collect(round)
        with written_aside(folder) as aside:
            self._describe(round, "train")
            start = time.perf_counter()
            steps = self._steps(round)
            losses = self._fit(round, steps, aside / "policy")
            training_s = time.perf_counter() - start
            self._describe(round, "validate")
            seeds = validation_seeds(self._plan.validation_episodes)
            validation = evaluate_policy(self._pool, aside / "policy", seeds, self._bar.update)
            seconds = self._pool.seconds_since(before) | {"student's training": training_s}
            entry = {
                **self._collected(round),
                "round_gradient_steps": steps,
                "gradient_steps": steps + self._total("gradient_steps"),
                "losses": losses,
                "validation": validation,
                "seconds": seconds,
            }
            (aside / "round.json").write_text(json.dumps(entry, indent=1) + "\n")
        successes, episodes = validation["successes"], validation["episodes"]
        self._bar.set_postfix_str(f"round {round.number}: {successes}/{episodes} succeed")

    def _collect(self, round: Round) -> None:
        store = self._stores[-1]
        policy = self.policy(round.number - 1) if round.number else None
        cache = FeatureCache(store, self._learner.encoder)
        collect(self._pool, store, cache, round, policy, self._bar.update)

    def _fit(self, round: Round, steps: int, folder: Path) -> list[float]:
        """Fit the round's student to all episodes, write it, and return its losses."""
        scratch = self._out / "embeddings.npy"
        data = self._learner.gather(self._stores, scratch)
        interface, env = self._stores[-1].header.interface, self._pool.spec.env
        student = self._learner.begin(interface, env, data, round.number)
        losses = self._learner.fit(
            student,
            data,
            steps,
            round.number,
            lambda step, loss: self._bar.set_postfix_str(f"step {step}/{steps}, loss {loss:.4f}"),
        )
        del data
        scratch.unlink(missing_ok=True)
        student.save(folder, round=round.number, steps=steps)
        return losses

    def _collected(self, round: Round) -> Json:
        """Return statistics of the episodes that a round adds; round 0 includes given episodes."""
        *given, store = self._stores
        collected = [store[round.first + index] for index in range(round.episodes)]
        added = list(collected)
        if round.number == 0:
            added += [episode for other in given for episode in other]
        return {
            "round": round.number,
            "beta": round.beta,
            "episodes": len(added),
            "env_steps": sum(one.num_steps for one in added) + self._total("env_steps"),
            "expert_acted": _mean([float(one.acted_by_expert.mean()) for one in collected]),
            "collected_success": _mean([float(one.success) for one in collected]),
        }

    def _steps(self, round: Round) -> int:
        imitation = self._learner.imitation
        return imitation.last_steps if round.number == self._plan.rounds else imitation.steps

    def _total(self, name: str) -> int:
        return self.done[-1][name] if self.done else 0

    def _describe(self, round: Round, what: str) -> None:
        self._bar.set_description(f"round {round.number}/{self._plan.rounds}: {what}")

    def _folder(self, number: int) -> Path:
        return _folder(self._out, number)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
