"""Measure what a past is worth to a policy, and what it costs it to meet another past than its own.

    python -m benchmarks.stream_policy STORE [CONTEXT] [EPISODES]    # runs/train/store, 8, 50

A store of demonstrations is looked at in four ways: each frame by itself, each frame fed twice, and
in both modes of a stream. A student is fitted to each, with the same steps, seed and batches, on
four fifths of the episodes. Then each way is judged:

    drift           how far the two modes' embeddings are apart, by frame of the episode
    held-out error  mean squared error of the expert's action on the last fifth; for the streams
                    also when the student is given the other mode's embeddings
    success         of episodes on seeds that nothing was fitted to, the same for all

The episodes were collected by a student that saw single frames, which favours that one a little.
"""

import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from envs.statistics import describe_rate
from policies.episode import Episode
from policies.evaluate import judge
from policies.features import FeatureCache
from policies.imitation import ImitationConfig, fit
from policies.rollout import RolloutConfig, RolloutPool, Theatre
from policies.seeds import evaluation_seeds
from policies.store import DemoStore, read_header
from policies.student import StudentCard, StudentConfig, StudentPolicy
from policies.vision import TotoVision, stamp
from policies.world import EnvConfig
from toto_robot import StreamConfig
from toto_robot.training.run import OptimizerConfig

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
MOST = 140  # episodes of the store that are looked at, evenly spread
HELD_OUT = 5  # every so manieth of them
RESAMPLES = 2000


@dataclass(slots=True)
class Data:
    """What a student is fitted to: `policies.imitation.Labelled`."""

    embeddings: torch.Tensor
    proprio: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def main() -> None:
    """Print the three tables."""
    folder = Path(sys.argv[1])
    context = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    num_episodes = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    store = DemoStore(folder, read_header(folder))
    chosen = np.unique(np.linspace(0, len(store) - 1, min(MOST, len(store))).astype(int)).tolist()
    episodes = [store[index] for index in chosen]
    plain = TotoVision(
        name_or_path="toto-nano", layer=None, pool=None, repeat_frame=False, stream=None
    )
    ways = {
        "single frames": plain,
        "frames fed twice": replace(plain, repeat_frame=True),
        "rolling": replace(plain, stream=StreamConfig(context=context, mode="rolling")),
        "staggered": replace(plain, stream=StreamConfig(context=context, mode="staggered")),
    }
    print(f"{folder}: {len(chosen)} of {len(store)} episodes; context {context}")
    embeddings = {name: _embed(store, chosen, vision, name) for name, vision in ways.items()}
    _print_drift(embeddings["rolling"], embeddings["staggered"], context)
    students = {
        name: _fit(store, episodes, vision, embeddings[name]) for name, vision in ways.items()
    }
    given = [(name, name) for name in ways]
    given += [("rolling", "staggered"), ("staggered", "rolling")]
    errors = {pair: _errors(episodes, students[pair[0]], embeddings[pair[1]]) for pair in given}
    print(f"\n{'fitted to':18}{'given':18}{'error':>8}   times that of single frames (95 %)")
    for (fitted, seen), values in errors.items():
        ratio, low, high = _ratio(values, errors["single frames", "single frames"])
        print(f"{fitted:18}{seen:18}{values.mean():8.4f}   {ratio:.3f} ({low:.3f} to {high:.3f})")
    print(f"\n{'fitted to':18}{'sees':18}success", flush=True)
    for fitted, seen in given:
        outcome = _judge(students[fitted], ways[seen], num_episodes)
        successes, episodes = outcome["successes"], outcome["episodes"]
        print(f"{fitted:18}{seen:18}{describe_rate(successes, episodes)}", flush=True)


def _embed(
    store: DemoStore, chosen: Sequence[int], vision: TotoVision, name: str
) -> list[NDArray[np.float16]]:
    cache = FeatureCache(store, vision.build(torch.device("cpu")))
    return [cache.get(index) for index in tqdm(chosen, desc=name, leave=False)]


def _print_drift(
    rolling: Sequence[NDArray[np.float16]], staggered: Sequence[NDArray[np.float16]], context: int
) -> None:
    """Until the window is full, the two are the same; after it they are not."""
    print(f"\n{'frame of the episode':24}{'distance':>9}{'cosine':>8}   rolling to staggered")
    edges = [0, context, 2 * context, 4 * context, 8 * context]
    for first, last in itertools.pairwise(edges):
        one, other = (
            np.concatenate([e[first:last].reshape(-1, e.shape[-1]) for e in ways]).astype(float)
            for ways in (rolling, staggered)
        )
        if not len(one):
            break
        mean = other.mean(axis=0)
        spread = np.linalg.norm(other - mean, axis=1).mean()
        distance = np.linalg.norm(one - other, axis=1).mean() / spread
        centred = (one - mean, other - mean)
        norms = np.linalg.norm(centred[0], axis=1) * np.linalg.norm(centred[1], axis=1)
        cosine = ((centred[0] * centred[1]).sum(axis=1) / norms.clip(1e-9)).mean()
        print(f"{f'{first} to {last - 1}':24}{distance:9.3f}{cosine:8.3f}")


def _fit(
    store: DemoStore,
    episodes: Sequence[Episode],
    vision: TotoVision,
    embeddings: Sequence[NDArray[np.float16]],
) -> StudentPolicy:
    rows = [index for index in range(len(episodes)) if index % HELD_OUT]
    data = Data(
        torch.from_numpy(np.concatenate([embeddings[index][:-1] for index in rows])),
        torch.from_numpy(np.concatenate([episodes[index].proprio[:-1] for index in rows])),
        torch.from_numpy(np.concatenate([episodes[index].labels for index in rows])),
    )
    card = StudentCard(
        student=STUDENT,
        interface=store.header.interface,
        env=ENV,
        vision=vision,
        encoder=stamp(vision.build(torch.device("cpu"))),
    )
    torch.manual_seed(0)
    student = StudentPolicy(card)
    student.standardise(data.embeddings, data.proprio)
    fit(student, data, IMITATION, STEPS, (0, 0))
    return student


@torch.no_grad()
def _errors(
    episodes: Sequence[Episode], student: StudentPolicy, embeddings: Sequence[NDArray[np.float16]]
) -> NDArray[np.float64]:
    """Give the mean squared error of each held-out episode."""
    errors = []
    for index in range(0, len(episodes), HELD_OUT):
        episode = episodes[index]
        seen = torch.from_numpy(embeddings[index][:-1]).float()
        actions = student(seen, torch.from_numpy(episode.proprio[:-1])).numpy()
        errors.append(np.square(actions - episode.labels).mean())
    return np.array(errors)


def _ratio(
    errors: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Give the ratio of the means, and its bootstrap interval over paired episodes."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(errors), size=(RESAMPLES, len(errors)))
    ratios = errors[rows].mean(axis=1) / baseline[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(errors.mean() / baseline.mean()), float(low), float(high)


def _judge(student: StudentPolicy, vision: TotoVision, num_episodes: int) -> Mapping[str, int]:
    """Run a student with these eyes, whatever eyes it was fitted to."""
    seen = stamp(vision.build(torch.device("cpu")))
    theatre = Theatre(env=ENV, vision=vision, privileged=False, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        other = StudentPolicy(replace(student.card, vision=vision, encoder=seen))
        other.load_state_dict(student.state_dict())
        other.save(Path(folder) / "policy")
        with RolloutPool(theatre, RolloutConfig(num_workers=None, group=5)) as pool:
            seeds = evaluation_seeds(num_episodes)
            return judge(pool, Path(folder) / "policy", seeds, group=5)


if __name__ == "__main__":
    main()
