"""Settings of `policies.train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..demonstrations.lerobot.others import LerobotLayout
from ..demonstrations.minari import MinariDemonstrations
from ..demonstrations.robomimic import RobomimicDemonstrations
from ..demonstrations.rpt import RptDemonstrations
from ..demonstrations.tokenised import Which
from ..environment import AnyEnv, EnvConfig
from ..rollouts.pool import RolloutConfig
from ..rollouts.seeds import check_run
from ..student import StudentConfig
from ..vision import StateVision, VisionConfig
from .dagger import DaggerConfig
from .fit import ImitationConfig
from .reinforce import ReinforcementConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings for training a student (the policy that acts on images).

    Attributes:
        method: `dagger`; `bc` for behaviour cloning, which trains on demonstrations only; or `ppo`
            for reinforcement learning, which needs `reinforcement=ppo` and no demonstrations.
        seed: seed of all random numbers, from 0 to 99. It also determines the environment seeds of
            the training episodes (see `policies.rollouts.seeds`).
        env: the environment. None: train on data only. Then `method` must be `bc`, the policy is
            evaluated on held-out episodes of the data, and the settings of validation, evaluation,
            video and rollout are not used.
        encoder: the student's vision encoder.
        teacher: checkpoint folder of a learned teacher (`python -m policies.teacher`), which
            replaces the scripted expert; None: the scripted expert of the environment.
        expert: `module:function` that replaces the environment's scripted expert, see
            `policies.named_expert.NamedExpert`.
        data: folder with demonstrations: a demonstration store (a folder of tokenised episodes) or
            a LeRobot data set with images. None: the expert collects demonstrations.
        data_episodes: which episodes of a LeRobot data set are used. `successful`: complete
            episodes that are not marked as failed. `complete`: episodes that are not marked as cut
            short. `all`: also episodes that were cut short.
        layout: the columns to use of a LeRobot data set of another project. The policy learns the
            actions in the units of this data set, and `env` must be None. If `layout` is None, this
            project wrote the data set. Other formats must be converted first, see
            `policies.convert_demonstrations`.
        demonstrations: number of episodes that the expert collects if `data` is None.
        steps_after_success: number of control steps for which a training episode continues after
            success.
        dagger: settings of the DAgger iterations.
        student: settings of the student's network.
        imitation: settings of the supervised training of the student.
        validation_episodes: number of validation episodes after each DAgger iteration.
        evaluation_episodes: number of held-out episodes in the final evaluation.
        video_episodes: number of evaluation episodes to film.
        rollout: settings of the worker processes that run the episodes.
        memory_limit_gib: memory limit for the embeddings of the training data, GiB. Larger
            embeddings are kept in a file.
        device: device of encoder and student: `cpu`, `cuda`, or `auto` (cuda if available).
        reinforcement: settings of `method=ppo`; None: another method. The settings of
            demonstrations, DAgger and supervised training are then not used.
    """

    method: Literal["dagger", "bc", "ppo"]
    seed: int
    env: AnyEnv | None
    encoder: VisionConfig
    teacher: Path | None
    data: Path | None
    data_episodes: Which
    demonstrations: int
    steps_after_success: int
    dagger: DaggerConfig
    student: StudentConfig
    imitation: ImitationConfig
    validation_episodes: int
    evaluation_episodes: int
    video_episodes: int
    rollout: RolloutConfig
    memory_limit_gib: float
    device: str
    layout: (
        LerobotLayout | RptDemonstrations | RobomimicDemonstrations | MinariDemonstrations | None
    ) = None
    expert: str | None = None
    reinforcement: ReinforcementConfig | None = None

    def __post_init__(self) -> None:
        check_run(
            self.seed,
            0 if self.method == "ppo" else self.demonstrations + self.rounds * self.dagger.episodes,
            self.validation_episodes,
            self.evaluation_episodes,
        )
        if self.method != "ppo" and self.data is None and self.demonstrations < 1:
            raise ValueError(
                "demonstrations must be at least 1, or data must be a folder with some"
            )
        if self.env is None and (self.method != "bc" or self.data is None or self.teacher):
            raise ValueError("env=none needs method=bc, data=<folder> and teacher=null")
        if self.expert is not None and (self.env is None or self.teacher is not None):
            raise ValueError("expert=module:function needs an environment and teacher=null")
        if self.method == "ppo" and (self.data or not isinstance(self.env, EnvConfig)):
            raise ValueError(
                "method=ppo needs an environment with rewards, such as env=franka_cabinet, and "
                "data=null"
            )
        if self.method == "ppo" and (self.expert or self.teacher):
            raise ValueError("method=ppo learns from rewards: it needs expert=null teacher=null")
        if isinstance(self.encoder, StateVision) and not isinstance(self.env, EnvConfig):
            raise ValueError(
                "encoder=state needs an environment with a privileged state, such as "
                "env=franka_pick; of env=gymnasium, choose entries as env.proprio, with "
                "encoder=none"
            )
        if not 0 <= self.video_episodes <= self.evaluation_episodes:
            raise ValueError("video_episodes must be in [0, evaluation_episodes]")
        if self.evaluation_episodes < 1 or self.steps_after_success < 0:
            raise ValueError(
                "evaluation_episodes must be at least 1, and steps_after_success at least 0"
            )

    @property
    def own_layout(self) -> LerobotLayout | None:
        """Return the columns to use of another project's LeRobot data set.

        None is returned if this project wrote the data, or if there is no data.

        Raises:
            ValueError: data of this format must be converted first, or `layout` contradicts the
                other settings.
        """
        if self.layout is None:
            return None
        if not isinstance(self.layout, LerobotLayout):
            kind = self.layout.kind
            raise ValueError(
                f"layout={kind} must be converted first: python -m policies.convert_demonstrations "
                f"layout={kind} layout.path=<path> out=<folder>; then data=<folder>"
            )
        if self.env is not None or self.data is None:
            raise ValueError(
                "layout=lerobot learns the data set's own actions, which fit no environment: "
                "use method=bc env=none data=<folder>"
            )
        return self.layout

    @property
    def ppo(self) -> ReinforcementConfig | None:
        """Return the settings of reinforcement learning; None for other methods.

        Raises:
            ValueError: `method` and `reinforcement` contradict each other.
        """
        if (self.method == "ppo") != (self.reinforcement is not None):
            raise ValueError("method=ppo and reinforcement=ppo must be set together")
        return self.reinforcement

    @property
    def rounds(self) -> int:
        """Return the number of rounds after round 0, which is that of the demonstrations."""
        if self.method == "ppo":
            return 0 if self.reinforcement is None else self.reinforcement.rounds - 1
        return self.dagger.rounds if self.method == "dagger" else 0

    def describe(self) -> str:
        """Return a description of the run in words, for printing."""
        encoder = f"encoder: {self.encoder.kind} {getattr(self.encoder, 'name_or_path', '')}"
        if self.env is None:
            return (
                f"{self.method} on {self.data}, without an environment, {encoder}\n"
                "a tenth of the episodes is held out for the evaluation"
            )
        end = (
            f"{self.validation_episodes} validation episodes after each round; "
            f"at the end {self.evaluation_episodes} held-out seeds"
        )
        if self.reinforcement is not None:
            return (
                f"PPO on {self.env.id}, {encoder}\n{self.reinforcement.env_steps:,} environment "
                f"steps in {self.reinforcement.rounds} rounds; {end}"
            )
        begin = f"the demonstrations in {self.data}"
        if self.data is None:
            begin = f"{self.demonstrations} expert episodes"
        if self.rounds:
            begin += (
                f", then {self.rounds} rounds of {self.dagger.episodes} student episodes, "
                "labelled by the expert"
            )
        return f"{self.method} on {self.env.id}, {encoder}\n{begin}; {end}"
