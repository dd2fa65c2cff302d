"""`python -m toto_robot.generate prompt=<video or folder>`: continue a video with a Toto.

The model reads the first frames of the prompt and generates the next frames token by token (paper
A.8). The output shows each generated frame beside the true frame, if the prompt contains it. The
command compares the true frames with the generated frames, and with copies of the last given frame
(the baseline). If there is little motion, the baseline is hard to beat.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from .cli import command
from .encoders.encoder import Encoder
from .encoders.vision import AnyToto, build_toto
from .files import write_aside
from .generation.sampling import Sampling, continue_frames

__all__ = ["GenerateConfig", "generate", "read_prompt"]

Images = NDArray[np.uint8]

BORDER = 4  # pixels
GIVEN, PREDICTED, TRUE = (90, 200, 90), (240, 150, 40), (200, 200, 200)
STRIP_FRAMES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Settings of the command `generate`.

    Attributes:
        encoder: Toto that generates the frames; all its layers are run.
        prompt: a video, or a folder of images; the images are frames in the order of their names.
        first: number of the first frame of the prompt that is used, counted from 0.
        stride: distance between two used frames of the prompt, in frames; 4 in the paper, at 30 Hz.
        prompt_frames: number of frames that the model reads; 0: it generates without a prompt.
        frames: number of generated frames.
        samples: number of different continuations that are generated.
        temperature: temperature of the distribution of each token; 0 selects the most likely token.
        top_k: number of most likely tokens that can be chosen; null: all.
        top_p: only the most likely tokens whose probabilities sum to this value can be chosen.
        window: number of frames that the model attends to, including the generated frame; null: as
            many as in a training sequence.
        rate_hz: frame rate of the written video, Hz.
        device: device for the computation: `cpu`, `cuda`, or `auto`.
        seed: seed of the random samples.
    """

    encoder: AnyToto
    prompt: Path
    first: int
    stride: int
    prompt_frames: int
    frames: int
    samples: int
    temperature: float
    top_k: int | None
    top_p: float
    window: int | None
    rate_hz: float
    device: str
    seed: int

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a value is out of its range.
        """
        for name, least in (
            ("first", 0), ("stride", 1), ("prompt_frames", 0), ("frames", 1), ("samples", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.rate_hz > 0:
            raise ValueError(f"rate_hz must be above 0, got {self.rate_hz}")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """The settings for choosing tokens."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def generate(config: GenerateConfig, out: Path) -> None:
    """Generate frames, and write `video.mp4`, `strip.png` and `tokens.npz`.

    Raises:
        FileNotFoundError: the prompt does not exist.
        ValueError: the prompt cannot be read or is too short, or the window is longer than in
            training.
    """
    from .data.video import write_video

    encoder = build_toto(config.encoder, config.device, whole=True)
    shown = read_prompt(
        config.prompt, encoder.image_size, config.first, config.stride,
        config.prompt_frames + config.frames,
    )  # fmt: skip
    if len(shown) < config.prompt_frames:
        raise ValueError(
            f"{config.prompt} has {len(shown)} frames at stride {config.stride} from frame "
            f"{config.first}, prompt_frames is {config.prompt_frames}"
        )
    known = encoder.tokenize(shown)  # t n
    past = known[: config.prompt_frames].expand(config.samples, -1, -1)
    frames = continue_frames(
        encoder.transformer,
        past,
        config.frames,
        sampling=config.sampling,
        generator=torch.Generator().manual_seed(config.seed),
        window=config.window,
    )
    begin = time.perf_counter()
    progress = tqdm(frames, total=config.frames, desc="generate", unit="frame")
    predicted = torch.stack(list(progress), dim=1)  # s f n
    seconds = time.perf_counter() - begin
    images = _decode(encoder, torch.cat([past, predicted], dim=1))
    out.mkdir(parents=True, exist_ok=True)
    rows = [_framed(shown, config.prompt_frames, TRUE, config.prompt_frames + config.frames)]
    rows += [_framed(sample, config.prompt_frames, PREDICTED, len(sample)) for sample in images]
    if len(shown) == config.prompt_frames:  # no true frames to compare with
        rows = rows[1:]
    video = np.concatenate(rows, axis=2)  # side by side
    write_video(out / "video.mp4", list(video), config.rate_hz)
    _write_strip(out / "strip.png", rows, config.prompt_frames)
    _write_tokens(out / "tokens.npz", known, predicted, config.prompt_frames)
    count = predicted.numel()
    print(f"{count} tokens in {seconds:.1f} s, {count / seconds:.0f} per second")
    print(_compared(known, predicted, shown, images, config.prompt_frames))
    print(f"results: {out / 'video.mp4'}, strip.png, tokens.npz")


def read_prompt(path: Path, size: int, first: int, stride: int, most: int) -> Images:
    """Return at most `most` frames of a video or of a folder of images, uint8 [t size size 3].

    The first frame is number `first`, and each further frame is `stride` frames later. Frames are
    resized so that the shorter side is `size` pixels, and cropped to the central square.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file or folder cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no prompt {path}: a video file or a folder of images")
    numbers = range(first, first + (most - 1) * stride + 1, stride)
    if not path.is_dir():
        from .data.video import read_squares

        return read_squares(path, size, numbers)
    from .data.images import IMAGE_SUFFIXES, read_square
    from .data.walk import walk

    files = walk(path, IMAGE_SUFFIXES, deep=False)
    if not files:
        raise ValueError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    chosen = files[numbers.start : numbers.stop : numbers.step]
    frames = [read_square(file, size, 0.5, 0.5) for file in chosen]
    return np.stack(frames) if frames else np.zeros((0, size, size, 3), np.uint8)


def _decode(encoder: Encoder, tokens: torch.Tensor) -> Images:
    """Decode tokens [s t n] (s videos, t frames, n tokens) to images uint8 [s t h w 3]."""
    frames = [encoder.tokenizer.decode(sample).cpu().numpy() for sample in tokens]
    return np.stack(frames)


def _framed(images: Images, given: int, colour: tuple[int, int, int], length: int) -> Images:
    """Return t images [t h w 3] with a border; black images are added up to `length`.

    The border of the first `given` images, which are from the prompt, differs from `colour`.
    """
    height, width = images.shape[1] + 2 * BORDER, images.shape[2] + 2 * BORDER
    framed = np.zeros((length, height, width, 3), np.uint8)
    framed[:given] = GIVEN
    framed[given : len(images)] = colour
    framed[: len(images), BORDER:-BORDER, BORDER:-BORDER] = images[:length]
    return framed


def _write_strip(path: Path, rows: Sequence[Images], given: int) -> None:
    """Write an image with one row per video: the last given frame and some generated frames."""
    import cv2

    length = len(rows[0])
    begin = max(0, given - 1)
    chosen = np.unique(np.linspace(begin, length - 1, STRIP_FRAMES).round().astype(int))
    strip = np.concatenate([np.concatenate(list(row[chosen]), axis=1) for row in rows], axis=0)
    written, data = cv2.imencode(".png", np.ascontiguousarray(strip[..., ::-1]))
    assert written
    write_aside(path, data.tobytes())


def _write_tokens(path: Path, known: torch.Tensor, predicted: torch.Tensor, given: int) -> None:
    """Write the tokens as uint16: `prompt` [t n], `truth` [u n] and `predicted` [s f n].

    A frame has n tokens. There are t given, u true and f generated frames, and s continuations.
    """
    data = io.BytesIO()
    shown = known.cpu().numpy().astype(np.uint16)
    np.savez_compressed(
        data,
        prompt=shown[:given],
        truth=shown[given:],
        predicted=predicted.cpu().numpy().astype(np.uint16),
    )
    write_aside(path, data.getvalue())


def _compared(
    known: torch.Tensor, predicted: torch.Tensor, shown: Images, images: Images, given: int
) -> str:
    """Return a table that compares true frames with generated ones and the last given frame."""
    true = known[given:]
    if not len(true) or not given:
        return "no frames to compare with"
    span = len(true)
    equal = (predicted[:, :span] == true).float().mean(dim=-1).cpu().numpy()  # s span
    copied = (known[given - 1] == true).float().mean(dim=-1).cpu().numpy()  # span
    near = np.stack([_psnr_db(sample[given : given + span], shown[given:]) for sample in images])
    same = np.broadcast_to(images[0, given - 1], shown[given:].shape)
    near_copied = _psnr_db(same, shown[given:])
    lines = [f"{'frame':>6}{'tokens right':>14}{'if copied':>11}{'PSNR, dB':>10}{'if copied':>11}"]
    lines += [
        f"{index + 1:>6}{equal[:, index].mean():>14.3f}{copied[index]:>11.3f}"
        f"{near[:, index].mean():>10.1f}{near_copied[index]:>11.1f}"
        for index in sorted({0, 1, 3, 7, 15, 31, span - 1})
        if index < span
    ]
    return "\n".join(lines)


def _psnr_db(images: Images, others: Images) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio, dB, of each of t images [t h w 3] to the others."""
    errors = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


main = command("generate", GenerateConfig)(generate)

if __name__ == "__main__":
    main()
