import dataclasses
import json

import numpy as np
import pytest
import torch

from policies.student import StudentPolicy, load_student, read_metadata
from tests.policies.fake_world import metadata, save_tiny_encoder, toto
from toto_robot import load_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(folder)


@pytest.fixture
def student(encoder, folder):
    torch.manual_seed(0)
    return StudentPolicy(metadata(encoder, toto(folder)))


def observe(batch=4, width=256, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "embedding_eye": rng.normal(size=(batch, width)).astype(np.float32),
        "proprio": rng.normal(size=(batch, 3)).astype(np.float32),
    }


def test_its_inputs_are_embeddings_and_proprioception_and_nothing_else(student):
    assert student.keys == ("embedding_eye", "proprio")
    observation = observe()
    assert student.act(observation).shape == (4, 2)
    for extra in ("state", "image_eye", "embedding_other"):
        with pytest.raises(ValueError, match=f"exactly embedding_eye, proprio, got .*{extra}"):
            student.act(observation | {extra: observation["proprio"]})
    with pytest.raises(ValueError, match="exactly"):
        student.act({"proprio": observation["proprio"]})


def test_a_blind_student_takes_proprioception_alone():
    student = StudentPolicy(metadata(None))
    assert student.keys == ("proprio",)
    assert student.act({"proprio": np.zeros((5, 3), np.float32)}).shape == (5, 2)


def test_one_observation_is_a_batch_of_one(student):
    observation = observe()
    batch = student.act(observation)
    single = student.act({key: value[1] for key, value in observation.items()})
    assert single.shape == (2,)
    np.testing.assert_allclose(single, batch[1], atol=1e-6)


def test_wrong_shapes_are_named(student):
    observation = observe()
    with pytest.raises(ValueError, match=r"proprio must be \[b 3\]"):
        student.act(observation | {"proprio": np.zeros((4, 5), np.float32)})
    with pytest.raises(ValueError, match=r"embedding_eye must be \[4, 256\], got \[4, 16\]"):
        student.act(observation | {"embedding_eye": np.zeros((4, 16), np.float32)})


def test_actions_are_within_their_limits(student):
    with torch.no_grad():
        student.mlp[-1].weight.mul_(1000)
    assert np.abs(student.act(observe())).max() == 1.0


def test_the_normaliser_is_the_datas_mean_and_deviation(student):
    rng = np.random.default_rng(0)
    embeddings = torch.from_numpy(rng.normal(3, 2, (3000, 1, 256)).astype(np.float16))
    embeddings[:, :, 0] += 1e-3 * torch.randn(3000, 1) - embeddings[:, :, 0]  # divided by 0.02
    proprio = torch.from_numpy(rng.normal(-1, 0.5, (3000, 3)).astype(np.float32))
    student.standardise(embeddings, proprio)
    exact = embeddings.double()
    torch.testing.assert_close(student.embedding_mean, exact.mean(0).float())
    torch.testing.assert_close(
        student.embedding_std[:, 1:], exact.std(0, unbiased=False)[:, 1:].float()
    )
    assert student.embedding_std[0, 0] == pytest.approx(0.02)
    torch.testing.assert_close(student.proprio_mean, proprio.mean(0))


@pytest.mark.parametrize("value", [0.0, 0.08])
def test_an_input_that_never_varied_in_training_does_not_change_the_action(
    student, encoder, tmp_path, value
):
    """Such as the tracking error in demonstrations by hand, up to rounding."""
    embeddings, proprio = torch.randn(2000, 1, 256), torch.randn(2000, 3)
    proprio[:, 1] = value + 1e-8 * torch.randn(2000)
    embeddings[:, :, 5] = value
    student.standardise(embeddings, proprio)
    student.save(tmp_path / "policy")
    again = load_student(tmp_path / "policy", encoder, student.metadata.interface)
    seen = observe()
    for acting in (student, again):
        expected = acting.act(seen)
        changed = {key: array.copy() for key, array in seen.items()}
        changed["proprio"][:, 1] += 0.1
        changed["embedding_eye"][:, 5] += 1.0
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(acting.act(changed), expected)
        changed["proprio"][:, 0] += 0.1
        assert not np.array_equal(acting.act(changed), expected)


def test_a_checkpoint_gives_the_same_actions_to_the_bit(student, encoder, tmp_path):
    student.standardise(torch.randn(50, 1, 256), torch.randn(50, 3))
    student.save(tmp_path / "policy")
    again = load_student(tmp_path / "policy", encoder, student.metadata.interface)
    assert np.array_equal(again.act(observe()), student.act(observe()))
    assert read_metadata(tmp_path / "policy") == student.metadata
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_checkpoint_is_two_files_of_data(student, tmp_path):
    student.save(tmp_path / "policy")
    names = {path.name for path in (tmp_path / "policy").iterdir()}
    assert names == {"config.json", "weights.safetensors"}
    data = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert data["config"]["encoder"]["weights_hash"] == student.metadata.encoder.weights_hash
    assert data["config"]["interface"]["arm"] == "point"


def test_another_encoder_is_refused(student, encoder, folder, tmp_path):
    student.save(tmp_path / "policy")
    interface = student.metadata.interface
    other = load_encoder(save_tiny_encoder(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"another encoder .*: weights: \w{12} != \w{12}; train "):
        load_student(tmp_path / "policy", other, interface)
    deeper = load_encoder(tmp_path / "other", layer=2)
    with pytest.raises(ValueError, match=r": layer: 1 != 2, weights: \w{12} != \w{12}; train "):
        load_student(tmp_path / "policy", deeper, interface)
    with pytest.raises(ValueError, match=r"layer: 1 != 2\n  pool: grid4 != grid2$"):
        load_student(tmp_path / "policy", load_encoder(folder, layer=2, pool="grid2"), interface)
    with pytest.raises(ValueError, match="trained with an encoder, but is used without one"):
        load_student(tmp_path / "policy", None, interface)
    StudentPolicy(metadata(None)).save(tmp_path / "blind")
    with pytest.raises(ValueError, match="trained without an encoder, but is used with one"):
        load_student(tmp_path / "blind", encoder, metadata(None).interface)


def test_other_numbers_of_the_same_pool_are_refused_by_name(folder, tmp_path):
    one = load_encoder(folder, pool="attention")
    student = StudentPolicy(metadata(one))
    student.save(tmp_path / "policy")
    with torch.no_grad():
        one.pooling.query.add_(1)
    with pytest.raises(ValueError, match=r"then != now\):\n  the pool's own numbers"):
        load_student(tmp_path / "policy", one, student.metadata.interface)


def test_another_interface_is_refused_by_its_fields(student, encoder, tmp_path):
    student.save(tmp_path / "policy")
    other = dataclasses.replace(student.metadata.interface, action_scale=(0.3, 0.2), rate_hz=5.0)
    with pytest.raises(ValueError, match=r"(?s)action_scale: .*rate_hz: 10.0 != 5.0"):
        load_student(tmp_path / "policy", encoder, other)


def test_damaged_weights_are_named(student, encoder, tmp_path):
    student.save(tmp_path / "policy")
    path = tmp_path / "policy" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load_student(tmp_path / "policy", encoder, student.metadata.interface)


def test_an_encoder_is_no_policy(folder, encoder, student):
    with pytest.raises(ValueError, match="holds a 'encoder' checkpoint, needed 'student'"):
        load_student(folder, encoder, student.metadata.interface)


def test_a_chunk_begins_with_the_next_action(encoder, folder):
    plain = metadata(encoder, toto(folder))
    student = StudentPolicy(
        dataclasses.replace(plain, student=dataclasses.replace(plain.student, chunk=3))
    )
    observation = observe()
    chunks = student.act_chunk(observation)
    assert chunks.shape == (4, 3, 2)
    assert np.array_equal(student.act(observation), chunks[:, 0])
    single = {key: value[1] for key, value in observation.items()}
    assert student.act_chunk(single).shape == (3, 2)
    assert student.act(single).shape == (2,)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        dataclasses.replace(plain.student, chunk=0)


def test_embeddings_beyond_the_clip_count_as_at_the_clip(encoder, folder):
    plain = metadata(encoder, toto(folder))
    config = dataclasses.replace(plain.student, clip=2.0)
    torch.manual_seed(0)
    student = StudentPolicy(dataclasses.replace(plain, student=config))
    student.standardise(torch.randn(500, 1, 256), torch.randn(500, 3))
    mean, std = student.embedding_mean.numpy(), student.embedding_std.numpy()
    sign = np.sign(observe()["embedding_eye"])

    def act(deviations):
        return student.act(observe() | {"embedding_eye": mean + deviations * sign * std})

    np.testing.assert_allclose(act(2.0), act(30.0), atol=1e-6)
    assert np.abs(act(1.9) - act(2.0)).max() > 1e-4
    with pytest.raises(ValueError, match="clip must be positive"):
        dataclasses.replace(plain.student, clip=0.0)


def test_noise_is_added_in_training_alone_and_to_images_alone(encoder, folder):
    plain = metadata(encoder, toto(folder))
    config = dataclasses.replace(plain.student, noise=0.5, clip=2.0)
    torch.manual_seed(0)
    student = StudentPolicy(dataclasses.replace(plain, student=config))
    seen: list[torch.Tensor] = []
    student.project_cameras[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embeddings, proprio = torch.full((400, 1, 256), 9.0), torch.zeros(400, 3)
    student(embeddings, proprio)
    assert (seen[0] == 2.0).all()
    student.train()
    student(embeddings, proprio)
    assert float(seen[1].mean()) == pytest.approx(2.0, abs=0.01)
    assert float(seen[1].std()) == pytest.approx(0.5, abs=0.01)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise must be finite and not negative"):
            dataclasses.replace(plain.student, noise=wrong)


def test_a_checkpoint_from_before_there_were_chunks_clips_and_noise_opens(
    student, encoder, tmp_path
):
    student.save(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    for name in ("chunk", "clip", "noise"):
        del data["config"]["student"][name]
    del data["config_sha256"]
    path.write_text(json.dumps(data))
    opened = load_student(tmp_path, encoder, student.metadata.interface)
    assert opened.chunk == 1
    assert opened.metadata.student.clip == 5.0
    assert opened.metadata.student.noise == 0.0
    assert np.array_equal(opened.act(observe()), student.act(observe()))
