import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toto_robot.encoders.encoder import Encoder
from toto_robot.encoders.pooling import normalise
from toto_robot.models import TotoConfig
from toto_robot.tokenizers import LightConfig, LightDVae

TOKENS, FRAMES = 4, 6
SMALL = LightConfig(
    image_size=16, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
    decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
)  # fmt: skip


class Tokenizer(LightDVae):
    """Four tokens of a small image, out of 32 codes."""

    def encode(self, frames):
        return super().encode(frames) % 32


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
    encoder = Encoder(Tokenizer(SMALL), transformer, layer, "mean", frame_interval_s=0.1)
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
        (features,) = stream.token_features(ids[step], np.array(resets[step]))
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
        (features,) = stream.token_features(ids[step])
        expected = fresh(SHALLOW, ids[max(0, step - FRAMES + 1) : step + 1, 0])
        torch.testing.assert_close(features[0], expected, atol=2e-5, rtol=0)


def test_rolling_drifts_from_a_fresh_pass_and_staggered_does_not():
    ids = random_tokens(2, 20, 1)
    off = {}
    for mode in ("rolling", "staggered"):
        stream = DEEP.stream(1, mode=mode)
        for step in range(19):
            stream.token_features(ids[step])
        features = stream.token_features(ids[19])[0][0]
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
        (features,), (features_late,) = (one.token_features(ids[step]) for one in (stream, late))
    torch.testing.assert_close(features, features_late, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_reset_of_one_changes_no_other(mode):
    ids = random_tokens(4, 15, 2)
    with_reset, without = DEEP.stream(2, mode=mode), DEEP.stream(2, mode=mode)
    for step in range(15):
        (one,) = with_reset.token_features(ids[step], np.array([step == 7, False]))
        (other,) = without.token_features(ids[step])
        torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=0)
        if step < 7:
            torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=0)
    assert (one[0] - other[0]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["rolling", "staggered"])
def test_only_every_frame_skip_th_frame_is_remembered(mode):
    skip, ids = 3, random_tokens(5, 14, 1)
    stream = DEEP.stream(1, mode=mode, frame_skip=skip)
    for step in range(14):
        (features,) = stream.token_features(ids[step])
        past = list(range(0, step, skip))
        if len(past) < FRAMES:
            expected = fresh(DEEP, ids[[*past, step], 0])
            torch.testing.assert_close(features[0], expected, atol=2e-5, rtol=0)


@given(st.integers(0, 99), st.data(), st.sampled_from(["rolling", "staggered"]))
@settings(max_examples=12)
def test_environments_that_step_apart_see_what_they_see_in_step(seed, data, mode):
    """Whatever subset steps when, each environment's features depend on its own frames alone."""
    num_envs, num_frames = 3, 9
    ids = random_tokens(seed, num_frames, num_envs)
    together = DEEP.stream(num_envs, mode=mode, surprise=True)
    expected = [together.token_features(ids[step])[0] for step in range(num_frames)]
    apart = DEEP.stream(num_envs, mode=mode, surprise=True)
    shown = [0] * num_envs
    while min(shown) < num_frames:
        waiting = [env for env in range(num_envs) if shown[env] < num_frames]
        envs = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        batch = torch.stack([ids[shown[env], env] for env in envs])
        (features,) = apart.token_features(batch, None, envs)
        for row, env in enumerate(envs):
            torch.testing.assert_close(features[row], expected[shown[env]][env], atol=2e-5, rtol=0)
            shown[env] += 1
    torch.testing.assert_close(apart.surprise, together.surprise, atol=1e-4, rtol=1e-4)
    assert apart.frames_shown.tolist() == [num_frames] * num_envs


def test_any_layers_come_in_one_pass_beside_the_embedding():
    ids = random_tokens(7, 3, 1)
    several, own = DEEP.stream(1, layers=(0, -1, 2)), DEEP.stream(1)
    assert several.layers == (0, 4, 2)
    for step in range(3):
        features = several.token_features(ids[step])
        own.token_features(ids[step])
    start = torch.tensor([[DEEP.transformer.config.start_video]])
    everything = torch.cat([start, ids.flatten()[None]], dim=1)
    for layer, found in zip(
        several.layers, DEEP.transformer.features(everything, several.layers), strict=True
    ):
        expected = normalise(found[:, -TOKENS:])
        torch.testing.assert_close(
            features[several.layers.index(layer)], expected, atol=2e-5, rtol=0
        )
    torch.testing.assert_close(several.step_tokens(ids[0]), own.step_tokens(ids[0]))


def test_clip_is_what_a_stream_gives_frame_by_frame():
    ids = random_tokens(8, FRAMES, 2)
    stream = DEEP.stream(2)
    expected = torch.stack([stream.token_features(one)[0] for one in ids], dim=1)
    (features,) = DEEP.clip_features(ids.transpose(0, 1), (DEEP.layer,))
    torch.testing.assert_close(features, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.2), (torch.float16, 0.02)]
)
def test_stream_equals_one_pass_in_other_precisions(dtype, tolerance):
    encoder = make_encoder(3).to(dtype)
    ids = random_tokens(9, FRAMES, 2)
    (expected,) = encoder.clip_features(ids.transpose(0, 1), (encoder.layer,))
    assert expected.abs().max() > 1
    for mode in ("rolling", "staggered"):
        stream = encoder.stream(2, mode=mode)
        for step in range(FRAMES):
            (features,) = stream.token_features(ids[step])
            torch.testing.assert_close(features, expected[:, step], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("camera_hz", "frame_skip"), [(10.0, 1), (30.0, 3), (30.0, 4), (7.0, 1)])
def test_camera_rate_that_fits_says_nothing(camera_hz, frame_skip):
    DEEP.stream(1, camera_hz=camera_hz, frame_skip=frame_skip)


@pytest.mark.parametrize(
    ("camera_hz", "frame_skip", "advice"),
    [(30.0, 1, "frame_skip=3 comes"), (10.0, 4, "frame_skip=1 comes"), (2.0, 1, "no frame_skip")],
)
def test_camera_rate_that_does_not_fit_is_warned_of(camera_hz, frame_skip, advice):
    with pytest.warns(UserWarning, match=advice):
        DEEP.stream(1, camera_hz=camera_hz, frame_skip=frame_skip)


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
            stream.token_features(ids[step])[0][0], fresh(DEEP, ids[step]), atol=2e-5, rtol=0
        )


def test_stream_gives_the_costs_of_one_pass():
    ids = random_tokens(0, 4, 2)
    stream = DEEP.stream(2, surprise=True)
    model = DEEP.transformer
    for step in range(4):
        (features,) = stream.token_features(ids[step])
        start = torch.full((2, 1), model.config.start_video)
        everything = torch.cat([start, ids[: step + 1].transpose(0, 1).flatten(1)], dim=1)
        logits = model(everything[:, :-1]).log_softmax(dim=-1)
        costs = -logits.gather(2, everything[:, 1:, None])[..., 0][:, -3:]
        torch.testing.assert_close(stream.surprise[:, 1:], costs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(stream.surprise[:, 0], costs.mean(dim=1), atol=1e-4, rtol=1e-4)
    without = DEEP.stream(2)
    for step in range(4):
        (same,) = without.token_features(ids[step])
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
        ({"num_envs": 1, "layers": (9,)}, "layer 9 does not exist"),
        ({"num_envs": 1, "camera_hz": 0.0}, "camera_hz must be positive"),
    ],
)
def test_impossible_stream_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DEEP.stream(**arguments)


@pytest.mark.parametrize(
    ("num_frames", "reset", "envs", "message"),
    [
        (3, None, None, "of 2 environments, got 3"),
        (2, None, [1], "for each of 1 environments, got 2"),
        (2, None, [1, 1], r"different numbers in \[0, 2\), got \[1, 1\]"),
        (1, None, [2], r"\[0, 2\), got \[2\]"),
        (2, np.array([1, 0]), None, "bool"),
        (2, np.array([True]), None, r"bool \[2\]"),
    ],
)
def test_wrong_step_is_named(num_frames, reset, envs, message):
    stream = DEEP.stream(2)
    with pytest.raises(ValueError, match=message):
        stream.step_tokens(random_tokens(0, num_frames), reset, envs)
    assert stream.frames_shown.tolist() == [0, 0]
