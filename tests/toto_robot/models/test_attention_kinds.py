"""Attention of fine-tuned models: causal, prefix and full, held against dense masks elsewhere."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.toto_robot.tiny import tiny_toto
from toto_robot import Encoder
from toto_robot.analyses.positions import token_losses
from toto_robot.generation.sampling import preview_frame
from toto_robot.models import TotoConfig
from toto_robot.models.transformer import llama_config, llama_state_dict

N = 4  # tokens of a frame
SIZES = dict(
    codes=50, dim=32, layers=3, heads=4, mlp_hidden=48, tie_embeddings=True, tokens_per_frame=N,
    frames=4, rope_base=10000.0, norm_eps=1e-5,
)  # fmt: skip


def model(**changes):
    torch.manual_seed(0)
    return TotoConfig(**SIZES, **changes).build().eval()


def elsewhere(one, ids, mask):
    """The hidden states of all layers of Hugging Face's Llama under a dense mask [b t t]."""
    llama = LlamaForCausalLM(LlamaConfig(**llama_config(one.config))).eval()
    llama.load_state_dict(llama_state_dict(one), strict=False)
    hidden = []
    hooks = [
        layer.register_forward_hook(
            lambda *call: hidden.append(call[2] if torch.is_tensor(call[2]) else call[2][0])
        )
        for layer in llama.model.layers
    ]
    bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    out = llama(ids, attention_mask=bias[:, None])
    for hook in hooks:
        hook.remove()
    return hidden, out.logits


def dense(attention, num_tokens):
    """The mask that the docstring of `TotoConfig.attention` describes, token by token."""
    frame = [0] + [p // N for p in range(num_tokens - 1)]  # the start token is in frame 0
    sees = {
        "causal": lambda q, k: k <= q,
        "full": lambda q, k: frame[k] <= frame[q],
        "prefix": lambda q, k: True,
    }[attention]
    return torch.tensor([[[sees(q, k) for k in range(num_tokens)] for q in range(num_tokens)]])


@pytest.mark.parametrize("attention", ["causal", "prefix", "full"])
@pytest.mark.parametrize("frames", [1, 3])
def test_features_equal_those_of_another_llama_under_a_dense_mask(attention, frames):
    one = model(attention=attention)
    ids = torch.randint(0, 50, (2, 1 + frames * N))
    with torch.no_grad():
        ours = one.features(ids, (1, 2, 3))
        theirs, _ = elsewhere(one, ids, dense(attention, ids.shape[1]))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)


def test_full_attention_of_a_video_sees_no_later_frame_and_all_of_its_own():
    one = model(attention="full")
    ids = torch.randint(0, 49, (1, 1 + 3 * N))
    changed = ids.clone()
    changed[0, 2 * N] = 49  # the last token of frame 2
    with torch.no_grad():
        before, after = (one.features(x, (3,))[0] for x in (ids, changed))
    moved = (before - after).abs().amax((0, 2)) > 1e-6
    assert not moved[: 1 + N].any()  # frame 1
    assert moved[1 + N :].all()  # frame 2, also before the changed token, and frame 3


@pytest.mark.parametrize("attention", ["causal", "prefix", "full"])
def test_the_next_token_loss_is_causal_whatever_the_attention(attention):
    ids = torch.randint(0, 50, (2, 2 + 2 * N))
    assert model(attention=attention).loss(ids).item() == model().loss(ids).item()


def test_a_prefix_attends_to_itself_and_only_later_tokens_are_predicted():
    one = model(attention="prefix")
    ids = torch.randint(0, 50, (3, 2 + 2 * N))
    prefix = torch.tensor([1, 4, 9])
    inputs, targets = ids[:, :-1], ids[:, 1:]
    t = inputs.shape[1]
    mask = torch.tensor(
        [[[k <= q or k < p for k in range(t)] for q in range(t)] for p in prefix.tolist()]
    )
    with torch.no_grad():
        _, logits = elsewhere(one, inputs, mask)
        nats = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
        kept = torch.cat([nats[row, p - 1 :] for row, p in enumerate(prefix.tolist())])
        assert one.loss(ids, prefix).item() == pytest.approx(kept.mean().item(), rel=1e-5)
    first = model().loss(ids).item()
    assert one.loss(ids, torch.ones(3, dtype=torch.int64)).item() == pytest.approx(first, rel=1e-6)


def test_what_needs_causal_attention_says_so_in_one_line():
    causal = tiny_toto(32)
    config = dataclasses.replace(causal.transformer.config, attention="full")
    encoder = Encoder(causal.tokenizer, config.build(), 1, "grid2")
    ids = torch.zeros(1, 3, 16, dtype=torch.int64)
    for use in (
        lambda: encoder.stream(1),
        lambda: preview_frame(encoder.transformer, ids),
        lambda: encoder.transformer.new_memory(9),
        lambda: token_losses(encoder.transformer, ids.flatten(1)),
    ):
        with pytest.raises(ValueError, match="needs causal attention, but this Toto was fine-tun"):
            use()
    encoder.transformer.load_state_dict(causal.transformer.state_dict())
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    full = Encoder(encoder.tokenizer, encoder.transformer, 1, "grid2")
    assert not torch.equal(full(frames), causal(frames))
    assert full.fingerprint != causal.fingerprint
