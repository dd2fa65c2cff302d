"""Make and train the students of a run; all have the same encoder, network and optimizer settings.

DAgger trains a new student in every iteration (round); behaviour cloning trains one student.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from envs.interface import Interface
from toto_robot import FrameEncoder
from toto_robot.device import seeded

from ..demonstrations.features import Dataset
from ..demonstrations.store import DemoStore
from ..environment import AnyEnv
from ..student import StudentConfig, StudentMetadata, StudentPolicy
from ..vision import VisionConfig, encoder_id
from .fit import ImitationConfig, Labelled, fit


@dataclass(frozen=True, kw_only=True)
class Learner:
    """An object that makes and trains students with fixed settings.

    All random numbers depend only on the run's seed and the round.

    Attributes:
        vision: settings of the vision encoder.
        student: settings of the student's network.
        imitation: settings of the supervised training.
        seed: the run's seed.
        memory_limit_gib: memory limit for the embeddings of the training data, GiB. Larger
            embeddings are kept in a file.
        device: device of encoder and student.
    """

    vision: VisionConfig
    student: StudentConfig
    imitation: ImitationConfig
    seed: int
    memory_limit_gib: float
    device: str

    @cached_property
    def encoder(self) -> FrameEncoder | None:
        """Return the encoder, which is loaded at the first call; None without vision."""
        return self.vision.build(torch.device(self.device))

    def gather(
        self, stores: Sequence[DemoStore], scratch: Path, only: Collection[int] | None = None
    ) -> Dataset:
        """Return all observations with expert actions of some demonstration stores.

        Args:
            stores: the demonstration stores.
            scratch: path of a temporary file for embeddings that exceed the memory limit.
            only: indices of the episodes to use from each store; None: all.
        """
        limit_bytes = int(self.memory_limit_gib * 2**30)
        return Dataset(stores, self.encoder, limit_bytes, scratch, only)

    def metadata(self, interface: Interface, env: AnyEnv | None) -> StudentMetadata:
        """Return the description of a student of this interface and this training environment."""
        return StudentMetadata(
            student=self.student,
            interface=interface,
            env=env,
            vision=self.vision,
            encoder=encoder_id(self.encoder),
        )

    def begin(
        self, interface: Interface, env: AnyEnv | None, data: Dataset, number: int
    ) -> StudentPolicy:
        """Return a new student with random weights for one round.

        The statistics that standardise the inputs are computed from the training data.

        Args:
            interface: action and observation spec of the student.
            env: the training environment; None: the student is trained on data only.
            data: the training data.
            number: index of the round, on which the random weights depend.
        """
        metadata = self.metadata(interface, env)
        with seeded(self.seed * 1000 + number):
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
        """Train the student of round `number` in place, as `learning.fit.fit` describes.

        Returns:
            The losses, each averaged over `log_every` gradient steps.
        """
        return fit(student, data, self.imitation, steps, (self.seed, number), progress)
