"""Measure how many tokens change if images are stored with a video codec, and size and time.

    python -m benchmarks.video_codecs [EPISODES]

The images are from the two cameras of Franka-pick, 128 x 128 pixels, while the expert acts. Each
codec writes one file per camera and episode, as in a data set
(`policies.demonstrations.lerobot.video`). Then toto-nano tokenises and embeds the decoded images.
The table has the share of tokens that change, and the shift of the embeddings. The shift is in
standard deviations of an embedding element over all images. Times are CPU time of this process.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from envs.experts import EXPERTS
from policies.demonstrations.lerobot.video import LOSSLESS, Codec, encode, small
from toto_robot import Encoder, load_encoder
from toto_robot.data.video import read_frames
from toto_robot.encoders.contract import compress_each

RATE_HZ, STEPS, BATCH = 10, 50, 25
FULL_COLOUR = Codec(
    name="libx264",
    pixel_format="yuv444p",
    options=(("qp", "0"), ("preset", "veryfast")),
    stored_format="yuv444p",
)
LOSSY_RGB = Codec(
    name="libx264rgb",
    pixel_format="rgb24",
    options=(("crf", "12"), ("preset", "veryfast")),
    stored_format="gbrp",
)
CODECS = {
    "yuv420p, crf 23": small(23),
    "yuv420p, crf 12": small(12),
    "yuv420p, crf 0": small(0),
    "yuv444p, qp 0": FULL_COLOUR,
    "rgb, crf 12": LOSSY_RGB,
    "rgb, qp 0 (ours)": LOSSLESS,
}

Images = NDArray[np.uint8]


def main() -> None:
    """Render images, encode and decode them, and print a table."""
    torch.set_num_threads(1)
    clips = render(int((*sys.argv[1:], "4")[0]))
    encoder = load_encoder("toto-nano")
    tokens, embeddings = tokens_and_embeddings(encoder, np.concatenate(clips))
    deviation = embeddings.std(0).clip(0.02)
    number = len(tokens)
    print(f"{number} images of 128 x 128, {len(clips)} files")
    print(f"{'':20}KB each  ms to write  ms to read  tokens kept  shift of the embedding")
    for name, codec in CODECS.items():
        found, size, write_s, read_s = encode_and_decode(clips, codec)
        other_tokens, other_embeddings = tokens_and_embeddings(encoder, found)
        shift = np.sqrt(np.square((other_embeddings - embeddings) / deviation).mean())
        print(
            f"{name:20}{size / number / 1e3:7.2f}{write_s / number * 1e3:13.2f}"
            f"{read_s / number * 1e3:12.2f}{(other_tokens == tokens).mean():13.1%}{shift:14.3f}"
        )


def render(episodes: int) -> list[Images]:
    """Render episodes, and return one clip of t frames [t h w 3] for each episode and camera."""
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        "envs:toto/FrankaPick-v0", privileged=True, disable_env_checker=True
    )
    expert = EXPERTS["toto/FrankaPick-v0"]()
    clips = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        expert.reset()
        seen = [observation]
        while len(seen) < STEPS:
            seen.append(env.step(expert.act(seen[-1]))[0])
        clips += [np.stack([one[f"image_{name}"] for one in seen]) for name in ("hand", "front")]
    env.close()
    return clips


def tokens_and_embeddings(
    encoder: Encoder, images: Images
) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Return the n tokens [t n] and the embedding [t e] of each of t images."""
    parts = [
        compress_each(encoder, list(images[first : first + BATCH]))
        for first in range(0, len(images), BATCH)
    ]
    embeddings = np.concatenate([encoder.embed(part).astype(np.float16) for part in parts])
    return np.concatenate(parts), embeddings.astype(np.float64)


def encode_and_decode(clips: list[Images], codec: Codec) -> tuple[Images, int, float, float]:
    """Write clips with a codec and read them again.

    Returns:
        The decoded images, the size of the files in bytes, the seconds to write, and the seconds to
        read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        found, size, write_s, read_s = [], 0, 0.0, 0.0
        for clip in clips:
            begun_s = time.process_time()
            data = encode(clip, RATE_HZ, codec)
            write_s += time.process_time() - begun_s
            size += path.write_bytes(data)
            begun_s = time.process_time()
            found.append(read_frames(path))
            read_s += time.process_time() - begun_s
    return np.concatenate(found), size, write_s, read_s


if __name__ == "__main__":
    main()
