"""Measure how useful each layer and pool of an encoder is for the task Franka-pick.

    python -m benchmarks.layers [ENCODER]     # a shipped name (toto-nano, mae-nano) or a folder

A ridge regression predicts a target from frozen embeddings. There are two targets. The first target
is the position of the cube relative to the tool (m), which only the simulator knows. The second
target is the arm action of the expert. It is predicted from embedding and proprioception. The
episodes come from the expert with noise, on seeds that are used for nothing else. Each cell of the
table is the share of explained variance (R2) on held-out episodes. The ridge penalty is chosen on
other episodes. The rows ``untrained`` have the same architecture with random weights, including the
tokenizer. The last row has the pixels of the frames at 16 x 16 pixels, without an encoder.
"""

import sys
from collections.abc import Sequence

import gymnasium
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from envs.experts import EXPERTS
from toto_robot import Encoder, load_encoder
from toto_robot.encoders.patches import PatchEncoder
from toto_robot.encoders.pixels import small_pixels
from toto_robot.encoders.pooling import build_pool
from toto_robot.encoders.vit import VitEncoder

ENV = "toto/FrankaPick-v0"
NAME = "toto-nano"
CAMERAS = ("hand", "front")
POOLS = ("mean", "grid2", "grid4", "grid8", "last")
EPISODES, FIRST_SEED, NOISE = 48, 6_000_000, 0.3
EVERY = 2  # every 2nd frame is used, because neighbouring frames are nearly equal
PENALTIES = tuple(10.0**k for k in range(-2, 6))


def main() -> None:
    """Print the R2 of all layers and pools, in one table for each target."""
    frames, proprio, targets, episode = _record()
    trained = load_encoder(sys.argv[1] if len(sys.argv) > 1 else NAME)
    assert not isinstance(trained, PatchEncoder), "patches have other features"
    part = episode % 4  # 0, 1: fit; 2: choose the penalty; 3: score
    beside = {"cube from tool": proprio[:, :0], "arm action": proprio}  # other inputs of the probe
    tables: dict[str, list[str]] = {name: [] for name in targets}
    pools = [pool for pool in POOLS if pool != "last" or isinstance(trained, Encoder)]
    for label, encoder in (("trained", trained), ("untrained", trained.untrained(0))):
        layers = range(encoder.num_layers + 1) if label == "trained" else encoder.layers
        embeddings = _embed(encoder, frames, layers, pools)
        for layer, pooled in zip(layers, embeddings, strict=True):
            for name, target in targets.items():
                inputs = [torch.cat([pooled[pool], beside[name]], dim=1) for pool in pools]
                scores = [_score(x, target, part) for x in inputs]
                cells = "".join(f"{score:>8.3f}" for score in scores)
                tables[name].append(f"{label:<10}{layer:>6}{cells}")
    pixels = torch.from_numpy(small_pixels(frames.numpy())).float()
    pixels = pixels.reshape(len(pixels) // len(CAMERAS), -1)
    for name, target in targets.items():
        inputs = torch.cat([pixels, beside[name]], dim=1)
        tables[name].append(f"{'pixels 16 x 16':<16}{_score(inputs, target, part):>8.3f}")
    for name, rows in tables.items():
        print(f"\nR2 of the {name}, {int((part == 3).sum())} frames of {EPISODES // 4} episodes")
        print(f"{'':<10}{'layer':>6}" + "".join(f"{pool:>8}" for pool in pools))
        print("\n".join(rows))


def _record() -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """Record episodes, and return the data of n steps with c cameras.

    Returns:
        Frames [n*c h w 3], p values of proprioception [n p], each target [n .], and the number of
        the episode of each step [n].
    """
    env = gymnasium.make(f"envs:{ENV}", cameras=CAMERAS, privileged=True)
    expert = EXPERTS[ENV]()
    frames, proprio, cube, action, episode = [], [], [], [], []
    for number in tqdm(range(EPISODES), desc="render"):
        generator = np.random.default_rng(number)
        observation, _ = env.reset(seed=FIRST_SEED + number)
        for step in range(60):
            label = expert.act(observation)
            if step % EVERY == 0:
                state = observation["state"]
                frames += [observation[f"image_{camera}"] for camera in CAMERAS]
                proprio.append(observation["proprio"])
                cube.append(state[16:19] - state[23:26])
                action.append(label[:7])
                episode.append(number)
            noisy = label + NOISE * generator.normal(size=label.shape)
            observation, _, terminated, truncated, _ = env.step(
                np.clip(noisy, -1, 1).astype(np.float32)
            )
            if terminated or truncated:
                break
    env.close()
    arrays = [torch.from_numpy(np.stack(rows)).float() for rows in (proprio, cube, action)]
    targets = {"cube from tool": arrays[1], "arm action": arrays[2]}
    return torch.from_numpy(np.stack(frames)), arrays[0], targets, torch.tensor(episode)


def _embed(
    encoder: Encoder | VitEncoder, frames: Tensor, layers: Sequence[int], pools: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Return the embeddings of n steps, for each layer and pool.

    The embeddings of the c cameras, e values each, are concatenated: [n c*e].
    """
    parts: list[dict[str, list[Tensor]]] = [{name: [] for name in pools} for _ in layers]
    for chunk in tqdm(frames.split(32), desc="embed"):
        for rows, features in zip(parts, encoder.features(chunk, layers), strict=True):
            for name in pools:
                pool = build_pool(name, features.shape[2], features.shape[1])
                rows[name].append(pool(features))
    return [
        {
            name: torch.cat(rows).unflatten(0, (-1, len(CAMERAS))).flatten(1)
            for name, rows in part.items()
        }
        for part in parts
    ]


def _score(inputs: Tensor, target: Tensor, part: Tensor) -> float:
    fit = part < 2
    mean, std = inputs[fit].mean(0), inputs[fit].std(0) + 0.02
    inputs = ((inputs - mean) / std).clamp(-5, 5).double()
    centre = target[fit].mean(0)
    target = (target - centre).double()
    gram = inputs[fit] @ inputs[fit].T  # the dual form is smaller: fewer frames than features
    values, vectors = torch.linalg.eigh(gram)
    rotated = vectors.T @ target[fit]

    def r2(penalty: float, which: Tensor) -> float:
        dual = vectors @ (rotated / (values + penalty)[:, None])
        error = inputs[which] @ (inputs[fit].T @ dual) - target[which]
        return (
            1
            - (error.square().sum() / (target[which] - target[which].mean(0)).square().sum()).item()
        )

    best = max(PENALTIES, key=lambda penalty: r2(penalty, part == 2))
    return r2(best, part == 3)


if __name__ == "__main__":
    main()
