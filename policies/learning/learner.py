"""Make and fit the students of a run; all have the same encoder, network and optimisation.

DAgger makes a student in every round; behaviour cloning makes one student.
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
    """A maker of students; all randomness is drawn from the run's seed and the round.

    Attributes:
        vision: settings of the encoder.
        student: sizes of the network.
        imitation: settings of fitting.
        seed: the run's seed.
        memory_limit_gib: memory limit for embeddings while fitting, GiB; if they exceed it, they
            are kept in a file.
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
        """Return the encoder, loaded at the first use; None without vision."""
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
        """Return a round's student with random weights, and its inputs standardised by the data.

        Args:
            interface: meaning of its inputs and outputs.
            env: training environment; None if trained on data alone.
            data: the training data.
            number: index of the round.
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
