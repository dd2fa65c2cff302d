"""Clone the scripted experts by policies on frozen embeddings, and run these policies.

A policy is trained on the demonstrations of one task, from the embeddings of all cameras and
proprioception. It is evaluated on seeds that were not used for demonstrations: other positions of
objects, and other goals. All rows are evaluated on the same seeds, so that they can be compared in
pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from envs.interface import LIMITS, CameraSpec, Interface
from toto_robot.device import seeded

from ..learning.fit import ImitationConfig, fit
from ..rollouts.seeds import EVALUATION_SEEDS
from ..student import StudentConfig, StudentMetadata, StudentPolicy, load_student
from ..vision import EpisodeEmbedder, encoder_id
from .process import PROPRIO, SceneConfig, State, SuiteProcess
from .recordings import Recording
from .rows import Row, embeddings

__all__ = ["CloningConfig", "clone", "evaluate", "run_expert"]

ACTION = ("hand_dx", "hand_dy", "hand_dz", "gripper_effort")
RATE_HZ = 80.0  # control rate of Meta-World


@dataclass(frozen=True, kw_only=True, slots=True)
class CloningConfig:
    """Settings of behaviour cloning and of its evaluation.

    Attributes:
        student: settings of the policy's network.
        imitation: settings of the supervised training; `last_steps` is its number of steps.
        episodes: number of evaluation episodes per task.
        group: number of episodes that run together, so that their frames are encoded in one call.
        time_limit: an evaluation episode fails after this many times the steps of the longest
            demonstration of the task.
    """

    student: StudentConfig
    imitation: ImitationConfig
    episodes: int
    group: int
    time_limit: float

    def __post_init__(self) -> None:
        if self.student.chunk != 1:
            raise ValueError(f"cloning.student.chunk must be 1, got {self.student.chunk}")
        if min(self.episodes, self.group) < 1 or self.time_limit < 1:
            raise ValueError("episodes, group and time_limit must be at least 1")


@dataclass(kw_only=True, slots=True, eq=False)
class _Labelled:
    """The observations of all demonstrations of a task, with the actions of the expert."""

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def clone(
    row: Row,
    recordings: Sequence[Recording],
    scene: SceneConfig,
    config: CloningConfig,
    seed: int,
    device: torch.device,
    folder: Path,
) -> StudentPolicy:
    """Train a policy on the demonstrations of a task, or load it if it was trained before.

    Args:
        row: the row, whose encoder computes the embeddings.
        recordings: the demonstrations.
        scene: settings of the cameras.
        config: settings of the training.
        seed: seed of the weights and of the batches.
        device: device of the training.
        folder: checkpoint of the policy, which is written.
    """
    interface = _interface(scene)
    if (folder / "config.json").is_file():
        return load_student(folder, row.encoder, interface).to(device)
    parts = []
    for one in recordings:
        if row.encoder is None:
            parts.append(np.zeros((len(one.actions), 0, 0), np.float16))
        else:
            parts.append(embeddings(row, one, 1)[: len(one.actions)])
    data = _Labelled(
        embeddings=torch.from_numpy(np.concatenate(parts)),
        proprio=torch.from_numpy(np.concatenate([one.proprio[:-1] for one in recordings])),
        labels=torch.from_numpy(np.concatenate([one.actions for one in recordings])),
    )
    metadata = StudentMetadata(
        student=config.student,
        interface=interface,
        env=None,
        vision=row.vision,
        encoder=encoder_id(row.encoder),
    )
    with seeded(seed * 1000):
        student = StudentPolicy(metadata)
    student.to(device)
    student.standardise(data.embeddings, data.proprio)
    steps = config.imitation.last_steps
    with tqdm(total=steps, desc="train", unit="step", leave=False) as bar:

        def show(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}")
            bar.update(step - bar.n)

        fit(student, data, config.imitation, steps, (seed, 0), show)
    student.save(folder, steps=steps)
    return student


def _interface(scene: SceneConfig) -> Interface:
    cameras = [
        CameraSpec(name=name, height=scene.image_size, width=scene.image_size)
        for name in scene.cameras
    ]
    return Interface(
        arm="metaworld_sawyer",
        cameras=tuple(cameras),
        proprio=PROPRIO,
        action_kind=LIMITS,
        action=ACTION,
        action_scale=(1.0,) * len(ACTION),
        rate_hz=RATE_HZ,
    )


def evaluate(
    suite: SuiteProcess,
    row: Row,
    student: StudentPolicy,
    config: CloningConfig,
    max_steps: int,
) -> list[dict[str, Any]]:
    """Run a policy in the open task on the evaluation seeds.

    Returns:
        For each episode: `seed`, `success`, and `steps` until success or the end.
    """
    seeds = EVALUATION_SEEDS[: config.episodes]
    found = []
    with tqdm(total=len(seeds), desc="evaluate", unit="episode", leave=False) as bar:
        for at in range(0, len(seeds), config.group):
            group = list(seeds[at : at + config.group])
            found += _run(suite, row, student, group, max_steps)
            bar.update(len(group))
    return found


def _run(
    suite: SuiteProcess, row: Row, student: StudentPolicy, seeds: list[int], max_steps: int
) -> list[dict[str, Any]]:
    """Run episodes together, each until it succeeds or has `max_steps` steps."""
    steps: list[int | None] = [None] * len(seeds)
    running = list(range(len(seeds)))
    state = suite.reset(seeds)
    embedder = None
    if row.encoder is not None:
        embedder = EpisodeEmbedder(row.encoder, len(seeds), state.frames.shape[1])
    for step in range(1, max_steps + 1):
        observation: dict[str, Any] = {"proprio": state.proprio}
        if embedder is not None:
            observation |= _embedded(row, student, embedder, state, running)
        state = suite.step(running, student.act(observation))
        for number, succeeded in zip(running, state.success, strict=True):
            steps[number] = step if succeeded else None
        kept = np.flatnonzero(~state.success)
        running = [running[one] for one in kept]
        if not running:
            break
        state = State(
            frames=state.frames[kept],
            proprio=state.proprio[kept],
            objects=state.objects[kept],
            success=state.success[kept],
        )
    return [
        {"seed": seed, "success": one is not None, "steps": one or max_steps}
        for seed, one in zip(seeds, steps, strict=True)
    ]


def _embedded(
    row: Row, student: StudentPolicy, embedder: EpisodeEmbedder, state: State, running: list[int]
) -> dict[str, Any]:
    """Return the embeddings of the newest frames, by the keys of the policy."""
    assert row.encoder is not None
    frames = state.frames.reshape(-1, *state.frames.shape[2:])
    codes = row.encoder.compress(frames).reshape(*state.frames.shape[:2], -1)
    embedded = embedder.embed(codes, running)
    return {key: embedded[:, camera] for camera, key in enumerate(student.keys[:-1])}


def run_expert(suite: SuiteProcess, scene: SceneConfig, episodes: int) -> list[dict[str, Any]]:
    """Run the scripted expert in the open task on the evaluation seeds; as `evaluate`."""
    found = []
    for seed in EVALUATION_SEEDS[:episodes]:
        state, actions = suite.demonstrate(seed, scene)
        success = bool(state.success.any())
        steps = int(state.success.argmax()) if success else len(actions)
        found.append({"seed": seed, "success": success, "steps": steps})
    return found
