"""Measure how much worse a policy is if its encoder runs on 8-bit integers.

    python -m benchmarks.int8_policy STORE [EPISODES]          # runs/train/store, 100

STORE is a folder of demonstrations. A policy network is trained on float32 embeddings of four
fifths of the demonstrations. It is then evaluated with the float32 encoder, and with the encoder
`load_encoder(..., dtype=torch.int8)`. The output has three measures for each precision:

    R2             share of the variance of the expert's action that ridge regression on the
                   embeddings explains
    held-out error mean squared error of the policy's action on the other fifth
    success        success rate on the same held-out seeds, and the number of seeds whose outcome
                   differs between the precisions
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.students import embed, evaluate_with, fit_student, held_out_errors, open_split
from envs.success_rates import describe_rate
from policies.vision import TotoVision, VisionConfig
from toto_robot import Encoder, load_encoder
from toto_robot.probing.ridge import fit_ridge

NAME = "toto-nano"
FOLDS = 3
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
EVERY = 4  # every 4th frame is used, because neighbouring frames are nearly equal


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Vision:
    """The shipped encoder, whose blocks run on 8-bit integers."""

    kind: ClassVar[str] = "int8"

    def build(self, device: torch.device) -> Encoder:
        """Load the encoder on a device."""
        return load_encoder(NAME, device=device, dtype=torch.int8)


def main() -> None:
    """Print R2, held-out error and success rate of both precisions."""
    folder = Path(sys.argv[1])
    num_episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    split = open_split(folder)
    plain = TotoVision(name_or_path=NAME, layer=None, pool=None, repeat_frame=False, stream=None)
    # `Int8Vision` needs only the method `build`, because a rollout calls no other method
    visions = {"float32": plain, "int8": cast(VisionConfig, Int8Vision())}
    print(
        f"{folder}: {len(split.chosen)} of {len(split.store)} episodes; "
        f"success on {num_episodes} seeds"
    )
    embeddings = {name: embed(split, vision, name) for name, vision in visions.items()}
    student = fit_student(split, plain, embeddings["float32"])
    labels = [episode.labels for episode in split.episodes]
    print(f"minimum cosine of embeddings: {least_cosine(*embeddings.values()):.5f}")
    outcomes = {}
    for name, vision in visions.items():
        score = action_r2(embeddings[name], labels)
        errors = held_out_errors(split, student, embeddings[name])
        result = evaluate_with(student, vision, num_episodes, num_workers=0)
        outcomes[name] = [seed["success"] for seed in result["seeds"]]
        print(
            f"{name:8} R2 {score:.4f}   held-out error {np.mean(errors):.5f}   "
            f"success {describe_rate(result['successes'], result['episodes'])}",
            flush=True,
        )
    lost, won = (
        sum(a and not b for a, b in zip(outcomes[one], outcomes[other], strict=True))
        for one, other in (("float32", "int8"), ("int8", "float32"))
    )
    print(f"seeds that only float32 solved: {lost}; only int8: {won}")


def least_cosine(one: list[NDArray[np.float16]], other: list[NDArray[np.float16]]) -> float:
    """Return the minimum cosine similarity between two embeddings of the same frame.

    Embeddings are [t c e] for each episode: t steps, c cameras, e values.
    """
    pairs = zip(one, other, strict=True)
    return min(
        float(torch.cosine_similarity(*(torch.from_numpy(e).float() for e in pair), dim=-1).min())
        for pair in pairs
    )


def action_r2(embeddings: list[NDArray[np.float16]], labels: list[NDArray[np.float32]]) -> float:
    """Return the R2 of the action, averaged over its elements, cross-validated over episodes."""
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


if __name__ == "__main__":
    main()
