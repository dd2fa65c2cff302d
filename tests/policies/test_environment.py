import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from policies.environment import EnvConfig, interface_of, make_env, make_expert
from policies.vision import NoVision, RandomVision, TotoVision, encoder_id
from tests.policies.fake_world import ENV, ReachEnv, save_tiny_encoder, toto
from toto_robot import load_encoder
from toto_robot.encoders.contract import compress_each

CPU = torch.device("cpu")


def test_the_expert_sees_what_the_student_does_not():
    spaces_of = {
        privileged: set(make_env(ENV, with_images=True, privileged=privileged).observation_space)
        for privileged in (True, False)
    }
    assert spaces_of[False] == {"image_eye", "proprio"}
    assert spaces_of[True] == {"image_eye", "proprio", "state"}


def test_for_the_blind_no_image_is_drawn():
    env = make_env(ENV, with_images=False, privileged=False)
    assert set(env.observation_space) == {"proprio"}
    assert interface_of(env).cameras == ()


def test_an_unknown_environment_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match="toto/FrankaPick-v0"):
        make_env(
            dataclasses.replace(ENV, id="envs:toto/FrankaPik-v0"),
            with_images=True,
            privileged=False,
        )
    with pytest.raises(ValueError, match="no_such_module"):
        make_env(
            dataclasses.replace(ENV, id="no_such_module:x"), with_images=True, privileged=False
        )


def test_an_unknown_expert_is_told_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no expert for 'other/Env-v0'; known: .*toto/FrankaPick-v0"
    ):
        make_expert("my_module:other/Env-v0")
    assert make_expert("envs:toto/FrankaPick-v0").reset() is None


class Strange(ReachEnv):
    def __init__(self, change):
        super().__init__()
        change(self)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda env: env.observation_space.spaces.pop("proprio"), "Dict with 'proprio'"),
        (lambda env: env.observation_space.spaces.pop("image_eye"), "images of"),
        (lambda env: setattr(env, "action_space", spaces.Box(-2, 2, (2,))), "within"),
        (lambda env: setattr(env, "action_space", spaces.Discrete(3)), "must be a Box"),
        (lambda env: delattr(env, "interface"), "needs an attribute `interface`"),
    ],
)
def test_an_environment_that_no_policy_can_use_says_why(change, message):
    gymnasium.register(id="fake/Strange-v0", entry_point=lambda: Strange(change))
    try:
        with pytest.raises(ValueError, match=message):
            make_env(
                EnvConfig(id="fake/Strange-v0", options={}, teacher_options={}, blind_options={}),
                with_images=True,
                privileged=False,
            )
    finally:
        del gymnasium.registry["fake/Strange-v0"]


def test_an_unknown_encoder_is_told():
    with pytest.raises(ValueError, match="unknown encoder 'toto-nanno'"):
        TotoVision(
            name_or_path="toto-nanno", layer=None, pool=None, repeat_frame=False, stream=None
        ).build(CPU)


def test_eyes_are_trained_or_random_or_none(tmp_path):
    folder = save_tiny_encoder(tmp_path / "tiny")
    trained = toto(folder).build(CPU)
    assert encoder_id(trained) == encoder_id(load_encoder(folder))
    drawn = RandomVision(name_or_path=str(folder), layer=2, pool="mean", seed=1)
    one, two = drawn.build(CPU), drawn.build(CPU)
    other = dataclasses.replace(drawn, seed=2).build(CPU)
    assert encoder_id(one) == encoder_id(two)
    assert (one.layer, one.pool) == (2, "mean")
    assert len({trained.weights_hash, one.weights_hash, other.weights_hash}) == 3
    assert NoVision().build(CPU) is None
    assert encoder_id(None) is None


def test_frames_of_two_sizes_are_tokenised_in_their_order(tmp_path):
    encoder = load_encoder(save_tiny_encoder(tmp_path / "tiny"))
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (32, 48, 32)]
    tokens = compress_each(encoder, frames)
    assert tokens.dtype == np.uint16
    for frame, row in zip(frames, tokens, strict=True):
        assert np.array_equal(row, encoder.tokenize(frame[None])[0].numpy())
    assert encoder.embed(tokens).shape == (3, encoder.dim)
