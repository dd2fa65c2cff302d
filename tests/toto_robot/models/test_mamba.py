"""Mamba: causality, an independent implementation, its gradient, its state, its encoder."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot import Encoder, load_encoder, save_encoder
from toto_robot.generation.sampling import generate_frames
from toto_robot.models import MambaConfig, mamba
from toto_robot.models.mamba import selective_scan
from toto_robot.models.mup import parameter_groups
from toto_robot.tokenizers import LightConfig

TINY = dict(
    codes=50,
    dim=32,
    layers=3,
    state=4,
    expand=2,
    convolution=4,
    tokens_per_frame=16,
    frames=4,
    norm_eps=1e-5,
)


def tiny(**changes):
    torch.manual_seed(0)
    model = MambaConfig(**(TINY | changes)).build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def arguments(length=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    steps = draw(2, length, 3).exp() / 5
    return [draw(2, length, 3), steps, -draw(3, 4).exp(), draw(2, length, 4), draw(2, length, 4)]


def plain_scan(u, steps, rates, b, c):
    state, outputs = u.new_zeros(2, 3, 4), []
    for t in range(u.shape[1]):
        kept = (steps[:, t, :, None] * rates).exp()
        state = kept * state + (steps * u)[:, t, :, None] * b[:, t, None]
        outputs.append((state * c[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1), state


def mamba_config(config):
    """Return the arguments of Hugging Face's ``MambaConfig`` for the same architecture."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "state_size": config.state,
        "num_hidden_layers": config.layers,
        "layer_norm_epsilon": config.norm_eps,
        "expand": config.expand,
        "conv_kernel": config.convolution,
        "time_step_rank": config.step_rank,
        "tie_word_embeddings": True,
    }


def mamba_state_dict(model):
    """Return the weights under the names of Hugging Face's ``MambaForCausalLM``."""
    names = {"embed_tokens.weight": "embeddings.weight", "norm.weight": "norm_f.weight"}
    return {
        f"backbone.{names.get(name, name)}": tensor for name, tensor in model.state_dict().items()
    }


def test_the_scan_and_its_gradient_are_those_of_the_plain_recurrence(monkeypatch):
    monkeypatch.setattr(mamba, "CHUNK", 4)  # 9 tokens: two whole chunks and one of a single token
    ours = [one.requires_grad_() for one in arguments()]
    theirs = [one.detach().clone().requires_grad_() for one in ours]
    y, state = selective_scan(*ours)
    expected, expected_state = plain_scan(*theirs)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state, expected_state)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_work_for_the_gradient_is_linear_in_the_length():
    """Operations are counted, not timed: twice the length, twice the calls, no more."""

    def calls(length):
        ours = [one.requires_grad_() for one in arguments(length)]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            selective_scan(*ours)[0].sum().backward()
        return sum(event.count for event in profile.key_averages())

    assert calls(256) < 2.1 * calls(128)


@given(changed=st.integers(0, 32), new=st.integers(0, 52))
def test_a_token_changes_no_output_before_it(changed, new):
    model = tiny()
    ids = torch.arange(33)[None] % 50
    other = ids.clone()
    other[0, changed] = new
    with torch.no_grad():
        before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed], atol=1e-6, rtol=0)
    if new != ids[0, changed]:
        assert not torch.equal(before[:, changed:], after[:, changed:])


def test_hidden_states_logits_and_loss_equal_those_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    model = tiny()
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**mamba_config(model.config)))
    theirs.eval()
    missing, unexpected = theirs.load_state_dict(mamba_state_dict(model), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied: it is the embedding
    ids = torch.randint(0, 53, (2, 34), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids, labels=ids, output_hidden_states=True)
        ours = model.features(ids, (1, 2))  # theirs begin after the first block
        for mine, other in zip(ours, expected.hidden_states, strict=False):
            torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model(ids), expected.logits, atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(model.loss(ids), expected.loss, atol=1e-5, rtol=1e-5)


@given(cut=st.integers(1, 29), second=st.integers(0, 10))
def test_steps_with_a_state_equal_one_pass(cut, second):
    model = tiny()
    ids = torch.arange(30)[None] % 50
    pieces = [
        p for p in (ids[:, :cut], ids[:, cut : cut + second], ids[:, cut + second :]) if p.shape[1]
    ]
    state = model.new_memory(30)
    with torch.no_grad():
        stepped = torch.cat([model(piece, state) for piece in pieces], dim=1)
        torch.testing.assert_close(stepped, model(ids), atol=1e-5, rtol=1e-4)


def test_a_fresh_model_guesses_uniformly_and_has_the_authors_rates():
    torch.manual_seed(0)
    model = MambaConfig(**TINY).build()
    ids = torch.randint(0, 50, (4, 34), generator=torch.Generator().manual_seed(0))
    assert model.loss(ids).item() == pytest.approx(torch.tensor(53.0).log().item(), abs=0.05)
    mixer = model.layers[0].mixer
    torch.testing.assert_close(mixer.A_log.exp()[5], torch.arange(1.0, 5.0))
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 1e-3 * 0.99 <= steps.min() <= steps.max() <= 0.1 * 1.01


def test_rates_do_not_decay():
    model = tiny()
    kept = {
        id(p) for g in parameter_groups(model, 0.1) if not g["weight_decay"] for p in g["params"]
    }
    assert id(model.layers[0].mixer.A_log) in kept
    assert id(model.layers[0].mixer.in_proj.weight) not in kept


def test_frames_are_generated_past_the_window():
    past = torch.zeros(1, 1, 16, dtype=torch.int64)
    frames = generate_frames(tiny(), past, 5)
    assert frames.shape == (1, 5, 16)


def test_the_kernel_is_asked_in_its_own_layout(monkeypatch):
    """The kernel needs CUDA: a stand-in with its signature takes its place."""
    import sys
    from types import ModuleType

    def stand_in(u, delta, A, B, C):
        u, delta, B, C = (one.transpose(1, 2) for one in (u, delta, B, C))
        return selective_scan(u, delta, A, B, C)[0].transpose(1, 2)

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = stand_in
    monkeypatch.setitem(sys.modules, "mamba_ssm", ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    given = arguments()
    torch.testing.assert_close(mamba._kernel_scan(*given), selective_scan(*given)[0])


def encoder_of(model, tmp_path):
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=32,
        levels=(5, 5, 2),
        widths=(8, 8),
        blocks=(1, 1),
        decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    ).build()
    save_encoder(tmp_path / "mamba", tokenizer, model, layer=2, pool="mean")
    return load_encoder(tmp_path / "mamba")


def test_its_encoder_is_saved_and_opened(tmp_path):
    encoder = encoder_of(tiny(), tmp_path)
    assert isinstance(encoder, Encoder)
    assert encoder(np.zeros((2, 40, 40, 3), np.uint8)).shape == (2, 32)


def test_its_stream_is_a_pass_over_the_last_frames(tmp_path):
    encoder = encoder_of(tiny(), tmp_path)
    assert isinstance(encoder, Encoder)
    tokens = torch.randint(0, 50, (2, 9, 16), generator=torch.Generator().manual_seed(0))
    stream = encoder.stream(2, mode="staggered")  # 4 frames: two memories, 2 frames apart
    # the second environment begins again at frame 3
    begins = [0, 3]
    for t in range(9):
        reset = np.array([t == 0, t in (0, 3)])
        found = stream.step_tokens(tokens[:, t], reset)
        for env in range(2):
            first = begins[env] if t >= begins[env] else 0
            past = t - first
            # frames in the reader: those since the last drop of the older memory
            seen = past if past < 4 else past % 2 + 2
            clip = tokens[env : env + 1, t - seen : t + 1]
            (features,) = encoder.clip_features(clip, (encoder.layer,))
            expected = encoder.pooling(features[:, -1])[0]
            torch.testing.assert_close(found[env], expected, atol=1e-5, rtol=1e-4)


def test_a_frame_that_is_not_remembered_leaves_no_trace(tmp_path):
    encoder = encoder_of(tiny(), tmp_path)
    assert isinstance(encoder, Encoder)
    tokens = torch.randint(0, 50, (1, 4, 16), generator=torch.Generator().manual_seed(0))
    stream = encoder.stream(1, mode="staggered", frame_skip=2)
    for t in range(4):
        found = stream.step_tokens(tokens[:, t], np.array([t == 0]))
    clip = tokens[:, [0, 2, 3]]  # frame 1 was shown and not remembered
    (features,) = encoder.clip_features(clip, (encoder.layer,))
    torch.testing.assert_close(found, encoder.pooling(features[:, -1]), atol=1e-5, rtol=1e-4)


def test_a_rolling_window_is_refused(tmp_path):
    encoder = encoder_of(tiny(), tmp_path)
    assert isinstance(encoder, Encoder)
    with pytest.raises(ValueError, match="cannot drop its oldest frame: use mode='staggered'"):
        encoder.stream(1)
