"""Causal attention in bfloat16, computed in blocks on a CPU, against float32."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from toto_robot.models.attention import BLOCK, causal_attention


@pytest.mark.parametrize("num_tokens", [1, BLOCK, 2 * BLOCK + 1])
def test_blocks_in_bfloat16_are_near_float32_with_their_gradients(num_tokens):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_tokens, 3, 16)  # b t h k
    tensors = [torch.randn(shape, generator=generator).bfloat16() for _ in range(4)]
    results = []
    for attention, dtype in (
        (causal_attention, torch.bfloat16),
        (lambda *qkv: scaled_dot_product_attention(*qkv, is_causal=True), torch.float32),
    ):
        q, k, v, weight = (tensor.to(dtype).transpose(1, 2) for tensor in tensors)
        leaves = [one.detach().requires_grad_() for one in (q, k, v)]
        out = attention(*leaves)
        assert out.dtype == dtype
        out.backward(weight)
        results.append([out.detach().float(), *(leaf.grad.float() for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 0.01 * expected.norm() + 1e-6


def test_in_bfloat16_a_token_changes_no_output_before_it():
    q, k, v = torch.randn(3, 1, 2, BLOCK + 40, 8).bfloat16()
    before = causal_attention(q, k, v)
    k[:, :, BLOCK + 7] += 3
    v[:, :, BLOCK + 7] -= 3
    after = causal_attention(q, k, v)
    assert torch.equal(before[:, :, : BLOCK + 7], after[:, :, : BLOCK + 7])
    assert not torch.equal(before[:, :, BLOCK + 7 :], after[:, :, BLOCK + 7 :])
