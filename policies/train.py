"""`python -m policies.train`: train a policy by DAgger, behaviour cloning or PPO.

    python -m policies.train                        # the same as `make demo`
    python -m policies.train encoder=none out=runs/blind
    python -m policies.train encoder=state out=runs/oracle
    python -m policies.train method=bc data=runs/train/store out=runs/bc
    python -m policies.train method=bc env=none data=runs/demos out=runs/arm
    python -m policies.train method=ppo reinforcement=ppo env=franka_cabinet out=runs/ppo
    python -m policies.train env=gymnasium env.id=module:Id-v0 expert=module:function out=runs/own
    python -m policies.train method=bc env=none layout=lerobot data=DOWNLOADS/aloha out=runs/aloha

`data` is a demonstration store (a folder of tokenised episodes) or a LeRobot data set with images,
whose frames are tokenised once and written to `out/data`. A round is one DAgger iteration: collect
episodes, then train a student on all episodes so far. In round 0 the expert acts. With `env=none`
the policy does not act in an environment, and `policies.learning.behaviour_cloning` lists the files
in `out`. With an environment the files are:

    config.json         the settings; a resumed run may change only settings that do not affect
                        results (`toto_robot.runs`), and increase rounds or evaluation
    inputs.json         hashes of a demonstration store in `data` and of the teacher's weights, if
                        there are any; a resumed run needs the same
    store/              all episodes, as tokens (the demonstration store)
    rounds/00/          policy/ and round.json of each round; exists once the round is complete
    policy/             the policy of the last round, for `policies.evaluate`
    evaluation.json     results of this policy on the held-out seeds
    metrics.json        all results; equal for runs with equal settings
    timings.json        wall time of each phase
    curve.png rollout.mp4 tensorboard/

After a kill, the same command with the same `out` resumes the run, and metrics.json becomes equal
to that of a run without a kill, except with method=ppo, whose running episodes begin again. For
this purpose, episodes and rounds are written under a temporary name and then renamed, and the
random numbers depend only on the seed, the round, and the episode or gradient step.
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
from .learning.reinforce import reinforce
from .report import conclude
from .rollouts.pool import RolloutPool
from .rollouts.rollout import RolloutSpec
from .teacher_policy import teacher_inputs


def train(config: TrainConfig, out: Path) -> None:
    """Train and evaluate a policy, and write the results; the module docstring lists the files."""
    print(config.describe(), flush=True)
    _ = config.own_layout, config.ppo  # raise if they do not fit the other settings
    learner = Learner(
        vision=config.encoder,
        student=config.student,
        imitation=config.imitation,
        seed=config.seed,
        memory_limit_gib=config.memory_limit_gib,
        device=choose_device(config.device),
    )
    demonstrations, spec = None, None
    if config.data is not None:
        demonstrations = Demonstrations(
            folder=config.data, which=config.data_episodes, layout=config.own_layout
        )
    if config.env is not None:
        spec = RolloutSpec(
            env=config.env,
            vision=config.encoder,
            # an expert labels the steps
            privileged=config.method != "ppo" and (demonstrations is None or config.rounds > 0),
            device=learner.device,
            teacher=config.teacher,
            expert=config.expert,
        )
    plan = Plan(
        seed=config.seed,
        demonstrations=config.demonstrations if demonstrations is None else 0,
        rounds=config.rounds,
        dagger=config.dagger,
        steps_after_success=config.steps_after_success,
        validation_episodes=config.validation_episodes,
        evaluation_episodes=config.evaluation_episodes,
        video_episodes=config.video_episodes,
    )
    if not (out / "config.json").is_file():  # a start that fails leaves the folder free
        _open(learner, demonstrations, spec, filmed=config.video_episodes > 0)
    if spec is not None:
        print(spec.describe_env(), end="", flush=True)
    inputs = {} if demonstrations is None else demonstrations.inputs()
    if "video_episodes" in claim(out, config, inputs | teacher_inputs(config.teacher)):
        (out / "rollout.mp4").unlink(missing_ok=True)
    if _is_complete(None if spec is None else plan, out):
        if demonstrations is not None and (new := demonstrations.num_new(out / "data")):
            raise ValueError(
                f"{out} is complete, but {config.data} has {new} more episodes now; choose another "
                "out= to train on all of them"
            )
        print(f"{out} is complete already; nothing to do")
        conclude(out)
        return
    (out / "metrics.json").unlink(missing_ok=True)  # of a shorter run, which is now extended
    if spec is None:
        assert demonstrations is not None  # checked by TrainConfig
        clone(learner, demonstrations, out)
    else:
        with RolloutPool(spec, config.rollout) as pool:
            if config.ppo is not None:
                reinforce(learner, pool, config.ppo, plan, out)
            else:
                imitate(learner, pool, demonstrations, plan, out)
    conclude(out)


def _open(
    learner: Learner,
    demonstrations: Demonstrations | None,
    spec: RolloutSpec | None,
    *,
    filmed: bool,
) -> None:
    """Open the encoder, the demonstrations and the environment before the training begins.

    So a wrong path or setting is an error at once, not after hours.
    """
    _ = learner.encoder  # loads it
    if demonstrations is not None:
        demonstrations.check()
    if spec is not None:
        spec.interface()
        if filmed:
            spec.require_video()


def _is_complete(plan: Plan | None, out: Path) -> bool:
    """Return whether all results that the settings request exist already.

    A finished run is not complete if its settings now request more rounds or episodes.

    Args:
        plan: the planned rounds and episodes; None for behaviour cloning without an environment.
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
