"""Token embeddings that are computed from the digits of codes, and folded after training."""

import dataclasses

import pytest
import torch

from toto_robot.models import TotoConfig
from toto_robot.models.digits import fold_digits, use_digits
from toto_robot.tokenizers import LightConfig

LEVELS = (4, 3, 2)
MODEL = TotoConfig(
    codes=24, dim=16, layers=1, heads=2, mlp_hidden=24, tie_embeddings=True, tokens_per_frame=8,
    frames=2, rope_base=10000.0, norm_eps=1e-5,
)  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_folded_embeddings_equal_the_sums_and_have_the_names_of_a_plain_model(tied):
    torch.manual_seed(0)
    config = dataclasses.replace(MODEL, tie_embeddings=tied)
    model, plain = config.build(), config.build()
    plain.load_state_dict(model.state_dict())
    ids = torch.cat([torch.full((4, 1), config.start_video), torch.randint(0, 24, (4, 16))], dim=1)
    use_digits(model, LEVELS)
    torch.testing.assert_close(model.loss(ids), plain.loss(ids))  # digit vectors are zero at first
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.loss(ids)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        trained = model(ids)
    fold_digits(model)
    torch.testing.assert_close(model(ids).detach(), trained)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(model(ids), plain(ids))
    plain.load_state_dict(model.state_dict())


def test_codes_share_the_vectors_of_their_digits_and_special_tokens_have_none():
    model = MODEL.build()
    before = model.embed_tokens.weight.detach().clone()
    use_digits(model, LEVELS)
    tables = model.embed_tokens.parametrizations.weight[0].vectors
    with torch.no_grad():
        tables[1] = 1.0  # digit 1 of the first channel
        tables[4 + 2] = 10.0  # digit 2 of the second channel
    change = (model.embed_tokens.weight - before)[:, 0]
    expected = [(code % 4 == 1) * 1.0 + (code // 4 % 3 == 2) * 10.0 for code in range(24)]
    torch.testing.assert_close(change.detach(), torch.tensor([*expected, 0.0, 0.0, 0.0]))


def test_digits_are_those_of_the_tokenizer():
    """Images that differ in one digit of the quantiser differ in one digit here."""
    tokenizer = LightConfig(
        image_size=16, levels=LEVELS, widths=(8, 8), blocks=(1, 1), decoder_widths=(8, 8, 8),
        decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    digits = torch.tensor([[code % 4, code // 4 % 3, code // 12] for code in range(24)])
    basis = torch.tensor([1, 4, 12])
    assert torch.equal((digits * basis).sum(1), torch.arange(24))
    assert torch.equal(tokenizer.basis.flatten(), basis)
