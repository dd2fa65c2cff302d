"""Run DAgger: in each round collect episodes, train a student on all of them, and validate it.

    <out>/store/                  all episodes, tokenised (the demonstration store)
    <out>/rounds/00/policy/       the student of round 0
    <out>/rounds/00/round.json    the results of this student

A round is one DAgger iteration; behaviour cloning has only round 0. The folder of a round is
written under a temporary name and then renamed, so it exists only if the round is complete. The
random numbers depend only on the seed, the round, and the episode or gradient step, so a run that
was killed and resumed gets the same results. `learning.dagger` collects the episodes.
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
        learner: the learner, which makes and trains the students.
        pool: the worker processes, which run the episodes with expert and student.
        given: existing demonstrations; None: the expert collects demonstrations in round 0.
        plan: numbers of rounds and episodes.
        out: the run's folder. Rounds that are complete there are not repeated.
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
    """Return how many episodes an earlier, stopped execution of the run has finished.

    These are the episodes in the store, and the validation episodes of the complete rounds.
    """
    rounds = sum((_folder(out, round.number)).is_dir() for round in plan.all_rounds())
    return len(store) + rounds * plan.validation_episodes


def _folder(out: Path, number: int) -> Path:
    return out / "rounds" / f"{number:02d}"


class _Run:
    """A run of DAgger, which executes one round after another.

    Attributes:
        done: results of the completed rounds, as in `round.json`.
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
        """Begin a run.

        Args:
            learner: makes and trains the students.
            pool: the worker processes.
            stores: the demonstration stores with the training data. The run appends its episodes to
                the last store. If demonstrations were given, they are in an earlier store of the
                list.
            plan: numbers of rounds and episodes.
            bar: progress bar, which counts episodes.
            out: the run's folder.
        """
        self._learner, self._pool, self._stores = learner, pool, stores
        self._plan, self._bar, self._out = plan, bar, out
        self.done: list[Json] = []

    def policy(self, number: int) -> Path:
        """Return the checkpoint folder of the student of round `number`."""
        return self._folder(number) / "policy"

    def do(self, round: Round) -> None:
        """Run a round; if it is complete already, only read its results."""
        folder = self._folder(round.number)
        if folder.is_dir() and self._is_fitted(round, folder):
            self._bar.update(round.episodes + self._plan.validation_episodes)
        else:
            self._run_round(round, folder)
        self.done.append(json.loads((folder / "round.json").read_text()))

    def _is_fitted(self, round: Round, folder: Path) -> bool:
        """Return whether the student of a round was trained for the required number of steps.

        The last round has its own number of gradient steps (`last_steps`). If a finished run is
        extended, its last round is no longer the last. So its student is trained again, for `steps`
        gradient steps and on the same episodes.
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
        """Train a new student on all episodes so far, write its checkpoint, return the losses."""
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
        """Return statistics of the episodes that a round added to the training data.

        Given demonstrations count as episodes of round 0.
        """
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
