import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toto_robot.encoder import Encoder
from toto_robot.models import TotoConfig
from toto_robot.pooling import normalise

TOKENS, FRAMES = 4, 6


class Tokenizer(torch.nn.Module):
    """Four quadrants of a tiny picture, as codes."""

    class Config:
        pass

    config, image_size, tokens_per_frame, vocab_size = Config(), 2, TOKENS, 32

    def encode(self, frames):
        return (frames[:, :, :, 0].flatten(1) % 32).long()


def make_encoder(layer):
    torch.manual_seed(0)
    config = TotoConfig(
        codes=32, dim=16, layers=4, heads=2, mlp_hidden=32, tie_embeddings=True,
        tokens_per_frame=TOKENS, frames=FRAMES, rope_base=10000.0, norm_eps=1e-5,
    )  # fmt: skip
    transformer = config.build()
    with torch.no_grad():  # so that positions and contexts matter
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    encoder = Encoder.__new__(Encoder)
    torch.nn.Module.__init__(encoder)
    encoder.layer, encoder.tokens_per_frame = layer, TOKENS
    encoder.tokenizer, encoder.transformer = Tokenizer(), transformer
    encoder.pooling = torch.nn.Flatten()
    return encoder.requires_grad_(False)


DEEP, SHALLOW = make_encoder(3), make_encoder(1)


def fresh(encoder, frames):
    """Features of the last frame after one pass over the start token and some frames [t n]."""
    start = torch.tensor([[encoder.transformer.config.start_video]])
    ids = torch.cat([start, frames.reshape(1, -1)], dim=1)
    (features,) = encoder.transformer.features(ids, (encoder.layer,))
    return normalise(features[:, -TOKENS:])[0]


def random_tokens(seed, *shape):
    return torch.randint(0, 32, (*shape, TOKENS), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.data(), st.sampled_from(["rolling", "staggered"]))
@settings(max_examples=25, deadline=None)
def test_stream_equals_a_pass_over_the_episode_until_the_window_is_full(seed, data, mode):
    num_envs, num_steps = 3, 14
    ids = random_tokens(seed, num_steps, num_envs)
    resets = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=num_envs, max_size=num_envs),
            min_size=num_steps,
            max_size=num_steps,
        )
    )
    stream = DEEP.stream(num_envs, mode=mode)
    begin = [0] * num_envs
    for step in range(num_steps):
        features = stream.token_features(ids[step], np.array(resets[step]))
        for env in range(num_envs):
            if resets[step][env]:
                begin[env] = step
            length = step - begin[env] + 1
            if length <= FRAMES or mode == "staggered":
                # staggered: what was dropped is a multiple of half a window
                half = FRAMES // 2
                dropped = 0 if length <= FRAMES else -(-(length - FRAMES) // half) * half
                expected = fresh(DEEP, ids[begin[env] + dropped : step + 1, env])
                torch.testing.assert_close(features[env], expected, atol=2e-5, rtol=0)


def test_rolling_is_exact_where_keys_have_seen_no_other_frame():
    ids = random_tokens(1, 40, 1)
    stream = SHALLOW.stream(1)
    for step in range(40):
        features = stream.token_features(ids[step])
        expected = fresh(SHALLOW, ids[max(0, step - FRAMES + 1) : step + 1, 0])
        torch.testing.assert_close(features[0], expected, atol=2e-5, rtol=0)


def test_rolling_drifts_from_a_fresh_pass_and_staggered_does_not():
    ids = random_tokens(2, 20, 1)
    off = {}
    for mode in ("rolling", "staggered"):
        stream = DEEP.stream(1, mode=mode)
        for step in range(19):
            stream.token_features(ids[step])
        features = stream.token_features(ids[19])[0]
        nearest = min(
            float((features - fresh(DEEP, ids[20 - length :, 0])).abs().max())
            for length in range(1, FRAMES + 1)
        )
        off[mode] = nearest
    assert off["staggered"] < 2e-5
    assert off["rolling"] > 1e-3


def test_position_in_a_long_stream_does_not_matter():
    """The same window gives the same features after a hundred thousand frames."""
    ids = random_tokens(3, FRAMES + 2, 1)
    stream = SHALLOW.stream(1)
    late = SHALLOW.stream(1)
    late._shown[:] = 100_000 * (FRAMES - 1)
    for step in range(FRAMES + 2):
        features, features_late = stream.token_features(ids[step]), late.token_features(ids[step])
    torch.testing.assert_close(features, features_late, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_reset_of_one_changes_no_other(mode):
    ids = random_tokens(4, 15, 2)
    with_reset, without = DEEP.stream(2, mode=mode), DEEP.stream(2, mode=mode)
    for step in range(15):
        one = with_reset.token_features(ids[step], np.array([step == 7, False]))
        other = without.token_features(ids[step])
        torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=0)
        if step < 7:
            torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=0)
    assert (one[0] - other[0]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_only_every_frame_skip_th_frame_is_remembered(mode):
    skip, ids = 3, random_tokens(5, 14, 1)
    stream = DEEP.stream(1, mode=mode, frame_skip=skip)
    for step in range(14):
        features = stream.token_features(ids[step])
        past = list(range(0, step, skip))
        if len(past) < FRAMES:
            expected = fresh(DEEP, ids[[*past, step], 0])
            torch.testing.assert_close(features[0], expected, atol=2e-5, rtol=0)


def test_pictures_go_through_the_tokenizer_once():
    stream = DEEP.stream(2)
    frames = np.random.default_rng(0).integers(0, 32, (2, 2, 2, 3), dtype=np.uint8)
    embedding = stream.step(frames, np.array([True, True]))
    assert embedding.shape == (2, TOKENS * 16)
    again = DEEP.stream(2).step_tokens(DEEP.tokenizer.encode(torch.from_numpy(frames)))
    torch.testing.assert_close(embedding, again)
    assert stream.frames_shown.tolist() == [1, 1]


def test_context_of_one_frame_is_the_encoder_itself():
    ids = random_tokens(6, 5, 1)
    stream = DEEP.stream(1, context=1)
    for step in range(5):
        torch.testing.assert_close(
            stream.token_features(ids[step])[0], fresh(DEEP, ids[step]), atol=2e-5, rtol=0
        )


def test_stream_gives_the_costs_of_one_pass():
    ids = random_tokens(0, 4, 2)
    stream = DEEP.stream(2, surprise=True)
    model = DEEP.transformer
    for step in range(4):
        features = stream.token_features(ids[step])
        start = torch.full((2, 1), model.config.start_video)
        everything = torch.cat([start, ids[: step + 1].transpose(0, 1).flatten(1)], dim=1)
        logits = model(everything[:, :-1]).log_softmax(dim=-1)
        costs = -logits.gather(2, everything[:, 1:, None])[..., 0][:, -3:]
        torch.testing.assert_close(stream.surprise[:, 1:], costs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(stream.surprise[:, 0], costs.mean(dim=1), atol=1e-4, rtol=1e-4)
    without = DEEP.stream(2)
    for step in range(4):
        same = without.token_features(ids[step])
    torch.testing.assert_close(features, same)
    with pytest.raises(ValueError, match="surprise=True"):
        _ = without.surprise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 1, "context": 7}, r"\[1, 6\]"),
        ({"num_envs": 1, "context": 0}, r"\[1, 6\]"),
        ({"num_envs": 1, "context": 5, "mode": "staggered"}, "even"),
        ({"num_envs": 1, "mode": "forever"}, "known: rolling, staggered"),
        ({"num_envs": 1, "frame_skip": 0}, "frame_skip"),
    ],
)
def test_impossible_stream_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DEEP.stream(**arguments)


@pytest.mark.parametrize(
    ("num_frames", "reset", "message"),
    [
        (3, None, "of 2 environments, got 3"),
        (2, np.array([1, 0]), "bool"),
        (2, np.array([True]), r"bool \[2\]"),
    ],
)
def test_wrong_step_is_named(num_frames, reset, message):
    with pytest.raises(ValueError, match=message):
        DEEP.stream(2).step_tokens(random_tokens(0, num_frames), reset)
