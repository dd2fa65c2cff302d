"""Images that come as tensors reach the encoder as they are, and give the embeddings of arrays."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from toto_robot import StreamConfig, TotoVectorObservation, load_encoder

NUM_ENVS, NUM_STEPS = 3, 5
BOXES = {
    "hwc": spaces.Box(0, 255, (16, 20, 3), np.uint8),
    "rgba": spaces.Box(0, 255, (16, 20, 4), np.uint8),
    "chw": spaces.Box(0, 255, (3, 16, 20), np.uint8),
    "unit": spaces.Box(0.0, 1.0, (16, 20, 3), np.float32),
    "grey": spaces.Box(0, 255, (16, 20, 1), np.uint8),
}


class OfAnotherLibrary:
    """An array that offers DLPack and nothing else, as those of Warp, JAX and CuPy."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getitem__(self, rows):
        return OfAnotherLibrary(self.tensor[rows])

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


KINDS = {
    "array": np.asarray,
    "tensor": torch.as_tensor,
    "dlpack": lambda array: OfAnotherLibrary(torch.as_tensor(array)),
}


class Recorded(VectorEnv):
    """Environments that return recorded images of one kind; world 1 ends in step 2."""

    def __init__(self, kind, box=BOXES["hwc"], cameras=("top",), mode=AutoresetMode.SAME_STEP):
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.kind, self.mode = NUM_ENVS, KINDS[kind], mode
        images = {f"image_{name}": box for name in cameras}
        self.single_observation_space = spaces.Dict(images)
        self.observation_space = batch_space(self.single_observation_space, NUM_ENVS)
        self.single_action_space = spaces.Box(-1, 1, (1,))
        self.action_space = batch_space(self.single_action_space, NUM_ENVS)
        self.observation_space.seed(0)
        self.recorded = [self.observation_space.sample() for _ in range(NUM_STEPS + 2)]

    def observations(self):
        sampled = self.recorded[self.step_number]
        self.latest = {key: self.kind(images) for key, images in sampled.items()}
        return self.latest

    def reset(self, *, seed=None, options=None):
        self.step_number = 0
        return self.observations(), {}

    def step(self, actions):
        self.step_number += 1
        ended = np.arange(NUM_ENVS) == (1 if self.step_number == 2 else -1)
        infos = {}
        if ended.any() and self.mode == AutoresetMode.SAME_STEP:
            final = np.full(NUM_ENVS, None, dtype=object)
            last = self.recorded[-1]
            final[1] = {key: self.kind(images)[1] for key, images in last.items()}
            infos = {"final_obs": final, "_final_obs": ended}
        return self.observations(), np.zeros(NUM_ENVS), ended, np.zeros(NUM_ENVS, bool), infos


class Recorder:
    """An encoder that keeps the frames that it gets."""

    dim = 4

    def __init__(self):
        self.frames = []

    def __call__(self, frames):
        self.frames.append(frames)
        whole = torch.as_tensor(frames).double()  # an error if strides are negative
        weights = torch.arange(whole[0].numel() * 4, dtype=torch.float64).reshape(-1, 4).sin()
        return (whole.flatten(1) @ weights).float()


def embedded(kind, encoder, **options):
    """Return the embeddings of all steps and of the last observation of an ended episode."""
    names = {
        "stream": "stream",
        "flip": "flip",
        "colour_order": "colour_order",
        "chosen": "cameras",
        "layout": "layout",
    }
    choice = {names[key]: value for key, value in options.items() if key in names}
    options = {key: value for key, value in options.items() if key not in names}
    envs = TotoVectorObservation(Recorded(kind, **options), encoder, **choice)
    found = list(envs.reset()[0].values())
    for _ in range(NUM_STEPS):
        observations, _, _, _, infos = envs.step(None)
        found += observations.values()
        if "final_obs" in infos:
            found += infos["final_obs"][1].values()
    return found


@pytest.mark.parametrize("kind", ["tensor", "dlpack"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cameras": ("top", "hand")},
        {"box": BOXES["rgba"], "layout": "hwc"},
        {"box": BOXES["chw"]},
        {"box": BOXES["unit"]},
        {"box": BOXES["grey"], "chosen": ["top"]},
        {"colour_order": "bgr"},
        {"flip": "rotate180"},
        {"flip": "vertical", "colour_order": "bgr"},
        {"mode": AutoresetMode.DISABLED},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_embeddings_of_tensors_are_those_of_arrays(kind, options):
    wanted = embedded("array", Recorder(), **options)
    found = embedded(kind, Recorder(), **options)
    assert len(found) == len(wanted) > NUM_STEPS
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, other)


def test_some_cameras_may_give_tensors_and_others_arrays(monkeypatch):
    kinds = itertools.cycle([np.asarray, torch.as_tensor])
    monkeypatch.setitem(KINDS, "mixed", lambda array: next(kinds)(array))
    found, wanted = (
        embedded(kind, Recorder(), cameras=("top", "hand")) for kind in ("mixed", "array")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stream", [None, StreamConfig(context=2)], ids=["frames", "stream"])
def test_toto_embeds_tensors_as_arrays(stream):
    encoder = load_encoder("toto-nano")
    wanted = embedded("array", encoder, stream=stream)
    for one, other in zip(embedded("tensor", encoder, stream=stream), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["tensor", "dlpack"])
def test_images_of_one_camera_are_not_copied(kind):
    env, encoder = Recorded(kind), Recorder()
    envs = TotoVectorObservation(env, encoder)
    envs.reset()
    for _ in range(2):
        latest = env.latest["image_top"]
        tensor = latest.tensor if kind == "dlpack" else latest
        frames = encoder.frames[-1]
        assert isinstance(frames, torch.Tensor)
        assert frames.data_ptr() == tensor.data_ptr()
        assert frames.shape == tensor.shape
        envs.step(None)


def test_images_never_leave_their_device():
    class Elsewhere(Recorded):
        """Environments whose images are on a device from which nothing can be read."""

        def observations(self):
            return {key: images.to("meta") for key, images in super().observations().items()}

        def step(self, actions):
            observations, rewards, *ends, infos = super().step(actions)
            return observations, rewards, *(Flags(one) for one in ends), infos

    class Flags(torch.Tensor):
        """Flags on another device: only `cpu` can read them."""

        def __new__(cls, values):
            return torch.as_tensor(values).as_subclass(cls)

        def __array__(self, *_, **__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    class OnMeta:
        dim = 4

        def __call__(self, frames):
            assert frames.device.type == "meta"
            return torch.zeros(len(frames), 4)

    envs = TotoVectorObservation(
        Elsewhere("tensor", cameras=("top", "hand"), mode=AutoresetMode.DISABLED), OnMeta()
    )
    envs.reset()
    envs.step(None)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(NUM_ENVS, 16, 20, 3), "dtype float32, but its space has uint8"),
        (torch.zeros(NUM_ENVS, 16, 21, 3, dtype=torch.uint8), "shape"),
    ],
)
def test_tensor_outside_its_space_is_an_error(images, message):
    env = Recorded("tensor")
    env.observations = lambda: {"image_top": images}
    with pytest.raises(ValueError, match=message):
        TotoVectorObservation(env, Recorder()).reset()
