"""The model-zoo entry of Isaac Lab, called as `image_features` calls it (isaaclab 3.0.0).

`Term` makes the same calls in the same order as `image_features` and `ObservationManager` of
isaaclab/envs/mdp/observations.py and isaaclab/managers/observation_manager.py (BSD-3-Clause). The
real classes are used by `python -m benchmarks.compatibility.frameworks`.
"""

import copy
import importlib

import pytest
import torch

from toto_robot import StreamConfig, load_encoder
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.integrations.isaac_lab import toto_model_zoo_entry

ENCODER = load_encoder("toto-nano")
STREAM = StreamConfig(context=4)
N = 3


class Term:
    """One observation term with the images of one camera."""

    def __init__(self, entry, channels=3):
        self.buffer = torch.zeros(N, 40, 48, channels, dtype=torch.uint8)
        entry = copy.deepcopy(entry)  # configurations are copied
        self.model, self.reset_function = entry["model"](), entry.get("reset")
        self.inference = entry["inference"]
        self.compute()  # for the shape of the observation
        self.reset()

    def reset(self, env_ids=None):
        if self.reset_function is not None:
            self.reset_function(self.model, env_ids)

    def compute(self, **inference_kwargs):
        features = self.inference(self.model, self.buffer, **inference_kwargs)
        return features.flatten(start_dim=1).detach().to(self.buffer.device)

    def render(self, seed, rows=slice(None)):
        new = torch.randint(
            0,
            256,
            self.buffer.shape,
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(seed),
        )
        self.buffer[rows] = new[rows]
        return self.buffer[..., :3].clone()


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("channels", [3, 4])
def test_features_of_single_frames_are_those_of_the_encoder(channels):
    term = Term(toto_model_zoo_entry("toto-nano"), channels)
    images = term.render(0)
    found = term.compute()
    assert found.shape == (N, ENCODER.dim)
    assert found.dtype == torch.float32
    close(found, ENCODER(images))


@pytest.mark.parametrize("env_ids", [[0, 2], torch.tensor([0, 2], dtype=torch.int32), (0, 2)])
def test_a_reset_clears_only_the_streams_of_its_environments(env_ids):
    term = Term(toto_model_zoo_entry(ENCODER, stream=STREAM))
    reference = STREAM.open(ENCODER, N)
    begins = torch.ones(N, dtype=torch.bool)
    for step in range(5):
        images = term.render(step)
        close(term.compute(), reference.step(images, begins))
        begins = torch.zeros(N, dtype=torch.bool)
        if step == 2:
            term.reset(env_ids)
            begins[[0, 2]] = True


def test_computing_twice_in_a_step_reads_each_frame_once():
    term = Term(toto_model_zoo_entry(ENCODER, stream=STREAM))
    reference = STREAM.open(ENCODER, N)
    reference.step(term.render(0), torch.ones(N, dtype=torch.bool))
    term.compute()
    last = reference.step(term.render(1))
    close(term.compute(), last)
    close(term.compute(), last)  # a recorder, or compute_final_obs
    term.reset(torch.tensor([1]))
    images = term.render(2, rows=[1])  # only the reset environment is drawn again
    first = reference.step(images[1:2], torch.tensor([True]), [1])
    close(term.compute(), torch.stack([last[0], first[0], last[2]]))
    close(term.compute(), torch.stack([last[0], first[0], last[2]]))
    images = term.render(3)
    close(term.compute(), reference.step(images))


def test_two_terms_of_one_entry_have_separate_streams():
    entry = toto_model_zoo_entry(ENCODER, stream=STREAM)
    one, two = Term(entry), Term(entry)
    for step in range(3):
        one.render(step)
        one.compute()
    images = two.render(7)
    close(two.compute(), STREAM.open(ENCODER, N).step(images, torch.ones(N, dtype=torch.bool)))


def test_functions_are_found_again_by_module_and_name():
    """Isaac Lab's training scripts write functions as text and look them up again."""
    first, second = toto_model_zoo_entry("toto-nano"), toto_model_zoo_entry("mae-nano")
    for entry, dim in ((first, ENCODER.dim), (second, load_encoder("mae-nano").dim)):
        places = {name: (one.__module__, one.__name__) for name, one in entry.items()}
        again = {
            name: getattr(importlib.import_module(module), attribute)
            for name, (module, attribute) in places.items()
        }
        assert Term(again).compute().shape == (N, dim)


def test_embeddings_are_not_shared_between_steps():
    term = Term(toto_model_zoo_entry(ENCODER))
    term.render(0)
    first = term.compute()
    kept = first.clone()
    term.render(1)
    term.compute()
    assert first.equal(kept)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(N, 32, 32, 1, dtype=torch.uint8), r"uint8 RGB or RGBA.*\[3, 32, 32, 1\]"),
        (torch.zeros(N, 32, 32, 3), "uint8 RGB or RGBA.*float32"),
        (torch.zeros(N, 3, 32, 32, dtype=torch.uint8), "uint8 RGB or RGBA"),
        (torch.zeros(N + 1, 40, 48, 3, dtype=torch.uint8), r"images were \[3, 40, 48, 3\], now"),
    ],
)
def test_wrong_images_are_refused(images, message):
    term = Term(toto_model_zoo_entry(ENCODER))
    term.buffer = images
    with pytest.raises(ValueError, match=message):
        term.compute()


def test_encoders_without_streams_are_refused_when_they_are_used():
    with pytest.raises(ValueError, match="stream= needs a Toto's Encoder, got VitEncoder"):
        Term(toto_model_zoo_entry("mae-nano", stream=STREAM))
    with pytest.raises(ValueError, match="give the encoder itself and stream="):
        Term(toto_model_zoo_entry(StreamedEncoder(ENCODER, STREAM)))
