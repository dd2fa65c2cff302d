"""The same slices by a real Ray of two CPUs: the same bytes."""

import warnings

import numpy as np
import pytest
import torch

from tests.toto_robot.data.fake_videos import noisy, write
from toto_robot.checkpoint import save_checkpoint
from toto_robot.config import to_dict
from toto_robot.data.clips import ByFrames
from toto_robot.data.runners import Local, RayCluster
from toto_robot.data.sources import Videos
from toto_robot.data.tokenise import TokeniseConfig, VideoClips, tokenise
from toto_robot.locks import REPORT
from toto_robot.tokenizers import LightConfig

pytest.importorskip("ray", reason="Ray is not installed")

LIGHT = LightConfig(
    image_size=16,
    levels=(8, 8, 8, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)


@pytest.mark.slow  # a Ray of its own
def test_ray_makes_the_same_bytes(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "light"
    save_checkpoint(folder, "tokenizer", to_dict(LIGHT), LIGHT.build().state_dict())
    (tmp_path / "videos").mkdir()
    for number in range(5):
        write(tmp_path / "videos" / f"{number}.mp4", np.roll(noisy(20), 5 * number, axis=1))
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"bad")
    made = {}
    for runner in (
        Local(workers=1),
        RayCluster(address=None, workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0),
    ):
        out = tmp_path / runner.kind
        config = TokeniseConfig(
            name="clips",
            source=Videos(path=tmp_path / "videos"),
            clips=VideoClips(frames=4, whole=False, sampling=ByFrames(stride=4)),
            tokenizer_from=str(folder),
            image_size=None,
            passes=1,
            records_per_shard=2,
            batch=7,
            threads=1,
            device="cpu",
            seed=0,
            runner=runner,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own
            tokenise(config, out)
        made[runner.kind] = {
            path.name: path.read_bytes() for path in out.iterdir() if path.name != REPORT
        }
    assert len(made["local"]) == 3 * 2 + 3
    assert made["ray"] == made["local"]
