"""Generation: the same tokens as without a cache, sampling as asked, and its refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toto_robot.generation.sampling import (
    GREEDY,
    Sampling,
    choose,
    continue_frames,
    generate_frames,
    load_predictor,
    preview_frame,
)
from toto_robot.models import Gpt2Config, MambaConfig, TotoConfig

TOKENS, FRAMES, CODES = 4, 5, 24


LAYOUT = {"codes": CODES, "tokens_per_frame": TOKENS, "frames": FRAMES}
LLAMA = TotoConfig(
    **LAYOUT, dim=16, layers=2, heads=2, mlp_hidden=16, tie_embeddings=True,
    rope_base=10000.0, norm_eps=1e-5,
)  # fmt: skip
OTHERS = (
    Gpt2Config(**LAYOUT, dim=16, layers=2, heads=2, mlp_hidden=16, norm_eps=1e-5),
    MambaConfig(**LAYOUT, dim=16, layers=2, state=4, expand=2, convolution=4, norm_eps=1e-5),
)


def make_model(config=LLAMA):
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():  # so that contexts matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10.0)
    return model.double().requires_grad_(False)


MODEL = make_model()


def random_frames(seed, batch, count):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CODES, (batch, count, TOKENS), generator=generator)


def last_logits(frames, tokens, model=MODEL):
    """Logits after the start token, frames [b t n] and tokens [b k], from one pass over all."""
    start = torch.full((len(tokens), 1), model.config.start_video)
    return model(torch.cat([start, frames.flatten(1), tokens], dim=1))[:, -1, :CODES]


def naive(past, num_frames, window, sampling=GREEDY, seed=0, model=MODEL):
    generator = torch.Generator().manual_seed(seed)
    frames, predicted = past[:, max(0, past.shape[1] - window + 1) :], []
    for _ in range(num_frames):
        if frames.shape[1] == window:
            frames = frames[:, window - window // 2 :]
        tokens = past.new_zeros(len(past), 0)
        chance = torch.rand(len(past), TOKENS, generator=generator)
        for place in range(TOKENS):
            chosen = choose(last_logits(frames, tokens, model), sampling, chance[:, place])
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        frames = torch.cat([frames, tokens[:, None]], dim=1)
        predicted.append(tokens)
    return torch.stack(predicted, dim=1)


@settings(max_examples=10)
@given(st.integers(0, 99), st.integers(0, 7), st.integers(1, FRAMES))
def test_greedy_equals_a_full_pass_for_every_token(seed, num_past, window):
    past = random_frames(seed, 2, num_past)
    if window == 1:
        past = past[:, :0]
    found = generate_frames(MODEL, past, 7, window=window)
    assert torch.equal(found, naive(past, 7, window))


def test_sampled_equals_a_full_pass_for_every_token_with_the_same_chance():
    past, sampling = random_frames(0, 3, 2), Sampling(temperature=1.3, top_k=9, top_p=0.8)
    generator = torch.Generator().manual_seed(5)
    found = generate_frames(MODEL, past, 6, sampling=sampling, generator=generator)
    assert torch.equal(found, naive(past, 6, FRAMES, sampling, seed=5))
    assert not torch.equal(found, naive(past, 6, FRAMES, sampling, seed=6))


@pytest.mark.parametrize(("config", "count"), [(LLAMA, 64), *((other, 10) for other in OTHERS)])
def test_frames_slide_through_the_window_of_every_kind(config, count):
    model, past = make_model(config), random_frames(1, 1, FRAMES + 2)
    found = generate_frames(model, past, count)
    assert torch.equal(found, naive(past, count, FRAMES, model=model))
    assert len(found.unique()) > 1


def test_frames_come_as_they_are_made():
    past = random_frames(2, 1, 2)
    frames = continue_frames(MODEL, past, 64)
    first = [next(frames), next(frames)]
    assert torch.equal(torch.stack(first, dim=1), generate_frames(MODEL, past, 2))


def test_a_window_of_one_frame_has_no_past():
    one, other = (generate_frames(MODEL, random_frames(s, 1, 3), 2, window=1) for s in (0, 1))
    assert torch.equal(one, other)


def test_preview_reads_the_last_frame_as_if_it_were_the_next():
    past = random_frames(3, 2, 3)
    expected = [last_logits(past, past[:, -1, :place]).argmax(dim=-1) for place in range(TOKENS)]
    assert torch.equal(preview_frame(MODEL, past), torch.stack(expected, dim=1))
    newest = last_logits(past[:, -1:], past[:, -1, :2]).argmax(dim=-1)
    assert torch.equal(preview_frame(MODEL, past, window=2)[:, 2], newest)


def test_only_codes_of_pictures_come_out():
    sampling = Sampling(temperature=50.0)
    found = generate_frames(MODEL, random_frames(0, 40, 1), 2, sampling=sampling)
    assert int(found.max()) == CODES - 1
    assert len(found.unique()) == CODES


def draws(logits, sampling, count=4000):
    chance = torch.linspace(0, 1, count + 1, dtype=torch.float64)[:-1]
    tokens = choose(torch.tensor(logits).expand(count, -1), sampling, chance)
    return np.bincount(tokens.numpy(), minlength=len(logits)) / count


def test_sampling_follows_the_distribution():
    shares = np.array([0.1, 0.4, 0.2, 0.3])
    logits = np.log(shares).tolist()
    np.testing.assert_allclose(draws(logits, Sampling(temperature=1.0)), shares, atol=1e-3)
    sharper = shares**2 / (shares**2).sum()
    np.testing.assert_allclose(draws(logits, Sampling(temperature=0.5)), sharper, atol=1e-3)
    two = np.array([0, 4, 0, 3]) / 7
    np.testing.assert_allclose(draws(logits, Sampling(temperature=1.0, top_k=2)), two, atol=1e-3)
    # 0.4 + 0.3 is short of 0.75, so the third is possible, too
    three = np.array([0, 4, 2, 3]) / 9
    np.testing.assert_allclose(
        draws(logits, Sampling(temperature=1.0, top_p=0.75)), three, atol=1e-3
    )
    # of the two likeliest, the first has 4/7
    both = Sampling(temperature=1.0, top_k=2, top_p=0.5)
    np.testing.assert_allclose(draws(logits, both), [0, 1, 0, 0])


def test_the_likeliest_is_always_possible():
    logits = [0.0, 1.0, 3.0, 2.0]
    for sampling in (
        GREEDY,
        Sampling(temperature=2.0, top_k=1),
        Sampling(temperature=2.0, top_p=1e-9),
    ):
        np.testing.assert_allclose(draws(logits, sampling), [0, 0, 1, 0])


def test_the_greatest_chance_chooses_a_possible_token():
    sampling = Sampling(temperature=1.0, top_k=3)
    logits = torch.tensor([[0.0, 0.0, 0.0, -80.0, -80.0]])
    assert int(choose(logits, sampling, torch.tensor([1.0]))) < 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p must be"),
    ],
)
def test_no_way_to_sample_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**arguments)


def test_a_vision_transformer_predicts_nothing():
    with pytest.raises(ValueError, match="mae-nano is a VitEncoder; expected a Toto over discrete"):
        load_predictor("mae-nano", "cpu")


def test_wrong_pasts_and_windows_are_refused():
    past = random_frames(0, 1, 2)
    with pytest.raises(ValueError, match=r"window must be in \[1, 5\]"):
        generate_frames(MODEL, past, 1, window=6)
    with pytest.raises(ValueError, match="num_frames must be at least 1"):
        generate_frames(MODEL, past, 0)
    with pytest.raises(ValueError, match=r"must have shape \[b t 4\]"):
        generate_frames(MODEL, past[..., :3], 1)
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 24\)"):
        preview_frame(MODEL, past + CODES)
    with pytest.raises(ValueError, match="must have at least one frame"):
        preview_frame(MODEL, past[:, :0])
