"""Measure what a policy loses when the blocks of its eyes run on 8-bit integers.

    python -m benchmarks.int8_policy STORE [EPISODES]          # runs/train/store, 100

A student is fitted to float32 embeddings of four fifths of a store's demonstrations, and then sees
by `load_encoder(..., dtype=torch.int8)`. Three things are told, each beside float32:

    R2             of the expert's action by ridge regression, fitted to the embeddings themselves
    held-out error mean squared error of the student's action on the last fifth
    success        on the same seeds, to which nothing was fitted; and on how many of them the two
                   had another outcome
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.stream_policy import ENV, HELD_OUT, IMITATION, MOST, STEPS, STUDENT, Data
from envs.statistics import describe_rate
from policies.evaluate import judge
from policies.features import FeatureCache
from policies.imitation import fit
from policies.rollout import RolloutConfig, RolloutPool, Theatre
from policies.seeds import evaluation_seeds
from policies.store import DemoStore, read_header
from policies.student import StudentCard, StudentPolicy
from policies.vision import TotoVision, VisionConfig, stamp
from toto_robot import Encoder, load_encoder
from toto_robot.probes import fit_ridge

NAME = "toto-nano"
FOLDS = 3
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
EVERY = 4  # frames in between are nearly the same
GROUP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Vision:
    """The shipped encoder's blocks in 8 bits."""

    kind: ClassVar[str] = "int8"

    def build(self, device: torch.device) -> Encoder:
        """Load it."""
        return load_encoder(NAME, device=device, dtype=torch.int8)


def main() -> None:
    """Print one table."""
    folder = Path(sys.argv[1])
    num_episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    store = DemoStore(folder, read_header(folder))
    chosen = np.unique(np.linspace(0, len(store) - 1, min(MOST, len(store))).astype(int)).tolist()
    episodes = [store[index] for index in chosen]
    plain = TotoVision(name_or_path=NAME, layer=None, pool=None, repeat_frame=False, stream=None)
    # all that a theatre asks of its eyes is to be built
    eyes = {"float32": plain, "int8": cast(VisionConfig, Int8Vision())}
    print(f"{folder}: {len(chosen)} of {len(store)} episodes; success on {num_episodes} seeds")
    embeddings = {name: _embed(store, chosen, vision, name) for name, vision in eyes.items()}
    fitted = [index for index in range(len(episodes)) if index % HELD_OUT]
    data = Data(
        torch.from_numpy(np.concatenate([embeddings["float32"][i][:-1] for i in fitted])),
        torch.from_numpy(np.concatenate([episodes[i].proprio[:-1] for i in fitted])),
        torch.from_numpy(np.concatenate([episodes[i].labels for i in fitted])),
    )
    card = StudentCard(
        student=STUDENT,
        interface=store.header.interface,
        env=ENV,
        vision=plain,
        encoder=stamp(plain.build(torch.device("cpu"))),
    )
    torch.manual_seed(0)
    student = StudentPolicy(card)
    student.standardise(data.embeddings, data.proprio)
    fit(student, data, IMITATION, STEPS, (0, 0))
    labels = [episode.labels for episode in episodes]
    print(f"cosine of embeddings, least: {least_cosine(*embeddings.values()):.5f}")
    outcomes = {}
    for name, vision in eyes.items():
        score = action_r2(embeddings[name], labels)
        errors = [
            np.square(_act(student, embeddings[name][i], episodes[i].proprio) - labels[i]).mean()
            for i in range(0, len(episodes), HELD_OUT)
        ]
        verdict = _judge(student, vision, num_episodes)
        outcomes[name] = [seed["success"] for seed in verdict["seeds"]]
        print(
            f"{name:8} R2 {score:.4f}   held-out error {np.mean(errors):.5f}   "
            f"success {describe_rate(verdict['successes'], verdict['episodes'])}",
            flush=True,
        )
    lost, won = (
        sum(a and not b for a, b in zip(outcomes[one], outcomes[other], strict=True))
        for one, other in (("float32", "int8"), ("int8", "float32"))
    )
    print(f"seeds that only float32 solved: {lost}; only int8: {won}")


def least_cosine(one: list[NDArray[np.float16]], other: list[NDArray[np.float16]]) -> float:
    """Give the least cosine between two ways' embeddings [t c e] of the same frames."""
    pairs = zip(one, other, strict=True)
    return min(
        float(torch.cosine_similarity(*(torch.from_numpy(e).float() for e in pair), dim=-1).min())
        for pair in pairs
    )


def action_r2(embeddings: list[NDArray[np.float16]], labels: list[NDArray[np.float32]]) -> float:
    """Give the mean share of the actions' variance that is told, by folds of whole episodes."""
    inputs = np.concatenate([e[:-1:EVERY].reshape(len(e[:-1:EVERY]), -1) for e in embeddings])
    target = np.concatenate([label[::EVERY] for label in labels]).astype(np.float64)
    fold = np.repeat(np.arange(len(labels)) % FOLDS, [len(label[::EVERY]) for label in labels])
    inputs = inputs.astype(np.float64)
    inputs = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-2)
    kept = target.std(0) > 1e-6
    target = target[:, kept]
    spread = target.var(0)
    found = fit_ridge(inputs, target, fold, PENALTIES, 1 / spread).predictions
    return float(1 - (np.square(found - target).mean(0) / spread).mean())


def _embed(
    store: DemoStore, chosen: list[int], vision: VisionConfig, name: str
) -> list[NDArray[np.float16]]:
    cache = FeatureCache(store, cast(Encoder, vision.build(torch.device("cpu"))))
    return [cache.get(index) for index in tqdm(chosen, desc=name, leave=False)]


@torch.no_grad()
def _act(
    student: StudentPolicy, embeddings: NDArray[np.float16], proprio: NDArray[np.float32]
) -> NDArray[np.float32]:
    seen = torch.from_numpy(embeddings[:-1]).float()
    return student(seen, torch.from_numpy(proprio[:-1])).numpy()


def _judge(student: StudentPolicy, vision: VisionConfig, num_episodes: int) -> dict[str, Any]:
    """Run a student with these eyes, whatever eyes it was fitted to."""
    seen = stamp(vision.build(torch.device("cpu")))
    theatre = Theatre(env=ENV, vision=vision, privileged=False, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        other = StudentPolicy(replace(student.card, encoder=seen))
        other.load_state_dict(student.state_dict())
        other.save(Path(folder) / "policy")
        with RolloutPool(theatre, RolloutConfig(num_workers=0, group=GROUP)) as pool:
            seeds = evaluation_seeds(num_episodes)
            return judge(pool, Path(folder) / "policy", seeds, GROUP)


if __name__ == "__main__":
    main()
