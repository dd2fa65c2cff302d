"""Measure whether fine-tuning on a few demonstrations improves an encoder's probes.

    python -m benchmarks.finetune_camera [seeds=0,1,2] [words for the command finetune ...]

The camera is the front camera of the task Franka-cabinet, on which toto-nano was trained with other
seeds. For each seed, `toto-robot finetune` adapts toto-nano to 20 other demonstrations without
labels. Then the probes of `toto-robot sweep` predict the state of the scene and the expert's
action, on episodes that were not used for the adaptation. All encoders have the same folds and
bootstrap resamples, so the differences to toto-nano are paired.

The results are `runs/finetune_camera/results.json` and the episodes in `runs/finetune_camera/data`,
which `python -m toto_robot.sweep` reads too.
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from envs.experts import EXPERTS
from envs.manipulation import ManipulationEnv
from toto_robot import Encoder
from toto_robot.cli import compose
from toto_robot.config import from_dict
from toto_robot.encoders.loading import load_toto
from toto_robot.encoders.pooling import build_pool
from toto_robot.files import write_json, written_aside
from toto_robot.finetune import FinetuneConfig, finetune
from toto_robot.probing.episodes import Demonstrations, Kind, read_demonstrations, read_frames
from toto_robot.probing.ridge import ProbeEvaluation, difference, rotate, standardise

ENV, CAMERA = "toto/FrankaCabinet-v0", "front"
NAME, POOL = "toto-nano", "grid4"
OUT = Path("runs/finetune_camera")
PROBED, ADAPTED = 60, 20  # episodes for the probes, and for the adaptation of a seed
FIRST_PROBED, FIRST_ADAPTED = 7_900_000, 7_800_000  # seeds of episodes
NOISE = 0.3
STRIDE = 6  # of the probes, frames
TARGETS: tuple[Kind, ...] = ("state", "action")


def main() -> None:
    """Render the episodes, fine-tune, and print the scores and the paired differences."""
    words = sys.argv[1:]
    seeds = [int(one) for word in words if word.startswith("seeds=") for one in word[6:].split(",")]
    words = [word for word in words if not word.startswith("seeds=")]
    render(OUT / "data" / "probed", FIRST_PROBED, PROBED)
    encoders = {NAME: load_toto(NAME), "untrained": load_toto(NAME).untrained(0)}
    for seed in seeds or (0, 1, 2):
        data = OUT / "data" / f"seed-{seed}"
        render(data, FIRST_ADAPTED + ADAPTED * seed, ADAPTED)
        out = OUT / "-".join(["run", *words, f"seed={seed}"]).replace("/", "_")
        settings, _ = compose("finetune", [f"data={data}", f"seed={seed}", *words])
        if not (out / "encoder" / "golden.safetensors").is_file():
            finetune(from_dict(FinetuneConfig, settings), out)
        encoders[f"seed {seed}"] = load_toto(out / "encoder")
    settings, _ = compose("sweep")
    folder = OUT / "data" / "probed"
    data = {
        target: read_demonstrations(folder, target, None, None, STRIDE, None) for target in TARGETS
    }
    first = data["state"]
    tokens = [
        encoders[NAME].compress(np.asarray(read_frames(path, first.view))[rows[:count], 0])
        for path, rows, count in zip(
            tqdm(first.paths, desc="tokenise"), first.rows, first.counts, strict=True
        )
    ]
    inputs = {name: embed(encoder, tokens) for name, encoder in encoders.items()}
    rows = []
    for target, demonstrations in data.items():
        # the last frame of an episode has no action
        pairs = zip(first.counts, demonstrations.counts, strict=True)
        is_used = np.concatenate([np.arange(all_rows) < count for all_rows, count in pairs])
        evaluation = evaluation_of(demonstrations, settings)
        scores = {
            name: [
                evaluation.score(rotate(standardise(x[is_used]), settings["width"])[0])
                for x in layers
            ]
            for name, layers in inputs.items()
        }
        for name, layers in scores.items():
            pairs = zip(layers, scores[NAME], strict=True)
            rows += [
                {"target": target, "encoder": name, "layer": layer, "r2": one.score,
                 "low": one.low, "high": one.high, "minus_base": difference(one, base)}
                for layer, (one, base) in enumerate(pairs)
            ]  # fmt: skip
    for row in rows:
        gain = row["minus_base"]
        print(
            f"{row['target']:<7}{row['encoder']:<10} layer {row['layer']}  R2 {row['r2']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f})  minus {NAME} {gain['score']:+.3f} "
            f"({gain['low']:+.3f} to {gain['high']:+.3f})"
        )
    name = "-".join(["results", *words]).replace("/", "_")
    write_json(OUT / f"{name}.json", {"words": words, "seeds": seeds, "rows": rows})
    print(f"results: {OUT / name}.json")


def render(folder: Path, first_seed: int, episodes: int) -> None:
    """Write episodes of the expert with noise, in the format of `toto_robot.probing.episodes`."""
    if len(list(folder.glob("*.npz"))) == episodes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    env = gymnasium.make(f"envs:{ENV}", cameras=(CAMERA,), image_size=128, privileged=True)
    assert isinstance(env.unwrapped, ManipulationEnv)
    expert = EXPERTS[ENV]()
    for seed in tqdm(range(first_seed, first_seed + episodes), desc="render", unit="episode"):
        generator = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        expert.reset()
        frames, states, proprio, labels = [], [], [], []
        ended = False
        while True:
            frames.append(observation[f"image_{CAMERA}"][None])
            states.append(observation["state"])
            proprio.append(observation["proprio"])
            if ended:
                break
            labels.append(expert.act(observation))
            noisy = labels[-1] + NOISE * generator.normal(size=labels[-1].shape)
            action = np.clip(noisy, -1, 1).astype(np.float32)
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
        with written_aside(folder / f"{seed}.npz") as aside, aside.open("wb") as file:
            np.savez_compressed(
                file, frames=np.stack(frames), state=np.stack(states), seed=np.array(seed),
                proprio=np.stack(proprio), labels=np.stack(labels),
            )  # fmt: skip
    env.close()


def embed(encoder: Encoder, tokens: list[NDArray[np.uint16]]) -> list[NDArray[np.float64]]:
    """Return the embeddings [r e] of each layer, from the tokens [r n] of each episode."""
    pool = build_pool(POOL, encoder.transformer.config.dim, encoder.tokens_per_frame)
    layers = range(encoder.num_layers + 1)
    found: list[list[NDArray[np.float64]]] = [[] for _ in layers]
    for ids in tqdm(tokens, desc="embed", unit="episode"):
        features = encoder.token_features(torch.from_numpy(ids.astype(np.int64)), layers)
        for rows, layer in zip(found, features, strict=True):
            rows.append(pool(layer).half().double().numpy())
    return [np.concatenate(rows) for rows in found]


def evaluation_of(data: Demonstrations, settings: dict[str, Any]) -> ProbeEvaluation:
    """Return the evaluation of probes with the settings of `sweep`."""
    return ProbeEvaluation(
        data.target, data.episode, is_label=False, folds=settings["folds"],
        resamples=settings["resamples"], penalties=settings["penalties"], seed=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
