"""Measure the quality and the cost of predicted next frames.

    OMP_NUM_THREADS=1 python -m benchmarks.preview
    OMP_NUM_THREADS=1 python -m benchmarks.preview --image preview.png

The frames are from rollouts of an expert with noise that were not used for training. In each
rollout, frames are predicted at two times. For quality, the baseline is a copy of the last frame.
For cost, the baseline is a full pass over all tokens for each new token, without a cache.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from envs.experts import EXPERTS
from toto_robot import load_encoder
from toto_robot.encoders.encoder import Encoder
from toto_robot.generation.preview import PredictionPreview, side_by_side
from toto_robot.generation.sampling import Sampling, generate_frames, preview_frame
from toto_robot.monitoring.scores import heat_map

ENV = "toto/FrankaPick-v0"
FIRST_SEED = 6_900_000
MOMENTS = (10, 60)  # earliest and latest frame that is predicted
NAIVE_TOKENS = 5
RESAMPLES = 1000
SAMPLED = Sampling(temperature=1.0, top_p=0.9)

Frames = NDArray[np.uint8]
Rows = dict[str, tuple[float, float, float]]


def main() -> None:
    """Print a table of the quality and a table of the cost, and write an image if requested."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--camera", default="front", choices=("front", "hand"))
    parser.add_argument(
        "--context", type=int, default=4, help="frames, including the predicted one"
    )
    parser.add_argument(
        "--image", type=Path, default=None, help="path of an image with three moments"
    )
    arguments = parser.parse_args()
    encoder = load_encoder("toto-nano")
    rows: list[Rows] = []
    drawn: list[Frames] = []
    for index in tqdm(range(arguments.rollouts), desc="rollouts"):
        seed = FIRST_SEED + index
        video = _rollout(seed, arguments.camera)
        for moment in np.random.default_rng(seed).integers(MOMENTS[0], MOMENTS[1] + 1, 2):
            shown = video[moment + 1 - arguments.context : moment + 1]
            rows.append(_compare(encoder, shown, arguments.context))
        if arguments.image is not None and len(drawn) < 3:
            drawn.append(_draw(encoder, video[: 15 * (index + 1)], arguments.context))
    _report_quality(rows, arguments)
    video = _rollout(FIRST_SEED, arguments.camera)
    _report_cost(encoder, encoder.tokenize(video[: arguments.context - 1])[None], arguments.context)
    if arguments.image is not None:
        image = np.concatenate(drawn)
        cv2.imwrite(str(arguments.image), image[..., ::-1].copy(), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(f"camera, preview from earlier frames, heat map: {arguments.image}")


def _rollout(seed: int, camera: str) -> Frames:
    env = gymnasium.make(f"envs:{ENV}", cameras=(camera,), privileged=True)
    expert, rng = EXPERTS[ENV](), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    frames = [observation[f"image_{camera}"]]
    while len(frames) <= MOMENTS[1]:
        action = expert.act(observation) + 0.2 * rng.normal(size=8)
        observation, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
        frames.append(observation[f"image_{camera}"])
    env.close()
    return np.stack(frames)


def _compare(encoder: Encoder, frames: Frames, context: int) -> Rows:
    """Predict the last frame in several ways, and return three measures for each way.

    The first measure is the share of correct tokens. The second is the same share among the tokens
    that changed since the previous frame. The third is the peak signal-to-noise ratio to the camera
    image, dB.
    """
    tokens = encoder.tokenize(frames)
    past, true = tokens[None, :-1], tokens[-1:]
    generator = torch.Generator().manual_seed(0)
    sampled = generate_frames(
        encoder.transformer, past, 1, window=context, sampling=SAMPLED, generator=generator
    )
    ways = {
        "the frame's own tokens": true,
        "copy of the last frame": tokens[-2:-1],
        "preview, one pass": preview_frame(encoder.transformer, past, window=context),
        "greedy, token by token": generate_frames(encoder.transformer, past, 1, window=context)[0],
        "sampled, token by token": sampled[0],
    }
    changed = (true != tokens[-2:-1])[0]
    rows = {}
    for name, predicted in ways.items():
        right = (predicted == true)[0].float()
        among_changed = right[changed].mean().item() if changed.any() else np.nan
        image = encoder.tokenizer.decode(predicted)[0].numpy()
        rows[name] = (right.mean().item(), among_changed, psnr(image, frames[-1]))
    return rows


def psnr(image: Frames, other: Frames) -> float:
    """Return the peak signal-to-noise ratio of two images of equal size, dB."""
    error = np.mean((image.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _report_quality(rows: list[Rows], arguments: argparse.Namespace) -> None:
    print(
        f"{ENV}, camera {arguments.camera}, toto-nano, {arguments.context - 1} frames of past, "
        f"{len(rows)} moments of {arguments.rollouts} rollouts (95 % by bootstrap over rollouts)\n"
        f"{'next frame':<26}{'tokens right':>24}{'where they changed':>20}{'PSNR, dB':>22}"
    )
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, arguments.rollouts, (RESAMPLES, arguments.rollouts))
    for name in rows[0]:
        values = np.array([row[name] for row in rows]).reshape(arguments.rollouts, 2, 3)
        mean = np.nanmean(values, axis=(0, 1))
        low, high = np.quantile(np.nanmean(values[drawn], axis=(1, 2)), [0.025, 0.975], axis=0)
        right = f"{mean[0]:.3f} ({low[0]:.3f} to {high[0]:.3f})"
        ratio = f"{mean[2]:.1f} ({low[2]:.1f} to {high[2]:.1f})"
        print(f"{name:<26}{right:>24}{mean[1]:>20.3f}{ratio:>22}")


def _report_cost(encoder: Encoder, past: torch.Tensor, context: int) -> None:
    """Print the CPU time of one predicted frame with and without a cache, ms.

    The times are medians of three runs, which alternate.
    """
    transformer, num_tokens = encoder.transformer, encoder.tokens_per_frame
    start = past.new_full((1, 1), transformer.config.start_video)
    known = torch.cat([start, past.flatten(1)], dim=1)

    def naive() -> None:
        for place in np.linspace(0, num_tokens - 1, NAIVE_TOKENS).astype(int):
            transformer(torch.cat([known, past[:, -1, :place]], dim=1))

    calls: dict[str, Callable[[], object]] = {
        "preview, one pass": lambda: preview_frame(transformer, past, window=context),
        "token by token, cached": lambda: generate_frames(transformer, past, 1, window=context),
        "a full pass for each token": naive,
        "decode tokens to an image": lambda: encoder.tokenizer.decode(past[0, -1:]),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(3):
            for name, call in calls.items():
                begin = time.process_time()
                call()
                times[name].append((time.process_time() - begin) * 1e3)
    times["a full pass for each token"] = [
        taken * num_tokens / NAIVE_TOKENS for taken in times["a full pass for each token"]
    ]
    baseline = float(np.median(times["a full pass for each token"]))
    print(f"\n{'one frame':<28}{'CPU ms':>10}{'of the full passes':>22}")
    for name, taken in times.items():
        middle = float(np.median(taken))
        print(f"{name:<28}{middle:>10.0f}{middle / baseline:>22.4f}")
    print(
        f"a full pass for each token: from {NAIVE_TOKENS} of {num_tokens} tokens, evenly; "
        f"{torch.get_num_threads()} thread(s)"
    )


def _draw(encoder: Encoder, video: Frames, context: int) -> Frames:
    """Draw the last frame of a video, its prediction, and a heat map of its tokens in one image."""
    stream, predictor = (
        encoder.stream(1, context, surprise=True),
        PredictionPreview(encoder, 1, context),
    )
    expected = np.zeros((encoder.image_size, encoder.image_size, 3), dtype=np.uint8)
    for index, ids in enumerate(encoder.tokenize(video)[:, None]):
        if index == len(video) - 1:
            expected = predictor.preview().numpy()
        stream.step_tokens(ids)
        predictor.step_tokens(ids)
    return side_by_side(video[-1], expected, heat_map(stream.surprise)[0].numpy())


if __name__ == "__main__":
    main()
