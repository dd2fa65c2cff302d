"""Measure the speed of reading clips from videos, against other video readers.

    python -m benchmarks.decode_video [seconds of video] [rounds]

The speed is in frames of the video file per second and core. A clip has 16 frames, every 4th frame
of the file, resized to 128 pixels and cropped. Clips are read in two ways: from the beginning of a
file to its end, as `python -m toto_robot.data.tokenise` does, and at random times. The videos are
generated: H.264, 640 x 360 pixels at 30 Hz, with a high and a low bit rate. The other readers are
OpenCV and, if they are installed, decord2 and torchcodec. The readers run alternately. Times are
CPU time of all cores. The reader of this project should reach at least 0.9 of the speed of the
fastest reader.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.timing import least_seconds
from toto_robot.data.clips import ByFrames, ClipReader

SIZE, FRAMES, STRIDE, RATE = 128, 16, 4, 30
WIDTH, HEIGHT = 640, 360
SCALED = (round(WIDTH * SIZE / HEIGHT), SIZE)
LEFT = (SCALED[0] - SIZE) // 2
PLACES = 6

Read = Callable[[Path, int, int], np.ndarray]  # file, first frame, count f -> uint8 [f s s 3]


def main() -> None:
    """Write the videos, time the readers, and print the speeds."""
    seconds, rounds = (int(text) for text in (*sys.argv[1:], "20", "5")[:2])
    cv2.setNumThreads(1)
    readers: dict[str, Read] = {"ours": ours, "opencv": opencv}
    for name, load in (("decord2", load_decord), ("torchcodec", load_torchcodec)):
        try:
            readers[name] = load()
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name} is skipped: {str(error).splitlines()[0]}")
    total = seconds * RATE // STRIDE // FRAMES * FRAMES
    last = seconds * RATE - FRAMES * STRIDE
    starts = np.random.default_rng(0).integers(0, last, PLACES).tolist()
    print(f"{seconds} s of {WIDTH} x {HEIGHT}, {RATE} Hz; minimum CPU time of {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for label, bits_s in (("hard", 4_000_000), ("as on the web", 600_000)):
            path = Path(folder) / f"{label}.mp4"
            encode(path, seconds * RATE, bits_s)
            same_frames(path, readers)
            whole = times(readers, path, [0], total, rounds)
            places = times(readers, path, starts, FRAMES, rounds)
            print(f"{label}, {path.stat().st_size * 8e-3 / seconds:.0f} kb/s")
            for name in readers:
                print(
                    f"  {name:10}{total * STRIDE / whole[name]:6.0f} source frames/s/core, "
                    f"{best_other(whole) / whole[name]:.2f} of the best other;"
                    f"{1000 * places[name] / PLACES:6.0f} ms a clip at random, "
                    f"{best_other(places) / places[name]:.2f}"
                )


def times(
    readers: dict[str, Read], path: Path, starts: list[int], count: int, rounds: int
) -> dict[str, float]:
    """Return the seconds of each reader for ``count`` frames from each start."""

    def call(read: Read) -> Callable[[], object]:
        return lambda: [read(path, start, count) for start in starts]

    calls = {name: call(read) for name, read in readers.items()}
    return least_seconds(calls, rounds, time.process_time)


def best_other(seconds: dict[str, float]) -> float:
    """Return the seconds of the fastest of the other readers."""
    return min(value for name, value in seconds.items() if name != "ours")


def same_frames(path: Path, readers: dict[str, Read]) -> None:
    """Exit if two readers read different frames. Differences of some grey levels are allowed."""
    for start in (0, 77):
        expected = readers["ours"](path, start, FRAMES)
        for name, read in readers.items():
            found = read(path, start, FRAMES)
            error = np.abs(found.astype(int) - expected).mean() if found.size else np.inf
            if found.shape != expected.shape or error > 6:
                raise SystemExit(f"{name} reads other frames from {start}: {found.shape}, {error}")


def encode(path: Path, frames: int, bits_s: int) -> None:
    """Write a video of a moving, grainy image as H.264 with the given bit rate."""
    generator = np.random.default_rng(0)
    rough = generator.integers(0, 256, (HEIGHT // 40, WIDTH // 20, 3)).astype(np.uint8)
    smooth = cv2.resize(rough, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image = np.asarray(smooth, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = bits_s
        stream.options = {"preset": "veryfast", "g": "250"}
        for number in range(frames):
            image = image[:, number % WIDTH :][:, :WIDTH]
            grain = generator.integers(0, 32, (HEIGHT // 2, WIDTH // 2, 1)).astype(np.uint8)
            data = np.minimum(image, 223) + grain.repeat(2, 0).repeat(2, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(data, format="rgb24")))
        container.mux(stream.encode(None))


def ours(path: Path, first: int, count: int) -> np.ndarray:
    """Read with `ClipReader`."""
    reader = ClipReader(
        path,
        size=SIZE,
        frames=FRAMES,
        whole=False,
        sampling=ByFrames(stride=STRIDE),
        delay=0.0,
        place=lambda number: (0.5, LEFT / (SCALED[0] - SIZE + 1)),
        start_s=first / RATE if first else None,
        end_s=(first + count * STRIDE) / RATE,
    )
    return np.concatenate(list(reader))


def opencv(path: Path, first: int, count: int) -> np.ndarray:
    """Read with OpenCV. Frames that are not used are decoded but not converted to RGB."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if first:
        video.set(cv2.CAP_PROP_POS_FRAMES, first)
    frames = []
    for index in range(count * STRIDE):
        if not video.grab():
            break
        if index % STRIDE == 0:
            image = cv2.resize(video.retrieve()[1], SCALED, interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(image[:, LEFT : LEFT + SIZE], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def load_decord() -> Read:
    """Return a reader that uses decord2, which resizes while decoding."""
    import decord  # pyrefly: ignore  # optional

    def read(path: Path, first: int, count: int) -> np.ndarray:
        video = decord.VideoReader(str(path), width=SCALED[0], height=SCALED[1], num_threads=1)
        batch = video.get_batch(range(first, first + count * STRIDE, STRIDE)).asnumpy()
        return np.ascontiguousarray(batch[:, :, LEFT : LEFT + SIZE])

    return read


def load_torchcodec() -> Read:
    """Return a reader that uses torchcodec."""
    from torchcodec.decoders import VideoDecoder  # pyrefly: ignore  # optional

    def read(path: Path, first: int, count: int) -> np.ndarray:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
        frames = []
        for index in range(first, first + count * STRIDE, STRIDE):
            image = cv2.resize(decoder[index].numpy(), SCALED, interpolation=cv2.INTER_AREA)
            frames.append(image[:, LEFT : LEFT + SIZE])
        return np.stack(frames)

    return read


if __name__ == "__main__":
    main()
