"""PredictionPreview: what is predicted from, what is left alone, and how it is drawn."""

import numpy as np
import pytest
import torch

from toto_robot import Encoder
from toto_robot.generation.preview import PredictionPreview, heat_image, side_by_side
from toto_robot.generation.sampling import Sampling, generate_frames, preview_frame
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig

PLACES, CODES, FRAMES = 16, 16, 4


def make_encoder():
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=32, levels=(4, 4), widths=(4, 4), blocks=(1, 1),
        decoder_widths=(4, 4, 4), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=CODES, dim=8, layers=2, heads=1, mlp_hidden=8, tie_embeddings=True,
        tokens_per_frame=PLACES, frames=FRAMES, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    return Encoder(tokenizer, transformer, layer=1, pool="mean")


ENCODER = make_encoder()


def random_tokens(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CODES, (*shape, PLACES), generator=generator)


def test_it_predicts_from_the_last_frames_of_the_episode():
    predictor, tokens = PredictionPreview(ENCODER, num_envs=2), random_tokens(0, 7, 2)
    for index, ids in enumerate(tokens):
        predictor.step_tokens(ids, np.array([index == 0, index in (0, 5)]))
    assert torch.equal(predictor.past(0), tokens[None, -(FRAMES - 1) :, 0])
    assert torch.equal(predictor.past(1), tokens[None, 5:, 1])
    expected = generate_frames(ENCODER.transformer, tokens[None, 5:, 1], 2)
    assert torch.equal(predictor.predict(2, env=1), ENCODER.tokenizer.decode(expected[0]))
    seen = preview_frame(ENCODER.transformer, tokens[None, -(FRAMES - 1) :, 0])
    assert torch.equal(predictor.preview(), ENCODER.tokenizer.decode(seen)[0])


def test_pictures_are_bytes_of_the_encoders_size():
    predictor = PredictionPreview(ENCODER, num_envs=1, context=2)
    predictor.step_tokens(random_tokens(0, 1))
    frames = predictor.predict(3, sampling=Sampling(temperature=1.0))
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (3, 32, 32, 3))


def test_chance_is_the_callers():
    predictor = PredictionPreview(ENCODER, num_envs=1)
    predictor.step_tokens(random_tokens(0, 1))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return predictor.predict(sampling=Sampling(temperature=1.0), generator=generator)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_looking_ahead_leaves_the_stream_and_the_past_alone():
    stream, control = (ENCODER.stream(1, surprise=True) for _ in range(2))
    predictor = PredictionPreview(ENCODER, num_envs=1)
    for ids in random_tokens(1, 6, 1):
        embedding = stream.step_tokens(ids)
        predictor.step_tokens(ids)
        before = predictor.past()
        predictor.predict(2)
        predictor.preview()
        assert torch.equal(predictor.past(), before)
        assert torch.equal(embedding, control.step_tokens(ids))
        assert torch.equal(stream.surprise, control.surprise)


def test_the_callers_tokens_may_change_afterwards():
    predictor, ids = PredictionPreview(ENCODER, num_envs=1), random_tokens(0, 1)
    predictor.step_tokens(ids)
    kept = ids.clone()
    ids.zero_()
    assert torch.equal(predictor.past()[0], kept)


def test_wrong_steps_are_refused():
    with pytest.raises(ValueError, match=r"context must be in \[2, 4\]"):
        PredictionPreview(ENCODER, num_envs=1, context=1)
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        PredictionPreview(ENCODER, num_envs=0)
    predictor = PredictionPreview(ENCODER, num_envs=2)
    with pytest.raises(ValueError, match="environment 1 has no frame yet"):
        predictor.preview(env=1)
    with pytest.raises(ValueError, match="of 2 environments, got 3"):
        predictor.step_tokens(random_tokens(0, 3))
    with pytest.raises(ValueError, match=r"got 2 and \[1\]"):
        predictor.step_tokens(random_tokens(0, 2), np.array([True]))


def test_heat_goes_from_black_to_white():
    picture = heat_image(np.array([[0.0, 4.0], [8.0, 12.0]]), 4, 4)
    assert picture[::2, ::2].tolist() == [
        [[0, 0, 0], [255, 0, 0]],
        [[255, 255, 0], [255, 255, 255]],
    ]
    assert picture[1, 3].tolist() == [255, 0, 0]


def test_three_pictures_stand_side_by_side():
    camera = np.full((6, 8, 3), 7, dtype=np.uint8)
    expected = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(4, 4, 3)
    picture = side_by_side(camera, expected, np.full((2, 2), 99.0))
    assert picture.shape == (6, 24, 3)
    np.testing.assert_array_equal(picture[:, :8], camera)
    np.testing.assert_array_equal(picture[5, 15], expected[3, 3])
    assert (picture[:, 16:] == 255).all()
