"""`python -m policies.train`: learn a policy from an expert, by DAgger or behaviour cloning.

    python -m policies.train                        # what `make demo` does
    python -m policies.train encoder=none out=runs/blind
    python -m policies.train method=bc data=runs/train/store out=runs/bc
    python -m policies.train method=bc env=none data=runs/demos out=runs/arm
    python -m policies.train method=bc env=none layout=lerobot data=DOWNLOADS/aloha out=runs/aloha

`data` is a store, or a LeRobot data set with pictures, whose frames are tokenised once into
`out/data`. With `env=none` there are no episodes to run: see
`policies.learning.behaviour_cloning`. Otherwise, in `out`:

    config.json         what was asked for; a run is only resumed with the same, but for what
                        changes no result (`toto_robot.runs`), and for more rounds or evaluation
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

import json
from pathlib import Path

from toto_robot.cli import command
from toto_robot.device import choose_device
from toto_robot.runs import claim

from .demonstrations.source import Demonstrations
from .learning.behaviour_cloning import clone
from .learning.config import TrainConfig
from .learning.dagger import Plan
from .learning.imitate import imitate
from .learning.learner import Learner
from .report import conclude
from .rollouts.pool import RolloutPool
from .rollouts.rollout import RolloutSpec


def train(config: TrainConfig, out: Path) -> None:
    """Train, evaluate and report; see the module's docstring for what is written."""
    print(config.describe(), flush=True)
    _ = config.own_layout  # one that does not fit is refused, with data or without
    learner = Learner(
        vision=config.encoder,
        student=config.student,
        imitation=config.imitation,
        seed=config.seed,
        memory_limit_gib=config.memory_limit_gib,
        device=choose_device(config.device),
    )
    given, spec = None, None
    if config.data is not None:
        given = Demonstrations(
            folder=config.data, which=config.data_episodes, layout=config.own_layout
        )
    if config.env is not None:
        spec = RolloutSpec(
            env=config.env,
            vision=config.encoder,
            privileged=True,
            device=learner.device,
            teacher=config.teacher,
        )
    plan = Plan(
        seed=config.seed,
        demonstrations=config.demonstrations if given is None else 0,
        rounds=config.rounds,
        dagger=config.dagger,
        steps_after_success=config.steps_after_success,
        validation_episodes=config.validation_episodes,
        evaluation_episodes=config.evaluation_episodes,
        video_episodes=config.video_episodes,
    )
    if not (out / "config.json").is_file():  # a start that fails leaves the folder free
        _open(learner, given, spec)
    if "video_episodes" in claim(out, config):
        (out / "rollout.mp4").unlink(missing_ok=True)
    if _is_complete(None if spec is None else plan, out):
        print(f"{out} is complete already; nothing to do")
        conclude(out)
        return
    (out / "metrics.json").unlink(missing_ok=True)  # of a shorter run, which now goes on
    if spec is None:
        assert given is not None  # TrainConfig has seen to it
        clone(learner, given, out)
    else:
        with RolloutPool(spec, config.rollout) as pool:
            imitate(learner, pool, given, plan, out)
    conclude(out)


def _open(learner: Learner, given: Demonstrations | None, spec: RolloutSpec | None) -> None:
    """Open the encoder, the demonstrations and the environment; raise what is wrong with one."""
    _ = learner.encoder  # it is loaded when it is first asked for
    if given is not None:
        given.check()
    if spec is not None:
        spec.interface()


def _is_complete(plan: Plan | None, out: Path) -> bool:
    """Return whether all that is asked for is there; a finished run may be asked for more.

    Args:
        plan: of the rounds; None where the data alone is cloned.
        out: the run's folder.
    """
    if not (out / "metrics.json").is_file():
        return False
    if plan is None:
        return True
    metrics = json.loads((out / "metrics.json").read_text())
    filmed = not plan.video_episodes or (out / "rollout.mp4").is_file()
    return (
        filmed
        and len(metrics["rounds"]) == plan.rounds + 1
        and metrics["evaluation"]["episodes"] == plan.evaluation_episodes
    )


main = command("train", TrainConfig)(train)

if __name__ == "__main__":
    main()
