"""Toto inside a network of one's own: what is trained, what is not, and what is refused."""

import pytest
import torch

from toto_robot import TotoBackbone, load_encoder

ENCODER = load_encoder("toto-nano")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (2, 3, 40, 48), generator=GENERATOR, dtype=torch.uint8)


@pytest.mark.parametrize("trainable", [False, True])
def test_features_are_the_encoders_embeddings(trainable):
    backbone = TotoBackbone(ENCODER, trainable=trainable)
    expected = ENCODER(IMAGES.permute(0, 2, 3, 1).numpy())
    assert torch.allclose(backbone(IMAGES), expected, atol=1e-5)
    assert torch.allclose(backbone(IMAGES / 255), expected, atol=1e-5)
    assert backbone(IMAGES).shape == (2, backbone.dim)
    last = TotoBackbone(ENCODER, channels="last")
    assert torch.allclose(last(IMAGES.permute(0, 2, 3, 1)), expected, atol=1e-5)


def test_a_frozen_backbone_has_no_gradient():
    backbone = TotoBackbone(ENCODER)
    assert not backbone(IMAGES).requires_grad
    assert not any(weights.requires_grad for weights in backbone.parameters())


def test_fine_tuning_changes_the_features_and_not_the_encoder():
    before = ENCODER.weights_hash
    backbone = TotoBackbone(ENCODER, trainable=True)
    head = torch.nn.Linear(backbone.dim, 1)
    trained = [weights for weights in backbone.parameters() if weights.requires_grad]
    optimizer = torch.optim.Adam([*trained, *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = (head(backbone(IMAGES)) - torch.tensor([[1.0], [-1.0]])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(weights.grad is not None for weights in trained)
    changed = backbone(IMAGES) - ENCODER(IMAGES.permute(0, 2, 3, 1).numpy())
    assert changed.abs().max() > 1e-3
    assert ENCODER.weights_hash == before
    unused = backbone.transformer.layers[ENCODER.layer :]
    assert not any(weights.requires_grad for block in unused for weights in block.parameters())


def test_other_encoders_are_backbones_too_and_stay_frozen():
    backbone = TotoBackbone("mae-nano")
    assert backbone(IMAGES).shape == (2, backbone.dim)
    with pytest.raises(ValueError, match=r"needs a Toto's Encoder, got VitEncoder"):
        TotoBackbone("mae-nano", trainable=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.permute(0, 2, 3, 1), r"RGB \[b 3 h w\], got \[2, 40, 48, 3\]"),
        (IMAGES[0], r"RGB \[b 3 h w\], got \[3, 40, 48\]"),
        (IMAGES.float(), r"floats must be in \[0, 1\], got \[0, 255\]; undo a normalisation"),
        (IMAGES / 255 - 0.5, r"floats must be in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), r"floats must be in \[0, 1\]"),
        (IMAGES.long(), r"must be uint8 or floats in \[0, 1\], got torch.int64"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        TotoBackbone(ENCODER)(images)
