"""What `policies.train` is asked for."""

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
    """Say what is learned, where, and for how long.

    Attributes:
        method: `dagger`, or `bc` for behaviour cloning: the same without student rounds.
        seed: of everything; also chooses the training episodes (`policies.rollouts.seeds`).
        env: the environment; None for data of an arm: then method is `bc`, held-out episodes judge,
            and what is said of validation, evaluation, video and rollout is not used.
        encoder: the student's eyes.
        teacher: checkpoint of a learned teacher, which is then the expert
            (`python -m policies.teacher`); None: the environment's scripted expert.
        data: a folder of demonstrations to begin with, a `DemoStore` or a LeRobot data set; None:
            the expert gives them.
        data_episodes: which episodes of a LeRobot data set: `successful`, `complete` or `all`, see
            `policies.demonstrations.tokenised`.
        layout: what is used of a LeRobot data set of others, whose own actions are learned as they
            are; then `env` is None. None: the data set is one of ours. Other layouts are converted
            first, see `policies.convert_demonstrations`.
        demonstrations: episodes that the expert gives, if `data` is None.
        steps_after_success: a training episode goes on for so many steps when it has succeeded.
        dagger: the student's rounds.
        student: the student's network.
        imitation: how it is fitted.
        validation_episodes: episodes after each round.
        evaluation_episodes: held-out episodes at the end.
        video_episodes: how many of these are filmed.
        rollout: how episodes are spread over the machine.
        memory_limit_gib: embeddings beyond this lie in a file while a student is fitted.
        device: where encoder and student compute: `cpu`, `cuda`, or `auto` (cuda if there is one).
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
            raise ValueError("demonstrations must be at least 1, or data a folder of them")
        if self.env is None and (self.method != "bc" or self.data is None or self.teacher):
            raise ValueError("without an env: method=bc, data=<folder> and teacher=null")
        if not 0 <= self.video_episodes <= self.evaluation_episodes:
            raise ValueError("video_episodes must be in [0, evaluation_episodes]")
        if self.evaluation_episodes < 1 or self.steps_after_success < 0:
            raise ValueError("evaluation_episodes must be positive, steps_after_success not less")

    @property
    def own_layout(self) -> LerobotLayout | None:
        """The layout of a data set of others that is learned with its own actions, or None.

        Raises:
            ValueError: the layout is one that must be converted first, or does not fit the rest.
        """
        if self.layout is None:
            return None
        if not isinstance(self.layout, LerobotLayout):
            kind = self.layout.kind
            raise ValueError(
                f"layout={kind} is converted first: python -m policies.convert_demonstrations "
                f"layout={kind} layout.path=<place> out=<folder>; then data=<folder>"
            )
        if self.env is not None or self.data is None:
            raise ValueError(
                "layout=lerobot: a data set of others is learned with its own actions, which no "
                "environment takes: method=bc env=none data=<folder>"
            )
        return self.layout

    @property
    def rounds(self) -> int:
        """The number of student rounds."""
        return self.dagger.rounds if self.method == "dagger" else 0

    def describe(self) -> str:
        """Return in words what will be done."""
        encoder = f"encoder: {self.encoder.kind} {getattr(self.encoder, 'name_or_path', '')}"
        if self.env is None:
            return (
                f"{self.method} on {self.data}, without an environment, {encoder}\n"
                "a tenth of the episodes is held out and judges"
            )
        begin = f"the demonstrations in {self.data}"
        if self.data is None:
            begin = f"{self.demonstrations} episodes of the expert"
        if self.rounds:
            begin += (
                f", then {self.rounds} rounds of {self.dagger.episodes} episodes of the student, "
                "labelled by the expert"
            )
        return (
            f"{self.method} on {self.env.id}, {encoder}\n"
            f"{begin}; {self.validation_episodes} validation episodes after each; "
            f"at the end {self.evaluation_episodes} held-out seeds"
        )
