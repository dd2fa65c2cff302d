import numpy as np
import pytest

import envs
from envs.catalogue import make
from envs.gallery import GalleryConfig, draw_gallery, gallery


@pytest.fixture
def one_task(monkeypatch):
    """Show but one task, to be quick."""
    monkeypatch.setattr("envs.gallery.ENVIRONMENTS", envs.ENVIRONMENTS[:1])


def config(**changed):
    settings = {
        "protocol": "robot",
        "cameras": ("front",),
        "image_size": 32,
        "groups": ("colours",),
        "seed": 0,
    }
    return GalleryConfig(**{**settings, **changed})


def tile(picture, column):
    top, left = 42, 30 + column * 40
    return picture[top : top + 32, left : left + 32].astype(int)


def test_every_tile_is_the_picture_that_an_environment_gives(one_task):
    picture = draw_gallery(config())
    assert picture.shape == (42 + 32, 30 + 2 * 40 - 8, 3)
    for column, groups in enumerate([(), ("colours",)]):
        env = make(env_id=envs.ENVIRONMENTS[0], cameras=("front",), image_size=32, randomise=groups)
        expected = env.reset(seed=0)[0]["image_front"]
        env.close()
        np.testing.assert_array_equal(tile(picture, column), expected)
    assert np.abs(tile(picture, 1) - tile(picture, 0)).mean() > 3


def test_picture_is_written(one_task, tmp_path, capsys):
    gallery(config(groups=()), tmp_path)
    assert (tmp_path / "gallery.png").read_bytes()[:4] == b"\x89PNG"
    assert "62 x 74 pixels" in capsys.readouterr().out


def test_a_gallery_without_cameras_is_an_error():
    with pytest.raises(ValueError, match="camera"):
        config(cameras=())
