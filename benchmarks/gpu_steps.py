"""The steps of `benchmarks.gpu`: tests and measurements on a GPU, with the CPU as baseline."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.stream import BASE, LAYER
from benchmarks.timing import least_seconds
from toto_robot import Encoder
from toto_robot.encoders.loading import load_toto
from toto_robot.encoders.streaming import EncoderStream
from toto_robot.models import model_flops
from toto_robot.training.throughput import peak_flops

ROOT = Path(__file__).parents[1]
_SIDE = 128
_HALVES = (torch.float32, torch.bfloat16)

# The result of a step: tables by their titles, and notes, all as plain data.
Found: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of the benchmark.

    Attributes:
        title: short description of the step.
        limit_s: time limit, s.
        needs: packages that the step needs in addition to the packages of the library.
        run: function that runs the step. Its arguments are the device, a flag for tiny sizes, and
            the folder of the results.
    """

    title: str
    limit_s: float
    needs: tuple[str, ...]
    run: Callable[[str, bool, Path], Found]


def run_library_tests(device: str, tiny: bool, out: Path) -> Found:
    """Run the library's tests that are marked `gpu`."""
    return _test("tests/toto_robot/test_library_gpu.py", device, tiny)


def run_policy_tests(device: str, tiny: bool, out: Path) -> Found:
    """Run the policies' tests that are marked `gpu`."""
    return _test("tests/policies/test_policy_gpu.py", device, tiny)


def _test(path: str, device: str, tiny: bool) -> Found:
    # tests of compilation are left out on a CPU, where compiling takes minutes
    chosen = ["-k", "not compiled"] if tiny else []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            path,
            *chosen,
        ],
        cwd=ROOT,
        env={**os.environ, "TOTO_ROBOT_GPU": device},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return {"tables": {"tests": [{"file": path, "result": done.stdout.strip().splitlines()[-1]}]}}


def measure_encoder(device: str, tiny: bool, out: Path) -> Found:
    """Measure the speed of the encoder in frames/s, and compare its embeddings with the CPU.

    Frames and embeddings are in host memory, so the time to copy them to and from the GPU counts.
    """
    speed, equality = [], []
    for name, encoder in _encoders(tiny).items():
        on_gpu = _on(device, encoder)
        base = 0.0  # frames/s of the CPU, at the largest batch that was measured on the CPU
        for batch in (1, 2) if tiny else (1, 16, 256):
            given = _frames(batch)
            calls = {where: partial(_embed, there, given) for where, there in on_gpu.items()}
            if batch <= 16:
                calls = {"CPU float32": partial(_embed, encoder, given), **calls}
            for where, seconds in least_seconds(calls, 3, time.perf_counter).items():
                base = batch / seconds if where == "CPU float32" else base
                speed.append(
                    {"encoder": name, "frames a call": batch, "where": where,
                     "ms a call": seconds * 1e3, "frames/s": batch / seconds,
                     "times the CPU": batch / seconds / base}
                )  # fmt: skip
        given = _frames(4 if tiny else 16)
        ids = encoder.tokenize(given)
        for where, there in on_gpu.items():
            same = (there.tokenize(given).cpu() == ids).float().mean().item()
            far = (there.from_tokens(ids).cpu() - encoder.from_tokens(ids)).abs().max().item()
            equality.append(
                {"encoder": name, "where": where, "share of equal tokens": same,
                 "greatest difference of embeddings of the same tokens": far}
            )  # fmt: skip
    return {"tables": {"speed": speed, "against the CPU in float32": equality}}


def measure_stream(device: str, tiny: bool, out: Path) -> Found:
    """Measure the encoding of a frame with a full window of earlier frames from the cache.

    The embeddings are compared with the embeddings of the CPU.
    """
    rows = []
    name, encoder = list(_encoders(tiny).items())[-1]
    context = 2 if tiny else encoder.transformer.config.frames
    for num_envs in (1, 2) if tiny else (1, 16):
        there = {"CPU float32": encoder, **_on(device, encoder)}
        streams = {where: one.stream(num_envs, context) for where, one in there.items()}
        ids = torch.randint(0, BASE.codes, (num_envs, encoder.tokens_per_frame))
        calls = {where: partial(_advance, stream, ids) for where, stream in streams.items()}
        for _ in range(context - 1):
            for call in calls.values():
                call()
        last = {where: call() for where, call in calls.items()}
        spent = least_seconds(calls, 5, time.perf_counter)
        rows += [
            {"encoder": name, "streams": num_envs, "where": where, "ms a step": seconds * 1e3,
             "times the CPU": spent["CPU float32"] / seconds,
             "difference": (last[where] - last["CPU float32"]).abs().max().item()}
            for where, seconds in spent.items()
        ]  # fmt: skip
    return {"tables": {f"a step, {context} frames of context": rows}}


def measure_training(device: str, tiny: bool, out: Path) -> Found:
    """Measure a forward and backward pass of pre-training, and compare the loss with the CPU."""
    config = replace(BASE, dim=64, layers=2, heads=2, mlp_hidden=96) if tiny else BASE
    kind = torch.device(device).type
    cpu = config.build()
    model = copy.deepcopy(cpu).to(device)
    small, large = (1, 1), (1, 1) if tiny else (4, config.frames)  # fits into 16 GB of GPU memory
    rows: list[dict[str, Any]] = []
    losses = []

    def measure(where: str, model: Any, size: tuple[int, int], precision: str) -> None:
        sequences, frames = size
        generator = torch.Generator().manual_seed(0)
        shape = (sequences, frames * config.tokens_per_frame + 1)
        at = next(model.parameters()).device
        ids = torch.randint(0, config.codes, shape, generator=generator).to(at)

        def step() -> float:
            model.zero_grad(set_to_none=True)
            with torch.autocast(at.type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = model.loss(ids)
            loss.backward()
            return loss.item()  # waits for the GPU

        if size == small and precision == "float32":
            losses.append(step())
        seconds = least_seconds({"": step}, 2 if tiny else 5, time.perf_counter)[""]
        tokens_s = sequences * frames * config.tokens_per_frame / seconds
        used = tokens_s * model_flops(config, frames) / peak_flops(at, precision)
        rows.append(
            {"where": where, "sequences x frames": f"{sequences} x {frames}",
             "ms a step": seconds * 1e3, "tokens/s": tokens_s,
             "times the CPU": tokens_s / (rows[0]["tokens/s"] if rows else tokens_s),
             "share of the peak": f"{used:.1%}"}
        )  # fmt: skip

    measure("CPU float32", cpu, small, "float32")
    measure(f"{device} float32", model, small, "float32")
    measure(f"{device} float32", model, large, "float32")
    measure(f"{device} bfloat16", model, large, "bfloat16")
    if kind == "cuda":
        for block in model.layers:
            block.compile()
        measure(f"{device} bfloat16, compiled", model, large, "bfloat16")
    notes = [f"Loss of the same batch: CPU {losses[0]:.6f}, {device} {losses[1]:.6f}."]
    if not abs(losses[0] - losses[1]) < 1e-3:
        sys.exit(f"the losses of the same batch differ: {losses[0]} and {losses[1]}")
    if kind == "cuda":
        notes.append(f"Peak memory: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB.")
    return {"tables": {f"{config.dim} wide, {config.layers} blocks": rows}, "notes": notes}


def train_policy(device: str, tiny: bool, out: Path) -> Found:
    """Train a policy on Franka-pick with DAgger, as in `make demo` but with fewer episodes."""
    changes = ["experiment=tiny"]
    if not tiny:
        changes = [
            "demonstrations=20", "dagger.rounds=2", "dagger.episodes=10", "imitation.steps=200",
            "imitation.last_steps=400", "validation_episodes=2", "evaluation_episodes=10",
            "video_episodes=1",
        ]  # fmt: skip
    folder, began = out / "train", time.monotonic()
    shutil.rmtree(
        folder, ignore_errors=True
    )  # results of an earlier call may be from another device
    command = [sys.executable, "-m", "policies.train", *changes, f"device={device}"]
    done = subprocess.run([*command, f"out={folder}"], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    metrics = json.loads((folder / "metrics.json").read_text())
    losses = [loss for entry in metrics["rounds"] for loss in entry["losses"]]
    if not all(math.isfinite(loss) for loss in losses):
        sys.exit(f"the imitation loss is not finite: {losses}")
    last, evaluated = metrics["rounds"][-1]["losses"], metrics["evaluation"]
    return {
        "tables": {
            " ".join(changes): [
                {"seconds": time.monotonic() - began, "first loss": losses[0],
                 "last loss": last[-1],
                 "success": f"{evaluated['successes']}/{evaluated['episodes']}"}
            ]
        },
        "notes": [f"The policy is in {folder / 'policy'}, a video in {folder / 'rollout.mp4'}."],
    }  # fmt: skip


def measure_onnx(device: str, tiny: bool, out: Path) -> Found:
    """Export toto-nano to ONNX, and run it with each onnxruntime provider for this device."""
    import onnxruntime

    from toto_robot.export import export_onnx

    encoder = load_toto("toto-nano")
    given, folder = _frames(1), out / "export"
    export_onnx(encoder, folder, size=(_SIDE, _SIDE), context=None)
    wanted = ["CPUExecutionProvider"]
    wanted += ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    there = [name for name in wanted if name in onnxruntime.get_available_providers()]
    notes = [
        f"onnxruntime {onnxruntime.__version__} has no {name}: install onnxruntime-gpu instead"
        for name in wanted
        if name not in there
    ]
    expected = encoder(given).numpy()
    calls: dict[str, Callable[[], Any]] = {
        f"torch, {where}": partial(_embed, one, given)
        for where, one in {
            "CPU float32": encoder, **_on(device, encoder, (torch.float32,))
        }.items()
    }  # fmt: skip
    for name in there:
        session = onnxruntime.InferenceSession(folder / "frame.onnx", providers=[name])
        calls[name] = partial(_run_graph, session, given)
    spent = least_seconds(calls, 3 if tiny else 20, time.perf_counter)
    rows = [
        {"where": name, "ms a frame": seconds * 1e3,
         "times the CPU": spent["torch, CPU float32"] / seconds,
         "difference": float(np.abs(np.asarray(calls[name]()) - expected).max())}
        for name, seconds in spent.items()
    ]  # fmt: skip
    return {"tables": {"one frame": rows}, "notes": notes}


def _encoders(tiny: bool) -> Mapping[str, Encoder]:
    """Return two encoders: toto-nano, and one of the paper's base size with random weights."""
    nano = load_toto("toto-nano")
    if tiny:
        return {"toto-nano": nano}
    base = Encoder(nano.tokenizer, BASE.build(), LAYER, "mean").requires_grad_(False)
    return {"toto-nano": nano, "toto-base": base}


def _on(
    device: str, encoder: Encoder, dtypes: Sequence[torch.dtype] = _HALVES
) -> dict[str, Encoder]:
    """Return copies of an encoder on a device, one for each precision."""
    return {
        f"{device} {str(dtype).removeprefix('torch.')}": copy.deepcopy(encoder).to(device, dtype)
        for dtype in dtypes
    }


def _embed(encoder: Encoder, frames: NDArray[np.uint8]) -> Tensor:
    return encoder(frames).cpu()  # waits for the GPU


def _run_graph(session: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return session.run(None, {"frames": frames})[0]


def _advance(stream: EncoderStream, ids: Tensor) -> Tensor:
    return stream.step_tokens(ids).cpu()


def _frames(count: int) -> NDArray[np.uint8]:
    """Return smooth images. Noise is not suitable, because rounding would change many tokens."""
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return small.repeat(_SIDE // 8, axis=1).repeat(_SIDE // 8, axis=2)


# packages that the pytest options in pyproject.toml need
_TESTS = ("pytest", "pytest_timeout", "beartype", "hypothesis", "av", "cv2", "matplotlib", "tqdm")
_TRAINING = ("mujoco", "hydra", "av", "matplotlib", "tensorboard", "tqdm")

STEPS: Mapping[str, Step] = {
    "library_tests": Step(
        title="tests of encoders, streams and pre-training",
        limit_s=150,
        needs=_TESTS,
        run=run_library_tests,
    ),
    "policy_tests": Step(
        title="tests of policies", limit_s=100, needs=_TESTS, run=run_policy_tests
    ),
    "encoder": Step(
        title="speed from frames to embeddings", limit_s=100, needs=(), run=measure_encoder
    ),
    "stream": Step(title="speed of a stream", limit_s=60, needs=(), run=measure_stream),
    "pretraining": Step(
        title="speed of a step of pre-training", limit_s=120, needs=(), run=measure_training
    ),
    "policy": Step(
        title="a policy trained by DAgger, as `make demo` with fewer episodes",
        limit_s=200,
        needs=_TRAINING,
        run=train_policy,
    ),
    "onnx": Step(
        title="speed of the exported encoder",
        limit_s=60,
        needs=("onnx", "onnxscript", "onnxruntime", "hydra", "tqdm"),
        run=measure_onnx,
    ),
}
