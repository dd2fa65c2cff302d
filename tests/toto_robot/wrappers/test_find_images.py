"""Which entries of an observation are images, and what an encoder is shown of them."""

import copy
import sys
import types

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from toto_robot import TotoObservation, TotoVecEnv, TotoVectorObservation, load_encoder
from toto_robot.wrappers import embedder
from toto_robot.wrappers.images import find_images

RGB = spaces.Box(0, 255, (16, 24, 3), np.uint8)


class Show(gymnasium.Env):
    """Show one observation of a space, drawn anew in every step."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = copy.deepcopy(space)  # with a generator of its own
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        self.shown = self.observation_space.sample()
        return self.shown, 0.0, False, False, {}


class Corner:
    """Embed a frame as its upper left pixel and its mean: it keeps what it was shown."""

    dim = 4

    def __call__(self, frames):
        frames = np.asarray(frames)
        assert frames.dtype == np.uint8
        assert frames.shape[3] == 3
        self.shown = frames
        flat = frames.reshape(len(frames), -1).mean(1, keepdims=True)
        return torch.from_numpy(np.concatenate([frames[:, 0, 0], flat], 1).astype(np.float32))


def wrap(space, **choice):
    env = TotoObservation(Show(space), Corner(), **choice)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    return env, observation


def box(shape, high=255, dtype=np.uint8, low=0):
    return spaces.Box(low, high, shape, dtype)


NAMES = {
    "image_hand": "hand",
    "agentview_image": "agentview",
    "observation.images.front": "front",
    "images.front": "front",
    "pixels": "pixels",
    "wrist_rgb": "wrist_rgb",
    "image": "image",
}


@pytest.mark.parametrize(("name", "camera"), NAMES.items())
def test_a_camera_is_named_by_the_usual_rules(name, camera) -> None:
    env, observation = wrap(spaces.Dict({name: RGB, "state": box((3,), 1, np.float32, -1)}))
    assert set(observation) == {f"embedding_{camera}", "state"}
    assert list(env.cameras) == [camera]
    assert env.cameras[camera].startswith(f"observation['{name}'] as camera '{camera}'")


def test_images_are_found_at_any_depth() -> None:
    space = spaces.Dict(
        pixels=spaces.Dict(top=RGB, side=RGB),
        pair=spaces.Tuple([spaces.Discrete(2), RGB]),
        state=spaces.Discrete(3),
    )
    env, observation = wrap(space)
    assert set(observation["pixels"]) == {"embedding_top", "embedding_side"}
    assert isinstance(observation["pair"], tuple)
    assert observation["pair"][1].shape == (4,)
    assert sorted(env.cameras) == ["pair", "side", "top"]
    shown = env.unwrapped.shown
    assert (
        observation["pixels"]["embedding_top"][:3].tolist() == shown["pixels"]["top"][0, 0].tolist()
    )
    assert observation["pair"][0] == shown["pair"][0]
    assert "pixels" in shown["pixels"] or "top" in shown["pixels"]  # the env's own is unchanged


def test_cameras_with_one_name_have_the_names_of_their_paths() -> None:
    space = spaces.Dict(left=spaces.Dict(image=RGB), right=spaces.Dict(image=RGB))
    env, observation = wrap(space)
    assert sorted(env.cameras) == ["left_image", "right_image"]
    assert set(observation["left"]) == {"embedding_left_image"}


LAYOUTS = {
    "channels last": box((16, 24, 3)),
    "channels first": box((3, 16, 24)),
    "floats": box((16, 24, 3), 1.0, np.float32),
    "floats, channels first": box((3, 16, 24), 1.0, np.float64),
    "small, named": box((3, 4, 4)),
}


@pytest.mark.parametrize("space", LAYOUTS.values(), ids=LAYOUTS)
def test_an_encoder_is_shown_uint8_rgb_channels_last(space) -> None:
    env, _ = wrap(spaces.Dict(pixels=space))
    raw = env.unwrapped.shown["pixels"]
    if raw.shape[0] == 3:
        raw = raw.transpose(1, 2, 0)
    raw = raw[..., :3]
    if raw.dtype != np.uint8:
        raw = (raw * 255).round()
    assert np.array_equal(env.encoder.shown[0], raw)


RGBA = {
    "key": ("rgba", {}),
    "key of SAPIEN": ("Color", {}),
    "layout": ("pixels", {"layout": "hwc"}),
    "layout of a camera": ("image_top", {"layout": {"top": "hwc"}}),
}


@pytest.mark.parametrize(("key", "choice"), RGBA.values(), ids=RGBA)
def test_four_channels_are_rgba_if_the_key_or_the_layout_says_so(key, choice) -> None:
    env, _ = wrap(spaces.Dict({key: box((16, 24, 4))}), **choice)
    assert np.array_equal(env.encoder.shown[0], env.unwrapped.shown[key][..., :3])
    assert "RGBA without its alpha" in next(iter(env.cameras.values()))


def test_the_grey_stack_of_stable_baselines_is_refused() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    venv = VecFrameStack(DummyVecEnv([lambda: Show(box((84, 84, 1)))]), 4)
    with pytest.raises(ValueError, match=r"RGBA, or 4 stacked grey.*remove the frame stack"):
        TotoVecEnv(venv, Corner())
    assert TotoVecEnv(venv.venv, Corner(), cameras=["image"]).reset().shape == (1, Corner.dim)


def test_images_are_turned_upright_and_colours_put_in_order() -> None:
    space = spaces.Dict(agentview_image=RGB, wrist_image=RGB)
    env, _ = wrap(space, flip={"agentview": "vertical"}, colour_order="bgr")
    shown = env.unwrapped.shown
    assert np.array_equal(env.encoder.shown[0], shown["agentview_image"][::-1, :, ::-1])
    assert np.array_equal(env.encoder.shown[1], shown["wrist_image"][:, :, ::-1])
    assert env.cameras["agentview"].endswith("(channels last, uint8, BGR, flipped vertically)")
    env, _ = wrap(space, flip="rotate180")
    assert np.array_equal(env.encoder.shown[0], env.unwrapped.shown["agentview_image"][::-1, ::-1])


def test_cameras_are_chosen_named_and_left_out() -> None:
    space = spaces.Dict(agentview_image=RGB, wrist_image=RGB, third=RGB)
    _, observation = wrap(space, cameras=["wrist"])
    assert set(observation) == {"agentview_image", "embedding_wrist", "third"}
    _, observation = wrap(space, cameras={"third": "over"})
    assert set(observation) == {"agentview_image", "wrist_image", "embedding_over"}
    _, observation = wrap(space, exclude=["third", "agentview"])
    assert set(observation) == {"agentview_image", "embedding_wrist", "third"}


def test_a_grey_image_is_embedded_when_it_is_named() -> None:
    space = spaces.Dict(pixels=RGB, depth=box((16, 24, 1)))
    with pytest.warns(UserWarning, match="'depth' may be images and are not embedded"):
        _, observation = wrap(space)
    assert set(observation) == {"depth", "embedding_pixels"}
    env, observation = wrap(space, cameras=["depth"])
    assert set(observation) == {"pixels", "embedding_depth"}
    assert np.array_equal(env.encoder.shown[0, ..., 1], env.unwrapped.shown["depth"][..., 0])
    env, _ = wrap(box((16, 24)), layout="hw")
    assert np.array_equal(env.encoder.shown[0, ..., 2], env.unwrapped.shown)


REFUSED = {
    "stacked greys": (box((4, 84, 84)), {}, "RGBA with channels first, or 4 stacked grey images"),
    "stacked greys, last": (box((84, 84, 4)), {}, "RGBA, or 4 stacked grey images"),
    "listed stack": (
        spaces.Dict(image=box((84, 84, 4))),
        {"cameras": ["image"]},
        r"'image'\] has shape \[84, 84, 4\]: RGBA, or 4 stacked.*layout='hwc' for RGBA; for grey",
    ),
    "grey alone": (box((84, 84, 1)), {}, r"one channel \[84, 84, 1\]: grey or depth\? list it in"),
    "no size": (box((0, 84, 3)), {}, "the observation has no image"),
    "unknown camera": (
        spaces.Dict(pixels=RGB),
        {"cameras": ["top"]},
        r"cameras: there is no 'top'",
    ),
    "unknown excluded": (spaces.Dict(pixels=RGB), {"exclude": ["x"]}, r"exclude: there is no 'x'"),
    "unknown layout": (RGB, {"layout": "whc"}, r"layout must be one of \['hwc', 'chw', 'hw'\]"),
    "unknown flip": (RGB, {"flip": "up"}, r"flip must be one of \['vertical', 'rotate180'\]"),
    "colours": (RGB, {"colour_order": "gbr"}, "colour_order must be rgb or bgr, got 'gbr'"),
    "no image chosen": (
        spaces.Dict(pixels=RGB, state=box((3,), 9.0, np.float32)),
        {"cameras": ["state"]},
        r"'state'\] is float32 within \[0, 9\]; an image is uint8",
    ),
    "flip of no camera": (
        spaces.Dict(agentview=RGB),
        {"flip": {"agentviw": "vertical"}},
        r"flip: there is no 'agentviw'; the observation has \['agentview'\]",
    ),
    "layout of no camera": (RGB, {"layout": {"top": "chw"}}, "layout: there is no 'top'"),
    "layout that fits none": (
        spaces.Dict(pixels=RGB),
        {"layout": "chw"},
        r"pixels: uint8 \[16, 24, 3\].*layout='chw' fits none of them",
    ),
    "colours as a stack": (
        spaces.Dict(rgb=box((84, 84, 3))),
        {"layout": "hw"},
        r"rgb: uint8 \[84, 84, 3\].*layout='hw' fits none of them",
    ),
    "one name for two": (
        spaces.Dict(left=RGB, right=RGB),
        {"cameras": {"left": "cam", "right": "cam"}},
        "cameras: two images have the same name",
    ),
    "all left out": (spaces.Dict(pixels=RGB), {"exclude": ["pixels"]}, "has no image"),
}


@pytest.mark.parametrize(("space", "choice", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_ambiguous_or_unknown_is_one_clear_line(space, choice, message) -> None:
    with pytest.raises(ValueError, match=message):
        TotoObservation(Show(space), Corner(), **choice)


GREY = box((84, 84))
MIXED = {
    "grey beside colours": (spaces.Dict(rgb=box((84, 84, 3)), grey=GREY), "hw", {}),
    "without a name": (spaces.Dict(front=box((84, 84, 3)), grey=GREY), "hw", {}),
    "four channels": (spaces.Dict(front=box((4, 84, 84)), wrist=box((84, 84, 3))), "chw", {}),
    "four channels, last": (spaces.Dict(front=box((84, 84, 4)), wrist=RGB), "hwc", {}),
    "chosen": (
        spaces.Dict(front=box((4, 84, 84)), wrist=box((84, 84, 3))), "chw",
        {"cameras": ["front", "wrist"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("space", "layout", "choice"), MIXED.values(), ids=MIXED)
def test_one_layout_for_all_is_only_for_what_is_not_certain(space, layout, choice) -> None:
    entries, _ = find_images(space, layout=layout, **choice)
    found = {entry.camera: (entry.layout, entry.stacked) for entry in entries}
    certain = {name: ("hwc", 0) for name, one in space.items() if one.shape[2:] == (3,)}
    (other,) = set(space) - set(certain)
    assert found == certain | {other: (layout, 0)}
    if layout != "hw":
        (rgba,) = (entry for entry in entries if entry.camera == other)
        assert "RGBA without its alpha" in rgba.describe()


def test_one_layout_for_all_holds_if_all_shapes_are_certain() -> None:
    (entry,), _ = find_images(box((3, 84, 84)), layout="hw")
    assert (entry.layout, entry.stacked) == ("hw", 3)


def test_four_stacked_greys_are_a_clip_when_their_layout_is_given() -> None:
    encoder = load_encoder("toto-nano")
    env = TotoObservation(Show(box((4, 32, 32))), encoder, layout="hw")
    observation, _ = env.reset(seed=0)
    clip = np.repeat(env.unwrapped.shown[None, ..., None], 3, axis=-1)
    assert np.allclose(observation, encoder.encode_clip(clip)[0, -1].numpy(), atol=1e-5)


def test_a_stack_of_frames_is_encoded_as_a_clip() -> None:
    from gymnasium.wrappers import FrameStackObservation

    encoder = load_encoder("toto-nano")
    env = TotoObservation(FrameStackObservation(Show(box((32, 32, 3))), 3), encoder)
    env.reset(seed=0)
    observation, *_ = env.step(0)
    alone = TotoObservation(Show(box((32, 32, 3))), encoder)
    alone.reset(seed=0)
    single, *_ = alone.step(0)
    assert observation.shape == single.shape == (encoder.dim,)
    assert np.abs(observation - single).max() > 1e-3  # it also depends on the frames before
    with pytest.raises(ValueError, match="a stack of frames is encoded as a clip"):
        TotoObservation(FrameStackObservation(Show(box((32, 32, 3))), 3), Corner())


NESTED = spaces.Dict(
    pixels=spaces.Dict(top=box((3, 16, 16))), pair=spaces.Tuple([RGB, spaces.Discrete(2)])
)


def test_vectors_have_the_same_rules() -> None:
    singles = [wrap(NESTED)[0] for _ in range(2)]
    expected = [env.reset(seed=0)[0] for env in singles]
    envs = TotoVectorObservation(
        gymnasium.vector.SyncVectorEnv([lambda: Show(NESTED)] * 2), Corner()
    )
    envs.reset(seed=0)
    observations, _ = envs.reset(seed=0)  # the second, as of the single ones
    assert envs.cameras == singles[0].cameras
    for index, one in enumerate(expected):
        top = observations["pixels"]["embedding_top"][index]
        assert np.array_equal(top, one["pixels"]["embedding_top"])
        assert np.array_equal(observations["pair"][0][index], one["pair"][0])
    assert envs.observation_space.contains(observations)


def test_stable_baselines_has_the_same_rules() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    space = spaces.Dict(agentview_image=box((3, 16, 16)), state=spaces.Box(-1, 1, (2,), np.float32))
    venv = TotoVecEnv(DummyVecEnv([lambda: Show(space)]), Corner(), flip="vertical")
    assert set(venv.reset()) == {"embedding_agentview", "state"}
    assert list(venv.cameras) == ["agentview"]


@pytest.mark.parametrize(
    ("module", "camera", "needed"),
    [
        ("robosuite.environments.manipulation.lift", None, "vertical"),
        ("metaworld.envs.sawyer_reach_v3", "corner2", "rotate180"),
        ("metaworld.envs.sawyer_reach_v3", "topview", None),
        ("my_lab.tasks", "corner2", None),
    ],
)
def test_known_environments_with_images_upside_down_are_warned_of(
    monkeypatch, recwarn, module, camera, needed
) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    macros = types.SimpleNamespace(IMAGE_CONVENTION="opengl")
    monkeypatch.setitem(sys.modules, "robosuite.macros", macros)
    Hanging = type("Hanging", (Show,), {"__module__": module, "camera_name": camera})
    space = spaces.Dict(pixels=RGB)
    wrappers = [
        (TotoObservation, lambda: Hanging(space)),
        (TotoVectorObservation, lambda: gymnasium.vector.SyncVectorEnv([lambda: Hanging(space)])),
        (TotoVecEnv, lambda: DummyVecEnv([lambda: Hanging(space)])),
    ]
    for wrapper, make in wrappers:
        if needed is None:
            wrapper(make(), Corner())
        else:
            with pytest.warns(UserWarning, match=f"upside down: add flip='{needed}'"):
                wrapper(make(), Corner())
            wrapper(make(), Corner(), flip=needed)
            wrapper(make(), Corner(), flip={})
    macros.IMAGE_CONVENTION = "opencv"
    if module.startswith("robosuite"):
        TotoObservation(Hanging(space), Corner())
    assert not recwarn.list


def test_a_list_of_handles_is_no_list_of_environments() -> None:
    class Simulation(Show):
        envs = [17, 18]  # noqa: RUF012  handles, as in the examples of Isaac Gym

    TotoObservation(Simulation(spaces.Dict(pixels=RGB)), Corner())


def test_what_is_embedded_is_printed_once(capsys, monkeypatch) -> None:
    monkeypatch.setattr(embedder, "_printed", set())
    for _ in range(3):
        wrap(spaces.Dict(pixels=RGB))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "toto_robot: embedding observation['pixels'] as camera 'pixels' (channels last, uint8)"
    )


KINDS = [(np.uint8, 0, 255), (np.uint8, 0, 1), (np.float32, 0, 1), (np.float32, -1, 1), (int, 0, 9)]


def boxes():
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 16, 17]), max_size=5).map(tuple)

    def make(shape, kind):
        return spaces.Box(kind[1], kind[2], shape, kind[0])

    return st.builds(make, shapes, st.sampled_from(KINDS))


def trees():
    leaves = boxes() | st.sampled_from([spaces.Discrete(2), spaces.Text(3)])
    names = st.sampled_from(["image_a", "a_image", "pixels", "state", "b", "embedding_a"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.dictionaries(names, inner, max_size=3).map(spaces.Dict)
            | st.lists(inner, min_size=1, max_size=2).map(spaces.Tuple)
        ),
        max_leaves=5,
    )


@settings(max_examples=300)
@given(trees())
@pytest.mark.filterwarnings("ignore:.*may be images")
def test_any_space_gives_the_right_embedding_or_one_clear_line(space) -> None:
    try:
        entries, _ = find_images(space)
        env = TotoObservation(Show(space), Corner())
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert len(refusal.splitlines()) == bool(refusal)
    if refusal:
        return
    assert not any(entry.stacked for entry in entries)  # these need an encoder of clips
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    for entry in entries:
        place = observation
        for key in (*entry.path[:-1], *([entry.output] if entry.path else [])):
            place = place[key]
        assert place.shape == (Corner.dim,)
        assert place.dtype == np.float32
