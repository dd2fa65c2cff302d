import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from toto_robot.wrappers.env import TotoObservation
from toto_robot.wrappers.sb3 import TotoVecEnv
from toto_robot.wrappers.vector import TotoVectorObservation

DIM = 3


class CountingEncoder:
    """Embed a frame as its mean, times 1, 2, 3; and count the calls."""

    dim = DIM

    def __init__(self):
        self.batches = []

    def __call__(self, frames):
        assert frames.dtype == np.uint8
        self.batches.append(frames.shape)
        return embedding(torch.as_tensor(frames))


def embedding(frames):
    return frames.float().mean(dim=(1, 2, 3))[:, None] * torch.arange(1, DIM + 1)


def picture(size=4, **changes):
    return spaces.Box(
        **({"low": 0, "high": 255, "shape": (size, size, 3), "dtype": np.uint8} | changes)
    )


class Clock(gymnasium.Env):
    """Show the step number as the brightness of every picture; end after `length` steps."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(2)

    def __init__(self, length=3, sizes=(("hand", 4), ("front", 4)), bare=False):
        self.length, self.sizes, self.bare = length, sizes, bare
        pictures = {f"image_{name}": picture(size) for name, size in sizes}
        proprio = spaces.Box(-1, 1, (2,), np.float32)
        mode = spaces.Discrete(5)
        self.observation_space = (
            picture() if bare else spaces.Dict(pictures | {"proprio": proprio, "mode": mode})
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.look(), {}

    def step(self, action):
        self.now += 1
        return self.look(), 0.0, False, self.now >= self.length, {"now": self.now}

    def look(self):
        if self.bare:
            return np.full((4, 4, 3), self.now, np.uint8)
        pictures = {
            f"image_{name}": np.full((size, size, 3), self.now + 10 * index, np.uint8)
            for index, (name, size) in enumerate(self.sizes)
        }
        return pictures | {"proprio": np.full(2, self.now / 100, np.float32), "mode": self.now}


def seen(embeddings):
    """Undo the embedding: which brightness was seen."""
    scaled = np.asarray(embeddings) / np.arange(1, DIM + 1)
    assert np.ptp(scaled, axis=-1).max() < 1e-5
    return scaled[..., 0].tolist()


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*Box observation space m..imum value is .*infinity")
@pytest.mark.parametrize("bare", [False, True])
def test_a_wrapped_environment_keeps_gymnasiums_contract(bare) -> None:
    check_env(TotoObservation(Clock(bare=bare), CountingEncoder()), skip_render_check=True)


def test_a_wrapped_environment_can_be_made_again_from_its_spec() -> None:
    gymnasium.register("Clock-v0", Clock, max_episode_steps=5)
    env = TotoObservation(gymnasium.make("Clock-v0"), CountingEncoder())
    again = env.spec.make()
    assert again.observation_space == env.observation_space
    assert again.encoder is env.encoder


def test_pictures_become_embeddings_and_all_else_passes() -> None:
    env = TotoObservation(Clock(), CountingEncoder())
    assert sorted(env.observation_space) == ["embedding_front", "embedding_hand", "mode", "proprio"]
    assert env.observation_space["embedding_hand"] == spaces.Box(
        -np.inf, np.inf, (DIM,), np.float32
    )
    assert env.observation_space["proprio"] == Clock().observation_space["proprio"]
    env.reset(seed=0)
    observation, *_, info = env.step(0)
    assert seen(observation["embedding_hand"]) == 1
    assert seen(observation["embedding_front"]) == 11
    assert observation["embedding_hand"].dtype == np.float32
    assert observation["mode"] == 1
    assert observation["proprio"] == pytest.approx(0.01)
    assert info == {"now": 1}
    assert observation in env.observation_space


def test_all_cameras_go_through_the_encoder_at_once() -> None:
    env = TotoObservation(Clock(), CountingEncoder())
    env.reset()
    assert env.encoder.batches == [(2, 4, 4, 3)]


def test_cameras_of_two_sizes_take_two_calls() -> None:
    env = TotoObservation(Clock(sizes=(("a", 4), ("b", 6), ("c", 4))), CountingEncoder())
    observation, _ = env.reset()
    assert sorted(env.encoder.batches) == [(1, 6, 6, 3), (2, 4, 4, 3)]
    assert [seen(observation[f"embedding_{name}"]) for name in "abc"] == [0, 10, 20]


def test_one_picture_becomes_one_embedding() -> None:
    env = TotoObservation(Clock(bare=True), CountingEncoder())
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (DIM,), np.float32)
    env.reset()
    observation, *_ = env.step(0)
    assert seen(observation) == 1


def test_embeddings_with_gradients_come_as_arrays() -> None:
    class Learning(CountingEncoder):
        def __call__(self, frames):
            return super().__call__(frames).requires_grad_()

    env = TotoObservation(Clock(), Learning())
    assert isinstance(env.reset()[0]["embedding_hand"], np.ndarray)


def test_embeddings_of_two_steps_do_not_share_memory() -> None:
    class Lazy(CountingEncoder):
        buffer = torch.zeros(2, DIM)

        def __call__(self, frames):
            return self.buffer.copy_(super().__call__(frames))

    env = TotoObservation(Clock(), Lazy())
    first, _ = env.reset()
    env.step(0)
    assert seen(first["embedding_hand"]) == 0


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_sees_what_single_environments_see(mode, bare) -> None:
    def make():
        return SyncVectorEnv([lambda n=n: Clock(n, bare=bare) for n in (2, 3)], autoreset_mode=mode)

    envs, raw = TotoVectorObservation(make(), CountingEncoder()), make()
    assert envs.metadata["autoreset_mode"] == mode

    def expect(observation, raw_observation):
        if bare:
            observation, raw_observation = (
                {"embedding_x": observation},
                {"image_x": raw_observation},
            )
        for key, value in raw_observation.items():
            if key.startswith("image_"):
                want = embedding(torch.as_tensor(value.reshape(-1, 4, 4, 3))).numpy()
                got = observation[key.replace("image_", "embedding_")]
                np.testing.assert_array_equal(got, want.reshape(got.shape))
            else:
                np.testing.assert_array_equal(observation[key], value)

    observation, _ = envs.reset(seed=0)
    expect(observation, raw.reset(seed=0)[0])
    assert observation in envs.observation_space
    finals = 0
    for _ in range(7):
        got, want = envs.step([0, 0]), raw.step([0, 0])
        expect(got[0], want[0])
        assert got[0] in envs.observation_space
        for left, right in zip(got[1:4], want[1:4], strict=True):
            np.testing.assert_array_equal(left, right)
        if "final_obs" in want[4]:
            np.testing.assert_array_equal(got[4]["_final_obs"], want[4]["_final_obs"])
            for left, right in zip(got[4]["final_obs"], want[4]["final_obs"], strict=True):
                assert (left is None) == (right is None)
                if right is not None:
                    finals += 1
                    expect(left, right)
                    assert left in envs.single_observation_space
        if mode == AutoresetMode.DISABLED and (want[2] | want[3]).any():
            mask = want[2] | want[3]
            observation, _ = envs.reset(options={"reset_mask": mask})
            expect(observation, raw.reset(options={"reset_mask": mask.copy()})[0])
    assert finals == (5 if mode == AutoresetMode.SAME_STEP else 0)


def test_a_vector_step_is_one_call_of_the_encoder() -> None:
    envs = TotoVectorObservation(
        SyncVectorEnv(
            [lambda n=n: Clock(n) for n in (1, 2)], autoreset_mode=AutoresetMode.SAME_STEP
        ),
        CountingEncoder(),
    )
    envs.reset()
    envs.step([0, 0])  # the first environment ends: its last two pictures are in the same call
    assert envs.encoder.batches == [(4, 4, 4, 3), (6, 4, 4, 3)]


def test_the_number_of_environments_a_call_is_no_setting_any_more() -> None:
    for old in ({"envs_per_call": 2}, {"envs_per_call": None}):
        with pytest.raises(TypeError, match="unexpected keyword argument 'envs_per_call'"):
            TotoVectorObservation(SyncVectorEnv([Clock]), CountingEncoder(), **old)
    with pytest.raises(TypeError, match="positional arguments"):
        TotoVectorObservation(SyncVectorEnv([Clock]), CountingEncoder(), 2)


def test_vector_spaces_are_right() -> None:
    envs = TotoVectorObservation(SyncVectorEnv([Clock, Clock]), CountingEncoder())
    assert envs.single_observation_space["embedding_hand"].shape == (DIM,)
    assert envs.observation_space["embedding_hand"].shape == (2, DIM)
    assert envs.observation_space["proprio"].shape == (2, 2)
    assert envs.single_action_space == Clock.action_space


def test_final_observations_may_come_as_a_batch() -> None:
    class Batched(VectorEnv):
        num_envs = 2
        metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
        single_observation_space = Clock().observation_space
        observation_space = SyncVectorEnv([Clock, Clock]).observation_space

        def step(self, actions):
            now = self.observation_space.sample()
            return now, np.zeros(2), np.zeros(2, bool), np.ones(2, bool), {"final_obs": now}

    encoder = CountingEncoder()
    envs = TotoVectorObservation(Batched(), encoder)
    observation, *_, infos = envs.step(None)
    assert encoder.batches == [(8, 4, 4, 3)]
    for key, value in infos["final_obs"].items():
        np.testing.assert_array_equal(value, observation[key])


@pytest.mark.parametrize("bare", [False, True])
def test_stable_baselines_gets_embeddings_and_terminal_ones(bare) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = DummyVecEnv([lambda n=n: Clock(n, bare=bare) for n in (1, 3)])
    wrapped = TotoVecEnv(venv, CountingEncoder())

    def front(observation):
        return seen(observation if bare else observation["embedding_hand"])

    first = wrapped.reset()
    assert front(first) == [0, 0]
    assert len(wrapped.reset_infos) == 2
    observation, _, dones, infos = wrapped.step(np.array([0, 0]))
    assert front(observation) == [0, 1]
    assert dones.tolist() == [True, False]
    assert front(infos[0]["terminal_observation"]) == 1
    assert "terminal_observation" not in infos[1]
    cameras = 1 if bare else 2
    assert wrapped.encoder.batches == [(2 * cameras, 4, 4, 3), (3 * cameras, 4, 4, 3)]
    assert infos[0]["terminal_observation"] in wrapped.observation_space
    if not bare:
        assert infos[0]["terminal_observation"]["mode"] == 1


def test_ppo_learns_on_embeddings() -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = TotoVecEnv(DummyVecEnv([Clock, Clock]), CountingEncoder())
    model = PPO("MultiInputPolicy", venv, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
    model.learn(8)
    assert model.num_timesteps == 8


def refused(space):
    class Env(Clock):
        def __init__(self):
            super().__init__()
            self.observation_space = space

    return Env()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict(image_hand=picture(high=1)), r"no image is certain.*values of at most 1"),
        (
            spaces.Dict(image_hand=spaces.Discrete(2)),
            r"the observation has no image; it has Dict.*AddRenderObservation adds one",
        ),
        (spaces.Box(-1, 1, (4,)), r"the observation has no image; it has itself: float32 \[4\]"),
        (spaces.Discrete(3), r"the observation has no image; it has Discrete\(3\)"),
        (
            spaces.Dict(image_hand=picture(), embedding_hand=spaces.Discrete(2)),
            r"already has 'embedding_hand' beside 'image_hand'; give the camera another name",
        ),
    ],
)
def test_an_observation_without_images_is_refused_with_the_reason(space, message) -> None:
    with pytest.raises(ValueError, match=message):
        TotoObservation(refused(space), CountingEncoder())


def test_an_encoder_may_be_named() -> None:
    env = TotoObservation(Clock(), "toto-nano")
    assert env.observation_space["embedding_front"].shape == (env.encoder.dim,)
    with pytest.raises(ValueError, match=r"unknown encoder 'toto-nanno'.*toto-nano"):
        TotoObservation(Clock(), "toto-nanno")


def test_an_encoder_may_return_arrays() -> None:
    def encode(frames):
        return CountingEncoder()(frames).numpy()

    encode.dim = DIM
    observation, _ = TotoObservation(Clock(), encode).reset()
    expected, _ = TotoObservation(Clock(), CountingEncoder()).reset()
    assert observation["embedding_front"].tolist() == expected["embedding_front"].tolist()


def test_embeddings_have_the_dtype_of_their_space() -> None:
    for convert in (lambda found: found.double(), lambda found: found.double().numpy()):

        def encode(frames, convert=convert):
            return convert(CountingEncoder()(frames))

        encode.dim = DIM
        env = TotoObservation(Clock(), encode)
        observation, _ = env.reset()
        assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda found: found[:, :2], r"returned shape \[2, 2\] for 2 frames.*here \[2, 3\]"),
        (lambda found: found[0], r"returned shape \[3\] for 2 frames"),
        (lambda found: {"features": found}, "returned dict for 2 frames"),
    ],
)
def test_embeddings_of_another_shape_are_refused(convert, message) -> None:
    class Wrong(CountingEncoder):
        def __call__(self, frames):
            return convert(super().__call__(frames))

    with pytest.raises(ValueError, match=message):
        TotoObservation(Clock(), Wrong()).reset()
    venv = SyncVectorEnv([lambda: Clock(sizes=(("front", 4),))] * 2)
    with pytest.raises(ValueError, match=message):
        TotoVectorObservation(venv, Wrong()).reset()


def test_an_encoder_without_a_width_is_refused() -> None:
    """In another process, where annotations are not checked."""
    code = (
        "import gymnasium, numpy as np\n"
        "from gymnasium import spaces\n"
        "from toto_robot import TotoBackbone, TotoObservation\n"
        "env = gymnasium.Env()\n"
        "env.observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)\n"
        "for make in (lambda encoder: TotoObservation(env, encoder), TotoBackbone):\n"
        "    try:\n"
        "        make(lambda frames: frames.mean((1, 2)))\n"
        "    except TypeError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("function is no encoder: an encoder has `dim`")
        assert "float32 [b dim] of uint8 RGB frames [b h w 3]" in line


def test_without_stable_baselines_the_extra_is_named(monkeypatch) -> None:
    from toto_robot.wrappers import sb3

    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3.common.vec_env", None)
    sb3._vec_env_class.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'toto-robot\[sb3\]'"):
        TotoVecEnv(None, CountingEncoder())
