"""GPT-2 with fixed positions: causality, an independent implementation, its cache, its encoder."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot import Encoder, load_encoder, save_encoder
from toto_robot.generation.sampling import generate_frames
from toto_robot.models import Gpt2Config
from toto_robot.models.gpt2 import sine_positions
from toto_robot.tokenizers import LightConfig

TINY = dict(
    codes=50,
    dim=32,
    layers=3,
    heads=4,
    mlp_hidden=48,
    tokens_per_frame=16,
    frames=2,
    norm_eps=1e-5,
)


def tiny(**changes):
    torch.manual_seed(0)
    model = Gpt2Config(**(TINY | changes)).build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)  # biases too
    return model


def gpt2_config(config):
    """Return the arguments of Hugging Face's ``GPT2Config`` for the same architecture."""
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_hidden,
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def gpt2_state_dict(model):
    """Return the weights under the names of Hugging Face's ``GPT2LMHeadModel``.

    In that class, the positions are learned weights. They are set to the sines of this model.
    """
    config, tokens = model.config, model.embed_tokens.weight
    names = {"embed_tokens.weight": "wte.weight", "norm.weight": "ln_f.weight"}
    names["norm.bias"] = "ln_f.bias"
    weights = {
        "transformer.wpe.weight": sine_positions(0, config.context, config.dim, tokens.device)
    }
    for name, tensor in model.state_dict().items():
        theirs = names.get(name, name.replace("layers.", "h.", 1))
        # Hugging Face stores these matrices transposed
        turned = tensor.T if tensor.ndim == 2 and name != "embed_tokens.weight" else tensor
        weights[f"transformer.{theirs}"] = turned.contiguous()
    return weights


@given(changed=st.integers(0, 32), new=st.integers(0, 52))
def test_a_token_changes_no_output_before_it(changed, new):
    model = tiny()
    ids = torch.arange(33)[None] % 50
    other = ids.clone()
    other[0, changed] = new
    with torch.no_grad():
        before, after = model(ids), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    if new != ids[0, changed]:
        assert not torch.equal(before[:, changed:], after[:, changed:])


def test_hidden_states_logits_and_loss_equal_those_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    model = tiny()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2_config(model.config)))
    theirs.eval()
    missing, unexpected = theirs.load_state_dict(gpt2_state_dict(model), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied: it is the embedding
    ids = torch.randint(0, 53, (2, 34), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids, labels=ids, output_hidden_states=True)
        ours = model.features(ids, (0, 1, 2))
        for mine, other in zip(ours, expected.hidden_states, strict=False):
            torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model(ids), expected.logits, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model.loss(ids), expected.loss, atol=1e-5, rtol=1e-5)


def test_positions_are_as_loud_as_fresh_tokens_and_all_differ():
    positions = sine_positions(0, 100, 32, torch.device("cpu"))
    assert positions.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-3)
    assert torch.cdist(positions, positions).fill_diagonal_(1.0).min() > 1e-3
    later = sine_positions(60, 40, 32, torch.device("cpu"))
    torch.testing.assert_close(later, positions[60:])


@given(cut=st.integers(1, 29), second=st.integers(0, 10))
def test_cached_steps_equal_one_pass(cut, second):
    model = tiny()
    ids = torch.arange(30)[None] % 50
    pieces = [
        p for p in (ids[:, :cut], ids[:, cut : cut + second], ids[:, cut + second :]) if p.shape[1]
    ]
    cache = model.new_memory(8)  # it grows
    with torch.no_grad():
        stepped = torch.cat([model(piece, cache) for piece in pieces], dim=1)
        torch.testing.assert_close(stepped, model(ids), atol=1e-5, rtol=1e-5)


def test_positions_that_were_never_trained_are_refused():
    with pytest.raises(ValueError, match="positions are absolute: there are 34, asked for 35"):
        tiny()(torch.zeros(1, 35, dtype=torch.int64))


def test_frames_are_generated_past_the_window():
    model = tiny()
    past = torch.zeros(1, 1, 16, dtype=torch.int64)
    frames = generate_frames(model, past, 3)
    assert frames.shape == (1, 3, 16)
    assert int(frames.max()) < 50


def test_its_encoder_is_saved_opened_and_has_no_stream(tmp_path):
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=32,
        levels=(5, 5, 2),
        widths=(8, 8),
        blocks=(1, 1),
        decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    ).build()
    save_encoder(tmp_path / "gpt2", tokenizer, tiny(), layer=2, pool="mean")
    encoder = load_encoder(tmp_path / "gpt2")
    assert isinstance(encoder, Encoder)
    assert encoder(np.zeros((2, 40, 40, 3), np.uint8)).shape == (2, 32)
    with pytest.raises(
        ValueError, match=r"rotary positions \(llama\) or a state \(mamba\), not gpt2"
    ):
        encoder.stream(1)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="a multiple of heads = 4, got 34"):
        tiny(dim=34)
