"""Measure many worlds: control steps, images and embeddings per second, on a GPU and on the CPU.

    python -m benchmarks.worlds                                   # MuJoCo Warp on CUDA; ten minutes
    python -m benchmarks.worlds --device cpu --worlds 2 4 --seconds 1 --out runs/try   # try it

Three kinds of environments are measured for each number of worlds: without images, with images of
two cameras, and with an encoder that embeds these images on the same device. The same is measured
for the backend `mujoco`, on all cores, with the smallest number of worlds. Actions are random, and
no world is reset during a measurement. The time of a reset of all worlds is a column of its own.

All rates are sums over the worlds, per second of wall time. `cpu ms` is the CPU time of this
process per world and control step, which other programs hardly change. Each result is written at
once. If the command runs again, it measures only what is missing. It starts no measurement after
`--limit` seconds.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from envs.batch_manipulation import BatchManipulationEnv
from envs.catalogue import make_vec
from toto_robot import load_encoder
from toto_robot.device import choose_device, num_cpus
from toto_robot.files import write_json

CAMERAS = ("hand", "front")
KINDS = ("no images", "images", "images and embeddings")
_BATCH = 256  # images that are embedded at the same time


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write `worlds.json`, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="device of MuJoCo Warp: cuda or cpu")
    parser.add_argument("--worlds", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--seconds", type=float, default=8.0, help="time of each measurement")
    parser.add_argument("--limit", type=float, default=520.0, help="time of the whole command, s")
    parser.add_argument("--env-id", default="toto/FrankaPick-v0")
    parser.add_argument("--image-size", type=int, default=128, help="pixels")
    parser.add_argument("--encoder", default="toto-nano")
    parser.add_argument("--out", type=Path, default=Path("runs/worlds"))
    given = parser.parse_args(arguments)
    device, began = choose_device(given.device), time.monotonic()
    cases = [("mujoco_warp", count, kind) for count in given.worlds for kind in KINDS]
    cases += [("mujoco", min(given.worlds), kind) for kind in KINDS]
    path = given.out / "worlds.json"
    found = json.loads(path.read_text()) if path.exists() else {"machine": machine(device)}
    if found["machine"] != machine(device):
        raise SystemExit(f"{path} is from another machine; set --out to another folder")
    for backend, count, kind in cases:
        name = f"{given.env_id}, {backend}, {count} worlds, {kind}, {given.image_size} px"
        if name in found:
            continue
        if time.monotonic() - began > given.limit:
            print(f"the time is over; run the command again for: {name} and what follows")
            break
        print(f"measuring {name}", flush=True)
        try:
            found[name] = measure(given, backend, count, kind, device)
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory error is the former
            found[name] = {"error": str(error).splitlines()[0]}
        write_json(path, found)
    print(table(found))
    print(f"results: {path}")


def machine(device: str) -> dict[str, Any]:
    """Return what identifies the machine."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"gpu": gpu, "cpu": platform.processor() or platform.machine(), "cores": num_cpus()}


def measure(
    given: argparse.Namespace, backend: str, count: int, kind: str, device: str
) -> dict[str, float]:
    """Return start-up, reset and step times of one case, and its rates."""
    began = time.perf_counter()
    envs = make_vec(
        env_id=given.env_id,
        num_envs=count,
        backend=backend,
        backend_options={"device": device} if backend == "mujoco_warp" else None,
        cameras=() if kind == KINDS[0] else CAMERAS,
        image_size=given.image_size,
        num_steps=10**9,
    )
    encoder = load_encoder(given.encoder).to(device) if kind == KINDS[2] else None

    def step() -> None:
        observations = envs.step(envs.action_space.sample())[0]
        if encoder is not None:
            for camera in CAMERAS:
                for images in torch.as_tensor(observations[f"image_{camera}"]).split(_BATCH):
                    encoder(images.to(device))
        _finish(device)

    try:
        envs.action_space.seed(0)
        envs.reset(seed=0)
        step()
        start_s = time.perf_counter() - began
        reset_s, _, _ = _time(lambda: _reset(envs, device), 0.0)
        step_s, cpu_s, num_steps = _time(step, given.seconds)
    finally:
        envs.close()
    images = 0 if kind == KINDS[0] else len(CAMERAS) * count
    return {
        "start_s": start_s,
        "reset_s": reset_s,
        "step_s": step_s,
        "measured_steps": num_steps,
        "control_steps_per_s": count / step_s,
        "physics_steps_per_s": count / step_s * _physics_steps(envs),
        "images_per_s": images / step_s,
        "cpu_ms": cpu_s / count * 1e3,
        "gpu_memory_gb": _gpu_memory_gb(device),
    }


def table(found: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    columns = (
        "start_s",
        "reset_s",
        "control_steps_per_s",
        "physics_steps_per_s",
        "images_per_s",
        "cpu_ms",
    )
    lines = [f"| {found['machine']} | {' | '.join(columns)} |".replace("_", " ")]
    lines.append("|---|" + "---|" * len(columns))
    for name, values in found.items():
        if name != "machine":
            numbers = [f"{values[column]:,.3g}" if column in values else "" for column in columns]
            error = f": {values['error']}" if "error" in values else ""
            lines.append(f"| {name}{error} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _physics_steps(envs: BatchManipulationEnv) -> int:
    """Return the number of physics time steps of a control step."""
    return round(1 / (envs.design.protocol.rate_hz * envs.design.scene.timestep_s))


def _reset(envs: BatchManipulationEnv, device: str) -> None:
    envs.reset(seed=1)
    _finish(device)


def _time(call: Callable[[], None], seconds: float) -> tuple[float, float, int]:
    """Return the mean wall time and CPU time of a call, s, and the number of calls.

    There is at least one call, and the calls take at least `seconds`.
    """
    began, cpu_began, count = time.perf_counter(), time.process_time(), 0
    while not count or time.perf_counter() - began < seconds:
        call()
        count += 1
    cpu_s = time.process_time() - cpu_began
    return (time.perf_counter() - began) / count, cpu_s / count, count


def _finish(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _gpu_memory_gb(device: str) -> float:
    """Return the memory that is in use on the GPU, by all programs."""
    if not device.startswith("cuda"):
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e9


if __name__ == "__main__":
    main()
