"""`python -m envs.backend_check`: compare two physics engines by experts and camera images.

Success: the scripted experts run with the same seeds in both engines. The tables have the success
rates, and the numbers of seeds with which only one engine succeeded.

Images: both engines render the same starts of episodes. Three numbers describe the differences: the
structural similarity (SSIM), the share of equal tokens, and the cosine of the embeddings of an
encoder. For comparison, the cosine is also computed for the starts of two different episodes.

The result of each environment is written at once, and is reused if the command runs again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.encoders.vision import AnyToto, build_toto
from toto_robot.files import write_json

from .batch_manipulation import BatchManipulationEnv
from .catalogue import make_vec
from .experts import EXPERTS
from .randomisation import GROUPS
from .simulation.backends import BACKENDS
from .success_rates import describe_rate, sign_test, wilson_interval

_WINDOW_PX = 7
# The constants of SSIM for values from 0 to 255 (Wang et al., 2004).
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendCheckConfig:
    """Settings of `backend_check`.

    Attributes:
        env_ids: environment ids, for example `[toto/FrankaPick-v0]`.
        backends: names of the two engines to compare.
        options: for each engine, further arguments; for example `{mujoco_warp: {device: cuda}}`.
        episodes: number of episodes of the expert in each environment and engine; 0: none.
        first_seed: seed of the first episode; each further episode adds 1.
        num_envs: number of worlds that run at the same time.
        images: number of starts that are rendered by each camera; 0: none.
        randomise: randomisation groups of a second set of images; empty: no second set.
        encoder: settings of the encoder, a Toto.
    """

    env_ids: tuple[str, ...]
    backends: tuple[str, ...]
    options: dict[str, Any]
    episodes: int
    first_seed: int
    num_envs: int
    images: int
    randomise: tuple[str, ...]
    encoder: AnyToto

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a name is unknown, or a number is too small.
        """
        for what, names, known in (
            ("environment", self.env_ids, EXPERTS),
            ("backend", (*self.backends, *self.options), BACKENDS),
            ("randomisation group", self.randomise, GROUPS),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"unknown {what} {unknown}; known: {', '.join(known)}")
        if len(set(self.backends)) != 2 or len(self.backends) != 2:
            raise ValueError(f"backends must be two different names, got {list(self.backends)}")
        if self.episodes < 0 or self.images < 0 or self.num_envs < 1:
            raise ValueError("episodes and images must be at least 0, num_envs at least 1")


def backend_check(config: BackendCheckConfig, out: Path) -> None:
    """Run the comparison, print its tables, and write `out/backend_check.json`."""
    first, second = config.backends
    print(
        f"comparing {first} and {second}: {config.episodes} episodes of the expert and "
        f"{config.images} images per camera, in {len(config.env_ids)} environments"
    )
    encoder = build_toto(config.encoder, "cpu") if config.images else None
    results: dict[str, Any] = {}
    for env_id in config.env_ids:
        path = out / f"{env_id.split('/')[-1]}.json"
        settings = json.loads(json.dumps(asdict(config) | {"env_ids": [env_id]}))
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("settings") != settings:
            found = {"settings": settings}
            if config.episodes:
                found["expert"] = _compare_experts(config, env_id)
            if encoder is not None:
                found["images"] = _compare_images(config, env_id, encoder)
            write_json(path, found)
        results[env_id] = {key: part for key, part in found.items() if key != "settings"}
    write_json(out / "backend_check.json", {"backends": [first, second], "results": results})
    _print_experts(results, config)
    _print_images(results)
    print(f"results: {out / 'backend_check.json'}")


def run_experts(
    envs: BatchManipulationEnv, expert: Callable[[Any], NDArray[Any]], seeds: Sequence[int]
) -> list[int | None]:
    """Run one episode of an expert for each seed, in all worlds at the same time.

    Args:
        envs: the worlds, at least as many as seeds.
        expert: returns the actions for the observations of several worlds.
        seeds: the seed of each episode.

    Returns:
        For each seed the number of control steps until success, or None without success.
    """
    filled = [*seeds, *[seeds[-1]] * (envs.num_envs - len(seeds))]
    observations, _ = envs.reset(seed=filled)
    running = np.arange(len(seeds))
    states = observations["state"][running]
    taken: list[int | None] = [None] * len(seeds)
    step = 0
    with tqdm(total=len(seeds), desc="episodes", leave=False) as bar:
        while len(running):
            actions = expert({"state": states})
            observations, _, terminated, truncated, success = envs.advance(actions, running)
            step += 1
            for row in running[success]:
                taken[row] = step
            goes_on = ~(terminated | truncated | success)
            if not goes_on.all():
                bar.update(int((~goes_on).sum()))
            running, states = running[goes_on], observations["state"][goes_on]
    return taken


def _compare_experts(config: BackendCheckConfig, env_id: str) -> dict[str, Any]:
    """Return the successes of the expert of an environment in both engines."""
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    num_envs = min(config.num_envs, config.episodes)
    steps: dict[str, list[int | None]] = {}
    seconds: dict[str, float] = {}
    for backend in config.backends:
        envs = make_vec(
            env_id=env_id,
            num_envs=num_envs,
            backend=backend,
            backend_options=config.options.get(backend),
            cameras=(),
            privileged=True,
        )
        began, steps[backend] = time.monotonic(), []
        for start in range(0, config.episodes, num_envs):
            some = seeds[start : start + num_envs]
            steps[backend] += run_experts(envs, EXPERTS[env_id]().act, some)
        seconds[backend] = time.monotonic() - began
        envs.close()
    succeeded = {name: [taken is not None for taken in steps[name]] for name in steps}
    pairs = list(zip(*succeeded.values(), strict=True))
    only = (pairs.count((True, False)), pairs.count((False, True)))
    return {
        "episodes": config.episodes,
        "successes": {name: sum(some) for name, some in succeeded.items()},
        "wilson_95": {
            name: wilson_interval(sum(some), len(some)) for name, some in succeeded.items()
        },
        "only_first": only[0],
        "only_second": only[1],
        "sign_test_p": sign_test(*only),
        "median_steps": {
            name: float(np.median([t for t in some if t is not None] or [np.nan]))
            for name, some in steps.items()
        },
        "seconds": seconds,
        "failed_seeds": {
            name: [seed for seed, taken in zip(seeds, some, strict=True) if taken is None]
            for name, some in steps.items()
        },
    }


def _compare_images(
    config: BackendCheckConfig, env_id: str, encoder: Any
) -> dict[str, dict[str, float]]:
    """Return the differences of the images of both engines, by appearance and camera."""
    looks: dict[str, tuple[str, ...]] = {"default": ()}
    if config.randomise:
        looks["randomised"] = config.randomise
    found = {}
    for look, groups in looks.items():
        seen = []
        for backend in config.backends:
            envs = make_vec(
                env_id=env_id,
                num_envs=config.images,
                backend=backend,
                backend_options=config.options.get(backend),
                randomise=groups,
            )
            observations, _ = envs.reset(seed=config.first_seed)
            seen.append({k: v for k, v in observations.items() if k.startswith("image_")})
            envs.close()
        for key in seen[0]:
            one, other = (torch.as_tensor(images[key]).cpu() for images in seen)
            found[f"{look}, {key.removeprefix('image_')}"] = compare_images(one, other, encoder)
    return found


def compare_images(one: Tensor, other: Tensor, encoder: Any) -> dict[str, float]:
    """Return how much two sets of images [n h w 3], uint8, differ, as means over the set.

    Args:
        one: images.
        other: the images to compare with, in the same order.
        encoder: a Toto encoder.

    Returns:
        The mean absolute difference of pixel values, SSIM, the share of equal tokens, the cosine of
        embeddings, and for comparison the cosine of the embeddings of neighbouring images in `one`.
    """
    mine, others = encoder(one), encoder(other)
    return {
        "pixel_difference": float((one.float() - other.float()).abs().mean()),
        "ssim": float(structural_similarity(one, other).mean()),
        "equal_tokens": float((encoder.tokenize(one) == encoder.tokenize(other)).float().mean()),
        "cosine": float(F.cosine_similarity(mine, others).mean()),
        "cosine_of_other_episodes": float(F.cosine_similarity(mine, mine.roll(1, 0)).mean()),
    }


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Return the SSIM [n] of pairs of images [n h w 3], with square windows of 7 pixels.

    Source: Z. Wang et al., "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13 (2004).
    """
    x, y = (images.double().permute(0, 3, 1, 2) for images in (one, other))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, _WINDOW_PX, 1)

    mean_x, mean_y = mean(x), mean(y)
    variance = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (luminance * (2 * covariance + _C2) / (variance + _C2)).mean(dim=(1, 2, 3))


def _print_experts(results: Mapping[str, Any], config: BackendCheckConfig) -> None:
    if not config.episodes:
        return
    first, second = config.backends
    print(f"\n| expert | {first} | {second} | only {first} | only {second} | p (sign test) |")
    print("|---|---|---|---|---|---|")
    for env_id, found in results.items():
        expert = found["expert"]
        rates = [
            f"{describe_rate(expert['successes'][name], expert['episodes'])}, "
            f"{expert['median_steps'][name]:.0f} steps"
            for name in config.backends
        ]
        print(
            f"| {env_id} | {rates[0]} | {rates[1]} | {expert['only_first']} | "
            f"{expert['only_second']} | {expert['sign_test_p']:.2g} |"
        )


def _print_images(results: Mapping[str, Any]) -> None:
    rows = [
        (env_id, view, values)
        for env_id, found in results.items()
        for view, values in found.get("images", {}).items()
    ]
    if not rows:
        return
    print(f"\n| environment | images | {' | '.join(rows[0][2])} |".replace("_", " "))
    print("|---|---|" + "---|" * len(rows[0][2]))
    for env_id, view, values in rows:
        numbers = " | ".join(f"{value:.3f}" for value in values.values())
        print(f"| {env_id} | {view} | {numbers} |")


main = command("backend_check", BackendCheckConfig)(backend_check)

if __name__ == "__main__":
    main()
