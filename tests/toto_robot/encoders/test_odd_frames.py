"""Odd frames as users meet them, without the shape checker of the tests: hints, and no traces.

What `test_odd_inputs.py` draws at random, and besides: what an error leaves behind, clips,
wrappers, and kinds of arrays that are rare.
"""

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.toto_robot.tiny import tiny_toto
from toto_robot import TotoObservation
from toto_robot.encoders.cache import FeatureCache
from toto_robot.encoders.vit import VitEncoder
from toto_robot.models.vision_transformer import VitConfig

SIDE = 32


def build_vit():
    torch.manual_seed(0)
    config = VitConfig(
        image_size=SIDE, patch_size=8, dim=16, layers=1, heads=2, mlp_hidden=32, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    return VitEncoder(config.build(), layer=1, pool="mean")


TOTO, VIT = tiny_toto(SIDE), build_vit()


@pytest.fixture(autouse=True)
def without_the_shape_checker():
    """Be as the library is for its users: the tests' shape checker would refuse much before it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Everything that takes frames, by name."""
    folder = tmp_path_factory.mktemp("cache")
    cached = FeatureCache(folder / "toto", TOTO, max_bytes=2**20)
    return {
        "encoder": TOTO,
        "tokenizer": TOTO.tokenize,
        "stream": lambda frames: TOTO.stream(len(frames)).step(frames),
        "vit": VIT,
        "cache": cached,
        "clip": lambda frames: TOTO.encode_clip(frames[None])[0],
    }


NAMES = ("encoder", "tokenizer", "stream", "vit", "cache", "clip")
STILL = ("encoder", "tokenizer", "vit", "cache")  # whose frames are independent of one another


def picture(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def reversed_strides(frames):
    return np.ascontiguousarray(frames[:, ::-1, ::-1])[:, ::-1, ::-1]


def reversed_channels(frames):
    return np.ascontiguousarray(frames[..., ::-1])[..., ::-1]


def inside_a_larger_array(frames):
    b, h, w, _ = frames.shape
    larger = np.full((2 * b, h + 3, w + 5, 4), 77, np.uint8)
    larger[::2, 1 : h + 1, 2 : w + 2, :3] = frames
    return larger[::2, 1 : h + 1, 2 : w + 2, :3]


def read_only(frames):
    frames = frames.copy()
    frames.flags.writeable = False
    return frames


def big_and_little_endian_do_not_matter(frames):
    return frames.astype(frames.dtype.newbyteorder(">"))


class Subclass(np.ndarray):
    """As some readers of pictures give."""


WAYS = [
    np.asfortranarray,
    reversed_strides,
    reversed_channels,
    inside_a_larger_array,
    read_only,
    big_and_little_endian_do_not_matter,
    lambda frames: frames.view(Subclass),
    lambda frames: np.broadcast_to(frames, frames.shape),
    torch.from_numpy,
    lambda frames: torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1),
    lambda frames: torch.from_numpy(inside_a_larger_array(frames)),
    lambda frames: torch.from_numpy(frames).to(memory_format=torch.channels_last),
    lambda frames: torch.nn.Parameter(torch.from_numpy(frames), requires_grad=False),
    lambda frames: np.stack([np.asarray(Image.fromarray(frame)) for frame in frames]),
]


@pytest.mark.parametrize("name", NAMES)
@given(
    seed=st.integers(0, 2**16),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    way=st.sampled_from(WAYS),
)
def test_the_same_pixels_give_the_same_answer_however_they_lie(
    eyes, name, seed, height, width, way
):
    frames = picture(seed, height, width)
    before = frames.copy()
    expected = eyes[name](frames)
    found = eyes[name](way(frames))
    # the last bits may depend on the layout that a convolution was given
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert np.array_equal(frames, before)


WRONG = {
    "floats in 0..1": (lambda f: f / 255.0, ValueError, r"uint8.*float64.*images in \[0, 1\]"),
    "floats in 0..255": (lambda f: f.astype(np.float32), ValueError, r"uint8.*float32 with values"),
    "half floats": (lambda f: f.astype(np.float16), ValueError, r"uint8.*float16"),
    "int64": (lambda f: f.astype(np.int64), ValueError, "uint8.*int64"),
    "uint16": (lambda f: f.astype(np.uint16), ValueError, "uint8.*uint16"),
    "bool": (lambda f: f > 100, ValueError, "uint8.*bool"),
    "NaN": (lambda f: np.full(f.shape, np.nan), ValueError, "uint8.*NaN"),
    "infinity": (lambda f: np.full(f.shape, np.inf), ValueError, r"uint8.*inf"),
    "channels first": (lambda f: f.transpose(0, 3, 1, 2), ValueError, "channels first"),
    "grey": (lambda f: f[..., :1], ValueError, "RGB.*1 channel"),
    "four channels": (lambda f: f[..., [0, 1, 2, 2]], ValueError, "RGB.*4 channels"),
    "no batch": (lambda f: f[0], ValueError, r"for one frame use frames\[None\]"),
    "no height": (lambda f: f[:, :0], ValueError, "must not be empty"),
    "no width": (lambda f: f[:, :, :0], ValueError, "must not be empty"),
    "objects": (lambda f: f.astype(object), ValueError, "uint8.*object"),
    "strings": (lambda f: f.astype(str), ValueError, "uint8.*<U"),
    "complex": (lambda f: f.astype(np.complex64), ValueError, "uint8.*complex64"),
    "structured": (lambda f: f.view([("red", "u1"), ("green", "u1"), ("blue", "u1")]), ValueError,
                   "uint8"),
    "tensor of floats": (lambda f: torch.from_numpy(f) / 255, ValueError, r"uint8.*float32"),
    "tensor with gradient": (lambda f: (torch.from_numpy(f) / 255).requires_grad_(), ValueError,
                             r"uint8.*float32"),
    "tensor on no device": (lambda f: torch.from_numpy(f).to("meta"), ValueError, "meta"),
    "sparse tensor": (lambda f: torch.from_numpy(f).to_sparse(), ValueError, "sparse"),
}  # fmt: skip
NO_ARRAYS = {
    "list of frames": (list, TypeError, r"list.*np\.stack"),
    "nested lists": (lambda f: f.tolist(), TypeError, r"list.*np\.stack"),
    "pictures of Pillow": (lambda f: Image.fromarray(f[0]), TypeError, r"Image.*np\.asarray"),
    "nothing": (lambda f: None, TypeError, "NoneType"),
    "a number": (lambda f: 3, TypeError, "int"),
    "a dict": (lambda f: {"image": f}, TypeError, "dict"),
    "another batch": (lambda f: f[None], ValueError, r"\[b h w 3\]"),
}


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("case", [*WRONG, *NO_ARRAYS])
def test_wrong_frames_are_refused_with_the_reason(eyes, name, case):
    change, error, words = (WRONG | NO_ARRAYS)[case]
    with pytest.raises(error, match=words):
        eyes[name](change(picture(0, 8, 9)))


@pytest.mark.parametrize("case", [*WRONG, *NO_ARRAYS])
def test_a_stream_refuses_wrong_frames_and_stays_as_it_was(case):
    change, error, words = (WRONG | NO_ARRAYS)[case]
    stream, other = TOTO.stream(2), TOTO.stream(2)
    first, second = picture(1, 8, 9), picture(2, 8, 9)
    stream.step(first)
    other.step(first)
    with pytest.raises(error, match=words):
        stream.step(change(first))
    assert torch.equal(stream.step(second), other.step(second))


@pytest.mark.parametrize(
    ("reset", "words"),
    [
        (np.array([1, 0]), r"reset must be bool \[2\], got int64"),
        (np.array([1.0, 0.0]), "float64"),
        (np.array([True]), r"got bool \[1\]"),
        (np.array([[True, False]]), r"got bool \[1, 2\]"),
        (np.bool_(True), r"got bool \[\]"),
        (torch.tensor([1, 0]), "int64"),
        (np.array([True, None]), "object"),
        ("yes", r"reset must be bool \[2\]"),
    ],
)
def test_wrong_reset_masks_are_refused_and_change_nothing(reset, words):
    stream, other = TOTO.stream(2), TOTO.stream(2)
    frames = picture(3, 8, 9)
    stream.step(frames)
    other.step(frames)
    with pytest.raises(ValueError, match=words):
        stream.step(frames, reset)
    assert torch.equal(stream.step(frames), other.step(frames))


@pytest.mark.parametrize(
    "same",
    [
        [True, False],
        (True, False),
        torch.tensor([True, False]),
        np.array([True, True, False, False])[::2],
    ],
    ids=["list", "tuple", "tensor", "strided"],
)
def test_reset_masks_of_any_kind_are_the_same(same):
    outputs = []
    for mask in (np.array([True, False]), same):
        stream = TOTO.stream(2)
        stream.step(picture(3, 8, 9))
        outputs.append(stream.step(picture(4, 8, 9), mask))
    assert torch.equal(*outputs)


def test_no_frames_give_no_embeddings(eyes):
    for name in STILL:
        assert len(eyes[name](picture(0, 8, 9)[:0])) == 0
    with pytest.raises(ValueError, match=r"of 2 environments, got 0"):
        TOTO.stream(2).step(picture(0, 8, 9)[:0])


class PictureEnv(gymnasium.Env):
    """Shows what it is told to, whatever it promised."""

    observation_space = spaces.Dict({"image_eye": spaces.Box(0, 255, (8, 9, 3), np.uint8)})
    action_space = spaces.Discrete(2)

    def __init__(self, shown):
        self._shown = shown

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"image_eye": self._shown}, {}


@pytest.mark.parametrize(
    "case", [case for case in WRONG if "tensor" not in case and case != "no batch"]
)
def test_a_wrapped_environment_that_breaks_its_promise_is_told_so(case):
    change, _, words = WRONG[case]
    shown = change(picture(0, 8, 9))[0]
    if shown.shape != (8, 9, 3):
        words = r"observation\['image_eye'\] has shape .*, but its space has \[8, 9, 3\]"
    elif shown.dtype != np.uint8:
        words = rf"observation\['image_eye'\] has dtype {shown.dtype}, but its space has uint8"
    with pytest.raises(ValueError, match=words):
        TotoObservation(PictureEnv(shown), TOTO).reset()


@pytest.mark.parametrize("way", WAYS[:6])
def test_a_wrapped_environment_may_give_its_picture_as_it_lies(way):
    frames = picture(0, 8, 9)
    env = TotoObservation(PictureEnv(way(frames)[0]), TOTO)
    observation, _ = env.reset()
    expected = TOTO(frames[:1])[0].numpy()
    np.testing.assert_allclose(observation["embedding_eye"], expected, atol=1e-5)
