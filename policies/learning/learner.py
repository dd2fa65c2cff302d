"""What the students of a run have in common: their eyes, their network, and how they are fitted.

DAgger makes a student in every round, behaviour cloning makes one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from envs.interface import Interface
from toto_robot import FrameEncoder

from ..demonstrations.features import Dataset
from ..demonstrations.store import DemoStore
from ..environment import EnvConfig
from ..student import StudentConfig, StudentMetadata, StudentPolicy
from ..vision import VisionConfig, encoder_id
from .fit import ImitationConfig, Labelled, fit


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Make and fit students; all randomness is drawn from the run's seed and the round.

    Attributes:
        vision: their eyes.
        student: their network.
        imitation: how they are fitted.
        seed: of the run.
        memory_limit_gib: embeddings beyond this lie in a file while a student is fitted.
        device: where encoder and student compute.
    """

    vision: VisionConfig
    student: StudentConfig
    imitation: ImitationConfig
    seed: int
    memory_limit_gib: float
    device: str

    @cached_property
    def encoder(self) -> FrameEncoder | None:
        """The encoder, loaded when first needed; None without eyes."""
        return self.vision.build(torch.device(self.device))

    def gather(
        self, stores: Sequence[DemoStore], scratch: Path, only: Collection[int] | None = None
    ) -> Dataset:
        """Return the labelled observations of stores; for the arguments see `Dataset`."""
        limit_bytes = int(self.memory_limit_gib * 2**30)
        return Dataset(stores, self.encoder, limit_bytes, scratch, only)

    def begin(
        self, interface: Interface, env: EnvConfig | None, data: Dataset, number: int
    ) -> StudentPolicy:
        """Draw the first weights of a round's student, and standardise its inputs by the data.

        Args:
            interface: what its inputs and outputs mean.
            env: where it learns; None from an arm's data alone.
            data: what it will be fitted to.
            number: the round.
        """
        metadata = StudentMetadata(
            student=self.student,
            interface=interface,
            env=env,
            vision=self.vision,
            encoder=encoder_id(self.encoder),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1000 + number)
            student = StudentPolicy(metadata)
        student.to(self.device)
        student.standardise(data.embeddings, data.proprio)
        student.set_range(data.labels)
        return student

    def fit(
        self,
        student: StudentPolicy,
        data: Labelled,
        steps: int,
        number: int,
        progress: Callable[[int, float], object],
    ) -> list[float]:
        """Fit a round's student in place; see `learning.fit.fit`."""
        return fit(student, data, self.imitation, steps, (self.seed, number), progress)
