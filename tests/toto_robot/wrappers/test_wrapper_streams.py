"""Streams in the wrappers: each camera of each environment sees its own episode, and only that."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import Autoreset

from toto_robot import (
    Encoder,
    StreamConfig,
    TotoBackbone,
    TotoConfig,
    TotoObservation,
    TotoVecEnv,
    TotoVectorObservation,
)
from toto_robot.encoders.streamed import StreamedEncoder
from toto_robot.tokenizers import LightConfig

CAMERAS = ("hand", "front")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=16, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=3, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=4, frames=4, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    with torch.no_grad():  # so that the past matters
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return Encoder(tokenizer, transformer, layer=2, pool="grid2", frame_interval_s=0.1)


class Film(gymnasium.Env):
    """Show pictures that no other environment, episode, camera or step shows."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(2)

    def __init__(self, length, number=0, bare=False):
        self.length, self.number, self.bare, self.episode = length, number, bare, -1
        sizes = dict(zip(CAMERAS, (16, 20), strict=True))
        boxes = {
            f"image_{name}": spaces.Box(0, 255, (size, size, 3), np.uint8)
            for name, size in sizes.items()
        }
        self.observation_space = boxes["image_hand"] if bare else spaces.Dict(boxes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.episode = 0, self.episode + 1
        return self.look(), {}

    def step(self, action):
        self.now += 1
        return self.look(), 0.0, False, self.now >= self.length, {}

    def look(self):
        space = self.observation_space
        boxes = {"": space} if self.bare else space.spaces
        pictures = {
            key: np.random.default_rng([self.number, self.episode, self.now, camera]).integers(
                0, 256, box.shape, np.uint8
            )
            for camera, (key, box) in enumerate(boxes.items())
        }
        return pictures[""] if self.bare else pictures


class Witness:
    """Embed one camera's episode frame by frame, from the beginning, with a stream of its own."""

    def __init__(self, encoder, stream):
        self.encoder, self.config, self.streams = encoder, stream, {}

    def __call__(self, row, key, frame, begins):
        if begins:
            self.streams[row, key] = self.config.open(self.encoder, 1)
        stream = self.streams[row, key]
        self.last = stream.step(np.array(frame)[None])[0].numpy()
        return self.last


def as_dict(observation, name):
    return observation if isinstance(observation, dict) else {f"{name}_": observation}


def expect(witness, row, raw, embedded, begins):
    raw, embedded = as_dict(raw, "image"), as_dict(embedded, "embedding")
    assert len(raw) == len(embedded)
    for key, frame in raw.items():
        found = embedded[key.replace("image", "embedding")]
        np.testing.assert_allclose(found, witness(row, key, frame, begins), atol=2e-5, rtol=0)


def row_of(observation, row):
    if isinstance(observation, dict):
        return {key: value[row] for key, value in observation.items()}
    return observation[row]


STREAMS = pytest.mark.parametrize(
    "stream",
    [
        StreamConfig(),
        StreamConfig(mode="staggered"),
        StreamConfig(context=2, frame_skip=2),
    ],
    ids=["rolling", "staggered", "skipping"],
)


@STREAMS
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_camera_of_a_vector_sees_its_own_episode(encoder, mode, bare, stream):
    def make():
        films = [lambda n=n: Film(2 + 2 * n, n, bare) for n in range(3)]
        return SyncVectorEnv(films, autoreset_mode=mode)

    raw = make()
    envs = TotoVectorObservation(make(), encoder, stream=stream)
    witness = Witness(encoder, stream)
    observation, raw_observation = envs.reset(seed=0)[0], raw.reset(seed=0)[0]
    for row in range(3):
        expect(witness, row, row_of(raw_observation, row), row_of(observation, row), True)
    ended, episodes = np.zeros(3, bool), 0
    for _ in range(13):
        got, want = envs.step([0, 0, 0]), raw.step([0, 0, 0])
        assert got[0] in envs.observation_space
        before, ended = ended, want[2] | want[3]
        episodes += int(ended.sum())
        for row in range(3):
            begins = before[row] and mode == AutoresetMode.NEXT_STEP
            if ended[row] and mode == AutoresetMode.SAME_STEP:
                last, raw_last = got[4]["final_obs"][row], want[4]["final_obs"][row]
                expect(witness, row, raw_last, last, False)
                begins = True
            expect(witness, row, row_of(want[0], row), row_of(got[0], row), begins)
        if mode == AutoresetMode.DISABLED and ended.any():
            options = {"reset_mask": ended.copy()}
            again = envs.reset(options=options)[0]
            raw_again = raw.reset(options={"reset_mask": ended.copy()})[0]
            for row in range(3):
                if ended[row]:
                    expect(witness, row, row_of(raw_again, row), row_of(again, row), True)
                else:  # has shown nothing new, and its past has not moved
                    for key, value in as_dict(row_of(again, row), "embedding").items():
                        before = as_dict(row_of(got[0], row), "embedding")[key]
                        np.testing.assert_array_equal(value, before)
    assert episodes > 4


def test_a_whole_reset_begins_every_past_anew(encoder):
    envs = TotoVectorObservation(
        SyncVectorEnv([lambda: Film(9), lambda: Film(9, 1)]), encoder, stream=StreamConfig()
    )
    envs.reset(seed=0)
    envs.step([0, 0])
    observation, _ = envs.reset(seed=0)
    films = [Film(9, n) for n in range(2)]
    for row, film in enumerate(films):
        film.reset()
        raw, _ = film.reset()  # the second episode
        alone = encoder(raw["image_hand"][None])[0].numpy()
        np.testing.assert_allclose(observation["embedding_hand"][row], alone, atol=2e-5)


def test_after_a_partial_reset_the_other_environments_still_begin_anew(encoder):
    stream = StreamConfig()
    envs = TotoVectorObservation(
        SyncVectorEnv([lambda n=n: Film(2, n) for n in range(2)]), encoder, stream=stream
    )
    envs.reset(seed=0)
    envs.step([0, 0])
    assert envs.step([0, 0])[3].all()  # both episodes end; the next step would begin both
    envs.reset(options={"reset_mask": np.array([True, False])})
    observation = envs.step([0, 0])[0]
    film = Film(2, 1)
    film.reset()
    raw, _ = film.reset()  # the first frame of the second episode of environment 1
    expect(Witness(encoder, stream), 1, raw, row_of(observation, 1), True)


def test_batched_last_frames_of_ended_episodes_alone_move_a_past(encoder):
    class Batched(VectorEnv):
        num_envs = 2
        metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
        single_observation_space = Film(1).observation_space

        def __init__(self):
            self.observation_space = SyncVectorEnv([lambda: Film(1)] * 2).observation_space

        def reset(self, *, seed=None, options=None):
            self.observation_space.seed(0)
            return self.observation_space.sample(), {}

        def step(self, actions):
            now, last = self.observation_space.sample(), self.observation_space.sample()
            ended = np.array([True, False])
            return now, np.zeros(2), np.zeros(2, bool), ended, {"final_obs": last}

    envs, raw, witness = Batched(), Batched(), Witness(encoder, StreamConfig())
    envs = TotoVectorObservation(envs, encoder, stream=StreamConfig())
    observation, raw_observation = envs.reset()[0], raw.reset()[0]
    for row in range(2):
        expect(witness, row, row_of(raw_observation, row), row_of(observation, row), True)
    for _ in range(3):
        got, want = envs.step(None), raw.step(None)
        expect(witness, 0, row_of(want[4]["final_obs"], 0), row_of(got[4]["final_obs"], 0), False)
        assert not row_of(got[4]["final_obs"], 1)["embedding_hand"].any()
        for row in range(2):
            expect(witness, row, row_of(want[0], row), row_of(got[0], row), row == 0)


@STREAMS
@pytest.mark.parametrize("resets_itself", [False, True])
def test_a_single_environment_sees_its_own_episode(encoder, stream, resets_itself):
    raw, inner = Film(5), Film(5)
    if resets_itself:
        raw, inner = Autoreset(raw), Autoreset(inner)
    env = TotoObservation(inner, encoder, stream=stream)
    witness, ended = Witness(encoder, stream), False
    expect(witness, 0, raw.reset()[0], env.reset()[0], True)
    for _ in range(14):
        if ended and not resets_itself:
            expect(witness, 0, raw.reset()[0], env.reset()[0], True)
            ended = False
        observation, raw_observation = env.step(0), raw.step(0)
        expect(witness, 0, raw_observation[0], observation[0], ended)
        ended = observation[2] or observation[3]


@STREAMS
def test_stable_baselines_sees_each_episode_to_its_end(encoder, stream):
    from stable_baselines3.common.vec_env import DummyVecEnv

    def make():
        return DummyVecEnv([lambda n=n: Film(2 + 2 * n, n) for n in range(2)])

    raw, venv = make(), TotoVecEnv(make(), encoder, stream=stream)
    witness = Witness(encoder, stream)
    raw_observation, observation = raw.reset(), venv.reset()
    for row in range(2):
        expect(witness, row, row_of(raw_observation, row), row_of(observation, row), True)
    for _ in range(9):
        got, want = venv.step(np.zeros(2, int)), raw.step(np.zeros(2, int))
        for row in range(2):
            if want[2][row]:
                key = "terminal_observation"
                expect(witness, row, want[3][row][key], got[3][row][key], False)
            expect(witness, row, row_of(want[0], row), row_of(got[0], row), bool(want[2][row]))


def test_a_camera_that_is_too_fast_is_warned_of(encoder):
    with pytest.warns(UserWarning, match="frame_skip=3 comes closest"):
        TotoObservation(Film(2), encoder, stream=StreamConfig(camera_hz=30.0))


def test_an_encoder_without_memory_is_refused_a_stream():
    class Alone:
        dim = 3

        def __call__(self, frames):
            return torch.zeros(len(frames), 3)

    with pytest.raises(ValueError, match="Alone encodes each frame by itself"):
        TotoObservation(Film(2), Alone(), stream=StreamConfig())


def test_an_encoder_with_a_past_of_its_own_is_refused(encoder):
    streamed = StreamedEncoder(encoder, StreamConfig(context=2))
    with pytest.raises(
        ValueError, match=r"give the encoder itself and stream=StreamConfig\(\.\.\.\)"
    ):
        TotoObservation(Film(2), streamed)
    with pytest.raises(ValueError, match="StreamedEncoder uses earlier frames"):
        TotoBackbone(streamed)
