"""The command that continues a video: what it reads, what it writes, and what it refuses."""

import av
import cv2
import numpy as np
import pytest
import torch

from tests.toto_robot.visions import toto
from toto_robot import load_encoder
from toto_robot.data.video import write_video
from toto_robot.encoders.loading import save_encoder
from toto_robot.generate import GenerateConfig, generate, read_prompt
from toto_robot.generation.sampling import GREEDY, generate_frames
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

SIDE, TOKENS, BORDER = 16, 4, 4
LIGHT = LightConfig(
    image_size=SIDE, levels=(4, 4), widths=(8, 8), blocks=(1, 1),
    decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
)  # fmt: skip
MODEL = TotoConfig(
    codes=16, dim=16, layers=1, heads=2, mlp_hidden=16, tie_embeddings=False,
    tokens_per_frame=TOKENS, frames=4, rope_base=10000.0, norm_eps=1e-5,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder, a video of 7 frames 40 x 60, and the same as a folder of images."""
    folder = tmp_path_factory.mktemp("generate")
    torch.manual_seed(0)
    save_encoder(folder / "encoder", LIGHT.build(), MODEL.build(), layer=1, pool="mean")
    frames = [np.full((40, 60, 3), 30 * number, np.uint8) for number in range(7)]
    write_video(folder / "video.mp4", frames, 10.0, faithful=True)
    (folder / "images").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), frame)
    (folder / "images" / "notes.txt").write_text("no image")
    return folder


def config_of(folder, **changes):
    settings = {
        "encoder": toto(folder / "encoder"), "prompt": folder / "video.mp4", "first": 0,
        "stride": 1, "prompt_frames": 3, "frames": 6, "samples": 2, "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0, "window": None, "rate_hz": 10.0, "device": "cpu", "seed": 0,
    }  # fmt: skip
    return GenerateConfig(**settings | changes)


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_video_and_its_images_are_the_same_prompt(folder):
    video, images = (read_prompt(folder / name, SIDE, 1, 2, 9) for name in ("video.mp4", "images"))
    assert video.shape == images.shape == (3, SIDE, SIDE, 3)
    np.testing.assert_allclose(images[:, 0, 0, 0], [30, 90, 150])
    np.testing.assert_allclose(video.astype(int), images, atol=4)
    assert len(read_prompt(folder / "video.mp4", SIDE, 0, 1, 2)) == 2


def test_the_prompt_is_continued_beside_the_truth(folder, tmp_path, capsys):
    generate(config_of(folder, temperature=0.0), tmp_path)
    tokens = np.load(tmp_path / "tokens.npz")
    assert tokens["prompt"].shape == (3, TOKENS)
    assert tokens["truth"].shape == (4, TOKENS)  # the video has no more
    assert tokens["predicted"].shape == (2, 6, TOKENS)
    encoder = load_encoder(folder / "encoder")
    past = encoder.tokenize(read_prompt(folder / "video.mp4", SIDE, 0, 1, 3))[None]
    expected = generate_frames(encoder.transformer, past, 6, sampling=GREEDY)
    assert np.array_equal(tokens["predicted"][1], expected[0].numpy())
    video = decoded(tmp_path / "video.mp4")
    assert video.shape == (9, SIDE + 2 * BORDER, 3 * (SIDE + 2 * BORDER), 3)
    # green above given frames, orange above predicted ones, black where there is no truth any more
    edge = video[:, 1, [SIDE // 2, SIDE + 2 * BORDER + SIDE // 2]].astype(int)
    assert (edge[:3, :, 1] > edge[:3, :, 0] + 50).all()
    assert (edge[3:, 1, 0] > edge[3:, 1, 2] + 50).all()
    assert (edge[7:, 0] < 40).all()
    strip = cv2.imread(str(tmp_path / "strip.png"))
    assert strip.shape == (3 * (SIDE + 2 * BORDER), 7 * (SIDE + 2 * BORDER), 3)
    printed = capsys.readouterr().out
    assert "48 tokens in" in printed
    assert "if copied" in printed


def test_samples_differ_and_seeds_repeat_them(folder, tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(config_of(folder, seed=seed), tmp_path / name)
        found.append(np.load(tmp_path / name / "tokens.npz")["predicted"])
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0][0], found[0][1])


def test_sixty_four_frames_slide_through_the_window(folder, tmp_path):
    generate(config_of(folder, prompt_frames=7, frames=64, samples=1), tmp_path)
    assert np.load(tmp_path / "tokens.npz")["predicted"].shape == (1, 64, TOKENS)
    assert decoded(tmp_path / "video.mp4").shape == (71, 24, 24, 3)  # no truth to draw beside it


def test_nothing_given_is_a_beginning_of_its_own(folder, tmp_path):
    generate(config_of(folder, prompt_frames=0, frames=2), tmp_path)
    assert np.load(tmp_path / "tokens.npz")["prompt"].shape == (0, TOKENS)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"prompt": "no.mp4"}, FileNotFoundError, "no prompt"),
        ({"prompt": "encoder/config.json"}, ValueError, "config.json: not a readable video"),
        ({"prompt": "encoder"}, ValueError, "holds no image"),
        ({"prompt_frames": 8}, ValueError, "has 7 frames at stride 1 .* prompt_frames is 8"),
        ({"window": 5}, ValueError, r"window must be in \[1, 4\]"),
        ({"frames": 0}, ValueError, "frames must be at least 1"),
        ({"temperature": -1.0}, ValueError, "temperature must be"),
        ({"rate_hz": 0.0}, ValueError, "rate_hz must be above 0"),
    ],
)
def test_what_cannot_be_continued_is_refused(folder, tmp_path, changes, error, match):
    if "prompt" in changes:
        changes = {"prompt": folder / changes["prompt"]}
    with pytest.raises(error, match=match):
        generate(config_of(folder, **changes), tmp_path)
