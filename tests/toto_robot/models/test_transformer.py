"""The transformer: causality, early exit, rotary positions, cache, independent implementation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto_robot.models import TotoConfig, causal
from toto_robot.models.causal import linear_cross_entropy
from toto_robot.models.transformer import (
    KeyValueCache,
    llama_config,
    llama_state_dict,
    rope_angles,
    rotate,
)

TINY = dict(
    codes=50,
    dim=32,
    layers=4,
    heads=4,
    mlp_hidden=48,
    tie_embeddings=True,
    tokens_per_frame=16,
    frames=2,
    rope_base=10000.0,
    norm_eps=1e-5,
)

GOLDEN = [3.9601, 3.753, 3.6773, 3.5439, 3.3774, 3.2147, 3.0406, 2.8684, 2.6904, 2.5233]


def tiny(**changes):
    torch.manual_seed(0)
    return TotoConfig(**(TINY | changes)).build().eval()


@given(changed=st.integers(0, 33), new=st.integers(0, 52), tied=st.booleans())
def test_a_token_changes_no_output_before_it(changed, new, tied):
    model = tiny(tie_embeddings=tied)
    ids = torch.arange(34)[None] % 50
    other = ids.clone()
    other[0, changed] = new
    with torch.no_grad():
        before, after = model(ids), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    if new != ids[0, changed]:
        assert not torch.equal(before[:, changed:], after[:, changed:])


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_early_exit_equals_the_model_cut_there_and_runs_no_deeper_block(depth):
    model = tiny()
    ids = torch.arange(20)[None]
    ran = []
    for k, layer in enumerate(model.layers, start=1):
        layer.register_forward_hook(lambda *_, k=k: ran.append(k))
    with torch.no_grad():
        (early,) = model.features(ids, (depth,))
        assert ran == list(range(1, depth + 1))
        everything = model.features(ids, tuple(range(5)))
        model.layers = model.layers[:depth]
        (cut,) = model.features(ids, (depth,)) if depth else (model.embed_tokens(ids),)
    assert torch.equal(early, everything[depth])
    assert torch.equal(early, cut)


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"layer 5 does not exist; 0 \(embedding\) to 4"):
        tiny().features(torch.zeros(1, 3, dtype=torch.long), (5,))


@given(shift=st.integers(0, 3000), gap=st.integers(0, 500))
def test_rotary_scores_depend_on_the_distance_only(shift, gap):
    config = TotoConfig(**TINY)
    generator = torch.Generator().manual_seed(shift)
    q, k = torch.randn(2, 1, 1, 8, generator=generator, dtype=torch.float64)

    def score(position_q, position_k):
        rotated = [
            rotate(x, rope_angles(config, position, 1, torch.device("cpu")))
            for x, position in ((q, position_q), (k, position_k))
        ]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(score(gap, 0), score(gap + shift, shift), atol=5e-4, rtol=0)


@given(cut=st.integers(1, 29), second=st.integers(0, 10))
def test_cached_steps_equal_one_pass(cut, second):
    model = tiny()
    ids = torch.arange(30)[None] % 50
    pieces = [
        p for p in (ids[:, :cut], ids[:, cut : cut + second], ids[:, cut + second :]) if p.shape[1]
    ]
    cache = KeyValueCache()
    with torch.no_grad():
        stepped = torch.cat([model(piece, cache) for piece in pieces], dim=1)
        torch.testing.assert_close(stepped, model(ids), atol=1e-5, rtol=1e-5)


def test_hidden_states_equal_those_of_hugging_face_llama():
    transformers = pytest.importorskip("transformers")
    for tied in (True, False):
        model = tiny(tie_embeddings=tied)
        config = model.config
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama_config(config)))
        llama.eval()
        missing, unexpected = llama.load_state_dict(llama_state_dict(model), strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}  # tied: it is the embedding
        ids = torch.randint(
            0, config.vocab_size, (2, config.context), generator=torch.Generator().manual_seed(1)
        )
        with torch.no_grad():
            theirs = llama(ids, output_hidden_states=True)
            ours = model.features(ids, tuple(range(config.layers)))
            for mine, other in zip(ours, theirs.hidden_states, strict=False):
                torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(model(ids), theirs.logits, atol=2e-5, rtol=1e-4)


def test_special_tokens_do_not_collide_with_codes():
    config = TotoConfig(**TINY)
    specials = {config.start_video, config.end, config.start_image}
    assert len(specials) == 3
    assert min(specials) == config.codes
    assert max(specials) < config.vocab_size


def test_loss_of_a_fresh_model_is_that_of_a_uniform_guess():
    model = tiny()
    ids = torch.randint(0, 50, (4, 34), generator=torch.Generator().manual_seed(0))
    assert model.loss(ids).item() == pytest.approx(torch.tensor(53.0).log().item(), abs=0.05)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"dim must be a multiple of 2 \* heads = 8, got 36"):
        tiny(dim=36)
    with pytest.raises(ValueError, match="layers must be at least 1"):
        tiny(layers=0)


def test_the_first_ten_losses_are_golden():
    """A change that must not change numbers shows these; one that should, changes them here."""
    model = tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 50, (4, 34), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(10):
        loss = model.loss(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN, abs=2e-4)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_the_loss_in_chunks_and_its_gradients_are_those_of_whole_logits(rows, monkeypatch):
    monkeypatch.setattr(causal, "LOSS_ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator)
    weight = torch.randn(20, 8, generator=generator) * 5
    targets = torch.randint(0, 20, (10,), generator=generator)
    found, expected = [], []
    for results, loss in (
        (found, linear_cross_entropy),
        (expected, lambda h, w, t: torch.nn.functional.cross_entropy(h @ w.T, t)),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = loss(h, w, targets)
        (3 * value).backward()
        results += [value.detach(), h.grad, w.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), expected[0])
    # only what is asked for
    frozen = weight.clone().requires_grad_()
    linear_cross_entropy(hidden, frozen, targets).backward()
    torch.testing.assert_close(frozen.grad * 3, expected[2], atol=1e-5, rtol=1e-5)


def test_in_bfloat16_gradients_stay_in_float32_and_near():
    model = tiny()
    ids = torch.randint(0, 50, (4, 34), generator=torch.Generator().manual_seed(0))
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(ids)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert loss.dtype == gradients[-1].dtype == torch.float32
    exact, rounded = gradients
    assert (exact - rounded).norm() < 0.03 * exact.norm()
