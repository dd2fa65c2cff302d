"""`python -m toto_robot.generate prompt=<video or folder>`: what the model would go on with.

The first frames of the prompt are given (paper A.8), the model goes on token by token, and each
frame is drawn beside the true one, as long as there is one. How near it is to the truth is told
beside copying the last frame of the prompt, which is hard to beat where little moves.
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

Pictures = NDArray[np.uint8]

BORDER = 4  # pixels
GIVEN, PREDICTED, TRUE = (90, 200, 90), (240, 150, 40), (200, 200, 200)
STRIP_FRAMES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Say what goes on from what.

    Attributes:
        encoder: a Toto, of which all layers run.
        prompt: a video, or a folder of images that are its frames by their names.
        first: number of the prompt's frame that comes first.
        stride: every how many frames of the prompt one is used; 4 in the paper, at 30 a second.
        prompt_frames: how many frames are given; 0: none, the model begins.
        frames: how many are predicted.
        samples: how many continuations.
        temperature: of the distribution of each token; 0 takes the likeliest.
        top_k: only so many of the likeliest tokens are possible; null: all.
        top_p: only the likeliest tokens that together have this probability are possible.
        window: frames that the model sees at once; null: those of a training sequence.
        rate_hz: frames a second of the written video.
        device: where the model runs.
        seed: of the samples.
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
        """Refuse numbers that make no video."""
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
        """How tokens are chosen."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def generate(config: GenerateConfig, out: Path) -> None:
    """Predict, and write `video.mp4`, `strip.png` and `tokens.npz`.

    Raises:
        FileNotFoundError: no prompt.
        ValueError: a prompt that cannot be read or is too short, or a window that the model was not
            trained on.
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
    pictures = _decode(encoder, torch.cat([past, predicted], dim=1))
    out.mkdir(parents=True, exist_ok=True)
    rows = [_framed(shown, config.prompt_frames, TRUE, config.prompt_frames + config.frames)]
    rows += [_framed(sample, config.prompt_frames, PREDICTED, len(sample)) for sample in pictures]
    if len(shown) == config.prompt_frames:  # nothing true to compare with
        rows = rows[1:]
    video = np.concatenate(rows, axis=2)  # side by side
    write_video(out / "video.mp4", list(video), config.rate_hz)
    _write_strip(out / "strip.png", rows, config.prompt_frames)
    _write_tokens(out / "tokens.npz", known, predicted, config.prompt_frames)
    count = predicted.numel()
    print(f"{count} tokens in {seconds:.1f} s, {count / seconds:.0f} a second")
    print(_compared(known, predicted, shown, pictures, config.prompt_frames))
    print(f"results: {out / 'video.mp4'}, strip.png, tokens.npz")


def read_prompt(path: Path, size: int, first: int, stride: int, most: int) -> Pictures:
    """Give up to `most` frames of a video or of a folder of images, uint8 [t size size 3].

    Every `stride`-th from number `first` on; resized so that the shortest side is `size`, and the
    middle square of them.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read.
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


def _decode(encoder: Encoder, tokens: torch.Tensor) -> Pictures:
    """Return the pictures [s t h w 3] of tokens [s t n]."""
    frames = [encoder.tokenizer.decode(sample).cpu().numpy() for sample in tokens]
    return np.stack(frames)


def _framed(pictures: Pictures, given: int, colour: tuple[int, int, int], length: int) -> Pictures:
    """Return pictures [t h w 3] in a border that tells which were given; black behind the last."""
    height, width = pictures.shape[1] + 2 * BORDER, pictures.shape[2] + 2 * BORDER
    framed = np.zeros((length, height, width, 3), np.uint8)
    framed[:given] = GIVEN
    framed[given : len(pictures)] = colour
    framed[: len(pictures), BORDER:-BORDER, BORDER:-BORDER] = pictures[:length]
    return framed


def _write_strip(path: Path, rows: Sequence[Pictures], given: int) -> None:
    """Write one row of frames for each video: the last given one and some of the predicted."""
    import cv2

    length = len(rows[0])
    begin = max(0, given - 1)
    chosen = np.unique(np.linspace(begin, length - 1, STRIP_FRAMES).round().astype(int))
    strip = np.concatenate([np.concatenate(list(row[chosen]), axis=1) for row in rows], axis=0)
    written, data = cv2.imencode(".png", np.ascontiguousarray(strip[..., ::-1]))
    assert written
    write_aside(path, data.tobytes())


def _write_tokens(path: Path, known: torch.Tensor, predicted: torch.Tensor, given: int) -> None:
    """Write `prompt` [t n], `truth` [u n] and `predicted` [s f n], uint16."""
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
    known: torch.Tensor, predicted: torch.Tensor, shown: Pictures, pictures: Pictures, given: int
) -> str:
    """Say how near predictions are to the truth, beside copies of the last given frame."""
    true = known[given:]
    if not len(true) or not given:
        return "no frames to compare with"
    span = len(true)
    equal = (predicted[:, :span] == true).float().mean(dim=-1).cpu().numpy()  # s span
    copied = (known[given - 1] == true).float().mean(dim=-1).cpu().numpy()  # span
    near = np.stack([_psnr_db(sample[given : given + span], shown[given:]) for sample in pictures])
    same = np.broadcast_to(pictures[0, given - 1], shown[given:].shape)
    near_copied = _psnr_db(same, shown[given:])
    lines = [f"{'frame':>6}{'tokens right':>14}{'if copied':>11}{'PSNR, dB':>10}{'if copied':>11}"]
    lines += [
        f"{index + 1:>6}{equal[:, index].mean():>14.3f}{copied[index]:>11.3f}"
        f"{near[:, index].mean():>10.1f}{near_copied[index]:>11.1f}"
        for index in sorted({0, 1, 3, 7, 15, 31, span - 1})
        if index < span
    ]
    return "\n".join(lines)


def _psnr_db(pictures: Pictures, others: Pictures) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each of the pictures [t h w 3]."""
    errors = ((pictures.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


main = command("generate", GenerateConfig)(generate)

if __name__ == "__main__":
    main()
