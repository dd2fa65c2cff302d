"""Every recipe learns, resumes to the bit, and computes the losses that it names."""

import dataclasses
import json
import math
import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from toto_robot.data.mixture import HOLD_OUT
from toto_robot.encoders.loading import load_tokenizer
from toto_robot.tokenizers import DalleConfig, LightConfig, VqganConfig
from toto_robot.tokenizers.dvae import laplace_mean
from toto_robot.training.dvae import (
    DalleRecipe,
    DalleTrainer,
    divergence,
    gumbel_softmax,
    logit_laplace_loss,
)
from toto_robot.training.optimizer import OptimizerConfig
from toto_robot.training.parallel import Ranks
from toto_robot.training.perceptual import SCALE, SHIFT, STAGES, load_perceptual
from toto_robot.training.reconstruction import (
    Anneal,
    LightRecipe,
    LightTrainer,
    Setting,
    reconstruction_loss,
    saturation,
    usage_gap,
)
from toto_robot.training.tokenizer import DataConfig, TokenizerTrainingConfig, train_tokenizer
from toto_robot.training.vqgan import (
    Adversary,
    PatchDiscriminator,
    Perceptual,
    VqganRecipe,
    VqganTrainer,
    adapted_weight,
    codebook_terms,
)

LIGHT = LightConfig(
    image_size=16,
    levels=(4, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(16, 8, 8),
    decoder_blocks=(1, 1, 1),
)
DALLE = DalleConfig(image_size=16, hidden=8, decoder_init=16, blocks_per_group=1, vocab_size=32)
VQGAN = VqganConfig(
    image_size=8,
    width=64,
    multipliers=(1, 1),
    blocks=1,
    attention_levels=(1,),
    latent=4,
    embedding=4,
    vocab_size=16,
)
LIGHT_RECIPE = LightRecipe(edge_weight=0.2)
ALL_TERMS = LightRecipe(
    edge_weight=0.2, colour_weight=0.5, saturation_weight=2.0, usage_weight=0.01
)
DALLE_RECIPE = DalleRecipe(
    temperature=Anneal(first=1.0, last=0.3, steps=60),
    divergence_weight=Anneal(first=0.0, last=0.1, steps=60),
    average_decay=0.9,
)
VQGAN_RECIPE = VqganRecipe(
    codebook_weight=1.0,
    commitment_weight=0.25,
    restart_every=10,
    adversary=None,
    perceptual=None,
)
ADVERSARIAL = dataclasses.replace(
    VQGAN_RECIPE, restart_every=3, adversary=Adversary(first_step=1, weight=0.5, width=8, layers=1)
)
OPTIMIZER = OptimizerConfig(
    lr=0.01,
    betas=(0.9, 0.95),
    weight_decay=0.0,
    warmup_steps=1,
    final_lr_fraction=0.1,
    clip_norm=1.0,
)
CPU = Ranks(rank=0, world=1, device=torch.device("cpu"), mesh=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets of 8 and of 16 pixels: four squares, each black or white."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    count = 4 * HOLD_OUT
    for side in (8, 16):
        (folder / str(side)).mkdir()
        cells = 255 * generator.integers(0, 2, (count, 2, 2, 1)).astype(np.uint8)
        pictures = np.kron(cells, np.ones((1, side // 2, side // 2, 3), np.uint8))
        pictures.tofile(folder / str(side) / "frames.u8")
        clips = [{"file": f"{i:03}.png", "start": i, "length": 1} for i in range(count)]
        manifest = {"name": "squares", "kind": "image", "size": side, "clips": clips, "skipped": []}
        (folder / str(side) / "manifest.json").write_text(json.dumps(manifest))
    return folder


def config_of(data, tokenizer, recipe, steps, lr=0.01):
    return TokenizerTrainingConfig(
        tokenizer=tokenizer,
        recipe=recipe,
        data=(DataConfig(path=data / str(tokenizer.image_size), weight=1.0),),
        optimizer=dataclasses.replace(OPTIMIZER, lr=lr),
        steps=steps,
        batch=8,
        crop=tokenizer.image_size,
        validation_frames=4,
        device="cpu",
        precision="float32",
        read_threads=1,
        log_every=max(1, steps // 4),
        keep_every=max(1, steps // 2),
        seed=0,
    )


def rows_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("tokenizer", "recipe", "steps", "batch", "lr"),
    [
        (LIGHT, LIGHT_RECIPE, 60, 8, 0.01),
        (DALLE, DALLE_RECIPE, 60, 8, 0.01),
        (VQGAN, VQGAN_RECIPE, 32, 16, 0.002),
    ],
    ids=["light", "dalle", "vqgan"],
)
def test_every_layout_learns_to_reconstruct_held_out_frames(
    data, tmp_path, tokenizer, recipe, steps, batch, lr
):
    config = dataclasses.replace(config_of(data, tokenizer, recipe, steps, lr), batch=batch)
    folder = train_tokenizer(config, tmp_path)
    rows = rows_of(tmp_path)
    # black for white everywhere is 0 dB, grey everywhere 6 dB
    assert rows[-1]["psnr_db"] > 12
    assert rows[-1]["psnr_db"] > rows[0]["psnr_db"] + 3
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert (tmp_path / "reconstruction.png").stat().st_size > 0
    assert (tmp_path / "curve.png").stat().st_size > 0
    # the checkpoint is what was scored
    trained = load_tokenizer(folder)
    used = rows[-1]["codes_used"]
    assert 1.9 <= rows[-1]["perplexity"] <= used + 1e-3 <= trained.vocab_size + 1e-3
    frames = np.memmap(data / str(tokenizer.image_size) / "frames.u8", np.uint8, "r")
    side = tokenizer.image_size
    frames = torch.from_numpy(frames.reshape(-1, side, side, 3).copy())
    error = (trained.decode(trained.encode(frames)).float() - frames).square().mean() / 255**2
    assert -10 * error.log10() > 12


@pytest.mark.parametrize(
    ("tokenizer", "recipe"),
    [(LIGHT, LIGHT_RECIPE), (LIGHT, ALL_TERMS), (DALLE, DALLE_RECIPE), (VQGAN, ADVERSARIAL)],
    ids=["light", "all terms", "dalle", "adversarial"],
)
def test_a_killed_run_goes_on_to_the_bit(data, tmp_path, tokenizer, recipe):
    config = config_of(data, tokenizer, recipe, 8)
    folder = train_tokenizer(config, tmp_path)
    weights, log = (folder / "weights.safetensors").read_bytes(), rows_of(tmp_path)
    state = (tmp_path / "checkpoints/step-0000008/train_state.pt").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints/step-0000008")
    shutil.rmtree(folder)
    train_tokenizer(config, tmp_path)
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "checkpoints/step-0000008/train_state.pt").read_bytes() == state
    assert rows_of(tmp_path) == log


def test_a_run_of_a_gpu_goes_on_on_a_cpu(data, tmp_path, capsys):
    config = config_of(data, LIGHT, LIGHT_RECIPE, 4)
    folder = train_tokenizer(config, tmp_path)
    weights = (folder / "weights.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints/step-0000004")
    state = tmp_path / "checkpoints/step-0000002/train_state.pt"
    with zipfile.ZipFile(state) as before:
        parts = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(state, "w") as after:  # the same tensors, saved on a GPU
        for name, part in parts.items():
            device = part.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            after.writestr(name, device if name.endswith("data.pkl") else part)
    train_tokenizer(config, tmp_path)
    assert "continuing: 2 of 4 steps found" in capsys.readouterr().out
    assert (folder / "weights.safetensors").read_bytes() == weights


def test_a_checkpoint_on_the_way_opens_as_a_tokenizer(data, tmp_path):
    train_tokenizer(config_of(data, DALLE, DALLE_RECIPE, 2), tmp_path)
    half, whole = (load_tokenizer(f) for f in sorted((tmp_path / "checkpoints").iterdir()))
    assert half.config == whole.config == DALLE
    assert not torch.equal(half.encoder.blocks.input.w, whole.encoder.blocks.input.w)


def test_what_does_not_fit_together_is_refused(data, tmp_path):
    config = config_of(data, LIGHT, DALLE_RECIPE, 1)
    with pytest.raises(ValueError, match="recipe is for 'dalle', the tokenizer is a LightDVae"):
        train_tokenizer(config, tmp_path)
    config = dataclasses.replace(config, recipe=LIGHT_RECIPE, crop=12)
    with pytest.raises(ValueError, match=r"crop must be a multiple of 8 pixels, .* got 12"):
        train_tokenizer(config, tmp_path)
    config = config_of(data, dataclasses.replace(DALLE, decoder_init=None), DALLE_RECIPE, 1)
    with pytest.raises(ValueError, match="decoder_init is null"):
        train_tokenizer(config, tmp_path)
    assert not list(tmp_path.iterdir())  # nothing of a run that cannot be
    for change in ({"average_decay": 1.0}, {"temperature": Anneal(first=1.0, last=0.0, steps=1)}):
        with pytest.raises(ValueError, match="must"):
            dataclasses.replace(DALLE_RECIPE, **change)


def test_validation_is_checked_before_the_training_and_can_be_left_out(data, tmp_path):
    config = config_of(data, LIGHT, LIGHT_RECIPE, 1)
    with pytest.raises(ValueError, match="validation_frames must not be negative, got -1"):
        dataclasses.replace(config, validation_frames=-1)
    small = (DataConfig(path=data / "8", weight=1.0),)
    config = dataclasses.replace(config, data=small, crop=8)
    with pytest.raises(ValueError, match=r"needs frames of .*=16 pixels, .* has frames of 8: .*=0"):
        train_tokenizer(config, tmp_path)
    assert not list(tmp_path.iterdir())
    train_tokenizer(dataclasses.replace(config, validation_frames=0), tmp_path)
    assert "loss" in rows_of(tmp_path)[-1]
    assert "validation_loss" not in rows_of(tmp_path)[-1]


def test_a_run_of_before_a_weight_was_invented_goes_on(data, tmp_path):
    config = config_of(data, LIGHT, LIGHT_RECIPE, 4)
    folder = train_tokenizer(config, tmp_path)
    weights = (folder / "weights.safetensors").read_bytes()
    asked = json.loads((tmp_path / "config.json").read_text())
    for weight in ("colour_weight", "saturation_weight", "usage_weight"):
        del asked["recipe"][weight]
    (tmp_path / "config.json").write_text(json.dumps(asked))
    shutil.rmtree(tmp_path / "checkpoints/step-0000004")
    shutil.rmtree(folder)
    assert (train_tokenizer(config, tmp_path) / "weights.safetensors").read_bytes() == weights
    with pytest.raises(ValueError, match=r"another config .*\n  recipe.colour_weight: 0.0 != 0.5"):
        train_tokenizer(dataclasses.replace(config, recipe=ALL_TERMS), tmp_path)
    asked["recipe"]["no_such_weight"] = 1.0
    (tmp_path / "config.json").write_text(json.dumps(asked))
    with pytest.raises(ValueError, match=r"recipe.no_such_weight: 1.0 != not there"):
        train_tokenizer(config, tmp_path)


def test_a_decoder_is_trained_for_the_tokens_of_another_checkpoint(data, tmp_path):
    first = train_tokenizer(config_of(data, LIGHT, LIGHT_RECIPE, 8), tmp_path / "first")
    wide = dataclasses.replace(LIGHT, decoder_widths=(24, 16, 8))
    config = dataclasses.replace(
        config_of(data, wide, ALL_TERMS, 8), encoder_from=str(first), seed=1
    )
    folder = train_tokenizer(config, tmp_path / "second")
    before, after = load_tokenizer(first), load_tokenizer(folder)
    frames = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(before.encode(frames), after.encode(frames))
    rows = rows_of(tmp_path / "second")
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    # and resumes to the bit
    weights = (folder / "weights.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "second/checkpoints/step-0000008")
    shutil.rmtree(folder)
    assert (
        train_tokenizer(config, tmp_path / "second") / "weights.safetensors"
    ).read_bytes() == weights
    other = dataclasses.replace(LIGHT, widths=(8, 16))
    with pytest.raises(ValueError, match=r"has widths \(8, 8\), tokenizer.widths is \(8, 16\)"):
        train_tokenizer(dataclasses.replace(config, tokenizer=other), tmp_path / "third")
    with pytest.raises(ValueError, match="got a LightDVae for a DalleDVae"):
        train_tokenizer(
            dataclasses.replace(config, tokenizer=DALLE, recipe=DALLE_RECIPE), tmp_path / "third"
        )


def test_the_terms_of_the_light_loss_are_what_they_say():
    images, made = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def loss(**weights):
        return reconstruction_loss(made, images, LightRecipe(**{"edge_weight": 0.0} | weights))

    error = made - images
    plain = error.abs().mean()
    assert torch.equal(loss(), plain)
    edges = sum((error.narrow(d, 1, 7) - error.narrow(d, 0, 7)).abs().mean() for d in (2, 3))
    torch.testing.assert_close(loss(edge_weight=0.3) - plain, 0.3 * edges)
    red, green, blue = error.unbind(1)
    colour = torch.stack([red - green, green - blue]).abs().mean()
    torch.testing.assert_close(loss(colour_weight=0.7) - plain, 0.7 * colour)
    spread = images.max(1).values - images.min(1).values
    torch.testing.assert_close(
        loss(saturation_weight=2.0), ((1 + 2 * spread[:, None]) * error.abs()).mean()
    )
    pixels = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.4, 0.1]])
    torch.testing.assert_close(
        saturation(pixels.T[None, :, :, None]).flatten(), torch.tensor([0.0, 1.0, 0.3])
    )
    with pytest.raises(ValueError, match="colour_weight must not be negative, got -1"):
        LightRecipe(edge_weight=1.0, colour_weight=-1.0)


def test_the_usage_gap_is_the_missing_entropy_of_shared_codes():
    levels = torch.tensor([4, 2, 3])
    bounded = 3 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 2
    # restated for each of the 24 codes: the product of its levels' shares, averaged over tokens
    shares = []
    for channel, count in enumerate(levels):
        levels_there = torch.arange(count) - count // 2
        distance = bounded[:, channel, ..., None] - levels_there
        shares.append(torch.exp(-((distance / 0.4) ** 2) / 2))
        shares[-1] = shares[-1] / shares[-1].sum(-1, keepdim=True)
    mean = torch.einsum("nijx,nijy,nijz->xyz", *shares).flatten() / 32
    expected = math.log(24) + (mean * mean.log()).sum()
    torch.testing.assert_close(usage_gap(bounded, levels), expected)
    # all codes once: even but for what their sharing rounds at the ends; one code for all: far off
    every = torch.cartesian_prod(*(torch.arange(n) - n // 2 for n in levels)).float()
    assert usage_gap(every.T[None, :, :, None], levels) < 0.02
    assert usage_gap(torch.zeros(2, 3, 4, 4), levels) > 2
    # levels so far away that their share is 0
    one = torch.full((1, 5, 2, 2), -4.0, requires_grad=True)
    usage_gap(one, torch.tensor([8, 8, 8, 4, 4])).backward()
    assert one.grad.isfinite().all()


def test_asking_for_even_use_makes_more_codes_used():
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    used = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        setting = Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32")
        recipe = LightRecipe(edge_weight=0.2, usage_weight=weight)
        trainer = LightTrainer(LIGHT.build(), recipe, setting)
        logs = [trainer.step(images, 0.01, step, torch.Generator()) for step in range(20)]
        assert all(("usage_gap" in log) == (weight > 0) for log in logs)
        used[weight] = len(trainer.reconstruct(images).ids.unique())
    assert logs[-1]["usage_gap"] < logs[0]["usage_gap"] / 2
    assert used[1.0] > 1.5 * used[0.0]


def test_annealing_meets_its_ends():
    anneal = Anneal(first=1.0, last=1 / 16, steps=150_000)
    assert anneal.at(0) == 1.0
    assert anneal.at(75_000) == pytest.approx((1 + 1 / 16) / 2)
    assert anneal.at(150_000) == anneal.at(3_000_000) == pytest.approx(1 / 16)
    values = [anneal.at(step) for step in range(0, 160_000, 1000)]
    assert values == sorted(values, reverse=True)
    assert Anneal(first=1.0, last=6.6, steps=0).at(0) == 6.6


def test_relaxed_codes_are_drawn_as_the_logits_say():
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.6, 0.3, 0.1])
    logits = share.log()[None, :, None, None].expand(1, 3, 100, 100)
    cold = gumbel_softmax(logits, 1e-3, generator)
    torch.testing.assert_close(cold.sum(1), torch.ones(1, 100, 100))
    assert (cold.amax(1) > 0.99).float().mean() > 0.98  # as good as one code each
    assert torch.allclose(cold.mean((0, 2, 3)), share, atol=0.02)
    warm = gumbel_softmax(logits, 100.0, generator)
    assert torch.allclose(warm, torch.full_like(warm, 1 / 3), atol=0.1)


def test_the_divergence_is_that_from_uniform():
    logits = torch.randn(2, 7, 3, 3)
    posterior = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    prior = torch.distributions.Categorical(logits=torch.zeros(7))
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(divergence(logits), expected)
    assert divergence(torch.zeros(1, 7, 1, 1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.5, -0.7), (-2.0, -1.5)])
def test_the_likelihood_is_a_density_of_pixels(mean, log_scale):
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000  # of (0, 1)
    images = (x - 0.1) / 0.8  # whose values with the margin are x
    statistics = torch.tensor([mean] * 3 + [log_scale] * 3).double()[None, :, None, None]
    density = torch.stack(
        [
            -logit_laplace_loss(statistics, value.expand(1, 3, 1, 1))
            for value in images[:: 200_000 // 500]
        ]
    ).exp()
    assert density.mean().item() == pytest.approx(1, abs=0.02)
    middle = laplace_mean(statistics)  # half of the mass lies on either side of the mean
    below = images[:: 200_000 // 500] < middle.flatten()[0]
    assert (density * below).mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_loss_of_a_step_is_what_the_paper_weighs():
    torch.manual_seed(0)
    recipe = dataclasses.replace(
        DALLE_RECIPE, divergence_weight=Anneal(first=6.6, last=6.6, steps=0)
    )
    trainer = DalleTrainer(
        DALLE.build(), recipe, Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32")
    )
    log = trainer.step(torch.rand(2, 3, 16, 16), 0.0, 0, torch.Generator())
    # 8 x 8 pixels of 3 values a token: 6.6 / 192
    expected = log["likelihood_loss"] + 6.6 / 192 * log["divergence"]
    torch.testing.assert_close(log["loss"], expected)


def test_the_averaged_weights_follow_the_trained_ones():
    torch.manual_seed(0)
    setting = Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32")
    trainer = DalleTrainer(DALLE.build(), DALLE_RECIPE, setting)
    before = trainer.tokenizer.encoder.blocks.input.w.clone()
    trainer.step(torch.rand(2, 3, 16, 16), 0.01, 0, torch.Generator())
    now = trainer.state()["trained"]["encoder.blocks.input.w"]
    # the first step's decay is 1 / 10
    expected = 0.1 * before + 0.9 * now
    torch.testing.assert_close(trainer.tokenizer.encoder.blocks.input.w, expected)
    assert not torch.equal(now, before)


def test_each_term_of_the_codebook_moves_one_side():
    latents, vectors = (torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    for term, moved, still in zip(
        codebook_terms(latents, vectors), (vectors, latents), (latents, vectors), strict=True
    ):
        torch.testing.assert_close(term, (vectors - latents).square().mean())
        (gradient,) = torch.autograd.grad(term, moved, retain_graph=True)
        torch.testing.assert_close(gradient, 2 * (moved - still) / moved.numel())
        assert torch.autograd.grad(term, still, allow_unused=True)[0] is None


def test_the_adversarys_gradient_becomes_as_large_as_the_reconstructions():
    last = nn.Parameter(torch.tensor([1.0, 2.0]))
    likelihood, fooled = (last * torch.tensor([3.0, 4.0])).sum(), 0.5 * last[0]
    assert adapted_weight(likelihood, fooled, last).item() == pytest.approx(5 / 0.5001)
    assert adapted_weight(likelihood, 0 * fooled, last).item() == 1e4


def test_the_discriminator_has_its_part_from_its_step_on_and_only_then():
    torch.manual_seed(0)
    recipe = dataclasses.replace(
        ADVERSARIAL, adversary=dataclasses.replace(ADVERSARIAL.adversary, first_step=1)
    )
    trainer = VqganTrainer(
        VQGAN.build(), recipe, Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32")
    )
    before = {name: tensor.clone() for name, tensor in trainer.state()["discriminator"].items()}
    images, noise = torch.rand(4, 3, 8, 8), torch.Generator()
    assert "discriminator_loss" not in trainer.step(images, 0.01, 0, noise)
    assert all(torch.equal(before[n], t) for n, t in trainer.state()["discriminator"].items())
    log = trainer.step(images, 0.01, 1, noise)
    assert 0 < log["discriminator_loss"] < 2
    assert log["adversary_weight"] > 0
    after = trainer.state()["discriminator"]
    assert not torch.equal(before["main.0.weight"], after["main.0.weight"])


def test_the_discriminator_has_the_published_size():
    # the 70 x 70 PatchGAN of pix2pix with batch norms, as taming-transformers has it
    assert sum(p.numel() for p in PatchDiscriminator(64, 3).parameters()) == 2_765_633


def test_codes_that_nobody_chose_begin_anew_among_the_latents():
    torch.manual_seed(0)
    setting = Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32")
    images = torch.rand(4, 3, 8, 8)
    used = {}
    for every in (None, 5):
        vqgan = VQGAN.build()
        trainer = VqganTrainer(
            vqgan, dataclasses.replace(VQGAN_RECIPE, restart_every=every), setting
        )
        before = vqgan.codebook.detach().clone()
        trainer.step(images, 0.0, 0, torch.Generator().manual_seed(0))
        assert torch.equal(before, vqgan.codebook) == (every is None)
        used[every] = len(trainer.reconstruct(images).ids.unique())
        kept = trainer.state()["chosen"].clone()
        after = vqgan.codebook.detach().clone()
        trainer.step(images, 0.0, 5, torch.Generator().manual_seed(1))
        assert torch.equal(after[kept], vqgan.codebook[kept])
    assert used[5] > used[None]


@pytest.fixture
def critics(tmp_path):
    """The two files of the perceptual loss, with random weights."""
    generator = torch.Generator().manual_seed(0)
    vgg, linear = {"classifier.0.weight": torch.zeros(2)}, {}
    position, width_in = 0, 3
    for i, widths in enumerate(STAGES):
        for width in widths:
            shape = (width, width_in, 3, 3)
            scale = math.sqrt(2 / (9 * width_in))
            vgg[f"features.{position}.weight"] = scale * torch.randn(shape, generator=generator)
            vgg[f"features.{position}.bias"] = torch.randn(width, generator=generator) / 10
            position, width_in = position + 2, width
        position += 1
        linear[f"lin{i}.model.1.weight"] = torch.rand(1, width_in, 1, 1, generator=generator)
    torch.save(vgg, tmp_path / "vgg16.pth")
    torch.save(linear, tmp_path / "vgg.pth")
    return vgg, linear, tmp_path


def test_the_perceptual_distance_is_the_published_one(critics):
    vgg, linear, folder = critics
    loss = load_perceptual(folder / "vgg16.pth", folder / "vgg.pth")
    assert sum(p.numel() for p in loss.stages.parameters()) == 14_714_688
    pair = 2 * torch.rand(2, 2, 3, 32, 32) - 1
    # restated by torchvision's numbering: activations of relu1_2, 2_2, 3_3, 4_3 and 5_3
    features = []
    shift, scale = (torch.tensor(part)[:, None, None] for part in (SHIFT, SCALE))
    for images in pair:
        x, found = (images - shift) / scale, []
        for layer in range(30):
            if layer in (4, 9, 16, 23):
                x = nn.functional.max_pool2d(x, 2)
            elif f"features.{layer}.weight" in vgg:
                weight, bias = (vgg[f"features.{layer}.{part}"] for part in ("weight", "bias"))
                x = nn.functional.conv2d(x, weight, bias, padding=1)
            else:
                x = x.relu()
            if layer in (3, 8, 15, 22, 29):
                found.append(nn.functional.normalize(x, dim=1))
        features.append(found)
    expected = sum(
        ((one - other) ** 2 * linear[f"lin{i}.model.1.weight"]).sum(1).mean()
        for i, (one, other) in enumerate(zip(*features, strict=True))
    )
    torch.testing.assert_close(loss(*pair), expected)
    assert loss(pair[0], pair[0]).item() == 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_the_perceptual_loss_takes_part_where_its_files_are_given(critics, tmp_path):
    _, _, folder = critics
    files = Perceptual(vgg=folder / "vgg16.pth", linear=folder / "vgg.pth", weight=2.0)
    losses = []
    for perceptual in (None, files):
        torch.manual_seed(0)
        vqgan = dataclasses.replace(VQGAN, image_size=16).build()
        trainer = VqganTrainer(
            vqgan,
            dataclasses.replace(VQGAN_RECIPE, restart_every=None, perceptual=perceptual),
            Setting(optimizer=OPTIMIZER, ranks=CPU, precision="float32"),
        )
        images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        made, *_ = vqgan(images)
        losses.append(trainer.step(images, 0.0, 0, torch.Generator())["likelihood_loss"])
    distance = load_perceptual(files.vgg, files.linear)(made * 2 - 1, images * 2 - 1)
    torch.testing.assert_close(losses[1] - losses[0], 2 * distance.detach(), rtol=1e-3, atol=1e-5)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: lin0\.model\.1\.weight is \(1, 3, 1, 1\)"):
        load_perceptual(files.vgg, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"vgg\.pth has no features\.0\.weight"):
        load_perceptual(files.linear, files.linear)
