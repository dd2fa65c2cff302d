"""Heads of probes: their results against the unabridged formulas, and that they learn."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from toto_robot.probing.heads import CrossAttentionHead, LayerHeads, build_head

KINDS = ("linear", "attention", "cross_attention", "low_rank")


def randomised(module):
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def test_attention_head_equals_attention_over_all_keys_and_values():
    head = randomised(build_head("attention", 24, 5))
    x = torch.randn(3, 11, 24, generator=torch.Generator().manual_seed(0))
    keys, values = head.pool.keys(x)[:, None], head.pool.values(x)[:, None]
    query = head.pool.query.expand(3, 1, -1, -1)
    pooled = scaled_dot_product_attention(query, keys, values)[:, 0, 0]
    torch.testing.assert_close(head(x), head.classifier(pooled))


def test_low_rank_head_equals_a_linear_layer_of_all_tokens():
    head = randomised(build_head("low_rank", 24, 5, 11))
    x = torch.randn(3, 11, 24, generator=torch.Generator().manual_seed(0))
    per_token = head.classifier.weight.unflatten(1, (11, 8))  # c n r
    matrix = torch.einsum("cnr,rd->cnd", per_token, head.projection.weight)
    expected = torch.einsum("bnd,cnd->bc", x, matrix) / 11**0.5 + head.classifier.bias
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


def test_cross_attention_head_equals_torch_multihead_attention():
    head = randomised(CrossAttentionHead(128, 5))
    x = torch.randn(3, 11, 128, generator=torch.Generator().manual_seed(0))
    assert head.num_heads == 2
    reference = nn.MultiheadAttention(128, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(
            torch.cat([head.queries.weight, head.keys.weight, head.values.weight])
        )
        reference.in_proj_bias.copy_(
            torch.cat([head.queries.bias, torch.zeros(128), head.values.bias])
        )
        reference.out_proj.load_state_dict(head.projection.state_dict())
        tokens = head.norm_tokens(x)
        query = head.norm_query(head.query).expand(3, 1, -1)
        attended = reference(query, tokens, tokens, need_weights=False)[0][:, 0]
        hidden = head.query + attended
        expected = head.classifier(hidden + head.mlp(head.norm_mlp(hidden)))
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_layers_are_independent_of_each_other(kind):
    heads = randomised(LayerHeads(kind, 3, 64, 4, num_tokens=7))
    x = torch.randn(6, 3, 7, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    heads.loss(x, labels).backward()
    together = [[p.grad.clone() for p in head.parameters()] for head in heads.layers]
    for i, head in enumerate(heads.layers):
        heads.zero_grad()
        cross_entropy(head(x[:, i]), labels).backward()
        for one, two in zip(together[i], head.parameters(), strict=True):
            torch.testing.assert_close(one, two.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_learns_classes_that_its_layer_separates_and_no_others(kind):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 2, 9, 64, generator=generator)
    directions = torch.randn(3, 64, generator=generator)
    features = noise.clone()
    features[:, 1] += directions[labels][:, None]
    heads = LayerHeads(kind, 2, 64, 3, num_tokens=9)
    heads.standardise(features.mean((0, 2)), features.std((0, 2)))
    optimizer = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        heads.loss(features[:30], labels[:30]).backward()
        optimizer.step()
    right = (heads(features[30:]).argmax(-1) == labels[30:]).float().mean(1)
    assert right[1] > 0.95
    assert right[0] < 0.7


def test_standardised_features_have_mean_zero_and_deviation_one():
    heads = LayerHeads("linear", 1, 4, 2)
    x = torch.randn(50, 1, 3, 4) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 5
    heads.standardise(x.mean((0, 2)), x.std((0, 2), unbiased=False))
    scaled = (x - heads.mean) * heads.scale
    assert scaled.mean((0, 1, 2)).abs().max() < 1e-3
    torch.testing.assert_close(
        scaled.std((0, 1, 2), unbiased=False), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=0
    )


def test_an_impossible_width_is_named():
    with pytest.raises(ValueError, match=r"3 heads .* width 193"):
        CrossAttentionHead(193, 2)
