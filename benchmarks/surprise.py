"""Measure the camera monitor's detection of faults, its delay and its false alarms.

    OMP_NUM_THREADS=1 python -m benchmarks.surprise
    OMP_NUM_THREADS=1 python -m benchmarks.surprise --calibration 160 --usual 160 --faulty 30

The frames are from rollouts of the expert with noise, from one camera. A first group of rollouts
calibrates the monitor. A second group (`usual`) has no fault and other seeds. A third group repeats
the first rollouts of the second group with each kind of fault, from a random frame on. The scores
of the monitor were developed on other seeds (from 6,600,000). The baseline is an alarm that uses
only the surprise (the negative log likelihood of the tokens), calibrated in the same way.
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.camera_faults import FAULTS
from envs.experts import EXPERTS
from envs.success_rates import wilson_interval
from toto_robot import load_encoder
from toto_robot.encoders.encoder import Encoder
from toto_robot.encoders.streaming import EncoderStream
from toto_robot.monitoring.conformal import SurpriseBounds
from toto_robot.monitoring.monitor import CameraMonitor, calibrate_monitor

ENV = "toto/FrankaPick-v0"
FIRST_CALIBRATION_SEED, FIRST_USUAL_SEED = 6_700_000, 6_800_000
RATE_HZ = 10.0
CONTEXT = 4
FAULTY_FRAMES = 20
EARLIEST_FAULT = 10
RESAMPLES = 1000
PATIENCES = (1, 3)
ALARM_LEVELS = (0.2, 0.1, 0.05)  # in addition to the smallest level that the rollouts allow
BEYOND = (1.5, 2.0, 3.0)  # multiples of the strictest limit, which have no statistical guarantee
COVERED = ("grey patch", "textured patch", "hand")

Floats = NDArray[np.float64]
Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The results of the monitor for t frames: s deviations [t s] and an anomaly score [t]."""

    deviations: Floats
    anomaly_scores: Floats


def main() -> None:
    """Print tables of the false alarms, of the detected faults, and of the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=int, default=60, help="rollouts for the calibration")
    parser.add_argument("--usual", type=int, default=30, help="other rollouts without a fault")
    parser.add_argument(
        "--faulty", type=int, default=12, help="number of those to repeat with each fault"
    )
    parser.add_argument("--frames", type=int, default=60, help="frames per rollout")
    parser.add_argument("--camera", default="front", choices=("front", "hand"))
    parser.add_argument(
        "--noise", type=float, default=0.2, help="standard deviation of the expert's action noise"
    )
    parser.add_argument(
        "--save", type=Path, default=None, help="an .npz file of all anomaly scores"
    )
    arguments = parser.parse_args()
    encoder = load_encoder("toto-nano")
    print(
        f"{ENV}, camera {arguments.camera}, toto-nano, {arguments.frames} frames per rollout at "
        f"{RATE_HZ:g} Hz, {arguments.calibration} rollouts for calibration, {arguments.usual} "
        f"normal ones, {arguments.faulty} of them with each fault",
        flush=True,
    )
    tokens = np.stack(
        [
            encoder.tokenize(_rollout(FIRST_CALIBRATION_SEED + index, arguments)).numpy()
            for index in tqdm(range(arguments.calibration), desc="render")
        ]
    )
    bounds = calibrate_monitor(
        encoder, tokens, camera=arguments.camera, rate_hz=RATE_HZ, context=CONTEXT
    )
    usual: list[Seen] = []
    faulty: dict[str, list[Seen]] = {name: [] for name in FAULTS}
    onsets = []
    for index in tqdm(range(arguments.usual), desc="watch"):
        seed = FIRST_USUAL_SEED + index
        video = _rollout(seed, arguments)
        onset = None
        if index < arguments.faulty:
            latest = arguments.frames - FAULTY_FRAMES
            onset = int(np.random.default_rng(seed).integers(EARLIEST_FAULT, latest + 1))
            onsets.append(onset)
        monitor = CameraMonitor(encoder, bounds, camera=arguments.camera, rate_hz=RATE_HZ)
        usual.append(_watch(encoder, monitor, video, onset, seed, faulty))
    anomaly_scores = np.stack([seen.anomaly_scores for seen in usual])
    if arguments.save is not None:
        broken = np.stack([[one.anomaly_scores for one in seen] for seen in faulty.values()])
        np.savez(
            arguments.save, usual=anomaly_scores, calibrated=bounds.anomaly_scores, faulty=broken
        )
    _report_usual(anomaly_scores, bounds)
    _report_faults(usual, faulty, bounds, np.array(onsets))
    _report_trade_off(anomaly_scores, faulty, bounds)
    _report_cost(encoder, monitor, tokens[0])


def _rollout(seed: int, arguments: argparse.Namespace) -> Frames:
    env = gymnasium.make(f"envs:{ENV}", cameras=(arguments.camera,), privileged=True)
    expert, rng = EXPERTS[ENV](), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    frames = [observation[f"image_{arguments.camera}"]]
    while len(frames) < arguments.frames:
        action = expert.act(observation) + arguments.noise * rng.normal(size=8)
        observation, *_ = env.step(np.clip(action, -1, 1).astype(np.float32))
        frames.append(observation[f"image_{arguments.camera}"])
    env.close()
    return np.stack(frames)


def _watch(
    encoder: Encoder,
    monitor: CameraMonitor,
    video: Frames,
    onset: int | None,
    seed: int,
    faulty: dict[str, list[Seen]],
) -> Seen:
    """Monitor a rollout without a fault, and from the frame `onset` on also with each fault.

    The runs with a fault begin with the state of the monitor at `onset`. Their results are appended
    to `faulty`. If `onset` is None, there are no runs with a fault.
    """
    stream = monitor.watched_stream(1)
    tokens = encoder.tokenize(video)
    if onset is None:
        return _run(monitor, stream, tokens)
    first = _run(monitor, stream, tokens[:onset])
    for number, (name, fault) in enumerate(FAULTS.items()):
        rng = np.random.default_rng((seed, number))
        broken = fault(video[onset : onset + FAULTY_FRAMES], video[onset - 1], rng)
        shared = {id(encoder): encoder, id(monitor.bounds): monitor.bounds}
        monitor_then, stream_then = copy.deepcopy((monitor, stream), shared)
        faulty[name].append(_run(monitor_then, stream_then, encoder.tokenize(broken)))
    rest = _run(monitor, stream, tokens[onset:])
    return Seen(
        deviations=np.concatenate([first.deviations, rest.deviations]),
        anomaly_scores=np.concatenate([first.anomaly_scores, rest.anomaly_scores]),
    )


def _run(monitor: CameraMonitor, stream: EncoderStream, tokens: torch.Tensor) -> Seen:
    reports = []
    for ids in tokens[:, None]:
        stream.step_tokens(ids)
        reports.append(monitor.report(ids, stream))
    return Seen(
        deviations=np.concatenate([report.deviations for report in reports]),
        anomaly_scores=np.concatenate([report.anomaly_scores for report in reports]),
    )


def _report_usual(anomaly_scores: Floats, bounds: SurpriseBounds) -> None:
    outside = anomaly_scores > bounds.frame_limits
    alarms = np.any(anomaly_scores > bounds.alarm_limit, axis=1)
    low, high = wilson_interval(int(alarms.sum()), len(alarms))
    print(
        f"normal frames outside: {outside.mean():.1%} of {outside.size} (level "
        f"{bounds.level:.0%}); rollouts with an alarm: {alarms.sum()}/{len(alarms)} "
        f"({low:.1%} to {high:.1%}; level {bounds.alarm_level:.0%}, patience 1)\n"
    )


def _report_faults(
    usual: list[Seen], faulty: dict[str, list[Seen]], bounds: SurpriseBounds, onsets: NDArray
) -> None:
    """Print the AUROC of frames, and how many faults are detected at an alarm level of 5 %."""
    print(
        f"{'fault':<16}{'AUROC of frames (95 %)':>26}{'surprise alone':>16}"
        f"{'detected rollouts (Wilson)':>30}{'frames to alarm':>17}"
    )
    ordinary = np.stack([seen.anomaly_scores for seen in usual])[:, EARLIEST_FAULT:]
    model = np.abs(np.stack([seen.deviations for seen in usual]))[:, EARLIEST_FAULT:, 0]
    for name, seen in faulty.items():
        scores = np.stack([one.anomaly_scores for one in seen])
        alone = np.abs(np.stack([one.deviations for one in seen]))[..., 0]
        low, high = _bootstrap(scores, ordinary)
        area = f"{auroc(scores, ordinary):.3f} ({low:.3f} to {high:.3f})"
        delays = delays_of(scores, bounds.alarm_limit, 1)
        found = int(np.isfinite(delays).sum())
        least, most = wilson_interval(found, len(delays))
        share = f"{found}/{len(delays)} ({least:.0%} to {most:.0%})"
        print(
            f"{name:<16}{area:>26}{auroc(alone, model):>16.3f}{share:>30}{np.median(delays):>17.0f}"
        )
    print(
        f"faults begin at frames {onsets.min()} to {onsets.max()}; inf: half are never detected\n"
    )


def _report_trade_off(
    anomaly_scores: Floats, faulty: dict[str, list[Seen]], bounds: SurpriseBounds
) -> None:
    """Print false alarms per hour and the delay of the detection, for increasing thresholds."""
    hours = anomaly_scores.size / RATE_HZ / 3600
    num_calibrated, num_frames = bounds.anomaly_scores.shape
    rollouts_per_hour = 3600 * RATE_HZ / num_frames
    print(
        f"{'patience':>8}{'level':>8}{'limit':>7}{'calibrated/h':>13}{'alarms/h (95 %)':>24}"
        f"{'covered: det.':>16}{'median':>8}{'others: det.':>15}{'median':>8}{'90 %':>6}"
    )
    for patience in PATIENCES:
        strictest = bounds.with_levels(0.5, 1 / (num_calibrated + 1), patience)
        choices = [bounds.with_levels(0.5, level, patience) for level in ALARM_LEVELS]
        rows = [(one.alarm_level, one.alarm_limit) for one in (*choices, strictest)]
        rows += [(math.nan, factor * strictest.alarm_limit) for factor in BEYOND]
        for level, limit in rows:
            alarms = int(np.isfinite(delays_of(anomaly_scores, limit, patience)).sum())
            low, high = (mean / hours for mean in poisson_interval(alarms))
            delays = {
                name: delays_of(np.stack([one.anomaly_scores for one in seen]), limit, patience)
                for name, seen in faulty.items()
            }
            covered = np.concatenate([delays[name] for name in COVERED])
            others = np.sort(np.concatenate([delays[n] for n in delays if n not in COVERED]))
            beyond = math.isnan(level)
            calibrated = "none" if beyond else f"{level * rollouts_per_hour:.1f}"
            print(
                f"{patience:>8}{'beyond' if beyond else f'{level:.1%}':>8}{limit:>7.1f}"
                f"{calibrated:>13}"
                f"{f'{alarms / hours:.1f} ({low:.1f} to {high:.1f})':>24}"
                f"{np.isfinite(covered).mean():>16.0%}{np.median(covered):>8.0f}"
                f"{np.isfinite(others).mean():>15.0%}{np.median(others):>8.0f}"
                f"{others[int(0.9 * (len(others) - 1))]:>6.0f}"
            )
    print(
        f"an alarm lasts to the end of its rollout; {anomaly_scores.size} normal frames are "
        f"{hours * 60:.1f} minutes; medians and 90 %: frames from fault to alarm; covered: "
        f"{', '.join(COVERED)}\n"
    )


def _report_cost(encoder: Encoder, monitor: CameraMonitor, tokens: NDArray[np.int64]) -> None:
    """Print the CPU time per frame of the monitor, and of the encoding that it is added to."""
    with_surprise, without = monitor.watched_stream(1), encoder.stream(1, CONTEXT)
    times: dict[str, list[float]] = {"step": [], "step with surprise": [], "monitor": []}
    for ids in torch.from_numpy(tokens)[:, None]:
        calls = (
            lambda ids=ids: without.step_tokens(ids),
            lambda ids=ids: with_surprise.step_tokens(ids),
            lambda ids=ids: monitor.report(ids, with_surprise),
        )
        for taken, call in zip(times.values(), calls, strict=True):
            begin = time.process_time()
            call()
            taken.append((time.process_time() - begin) * 1e3)
    step, surprising, monitoring = (float(np.median(taken)) for taken in times.values())
    print(
        f"CPU ms per frame: stream step {step:.1f}, with surprise {surprising:.1f} "
        f"({surprising / step:.2f} times), monitor {monitoring:.2f} ({monitoring / step:.3f} times)"
    )


def auroc(positive: Floats, negative: Floats) -> float:
    """Return the area under the ROC curve.

    It is the probability that a positive has a higher score than a negative. Ties count as 0.5.
    """
    order = np.sort(negative.ravel())
    below = np.searchsorted(order, positive.ravel(), side="left")
    upto = np.searchsorted(order, positive.ravel(), side="right")
    return float((below + upto).mean() / 2 / order.size)


def delays_of(anomaly_scores: Floats, limit: float, patience: int) -> Floats:
    """Return the number of frames to the first alarm in each of r rollouts of t frames [r t].

    An alarm is raised after `patience` consecutive scores above `limit`. The number is infinite
    without an alarm.
    """
    windows = np.lib.stride_tricks.sliding_window_view(anomaly_scores > limit, patience, axis=1)
    alarm = np.all(windows, axis=2)
    return np.where(np.any(alarm, axis=1), np.argmax(alarm, axis=1) + patience, np.inf)


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean (F. Garwood, Biometrika 28, 1936)."""

    def at_most(number: int, mean: float) -> float:
        logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(number + 1)]
        return sum(math.exp(log) for log in logs)

    def solve(number: int, chance: float) -> float:
        low, high = 1e-9, 10.0 * (number + 10)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(number, middle) > chance else (low, middle)
        return low

    return (0.0 if count == 0 else solve(count - 1, 0.975)), solve(count, 0.025)


def _bootstrap(positive: Floats, negative: Floats) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the AUROC over rollouts."""
    rng = np.random.default_rng(0)
    areas = [
        auroc(
            positive[rng.integers(0, len(positive), len(positive))],
            negative[rng.integers(0, len(negative), len(negative))],
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
