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
from .rollouts.rollout import Theatre


def train(config: TrainConfig, out: Path) -> None:
    """Train, judge and report; see the module's docstring for what is written."""
    print(config.describe(), flush=True)
    claim(out, config)
    if (out / "metrics.json").is_file():
        print(f"{out} is complete already; nothing to do")
        conclude(out)
        return
    learner = Learner(
        vision=config.encoder,
        student=config.student,
        imitation=config.imitation,
        seed=config.seed,
        memory_limit_gib=config.memory_limit_gib,
        device=choose_device(config.device),
    )
    given = None
    if config.data is not None:
        given = Demonstrations(folder=config.data, which=config.data_episodes)
    if config.env is None:
        assert given is not None  # TrainConfig has seen to it
        clone(learner, given, out)
    else:
        theatre = Theatre(
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
        with RolloutPool(theatre, config.rollout) as pool:
            imitate(learner, pool, given, plan, out)
    conclude(out)


main = command("train", TrainConfig)(train)

if __name__ == "__main__":
    main()
