"""Frames, masks and tokens of every odd kind: the right answer, or an error that names the oddity.

Arrays that hold the same pictures give the same embeddings, however they lie in memory; what is no
picture is refused by every way in, before anything is computed.
"""

import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.toto_robot.tiny import tiny_toto
from toto_robot import load_encoder
from toto_robot.encoders.cache import FeatureCache
from toto_robot.encoders.vit import VitEncoder
from toto_robot.models.vision_transformer import VitConfig
from toto_robot.tokenizers.tokenizer import check_frames

SIDE = 16
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def vit():
    torch.manual_seed(0)
    config = VitConfig(
        image_size=SIDE, patch_size=8, dim=16, layers=1, heads=2, mlp_hidden=24, norm_eps=1e-6,
        registers=0, layer_scale=False, positions="learned", norm_after_pool=False,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    return VitEncoder(config.build(), layer=1, pool="cls")


TOTO, VIT = tiny_toto(SIDE), vit()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"), TOTO, max_bytes=1 << 20)


WAYS_IN = ("encoder", "stream", "vit", "cache")


def way_in(name, cache, num_frames):
    if name == "stream":
        return TOTO.stream(max(num_frames, 1)).step
    return {"encoder": TOTO, "vit": VIT, "cache": cache}[name]


def pictures(count=2, height=20, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def reversed_twice(frames):
    return np.ascontiguousarray(frames[:, ::-1, ::-1])[:, ::-1, ::-1]


def with_gaps(frames):
    wide = np.zeros((*frames.shape[:3], 5), np.uint8)
    wide[..., 1:4] = frames
    return wide[..., 1:4]


def read_only(frames):
    frames = frames.copy()
    frames.flags.writeable = False
    return frames


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "negative strides": reversed_twice,
    "gaps": with_gaps,
    "read-only": read_only,
    "channels moved": lambda f: np.ascontiguousarray(f.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "tensor": lambda f: torch.from_numpy(f.copy()),
    "tensor with gaps": lambda f: torch.from_numpy(with_gaps(f)),
    "tensor, permuted": lambda f: torch.from_numpy(
        np.ascontiguousarray(f.transpose(0, 3, 1, 2))
    ).permute(0, 2, 3, 1),
    "memory map": lambda f: f.view(np.memmap),
}


@pytest.mark.parametrize("name", WAYS_IN)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    count=st.integers(1, 3),
    seed=st.integers(0),
)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_pictures_in_any_layout_give_the_same(cache, name, layout, height, width, count, seed):
    frames = pictures(count, height, width, seed)
    before = frames.copy()
    expected = way_in(name, cache, count)(frames)
    found = way_in(name, cache, count)(LAYOUTS[layout](frames))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.isfinite(found).all()
    np.testing.assert_array_equal(frames, before)


DTYPES = st.sampled_from(
    [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.bool_]
)


@pytest.mark.parametrize("name", WAYS_IN)
@given(data=st.data())
@QUICK
def test_other_dtypes_are_refused_by_name(cache, name, data):
    dtype = data.draw(DTYPES)
    frames = pictures().astype(dtype)
    if dtype in (np.float16, np.float32, np.float64) and data.draw(st.booleans()):
        frames /= dtype(255)
        frames[0, 0, 0, 0] = data.draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
    for given_frames in (frames, torch.from_numpy(frames)):
        with pytest.raises(ValueError, match=r"frames must be uint8 in 0\.\.255, got .*"):
            way_in(name, cache, 2)(given_frames)


def test_floats_in_the_unit_interval_are_told_how_to_become_pictures():
    with pytest.raises(ValueError, match=r"in \[0, 1\] with \(frames \* 255\)\.round\(\)"):
        TOTO(pictures() / 255)


@pytest.mark.parametrize("name", WAYS_IN)
@given(shape=hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=7))
@QUICK
def test_other_shapes_are_refused_by_name(cache, name, shape):
    frames = np.zeros(shape, np.uint8)
    if len(shape) == 4 and shape[3] == 3 and 0 not in shape[1:3]:
        if name == "stream" and shape[0] == 0:
            return  # a stream has at least one environment
        assert way_in(name, cache, shape[0])(frames).shape[0] == shape[0]
        return
    with pytest.raises(ValueError, match=r"frames must .*" + re.escape(str(tuple(shape)))):
        way_in(name, cache, 1)(frames)


@pytest.mark.parametrize("name", WAYS_IN)
@pytest.mark.parametrize(
    ("frames", "hint"),
    [
        (np.zeros((2, 3, 20, 24), np.uint8), "channels first: use frames.permute"),
        (np.zeros((20, 24, 3), np.uint8), r"for one frame use frames\[None\]"),
        (np.zeros((2, 20, 24, 4), np.uint8), "RGB"),
        (np.zeros((2, 20, 24, 1), np.uint8), "RGB"),
        (np.zeros((2, 0, 24, 3), np.uint8), "not be empty"),
    ],
)
def test_the_usual_mistakes_are_told_what_to_do(cache, name, frames, hint):
    with pytest.raises(ValueError, match=hint):
        way_in(name, cache, 2)(frames)


@pytest.mark.parametrize(
    "frames",
    [[[1, 2, 3]], "frames.png", None, 7],
    ids=["list", "string", "None", "number"],
)
def test_what_is_no_array_is_refused_by_name(frames):
    with pytest.raises(TypeError, match="frames must be a numpy array or a torch tensor, got"):
        check_frames(frames)


@pytest.mark.parametrize("name", WAYS_IN)
@pytest.mark.parametrize(
    "frames",
    [np.array([["a"]]), np.array([None, {}], object), np.zeros(3, "M8[s]"), np.zeros(3, complex)],
    ids=["strings", "objects", "dates", "complex"],
)
def test_arrays_of_what_is_no_picture_are_refused_by_name(cache, name, frames):
    with pytest.raises(ValueError, match=r"frames must be uint8 in 0\.\.255, got"):
        way_in(name, cache, 1)(frames)


def test_a_huge_picture_is_resized():
    frames = np.zeros((1, 1080, 1920, 3), np.uint8)
    assert TOTO(frames).shape == (1, TOTO.dim)


def test_red_and_blue_cannot_be_told_apart_but_matter():
    frames = pictures()
    assert (TOTO(frames) - TOTO(frames[..., ::-1])).abs().max() > 1e-3


MASKS = {
    "integers": np.array([1, 0]),
    "too long": np.array([True, False, True]),
    "a column": np.array([[True], [False]]),
    "a number": np.array(True),
    "floats": np.array([1.0, 0.0]),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("tensor", [False, True])
def test_other_masks_are_refused_by_name(kind, tensor):
    stream = TOTO.stream(2)
    mask = torch.from_numpy(np.asarray(MASKS[kind])) if tensor else MASKS[kind]
    with pytest.raises(ValueError, match=r"reset must be bool \[2\], got"):
        stream.step(pictures(), mask)
    assert stream.frames_shown.tolist() == [0, 0]


INTEGERS = st.sampled_from([np.int64, np.int32, np.uint8, np.uint16])
OTHERS = st.sampled_from([np.float32, np.float16, np.bool_, np.complex64])


@given(
    dtype=INTEGERS | OTHERS,
    shape=st.just((2, 4)) | hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    value=st.integers(-2, 9000),
)
@QUICK
def test_tokens_are_right_or_refused(dtype, shape, value):
    tokens = torch.from_numpy(np.full(shape, 5).astype(dtype))
    integers = np.issubdtype(dtype, np.integer)
    if tokens.numel() and integers:
        value = int(np.array(value).astype(dtype))
        tokens = torch.from_numpy(np.where(np.arange(tokens.numel()) == 0, value, 5).astype(dtype))
        tokens = tokens.reshape(shape)
    fits = len(shape) == 2 and shape[1] == 4
    if integers and fits and (not tokens.numel() or 0 <= value < 8192):
        found = TOTO.from_tokens(TOTO.check_tokens(tokens))
        assert found.shape == (len(tokens), TOTO.dim)
        return
    with pytest.raises(ValueError, match="ids must "):
        TOTO.check_tokens(tokens)


def test_tokens_of_a_store_come_as_they_are():
    stored = np.full((2, 4), 9, np.uint16)
    expected = TOTO.from_tokens(torch.full((2, 4), 9))
    torch.testing.assert_close(TOTO.from_tokens(TOTO.check_tokens(stored)), expected)
    with pytest.raises(ValueError, match="ids must be integers, got float32"):
        TOTO.check_tokens(stored.astype(np.float32))
    with pytest.raises(TypeError, match="ids must be a tensor or a numpy array, got list"):
        TOTO.check_tokens([[1, 2, 3, 4]])


def test_gradients_of_frames_are_no_matter():
    frames = torch.from_numpy(pictures())
    with torch.enable_grad():
        assert not TOTO(frames).requires_grad


def test_shipped_encoder_takes_what_a_camera_gives():
    encoder = load_encoder("toto-nano", verify=False)
    for size in ((480, 640), (1, 1), (127, 129)):
        assert torch.isfinite(encoder(pictures(1, *size))).all()
