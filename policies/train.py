"""`python -m policies.train`: learn a policy from an expert, by DAgger or behaviour cloning.

    python -m policies.train                        # what `make demo` does
    python -m policies.train encoder=none out=runs/blind
    python -m policies.train method=bc data=runs/train/store out=runs/bc
    python -m policies.train method=bc env=none data=runs/demos out=runs/arm

`data` is a store, or a LeRobot data set with pictures, whose frames are tokenised once into
`out/data`. With `env=none` there are no episodes to run: see
`policies.learning.behaviour_cloning`. Otherwise, in `out`:

    config.json         what was asked for; a run is only resumed with the same
    store/              all episodes, as tokens
    rounds/00/          of each round: policy/ and round.json; there once the round is over
    policy/             the last round's policy: what `policies.evaluate` takes
    evaluation.json     the policy on the held-out seeds
    metrics.json        all numbers that follow from the config: equal for equal runs
    timings.json        where the time went
    curve.png rollout.mp4 tensorboard/

Killed at any moment, the same command with the same `out` goes on and ends with the same
metrics.json: episodes and rounds are written aside and renamed, and all randomness is drawn from
(seed, round, episode or step), so there is no state to lose.
"""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from envs.success_rates import describe_rate
from toto_robot import FrameEncoder
from toto_robot.cli import command
from toto_robot.device import choose_device
from toto_robot.runs import claim

from .demonstrations.features import Dataset, FeatureCache
from .demonstrations.store import DemoStore, StoreHeader, create_store, write_aside
from .environment import interface_of, make_env
from .learning.behaviour_cloning import clone, open_data
from .learning.config import TrainConfig
from .learning.dagger import Collection, collect
from .learning.fit import fit
from .report import draw_curve, encoder_seconds, time_table, write_tensorboard
from .rollouts.evaluation import evaluate_policy
from .rollouts.rollout import RolloutPool, Theatre
from .rollouts.seeds import evaluation_seeds, validation_seeds
from .rollouts.video import film
from .student import StudentCard, StudentPolicy, load_student
from .teacher_policy import choose_expert
from .vision import stamp

Json = dict[str, Any]


def train(config: TrainConfig, out: Path) -> None:
    """Train, judge and report; see the module's docstring for what is written."""
    print(_plan(config), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    claim(out, config)
    if config.env is None:
        clone(config, out)
        return
    if (out / "metrics.json").is_file():
        print(f"{out} is complete already; nothing to do")
        _conclude(config, out)
        return

    device = choose_device(config.device)
    encoder = config.encoder.build(torch.device(device))
    env = make_env(config.env, sighted=encoder is not None, privileged=True)
    choose_expert(config.env.id, config.teacher, env)  # an unknown or unfit one is told now
    interface = interface_of(env)
    env.close()
    header = StoreHeader.of(config.env.id, interface, encoder)
    store = create_store(out / "store", header)
    stores = [store]
    if config.data is not None:
        stores = [open_data(config, header, encoder, out), store]
    card = StudentCard(
        student=config.student,
        interface=interface,
        env=config.env,
        vision=config.encoder,
        encoder=stamp(encoder),
    )
    theatre = Theatre(
        env=config.env,
        vision=config.encoder,
        privileged=True,
        device=device,
        teacher=config.teacher,
    )

    num_episodes = config.demonstrations if config.data is None else 0
    num_episodes += config.rounds * config.dagger.episodes
    num_episodes += (config.rounds + 1) * config.validation_episodes + config.evaluation_episodes
    rounds: list[Json] = []
    report_s = 0.0
    with (
        RolloutPool(theatre, config.rollout) as pool,
        tqdm(total=num_episodes, unit="episode", smoothing=0.02) as bar,
    ):
        for number in range(config.rounds + 1):
            folder = out / "rounds" / f"{number:02d}"
            if not folder.is_dir():
                _do_round(config, number, rounds, pool, stores, encoder, card, bar, out)
            else:
                bar.update(config.validation_episodes + _planned(config, number))
            rounds.append(json.loads((folder / "round.json").read_text()))
            start = time.perf_counter()
            write_tensorboard(out / "tensorboard", rounds, config.imitation.log_every)
            draw_curve(out / "curve.png", _title(config), rounds, None, config.imitation.log_every)
            report_s += time.perf_counter() - start

        policy = out / "rounds" / f"{config.rounds:02d}" / "policy"
        bar.set_description("held-out seeds")
        before = dict(pool.seconds)
        final = evaluate_policy(
            pool,
            policy,
            evaluation_seeds(config.evaluation_episodes),
            config.rollout.group,
            bar.update,
        )
    seconds = _difference(pool.seconds, before) | {"curve and video": report_s}
    student = load_student(policy, encoder, interface)
    _finish(config, out, rounds, final, seconds, student, encoder)
    _conclude(config, out)


def _do_round(
    config: TrainConfig,
    number: int,
    rounds: list[Json],
    pool: RolloutPool,
    stores: list[DemoStore],
    encoder: FrameEncoder | None,
    card: StudentCard,
    bar: Any,
    out: Path,
) -> None:
    """Collect, fit and validate; leave `rounds/<number>`, whole."""
    store, before = stores[-1], dict(pool.seconds)
    beta = config.dagger.beta(number)
    episodes = _planned(config, number)
    first = sum(_planned(config, earlier) for earlier in range(number))
    if episodes:
        bar.set_description(f"round {number}/{config.rounds}: collect")
        collection = Collection(
            round=number,
            first=first,
            episodes=episodes,
            policy=out / "rounds" / f"{number - 1:02d}" / "policy" if number else None,
            beta=beta,
            mixing=config.dagger.mixing,
            seed=config.seed,
            group=config.rollout.group,
            steps_after_success=config.steps_after_success,
        )
        collect(pool, store, FeatureCache(store, encoder), collection, bar.update)

    bar.set_description(f"round {number}/{config.rounds}: train")
    start = time.perf_counter()
    limit_bytes = int(config.memory_limit_gib * 2**30)
    data = Dataset(stores, encoder, limit_bytes, out / "embeddings.npy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1000 + number)
        student = StudentPolicy(card)
    student.to(choose_device(config.device))
    student.standardise(data.embeddings, data.proprio)
    steps = config.imitation.last_steps if number == config.rounds else config.imitation.steps
    losses = fit(
        student,
        data,
        config.imitation,
        steps,
        (config.seed, number),
        lambda step, loss: bar.set_postfix_str(f"step {step}/{steps}, loss {loss:.4f}"),
    )
    del data
    (out / "embeddings.npy").unlink(missing_ok=True)
    aside = out / "rounds" / f".{number:02d}.part"
    shutil.rmtree(aside, ignore_errors=True)
    student.save(aside / "policy", round=number, steps=steps)
    training_s = time.perf_counter() - start

    bar.set_description(f"round {number}/{config.rounds}: validate")
    seeds = validation_seeds(config.validation_episodes)
    validation = evaluate_policy(pool, aside / "policy", seeds, config.rollout.group, bar.update)
    collected = [store[index] for index in range(first, first + episodes)]
    given = [episode for episode in stores[0]] if len(stores) > 1 and number == 0 else []
    entry = {
        "round": number,
        "beta": beta,
        "episodes": len(collected) + len(given),
        "env_steps": sum(episode.num_steps for episode in (*collected, *given))
        + (rounds[-1]["env_steps"] if rounds else 0),
        "expert_acted": _mean([float(episode.acted_by_expert.mean()) for episode in collected]),
        "collected_success": _mean([float(episode.success) for episode in collected]),
        "round_gradient_steps": steps,
        "gradient_steps": steps + (rounds[-1]["gradient_steps"] if rounds else 0),
        "losses": losses,
        "validation": validation,
        "seconds": _difference(pool.seconds, before) | {"student's training": training_s},
    }
    (aside / "round.json").write_text(json.dumps(entry, indent=1) + "\n")
    os.replace(aside, aside.with_name(f"{number:02d}"))
    bar.set_postfix_str(
        f"round {number}: {validation['successes']}/{validation['episodes']} succeed"
    )


def _finish(
    config: TrainConfig,
    out: Path,
    rounds: list[Json],
    final: Json,
    seconds: dict[str, float],
    student: StudentPolicy,
    encoder: FrameEncoder | None,
) -> None:
    """Write the policy, the curve, the video, the timings, and last the metrics."""
    assert config.env is not None
    student.save(out / "policy", evaluation={name: final[name] for name in ("rate", "wilson_95")})
    write_aside(out / "evaluation.json", (json.dumps(final, indent=1) + "\n").encode())
    start = time.perf_counter()
    draw_curve(out / "curve.png", _title(config), rounds, final, config.imitation.log_every)
    if config.video_episodes:
        seeds = evaluation_seeds(config.video_episodes)
        film(out / "rollout.mp4", config.env, student, encoder, seeds, privileged=False)
    seconds["curve and video"] += time.perf_counter() - start
    for entry in rounds:
        for stage, value in entry.pop("seconds").items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    write_aside(out / "timings.json", (json.dumps(seconds, indent=1) + "\n").encode())
    metrics = {"seed": config.seed, "rounds": rounds, "evaluation": final}
    write_aside(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())


def _conclude(config: TrainConfig, out: Path) -> None:
    """Print what a finished run has to say."""
    metrics = json.loads((out / "metrics.json").read_text())
    seconds: dict[str, float] = json.loads((out / "timings.json").read_text())
    print(time_table(seconds))
    print(f"policy:  {out / 'policy'}")
    print(f"curve:   {out / 'curve.png'}")
    if config.video_episodes:
        print(f"video:   {out / 'rollout.mp4'}")
    share = encoder_seconds(seconds) / max(1e-9, sum(seconds.values()))
    print(f"encoder: {share:.0%} of the wall time")
    final = metrics["evaluation"]
    print(f"success: {describe_rate(final['successes'], final['episodes'])} on held-out seeds")


def _plan(config: TrainConfig) -> str:
    eyes = dataclasses.asdict(config.encoder).get("name_or_path", "")
    begin = (
        f"{config.demonstrations} episodes of the expert"
        if config.data is None
        else f"the demonstrations in {config.data}"
    )
    rounds = (
        f", then {config.rounds} rounds of {config.dagger.episodes} episodes of the student, "
        "labelled by the expert"
        if config.rounds
        else ""
    )
    if config.env is None:
        return (
            f"{config.method} on {config.data}, without an environment, encoder: "
            f"{config.encoder.kind} {eyes}\na tenth of the episodes is held out and judges"
        )
    return (
        f"{config.method} on {config.env.id}, encoder: {config.encoder.kind} {eyes}\n"
        f"{begin}{rounds}; {config.validation_episodes} validation episodes after each; "
        f"at the end {config.evaluation_episodes} held-out seeds"
    )


def _title(config: TrainConfig) -> str:
    assert config.env is not None
    return f"{config.env.id}, {config.method}, encoder: {config.encoder.kind}, seed {config.seed}"


def _planned(config: TrainConfig, number: int) -> int:
    """Give how many episodes a round collects."""
    if number:
        return config.dagger.episodes
    return config.demonstrations if config.data is None else 0


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {stage: value - before.get(stage, 0.0) for stage, value in after.items()}


main = command("train", TrainConfig)(train)

if __name__ == "__main__":
    main()
