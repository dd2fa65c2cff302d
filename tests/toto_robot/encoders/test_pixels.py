"""Raw pixels as an encoder: the baseline in every table."""

import numpy as np
import pytest
import torch

from toto_robot.config import from_dict
from toto_robot.encoders.contract import FrameEncoder
from toto_robot.encoders.pixels import PixelEncoder
from toto_robot.encoders.vision import PixelVision, VisionConfig


def frames():
    image = np.zeros((2, 32, 32, 3), np.uint8)
    image[1, :2, 2:4] = (255, 0, 51)  # one of the 16 x 16 cells
    return image


def test_an_embedding_is_the_mean_colour_of_each_cell():
    encoder = from_dict(PixelVision, {}).build(torch.device("cpu"))
    assert isinstance(encoder, FrameEncoder)
    cells = encoder(frames()).unflatten(1, (3, 16, 16))
    assert torch.all(cells[0] == -1)
    assert cells[1, :, 0, 1].tolist() == pytest.approx([1.0, -1.0, -0.6])
    assert int((cells[1] != -1).sum()) == 2


def test_saved_pixels_are_read_again_and_bad_frames_refused():
    encoder = PixelEncoder()
    codes = encoder.compress(frames())
    assert codes.shape == (2, encoder.codes.size) == (2, 768)
    assert np.allclose(encoder.embed(codes), encoder(frames()).numpy(), atol=1e-3)
    streams = encoder.open_streams(2)
    assert np.array_equal(streams.embed(codes[1:], [1]), encoder.embed(codes[1:]))
    with pytest.raises(ValueError, match="uint8"):
        encoder(frames().astype(np.float32))


def test_the_group_encoder_reads_it():
    assert from_dict(VisionConfig, {"kind": "pixels"}) == PixelVision()
