"""Any observation space: the right embedding, or one clear line; never an error from inside."""

import traceback
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import event, given, settings
from hypothesis import strategies as st

from toto_robot import TotoObservation, TotoVectorObservation

DTYPES = (
    np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_
)  # fmt: skip
NAMES = ("pixels", "image_top", "rgb", "state", "depth", "observation.images.front", "a/b", "")


class Mean:
    """An encoder: mean of each channel, and of the upper left pixel. It has clips as well."""

    dim = 4

    def __call__(self, frames):
        frames = np.asarray(frames)
        assert frames.dtype == np.uint8
        assert frames.ndim == 4
        assert frames.shape[-1] == 3
        assert frames.size > 0
        corner = frames[:, 0, 0].mean(1, keepdims=True)
        return torch.from_numpy(np.concatenate([frames.mean((1, 2)), corner], 1).astype(np.float32))

    class transformer:
        class config:
            frames = 4

    def encode_clip(self, clips):
        return torch.stack([self(clip) for clip in np.asarray(clips)])


class Samples(gymnasium.Env):
    """Return samples of a space; `change` may make something else of them."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, change=lambda sample: sample):
        self.observation_space, self._change = space, change

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action):
        self.last = self._change(self.observation_space.sample())
        return self.last, 0.0, False, False, {}


@st.composite
def boxes(draw):
    shape = draw(
        st.lists(st.sampled_from([0, 1, 2, 3, 4, 9, 16]), max_size=5).map(tuple)
        | st.sampled_from([(16, 9, 3), (3, 16, 9), (4, 16, 16), (16, 16, 1), (2, 16, 9, 3)])
    )
    dtype = draw(st.sampled_from(DTYPES))
    if dtype == np.bool_:
        low, high = 0, 1
    elif np.issubdtype(dtype, np.floating):
        low, high = draw(st.sampled_from([(0, 1), (-1, 1), (0, 255), (-np.inf, np.inf)]))
    else:
        high = draw(st.sampled_from([1, 100, 255]))
        low, high = 0, min(high, np.iinfo(dtype).max)
    return spaces.Box(low, high, shape, dtype)


IMAGES = [
    spaces.Box(0, 255, shape, np.uint8)
    for shape in [(16, 9, 3), (3, 16, 9), (16, 16, 4), (4, 3, 4, 3), (2, 16, 9, 3), (2, 3, 16, 16)]
] + [spaces.Box(0, 1, shape, kind) for kind in DTYPES[5:8] for shape in [(16, 9, 3), (3, 16, 16)]]
any_space = st.recursive(
    st.sampled_from(IMAGES)
    | boxes()
    | st.sampled_from([spaces.Discrete(3), spaces.MultiBinary(4), spaces.Text(3)])
    | st.just(spaces.Sequence(spaces.Box(0, 255, (16, 16, 3), np.uint8))),
    lambda inner: (
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3).map(spaces.Dict)
        | st.lists(inner, max_size=3).map(spaces.Tuple)
    ),
    max_leaves=6,
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "cameras": st.none() | st.lists(st.sampled_from(NAMES), max_size=2),
        "exclude": st.lists(st.sampled_from(NAMES), max_size=1),
        "layout": st.sampled_from([None, "hwc", "chw", "hw"]),
        "colour_order": st.sampled_from(["rgb", "bgr"]),
        "flip": st.sampled_from([None, "vertical", "rotate180"]),
    },
)


def is_ours(error):
    """Return whether the wrapper's own code raised this error, in one line that says what to do."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = "/toto_robot/wrappers/" in last.filename
    return ours and isinstance(error, (ValueError, TypeError)) and "\n" not in str(error)


def leaves(value, path=()):
    """Yield every leaf of a nested observation."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, tuple):
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index))
    else:
        yield path, value


def by_hand(entry, raw):
    """Return the embedding of an image, with arithmetic of this test's own."""
    image = raw
    for key in entry.path:
        image = image[key]
    image = np.asarray(image)
    frame = image[-1] if entry.stacked else image
    pixels = []
    for channel in (2, 1, 0) if entry.is_bgr else (0, 1, 2):
        if entry.layout == "hw":
            plane = frame
        elif entry.layout == "chw":
            plane = frame[channel if frame.shape[0] > 1 else 0]
        else:
            plane = frame[:, :, channel if frame.shape[2] > 1 else 0]
        if entry.flip:
            plane = np.flipud(plane)
        if entry.flip == "rotate180":
            plane = np.fliplr(plane)
        pixels.append(np.rint(plane * 255) if entry.is_float else plane)
    pixels = np.stack(pixels, -1).astype(np.float64)
    return np.array([*pixels.mean((0, 1)), pixels[0, 0].mean()], np.float32)


def check(env, observation, raw):
    assert env.observation_space.contains(observation)
    entries = env._embedder.entries
    assert entries
    found = dict(leaves(observation))
    for entry in entries:
        key = entry.output
        path = (*entry.path[:-1], key) if entry.path else ()
        assert np.allclose(found.pop(path), by_hand(entry, raw), atol=0.02), entry
    untouched = {entry.path for entry in entries}
    rest = {path: one for path, one in leaves(raw) if path not in untouched}
    assert found.keys() == rest.keys()
    for path, one in rest.items():
        assert found[path] is one or np.array_equal(found[path], one)


@settings(max_examples=150, deadline=None)
@given(any_space, choices, st.integers(0, 100))
def test_any_space_is_embedded_or_refused_in_one_line(space, choice, seed) -> None:
    space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = TotoObservation(Samples(space), Mean(), **choice)
        except (ValueError, TypeError) as error:
            if not is_ours(error):
                raise
            event("refused")
            return
        observation, _ = env.reset()
        check(env, observation, env.unwrapped.last)
        observation, *_ = env.step(0)
        check(env, observation, env.unwrapped.last)


@settings(max_examples=60, deadline=None)
@given(any_space, st.sampled_from(list(AutoresetMode)), st.integers(0, 100))
def test_vector_environments_embed_what_single_ones_do(space, mode, seed) -> None:
    space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TotoObservation(Samples(space), Mean())
            # Gymnasium's own limits of batches, such as bool boxes, are not ours
            inner = SyncVectorEnv([lambda: Samples(space)] * 2, autoreset_mode=mode)
        except (ValueError, TypeError):
            return
        envs = TotoVectorObservation(inner, Mean())
        envs.reset()
        observations, *_ = envs.step(np.zeros(2, np.int64))
    batch = inner.observations if hasattr(inner, "observations") else inner._observations
    for entry in envs._embedder.entries:
        path = (*entry.path[:-1], entry.output) if entry.path else ()
        found = dict(leaves(observations))[path]
        images = batch
        for key in entry.path:
            images = images[key]
        for row in range(2):
            whole = images[row]
            for key in reversed(entry.path):
                whole = {key: whole}
            assert np.allclose(found[row], by_hand(entry, whole), atol=0.02)


IMAGE = spaces.Box(0, 255, (16, 9, 3), np.uint8)
UNIT = spaces.Box(0, 1, (3, 16, 9), np.float32)


@pytest.mark.parametrize(
    ("space", "change", "message"),
    [
        (IMAGE, lambda one: one[:8], r"the observation has shape \[8, 9, 3\], but .* \[16, 9, 3\]"),
        (IMAGE, lambda one: one[..., 0], r"has shape \[16, 9\], but its space has \[16, 9, 3\]"),
        (IMAGE, lambda one: one[:, :0], r"has shape \[16, 0, 3\]"),
        (IMAGE, lambda one: one / 255, "has dtype float64, but its space has uint8"),
        (IMAGE, lambda one: one.astype(np.int16) - 300, "has dtype int16, but its space has uint8"),
        (IMAGE, lambda one: None, r"the observation has shape \[\]"),
        (IMAGE, lambda one: "image", r"the observation has shape \[\]"),
        (UNIT, lambda one: one * 2 + 1.5, r"has values outside \[0, 1\]"),
        (UNIT, lambda one: one * np.nan, r"has values outside \[0, 1\]"),
        (UNIT, lambda one: (one * 255).astype(np.uint8), "has dtype uint8, but .* has floats"),
        (UNIT, lambda one: one * 255, r"has values outside \[0, 1\]"),
        (spaces.Dict(pixels=IMAGE), lambda one: {"other": 1}, "observation has no 'pixels'"),
        (spaces.Dict(pixels=IMAGE), lambda one: one["pixels"], "observation has no 'pixels'"),
        (spaces.Dict(a=spaces.Dict(b=IMAGE)), lambda one: {"a": 3}, "observation has no 'a/b'"),
        (spaces.Tuple([IMAGE]), lambda one: (), "observation has no '0'"),
    ],
)  # fmt: skip
def test_an_observation_that_leaves_its_space_is_one_line(space, change, message) -> None:
    env = TotoObservation(Samples(space, change), Mean())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message) as caught:
        env.step(0)
    assert is_ours(caught.value)


def test_floats_of_another_width_are_accepted() -> None:
    env = TotoObservation(Samples(UNIT, lambda one: one.astype(np.float64)), Mean())
    env.reset(seed=0)
    observation, *_ = env.step(0)
    assert observation.shape == (4,)
