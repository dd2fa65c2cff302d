"""Train and evaluate policy networks with different encoders on one demonstration store.

Data, seed and batches are the same for all encoders.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from policies.demonstrations.episode import Episode
from policies.demonstrations.features import FeatureCache
from policies.demonstrations.store import DemoStore, read_header
from policies.environment import EnvConfig
from policies.learning.fit import ImitationConfig, fit
from policies.rollouts.evaluation import evaluate_policy
from policies.rollouts.pool import RolloutConfig, RolloutPool
from policies.rollouts.rollout import RolloutSpec
from policies.rollouts.seeds import evaluation_seeds
from policies.student import StudentConfig, StudentMetadata, StudentPolicy
from policies.vision import VisionConfig, encoder_id
from toto_robot.training.optimizer import OptimizerConfig

__all__ = ["Split", "embed", "evaluate_with", "fit_student", "held_out_errors", "open_split"]

ENV = EnvConfig(
    id="envs:toto/FrankaPick-v0",
    options={"cameras": ("hand", "front"), "image_size": 128},
    teacher_options={"privileged": True},
    blind_options={"cameras": ()},
)
STUDENT = StudentConfig(projection=256, hidden=(256, 256), dropout=0.0, smallest_std=0.02)
STEPS = 1500
IMITATION = ImitationConfig(
    optimizer=OptimizerConfig(
        lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_steps=50, final_lr_fraction=0.0,
        clip_norm=1.0,
    ),
    batch=256, steps=STEPS, last_steps=STEPS, log_every=STEPS,
)  # fmt: skip
MOST = 140  # maximum number of used episodes. If there are more, those at equal distances are used.
HELD_OUT = 5  # every 5th episode is held out
GROUP = 5  # number of episodes that run in lockstep


@dataclass(slots=True)
class _Data:
    """The training data of a policy network: the fields of `policies.learning.fit.Labelled`."""

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Split:
    """The used episodes of a demonstration store. Every `HELD_OUT`-th episode is held out.

    Attributes:
        store: the demonstration store.
        chosen: indices of the used episodes in the store.
        episodes: the used episodes.
    """

    store: DemoStore
    chosen: list[int]
    episodes: list[Episode]

    @property
    def fitted(self) -> list[int]:
        """Return the indices of the training episodes in ``episodes``."""
        return [place for place in range(len(self.episodes)) if place % HELD_OUT]

    @property
    def held_out(self) -> range:
        """Return the indices of the held-out episodes in ``episodes``."""
        return range(0, len(self.episodes), HELD_OUT)


def open_split(folder: Path) -> Split:
    """Open a demonstration store, and choose the episodes to use."""
    store = DemoStore(folder, read_header(folder))
    chosen = np.unique(np.linspace(0, len(store) - 1, min(MOST, len(store))).astype(int)).tolist()
    return Split(store, chosen, [store[index] for index in chosen])


def embed(split: Split, vision: VisionConfig, name: str) -> list[NDArray[np.float16]]:
    """Encode the frames of each episode. ``name`` is the label of the progress bar.

    Returns:
        For each episode, embeddings [t c e]: t steps, c cameras, e values.
    """
    cache = FeatureCache(split.store, vision.build(torch.device("cpu")))
    return [cache.get(index) for index in tqdm(split.chosen, desc=name, leave=False)]


def fit_student(
    split: Split, vision: VisionConfig, embeddings: Sequence[NDArray[np.float16]]
) -> StudentPolicy:
    """Train a policy network on embeddings, and return it. Seed and batches are always the same."""
    rows, episodes = split.fitted, split.episodes
    data = _Data(
        torch.from_numpy(np.concatenate([embeddings[row][:-1] for row in rows])),
        torch.from_numpy(np.concatenate([episodes[row].proprio[:-1] for row in rows])),
        torch.from_numpy(np.concatenate([episodes[row].labels for row in rows])),
    )
    metadata = StudentMetadata(
        student=STUDENT,
        interface=split.store.header.interface,
        env=ENV,
        vision=vision,
        encoder=encoder_id(vision.build(torch.device("cpu"))),
    )
    torch.manual_seed(0)
    student = StudentPolicy(metadata)
    student.standardise(data.embeddings, data.proprio)
    fit(student, data, IMITATION, STEPS, (0, 0))
    return student


@torch.no_grad()
def held_out_errors(
    split: Split, student: StudentPolicy, embeddings: Sequence[NDArray[np.float16]]
) -> NDArray[np.float64]:
    """Return the mean squared error of the predicted expert action in each held-out episode."""
    errors = []
    for place in split.held_out:
        episode = split.episodes[place]
        seen = torch.from_numpy(embeddings[place][:-1]).float()
        actions = student(seen, torch.from_numpy(episode.proprio[:-1])).numpy()
        errors.append(np.square(actions - episode.labels).mean())
    return np.array(errors)


def evaluate_with(
    student: StudentPolicy, vision: VisionConfig, num_episodes: int, num_workers: int | None
) -> dict[str, Any]:
    """Evaluate a policy network with an encoder, which may differ from the encoder of its training.

    Args:
        student: the policy network.
        vision: the encoder to use.
        num_episodes: number of episodes, each with another evaluation seed.
        num_workers: number of worker processes, as in `RolloutConfig`. It must be 0 if ``vision``
            is a class of a benchmark, because worker processes can load only a `VisionConfig`.
    """
    metadata = replace(student.metadata, encoder=encoder_id(vision.build(torch.device("cpu"))))
    if num_workers != 0:
        metadata = replace(metadata, vision=vision)
    spec = RolloutSpec(env=ENV, vision=vision, privileged=False, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        other = StudentPolicy(metadata)
        other.load_state_dict(student.state_dict())
        other.save(Path(folder) / "policy")
        with RolloutPool(spec, RolloutConfig(num_workers=num_workers, group=GROUP)) as pool:
            seeds = evaluation_seeds(num_episodes)
            return evaluate_policy(pool, Path(folder) / "policy", seeds)
