"""Settings of `policies.train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..demonstrations.lerobot.others import LerobotLayout
from ..demonstrations.robomimic import RobomimicDemonstrations
from ..demonstrations.rpt import RptDemonstrations
from ..demonstrations.tokenised import Which
from ..environment import EnvConfig
from ..rollouts.pool import RolloutConfig
from ..rollouts.seeds import check_run
from ..student import StudentConfig
from ..vision import VisionConfig
from .dagger import DaggerConfig
from .fit import ImitationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings for training a student.

    Attributes:
        method: `dagger`, or `bc` for behaviour cloning, which has no student rounds.
        seed: seed of all randomness, from 0 to 99; also chooses the seeds of the training episodes
            (`policies.rollouts.seeds`).
        env: the environment; None to train on data only. Then method must be `bc`, the policy is
            evaluated on held-out episodes, and the settings of validation, evaluation, video and
            rollout are not used.
        encoder: the student's vision encoder.
        teacher: folder of a learned teacher's checkpoint (`python -m policies.teacher`), which
            replaces the expert; None: the environment's scripted expert.
        data: folder of the demonstrations for round 0: a demonstration store, or a LeRobot data set
            with images; None: the expert collects them.
        data_episodes: the episodes of a LeRobot data set to use: `successful`, `complete` or `all`,
            see `policies.demonstrations.tokenised`.
        layout: columns to use of another project's LeRobot data set, whose own actions are learned;
            `env` must then be None. None: this project wrote the data set. Other formats must be
            converted first, see `policies.convert_demonstrations`.
        demonstrations: number of episodes that the expert collects if `data` is None.
        steps_after_success: number of steps that a training episode continues after success.
        dagger: settings of the student rounds.
        student: sizes of the student's network.
        imitation: settings of fitting the student.
        validation_episodes: validation episodes per round.
        evaluation_episodes: held-out episodes of the final evaluation.
        video_episodes: number of evaluation episodes to film.
        rollout: number of worker processes, and of episodes per worker.
        memory_limit_gib: memory limit for embeddings while fitting, GiB; if they exceed it, they
            are kept in a file.
        device: device of encoder and student: `cpu`, `cuda`, or `auto` (cuda if available).
    """

    method: Literal["dagger", "bc"]
    seed: int
    env: EnvConfig | None
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
    layout: LerobotLayout | RptDemonstrations | RobomimicDemonstrations | None = None

    def __post_init__(self) -> None:
        check_run(
            self.seed,
            self.demonstrations + self.rounds * self.dagger.episodes,
            self.validation_episodes,
            self.evaluation_episodes,
        )
        if self.data is None and self.demonstrations < 1:
            raise ValueError(
                "demonstrations must be at least 1, or data must be a folder with some"
            )
        if self.env is None and (self.method != "bc" or self.data is None or self.teacher):
            raise ValueError("env=none needs method=bc, data=<folder> and teacher=null")
        if not 0 <= self.video_episodes <= self.evaluation_episodes:
            raise ValueError("video_episodes must be in [0, evaluation_episodes]")
        if self.evaluation_episodes < 1 or self.steps_after_success < 0:
            raise ValueError(
                "evaluation_episodes must be at least 1, and steps_after_success at least 0"
            )

    @property
    def own_layout(self) -> LerobotLayout | None:
        """Return the layout of a data set whose own actions are learned, or None.

        Raises:
            ValueError: the layout must be converted first, or does not fit the other settings.
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
    def rounds(self) -> int:
        """Return the number of student rounds."""
        return self.dagger.rounds if self.method == "dagger" else 0

    def describe(self) -> str:
        """Return a description of the run in words."""
        encoder = f"encoder: {self.encoder.kind} {getattr(self.encoder, 'name_or_path', '')}"
        if self.env is None:
            return (
                f"{self.method} on {self.data}, without an environment, {encoder}\n"
                "a tenth of the episodes is held out for the evaluation"
            )
        begin = f"the demonstrations in {self.data}"
        if self.data is None:
            begin = f"{self.demonstrations} expert episodes"
        if self.rounds:
            begin += (
                f", then {self.rounds} rounds of {self.dagger.episodes} student episodes, "
                "labelled by the expert"
            )
        return (
            f"{self.method} on {self.env.id}, {encoder}\n"
            f"{begin}; {self.validation_episodes} validation episodes after each round; "
            f"at the end {self.evaluation_episodes} held-out seeds"
        )
