"""Measure the speed of DAgger's data collection in environment steps per second, run in four ways.

    python -m benchmarks.dagger_collect [ENCODER]     # a shipped name or a checkpoint folder

The work is always the same. An untrained student policy acts, each frame of both cameras is
tokenised and embedded, and the expert labels each step. Processes are started and warmed up before
the timing.

    one at a time   the baseline: one environment, one frame per encoder call, torch on all cores
    lockstep        a group of environments in one process, one encoder call for the frames of the
                    group, torch on all cores
    vector          Gymnasium's AsyncVectorEnv with one process per environment, and the encoder in
                    the main process
    pool            `policies.rollouts` with one worker process per core, each with a group of
                    episodes
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from numpy.typing import NDArray

from policies.environment import EnvConfig, interface_of, make_env, make_expert
from policies.rollouts.job import RolloutJob
from policies.rollouts.pool import RolloutConfig, RolloutPool
from policies.rollouts.rollout import RolloutSpec, RolloutWorker
from policies.student import StudentConfig, StudentMetadata, StudentPolicy, load_student
from policies.vision import TotoVision, encoder_id
from toto_robot.encoders.contract import compress_each

GROUP = 5
EPISODES = 20
# Number of steps of an episode. An untrained student never succeeds, so all episodes are so long.
STEPS = 80
ENV = EnvConfig(
    id="envs:toto/FrankaPick-v0",
    options={"cameras": ("hand", "front"), "image_size": 128},
    teacher_options={"privileged": True},
    blind_options={"cameras": ()},
)


def main() -> None:
    """Measure the four ways, and print a table of steps/s."""
    name = sys.argv[1] if len(sys.argv) > 1 else "toto-nano"
    spec = RolloutSpec(
        env=ENV,
        vision=TotoVision(
            name_or_path=name, layer=None, pool=None, repeat_frame=False, stream=None
        ),
        privileged=True,
        device="cpu",
    )
    worker = RolloutWorker(spec)
    with tempfile.TemporaryDirectory() as folder:
        policy = _untrained_student(worker, spec, Path(folder) / "policy")
        ways: dict[str, Callable[[], float]] = {
            "one at a time": lambda: _one_at_a_time(worker, policy),
            "lockstep": lambda: _pool(spec, policy, 0),
            "vector": lambda: _vector(worker, policy),
            "pool": lambda: _pool(spec, policy, None),
        }
        baseline = 0.0
        print(f"{'way':16} steps/s   speed-up")
        for way, measure in ways.items():
            rate = measure()
            baseline = baseline or rate
            print(f"{way:16} {rate:7.1f}   {rate / baseline:7.2f}", flush=True)


def _untrained_student(worker: RolloutWorker, spec: RolloutSpec, folder: Path) -> Path:
    metadata = StudentMetadata(
        student=StudentConfig(projection=256, hidden=(256, 256), dropout=0.0, smallest_std=0.02),
        interface=worker.interface,
        env=spec.env,
        vision=spec.vision,
        encoder=encoder_id(worker.encoder),
    )
    torch.manual_seed(0)
    StudentPolicy(metadata).save(folder)
    return folder


def _one_at_a_time(worker: RolloutWorker, folder: Path) -> float:
    """Return steps/s with one environment and one encoder call per frame."""
    assert worker.encoder is not None
    env = make_env(ENV, with_images=True, privileged=True)
    expert, cameras = make_expert(ENV.id), interface_of(env).camera_names
    student = load_student(folder, worker.encoder, interface_of(env))
    observation, _ = env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(2 * STEPS):
        expert.act(observation)
        view: dict[str, NDArray[Any]] = {"proprio": observation["proprio"]}
        for camera in cameras:
            codes = compress_each(worker.encoder, [observation[f"image_{camera}"]])
            view[f"embedding_{camera}"] = worker.encoder.embed(codes)[0].astype("float16")
        observation, _, terminated, truncated, _ = env.step(student.act(view))
        if terminated or truncated:
            observation, _ = env.reset(seed=1)
    rate = 2 * STEPS / (time.perf_counter() - start)
    env.close()
    return rate


def _vector(worker: RolloutWorker, folder: Path) -> float:
    """Return steps/s with `AsyncVectorEnv`. Environments and encoder never run at the same time."""
    assert worker.encoder is not None
    options = {**ENV.options, **ENV.teacher_options}
    envs = gymnasium.vector.AsyncVectorEnv(
        [lambda: gymnasium.make(ENV.id, disable_env_checker=True, **options)] * 2 * GROUP,
        context="spawn",
    )
    experts = [make_expert(ENV.id) for _ in range(2 * GROUP)]
    student = load_student(folder, worker.encoder, worker.interface)
    cameras = worker.interface.camera_names
    observation, _ = envs.reset(seed=0)
    start = time.perf_counter()
    for _ in range(STEPS):
        for row, expert in enumerate(experts):
            expert.act({"state": observation["state"][row]})
        frames = [
            observation[f"image_{camera}"][row] for row in range(2 * GROUP) for camera in cameras
        ]
        embeddings = worker.encoder.embed(compress_each(worker.encoder, frames)).astype("float16")
        embeddings = embeddings.reshape(2 * GROUP, len(cameras), -1)
        view = {f"embedding_{camera}": embeddings[:, i] for i, camera in enumerate(cameras)}
        view["proprio"] = observation["proprio"]
        observation, *_ = envs.step(student.act(view))
    rate = STEPS * 2 * GROUP / (time.perf_counter() - start)
    envs.close()
    return rate


def _pool(spec: RolloutSpec, folder: Path, num_workers: int | None) -> float:
    """Return steps/s with `RolloutPool`, which training uses."""
    with RolloutPool(spec, RolloutConfig(num_workers=num_workers, group=GROUP)) as pool:
        pool.run([_job(folder, range(GROUP))] * max(1, pool.num_workers))
        start = time.perf_counter()
        rollouts = pool.run([_job(folder, range(i, i + GROUP)) for i in range(0, EPISODES, GROUP)])
        return sum(r.num_steps for r in rollouts) / (time.perf_counter() - start)


def _job(folder: Path, seeds: range) -> RolloutJob:
    return RolloutJob(
        seeds=tuple(seeds),
        policy=folder,
        beta=0.0,
        mixing="step",
        mixing_seeds=tuple((seed,) for seed in seeds),
        recorded=True,
        steps_after_success=0,
        round=1,
    )


if __name__ == "__main__":
    main()
