"""What tokens keep of images: the measures against their definitions, and the command's files."""

import json

import cv2
import numpy as np
import pytest
import torch

from tests.toto_robot.tiny import tiny_toto
from toto_robot.analyses.reconstruction import (
    MeasuredSet,
    ReconstructionConfig,
    reconstruction,
)
from toto_robot.analyses.saturated_pixels import count_pixels, split_pixels
from toto_robot.checkpoint import save_checkpoint
from toto_robot.config import to_dict
from toto_robot.data.mixture import HOLD_OUT
from toto_robot.data.shards import Shard
from toto_robot.encoders.loading import save_encoder

SIDE = 16


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """An encoder, its tokenizer alone, and a data set of videos of five frames."""
    folder = tmp_path_factory.mktemp("reconstruction")
    encoder = tiny_toto(SIDE)
    tokenizer = encoder.tokenizer
    save_encoder(folder / "encoder", tokenizer, encoder.transformer, layer=1, pool="grid2")
    save_checkpoint(
        folder / "tokenizer", "tokenizer", to_dict(tokenizer.config), tokenizer.state_dict()
    )
    (folder / "videos").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (5 * HOLD_OUT, SIDE, SIDE, 3), np.uint8)
    frames.tofile(folder / "videos" / "frames.u8")
    clips = [{"file": f"{i:03}.mp4", "start": 5 * i, "length": 5} for i in range(HOLD_OUT)]
    manifest = {"name": "videos", "kind": "video", "size": SIDE, "clips": clips, "skipped": []}
    (folder / "videos" / "manifest.json").write_text(json.dumps(manifest))
    return folder, encoder, frames


def config_of(folder, *checkpoints, part="all", **changes):
    values = {
        "frames": 1000, "saturated_share": 0.05, "sequences": 4, "sequence_frames": 2,
        "drawn_frames": 3, "batch": 8, "resamples": 100, "seed": 0,
    } | changes  # fmt: skip
    data = (MeasuredSet(path=folder / "videos", part=part, weight=1.0),)
    return ReconstructionConfig(
        checkpoints=tuple(str(folder / c) for c in checkpoints), data=data, **values
    )


def test_the_most_saturated_pixels_are_told_from_the_rest():
    generator = np.random.default_rng(0)
    frames, decoded = generator.integers(0, 256, (2, 3, 20, 20, 3), np.uint8)
    found = split_pixels(count_pixels(frames, decoded), 0.05)
    # restated by sorting
    ones, others = (part.reshape(-1, 3).astype(float) for part in (frames, decoded))
    level, left = np.ptp(ones, axis=1), np.ptp(others, axis=1)
    top = level >= np.sort(level)[::-1][round(0.05 * len(level)) - 1]
    squared = ((ones - others) ** 2).mean(1)
    assert found.share == pytest.approx(top.mean())
    assert 0.05 <= found.share < 0.08
    assert found.threshold == level[top].min()
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / squared[top].mean()))
    assert found.psnr_rest_db == pytest.approx(10 * np.log10(255**2 / squared[~top].mean()))
    assert found.kept == pytest.approx(left[top].sum() / level[top].sum())


def test_a_greyed_square_is_seen_where_the_mean_error_hardly_moves():
    frames = np.full((1, 20, 20, 3), 128, np.uint8)
    frames[0, :4, :5] = [200, 40, 40]  # 5 % of the pixels
    grey = frames.copy()
    grey[0, :4, :5] = 93
    found = split_pixels(count_pixels(frames, grey), 0.05)
    assert (found.kept, found.share, found.threshold) == (0.0, 0.05, 160)
    assert found.psnr_rest_db == float("inf")
    assert found.psnr_db < 15
    assert split_pixels(count_pixels(frames, frames), 0.05).kept == 1.0


def test_the_command_measures_what_the_checkpoints_do(setting, tmp_path):
    folder, encoder, frames = setting
    reconstruction(config_of(folder, "encoder", "tokenizer"), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    whole, alone = (results[str(folder / name)] for name in ("encoder", "tokenizer"))
    row = whole["data"]["videos"]
    ids = encoder.tokenizer.encode(torch.from_numpy(frames))
    decoded = encoder.tokenizer.decode(ids).numpy()
    squared = ((frames.astype(float) - decoded) ** 2).mean()
    assert row["psnr_db"] == pytest.approx(10 * np.log10(255**2 / squared))
    assert row["psnr_low_db"] <= row["psnr_db"] <= row["psnr_high_db"]
    assert (row["frames"], row["files"]) == (5 * HOLD_OUT, HOLD_OUT)
    share = torch.unique(ids, return_counts=True)[1] / ids.numel()
    assert row["perplexity"] == pytest.approx(torch.exp(-(share * share.log()).sum()).item())
    assert row["perplexity"] == pytest.approx(whole["mixture_perplexity"])
    assert row["codes_used"] == len(share)
    # the tokenizer alone: the same, but for what a transformer is needed for
    assert alone["data"]["videos"] == {
        key: value
        for key, value in row.items()
        if not key.startswith("nats") and key != "sequences"
    }
    assert whole["encode_cpu_ms"] > 0
    image = cv2.imread(str(tmp_path / "reconstruction.png"))[..., ::-1]
    assert image.shape == (3 * SIDE, 3 * SIDE, 3)
    assert np.array_equal(image[:SIDE, :SIDE], frames[0])
    assert np.array_equal(image[SIDE : 2 * SIDE, 2 * SIDE :], decoded[-1])
    assert "nats_first" in (tmp_path / "results.csv").read_text().splitlines()[0]


def test_the_next_token_is_measured_on_sequences_of_one_clip(setting, tmp_path):
    folder, encoder, frames = setting
    reconstruction(config_of(folder, "encoder", part="held_out", sequences=100), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    row = results[str(folder / "encoder")]["data"]["videos"]
    assert (row["files"], row["sequences"]) == (1, 2)  # frames 0, 1 and 2, 3 of the last file
    ids = encoder.tokenizer.encode(torch.from_numpy(frames[-5:-1])).reshape(2, -1)
    start = torch.full((2, 1), encoder.transformer.config.start_video)
    with torch.inference_mode():
        logits = encoder.transformer(torch.cat([start, ids], dim=1)[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    half = ids.shape[1] // 2
    assert row["nats_all"] == pytest.approx(nats.mean().item(), rel=1e-4)
    assert row["nats_first"] == pytest.approx(nats[:, :half].mean().item(), rel=1e-4)
    assert row["nats_later"] == pytest.approx(nats[:, half:].mean().item(), rel=1e-4)


def test_what_cannot_be_measured_is_refused(setting, tmp_path):
    folder, _, frames = setting
    assert Shard.open(folder / "videos").name == "videos"
    with pytest.raises(ValueError, match="saturated_share must be in"):
        config_of(folder, "encoder", saturated_share=0.0)
    with pytest.raises(ValueError, match="must each have an entry"):
        config_of(folder)
    with pytest.raises(ValueError, match="weight must not be negative"):
        MeasuredSet(path=folder, part="all", weight=-1.0)
    with pytest.raises(ValueError, match="no clip of 6 frames"):
        reconstruction(config_of(folder, "encoder", sequence_frames=6), tmp_path)
    manifest = json.loads((folder / "videos" / "manifest.json").read_text())
    few = tmp_path / "videos"
    few.mkdir()
    frames.tofile(few / "frames.u8")
    manifest["clips"] = manifest["clips"][:2]
    (few / "manifest.json").write_text(json.dumps(manifest))
    config = config_of(tmp_path, "../tokenizer", part="held_out")
    with pytest.raises(ValueError, match="no file in part 'held_out'; choose part=all"):
        reconstruction(config, tmp_path / "out")
