"""`python -m toto_robot.latency`: measure the time of one frame on this machine, stage by stage.

The stages lead from the data of a camera to an action. For each stage, the command prints the
median, the 95th and the 99th percentile of the time, and the time of the first call. It also prints
the number of floating-point operations (see `toto_robot.encoders.operations`), and their rate as a
share of the rate of a matrix product on this machine. The last lines name the highest safe control
rate.

The share compares the shortest time of a stage with the fastest matrix product. Stages and matrix
products are measured in turns, so that other programs disturb both equally.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm import tqdm

from .cli import command
from .device import choose_device
from .encoders.encoder import Encoder
from .encoders.operations import SIDES, count_operations, measure_ceiling, timed
from .encoders.pooling import join_layers
from .encoders.vision import AnyToto, build_toto
from .files import write_json

__all__ = ["LatencyConfig", "StageTime", "latency"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
DECODERS = ("jpeg", "h264")
_CODED_FRAMES = 8  # length of the repeated H.264 stream, frames


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConfig:
    """Settings of the command `latency`.

    Attributes:
        encoder: Toto encoder whose time is measured.
        device: device of the encoder: `cpu`, `cuda`, or `auto`.
        dtype: precision of weights and computation: float32, bfloat16, float16, or int8 (only the
            transformer's blocks, on the CPU; compared with the rate of float32 matrix products).
        threads: number of CPU threads that torch uses; null: torch's default.
        num_cameras: number of cameras, whose frames are encoded together in one step.
        camera_height: height of a camera image before it is resized, pixels.
        camera_width: width of a camera image before it is resized, pixels.
        decode: compression of the camera images, `jpeg` or `h264`; null: uncompressed.
        context: number of frames that the stream uses, including the newest frame; null: as many as
            in a training sequence.
        policy_hidden: widths of the hidden layers of the measured policy network.
        num_actions: number of values in an action, the outputs of the policy network.
        repeats: number of timed calls of each stage, at least 20.
        rates_hz: control rates to choose from, Hz.
        budget: share of a control period that encoder and policy may use. A rate is safe if the
            99th percentile of their time is within this share.
    """

    encoder: AnyToto
    device: str
    dtype: str
    threads: int | None
    num_cameras: int
    camera_height: int
    camera_width: int
    decode: str | None
    context: int | None
    policy_hidden: tuple[int, ...]
    num_actions: int
    repeats: int
    rates_hz: tuple[float, ...]
    budget: float

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.decode not in (None, *DECODERS):
            raise ValueError(f"unknown decode {self.decode!r}; known: {', '.join(DECODERS)}, null")
        if self.decode == "h264" and (self.camera_height % 2 or self.camera_width % 2):
            raise ValueError(
                "h264 images must have an even height and width, got "
                f"{self.camera_height} x {self.camera_width} pixels"
            )
        if self.repeats < 20:
            raise ValueError(f"repeats must be at least 20 for a percentile, got {self.repeats}")
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget must be in (0, 1], got {self.budget}")
        if min(self.num_cameras, self.camera_height, self.camera_width) < 1 or not self.rates_hz:
            raise ValueError(
                "num_cameras, camera_height and camera_width must be positive, and rates_hz must "
                "not be empty"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """The measured times of one stage.

    Attributes:
        name: name of the stage.
        p50_ms: median, milliseconds.
        p95_ms: 95th percentile, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        least_ms: shortest time, milliseconds.
        first_ms: time of the first call, with cold caches and memory allocation, milliseconds.
        gflop: number of floating-point operations, in units of 1e9.
        ceiling_share: operations per second at the shortest time, divided by the operations per
            second of this machine's matrix product.
    """

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    least_ms: float
    first_ms: float
    gflop: float
    ceiling_share: float


def latency(config: LatencyConfig, out: Path) -> None:
    """Measure all stages, print a table, and write `latency.json` to the folder `out`."""
    print(f"measure {config.repeats} calls of each stage", flush=True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = torch.device(choose_device(config.device))
    dtype = DTYPES[config.dtype]
    # without verification: encoding the golden vectors would warm the caches before the first call
    encoder, load_ms = timed(
        lambda: build_toto(config.encoder, device, dtype, verify=False),
        device,
    )
    stages, ceiling_gflops = measure_stages(config, encoder, device, dtype)
    by_name = {stage.name: stage for stage in stages}
    parts = ("decode", "tokenise", "transformer", "pool", "policy")
    first_action_ms = sum(by_name[part].first_ms for part in parts if part in by_name)
    print(
        f"layer {encoder.layer} of {encoder.num_layers}, pool {encoder.pool}, "
        f"{config.num_cameras} camera(s), {device}, {config.dtype}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    print(f"cold start: load {load_ms:.0f} ms, first frame to action {first_action_ms:.0f} ms")
    print(f"matrix product of this machine: {ceiling_gflops:.0f} GFLOP/s of {_product(dtype)}")
    header = (
        f"{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'first ms':>10}{'GFLOP':>8}{'of ceiling':>12}"
    )
    print(f"{'stage':<28}{header}")
    for stage in stages:
        print(
            f"{stage.name:<28}{stage.p50_ms:>9.2f}{stage.p95_ms:>9.2f}{stage.p99_ms:>9.2f}"
            f"{stage.first_ms:>10.1f}{stage.gflop:>8.2f}{stage.ceiling_share:>12.0%}"
        )
    advice = {}
    for path in ("frame to action", "stream to action"):
        advice[path] = safe_rate(by_name[path].p99_ms, config.rates_hz, config.budget)
        print(f"{path}: {_describe(advice[path], config)}")
    result = {
        "load_ms": load_ms,
        "first_action_ms": first_action_ms,
        "ceiling_gflops": ceiling_gflops,
        "threads": torch.get_num_threads(),
        "stages": [asdict(stage) for stage in stages],
        "safe_rate_hz": advice,
    }
    write_json(out / "latency.json", result)
    print(f"results: {out / 'latency.json'}")


def measure_stages(
    config: LatencyConfig, encoder: Encoder, device: torch.device, dtype: torch.dtype
) -> tuple[list[StageTime], float]:
    """Measure each stage, and the complete path from frame to action with and without a stream.

    Returns:
        The times of the stages, and the rate of this machine's matrix product, GFLOP/s.
    """
    squares = [
        torch.randn(side, side, device=device).to(_product(dtype)) for side in SIDES[device.type]
    ]
    with torch.no_grad():
        calls, first_ms = _first_calls(config, encoder, device)
        times, gflop, ceiling_gflops = {}, {}, measure_ceiling(squares)
        for name, call in tqdm(calls.items(), desc="latency", unit="stage"):
            gflop[name] = count_operations(call) / 1e9
            times[name] = [timed(call, device)[1] for _ in range(config.repeats)]
            ceiling_gflops = max(ceiling_gflops, measure_ceiling(squares))
    stages = []
    for name, spent in times.items():
        p50, p95, p99 = (float(value) for value in np.percentile(spent, (50, 95, 99)))
        stages.append(
            StageTime(
                name=name,
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                least_ms=min(spent),
                first_ms=first_ms[name],
                gflop=gflop[name],
                ceiling_share=gflop[name] / (min(spent) / 1e3) / ceiling_gflops,
            )
        )
    return stages, ceiling_gflops


def _first_calls(
    config: LatencyConfig, encoder: Encoder, device: torch.device
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Return functions that run the stages, and the times of their first calls (ms), by stage."""
    read_camera = camera(config)
    first_ms: dict[str, float] = {}

    def begin(name: str, call: Callable[[], Any]) -> Any:
        result, first_ms[name] = timed(call, device)
        return result

    frames = begin("decode", read_camera)
    ids = begin("tokenise", lambda: encoder.tokenize(frames))
    features = join_layers(
        begin("transformer", lambda: encoder.token_features(ids, encoder.layers))
    )
    embedding = begin("pool", lambda: encoder.pooling(features)).float()
    policy = _policy(int(embedding.numel()), config).to(device)

    def act(embeddings: Tensor) -> Tensor:
        return policy(embeddings.flatten()).cpu()

    begin("policy", lambda: act(embedding))
    stream = encoder.stream(config.num_cameras, config.context)
    begin("transformer, streaming", lambda: stream.token_features(ids))
    for _ in range(stream.context):  # so that the window is full
        stream.step_tokens(ids)
    calls: dict[str, Callable[[], object]] = {
        "decode": read_camera,
        "tokenise": lambda: encoder.tokenize(frames),
        "transformer": lambda: encoder.token_features(ids, encoder.layers),
        "transformer, streaming": lambda: stream.token_features(ids),
        "pool": lambda: encoder.pooling(features),
        "policy": lambda: act(embedding),
        "frame to action": lambda: act(encoder(read_camera())),
        "stream to action": lambda: act(stream.step(read_camera())),
    }
    if config.decode is None:
        del calls["decode"]
    for name in ("frame to action", "stream to action"):
        begin(name, calls[name])
    return calls, first_ms


def safe_rate(p99_ms: float, rates_hz: Sequence[float], budget: float) -> float | None:
    """Return the highest rate, Hz, at which the 99th percentile of the time is short enough.

    At a rate, the time may use the share `budget` of a control period. The result is None if no
    rate of `rates_hz` is low enough.
    """
    fits = [rate for rate in rates_hz if p99_ms <= budget * 1e3 / rate]
    return max(fits, default=None)


def _describe(rate_hz: float | None, config: LatencyConfig) -> str:
    share = f"{config.budget:.0%} of a step"
    if rate_hz is None:
        return f"no rate of {list(config.rates_hz)} Hz is safe: the 99th percentile exceeds {share}"
    return f"{rate_hz:g} Hz is safe: the 99th percentile is within {share}"


def _product(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the matrix product that `ceiling_share` refers to."""
    return torch.float32 if dtype == torch.int8 else dtype


def camera(config: LatencyConfig) -> Callable[[], NDArray[np.uint8]]:
    """Return a function that decodes and returns the images [c h w 3] of c cameras."""
    generator = torch.Generator().manual_seed(0)
    count = config.num_cameras * _CODED_FRAMES
    coarse = torch.rand(count, 3, 12, 16, generator=generator)  # smooth, like most of a scene
    size = (config.camera_height, config.camera_width)
    smooth = interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255
    images = smooth.byte().permute(0, 2, 3, 1).contiguous().numpy()
    if config.decode is None:
        return lambda: images[::_CODED_FRAMES]
    decoders = [
        _jpeg(one) if config.decode == "jpeg" else _h264(one)
        for one in np.split(images, config.num_cameras)
    ]
    return lambda: np.stack([decode() for decode in decoders])


def _jpeg(images: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    import cv2

    from .data.images import decode_image

    _, coded = cv2.imencode(".jpg", images[0, ..., ::-1])

    data = coded.tobytes()
    return lambda: decode_image(data)


def _h264(images: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    import av

    from .data.video import to_rgb

    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.height, encoder.width = images.shape[1:3]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 30)
    encoder.options = {"tune": "zerolatency"}
    packets = []
    for image in images:
        packets += encoder.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
    packets += encoder.encode(None)
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.thread_count = 1  # more threads would delay frames
    stream = cycle(packets)

    def decode() -> NDArray[np.uint8]:
        while True:
            for frame in decoder.decode(next(stream)):
                return to_rgb(frame)

    return decode


def _policy(width: int, config: LatencyConfig) -> nn.Module:
    widths = (width, *config.policy_hidden, config.num_actions)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SELU()]
    return nn.Sequential(*layers[:-1]).eval()


OLD_KEYS = {"layer": "encoder.layer", "pool": "encoder.pool"}
main = command("latency", LatencyConfig, OLD_KEYS)(latency)

if __name__ == "__main__":
    main()
