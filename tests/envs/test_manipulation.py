import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.arms.franka import FRANKA_PANDA as ARM
from envs.catalogue import make, variant
from envs.tasks.pick import PickTask

NAME = "toto/FrankaPick-v0"
ID = f"envs:{NAME}"
INCREMENT_RAD = variant(NAME).protocol.arm_increment_rad
RATE_HZ = variant(NAME).protocol.rate_hz
STAY = np.array([0.0] * 7 + [1.0], dtype=np.float32)


def franka_pick(**options):
    return make(env_id=NAME, **options)


def quick(**options):
    return franka_pick(cameras=(), privileged=True, **options)


@pytest.fixture(scope="module")
def env():
    made = quick()
    yield made
    made.close()


def episode(env, seed, num_steps=12):
    rng = np.random.default_rng(seed)
    observations = [env.reset(seed=seed)[0]]
    rewards = []
    for _ in range(num_steps):
        action = rng.uniform(-1, 1, 8).astype(np.float32)
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return observations, rewards


def assert_same(one, other):
    for left, right in zip(one[0], other[0], strict=True):
        assert left.keys() == right.keys()
        for key, values in left.items():
            np.testing.assert_array_equal(values, right[key])
    assert one[1] == other[1]


def test_gymnasiums_checker_finds_nothing():
    env = gymnasium.make(ID, image_size=32, privileged=True, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_spaces_and_interface_say_the_same():
    env = gymnasium.make(ID, image_size=48)
    observation, info = env.reset(seed=3)
    interface = env.unwrapped.interface
    assert set(observation) == {"image_hand", "image_front", "proprio"}
    for camera in interface.cameras:
        image = observation[f"image_{camera.name}"]
        assert image.shape == (camera.height, camera.width, 3) == (48, 48, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5
    assert observation["proprio"].dtype == np.float32
    assert observation["proprio"].shape == (len(interface.proprio),) == (16,)
    assert env.action_space.shape == (len(interface.action),) == (8,)
    assert interface.rate_hz == env.metadata["render_fps"] == RATE_HZ
    assert info["success"] is False
    assert "state" not in env.observation_space.spaces
    env.close()


def test_episode_lasts_eight_seconds():
    env = gymnasium.make(ID, cameras=())
    env.reset(seed=0)
    ends = [env.step(STAY)[2:4] for _ in range(80)]
    assert ends[:-1] == [(False, False)] * 79
    assert ends[-1] == (False, True)


def test_same_seed_is_the_same_episode_to_the_bit(env):
    first = episode(env, seed=11)
    assert_same(episode(quick(), seed=11), first)  # in a fresh environment
    episode(env, seed=12)
    assert_same(episode(env, seed=11), first)  # and after another episode


def test_same_seed_is_the_same_look_to_the_bit():
    options = {"image_size": 32, "randomise": ("colours", "lights", "camera")}
    env = franka_pick(**options)
    first = episode(env, seed=5, num_steps=2)
    episode(env, seed=6, num_steps=2)
    assert_same(episode(env, seed=5, num_steps=2), first)
    fresh = franka_pick(**options)
    assert_same(episode(fresh, seed=5, num_steps=2), first)
    env.close()
    fresh.close()


def test_unseeded_resets_differ(env):
    env.reset(seed=1)
    first, second = env.reset()[0]["state"], env.reset()[0]["state"]
    assert not np.array_equal(first, second)


def test_randomised_looks_change_pictures_and_nothing_else():
    plain = franka_pick(image_size=32, privileged=True)
    varied = franka_pick(image_size=32, privileged=True, randomise=("colours", "lights"))
    one, other = episode(plain, seed=2, num_steps=3), episode(varied, seed=2, num_steps=3)
    for left, right in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(left["state"], right["state"])
        assert not np.array_equal(left["image_front"], right["image_front"])
    assert one[1] == other[1]
    plain.close()
    varied.close()


def test_action_moves_the_stored_target(env):
    observation, _ = env.reset(seed=4)
    targets = observation["state"][7:14]
    action = np.array([0.5, -0.5, 0, 0, 0, 0, 1.0, 1.0], dtype=np.float32)
    observation, *_ = env.step(action)
    np.testing.assert_allclose(
        observation["state"][7:14], targets + INCREMENT_RAD * action[:7], atol=1e-6
    )
    # the arm lags behind, and the target does not wait for it
    assert observation["state"][6] < observation["state"][13] - 0.01
    observation, *_ = env.step(action)
    np.testing.assert_allclose(
        observation["state"][7:14], targets + 2 * INCREMENT_RAD * action[:7], atol=1e-6
    )


def test_position_and_speed_tell_where_the_target_is(env):
    env.reset(seed=8)
    rng = np.random.default_rng(8)
    for _ in range(10):
        observation, *_ = env.step(np.append(rng.uniform(-1, 1, 7), 1.0).astype(np.float32))
        position, speed = observation["proprio"][:7], observation["proprio"][7:14]
        np.testing.assert_allclose(position + 0.1 * speed, observation["state"][7:14], atol=0.03)


def test_target_stops_at_the_joint_limits(env):
    env.reset(seed=4)
    for _ in range(30):
        observation, *_ = env.step(np.array([0, 0, 0, 1, 0, 0, 0, 1], dtype=np.float32))
    assert observation["state"][10] == pytest.approx(ARM.upper_rad[3])


def test_joints_keep_their_speed_limits(env):
    limits = np.array([servo.max_speed for servo in ARM.servos])
    for servo in ARM.servos:
        assert servo.max_speed > INCREMENT_RAD * RATE_HZ
    env.reset(seed=9)
    for sign in (1.0, -1.0, 1.0):
        for _ in range(4):
            observation, *_ = env.step(np.full(8, sign, dtype=np.float32))
            assert (np.abs(observation["proprio"][7:14]) < limits).all()


def test_gripper_goes_where_it_is_told(env):
    env.reset(seed=4)
    widths = []
    for command in (-1.0, 0.0, 1.0):
        for _ in range(12):
            observation, *_ = env.step(np.array([0.0] * 7 + [command], dtype=np.float32))
        widths.append(observation["proprio"][14])
        assert observation["proprio"][15] == command
    np.testing.assert_allclose(widths, [0.0, 0.04, 0.08], atol=2e-3)


def test_closed_gripper_opens_at_once(env):
    env.reset(seed=4)
    for _ in range(30):
        env.step(np.array([0.0] * 7 + [-1.0], dtype=np.float32))
    observation, *_ = env.step(STAY)
    assert observation["proprio"][14] > 0.005


@pytest.mark.parametrize(
    ("heights", "successes"),
    [
        ([0.75, 0.42, 0.75, 0.42], [False, False, False, False]),
        ([0.75, 0.75, 0.42, 0.42], [False, True, True, True]),
    ],
)
def test_success_is_held_two_steps_and_then_stays(env, monkeypatch, heights, successes):
    env.reset(seed=0)
    left = iter(heights)
    monkeypatch.setattr(PickTask, "at_goal", lambda self, measured: np.bool_(next(left) > 0.7))
    assert [env.step(STAY)[4]["success"] for _ in heights] == successes


def test_success_is_forgotten_at_reset(env, monkeypatch):
    env.reset(seed=0)
    monkeypatch.setattr(PickTask, "at_goal", lambda self, measured: np.True_)
    env.step(STAY)
    assert env.step(STAY)[4]["success"]
    monkeypatch.undo()
    assert not env.reset(seed=0)[1]["success"]
    assert not env.step(STAY)[4]["success"]


def test_cube_that_falls_ends_the_episode(env, monkeypatch):
    env.reset(seed=0)
    assert not env.step(STAY)[2]
    monkeypatch.setattr(PickTask, "failed", lambda self, measured: np.True_)
    assert env.step(STAY)[2]


def test_reward_is_the_sum_of_its_terms(env):
    env.reset(seed=0)
    _, reward, _, _, info = env.step(STAY)
    assert set(info["reward_terms"]) == {"reach", "lift", "height", "goal", "action"}
    assert reward == pytest.approx(sum(info["reward_terms"].values()))


def test_cube_is_normally_in_the_hands_picture_at_the_start():
    env = franka_pick(cameras=("hand",))
    seen = 0
    for seed in range(40):
        red, green, blue = np.moveaxis(env.reset(seed=seed)[0]["image_hand"].astype(int), -1, 0)
        seen += ((blue - red > 60) & (blue - green > 25)).sum() > 20
    env.close()
    assert seen >= 36


def test_render_gives_a_picture_for_people():
    env = gymnasium.make(ID, cameras=(), render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 480, 3)
    assert picture.std() > 20
    env.close()


def test_without_a_render_mode_nothing_is_drawn(env):
    assert env.render() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ("hand", "ceiling")}, "'ceiling'; known: hand, front"),
        ({"cameras": "hand"}, "sequence"),
        ({"cameras": ("hand", "hand")}, "distinct, repeated: hand"),
        ({"randomise": ("smell",)}, "known: colours, lights, camera"),
        ({"visuals": "mesh", "meshes": "/nowhere"}, "no meshes of franka_panda in /nowhere"),
        ({"visuals": "pencil"}, "known: light"),
        ({"render_mode": "human"}, "known: rgb_array"),
        ({"image_size": 4}, "image_size"),
        ({"samples": -1}, "samples"),
        ({"num_steps": 0}, "num_steps"),
        ({"protocol": "atari"}, "known: robot, pixmc"),
    ],
)
def test_wrong_option_is_named_with_what_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        franka_pick(**options)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(7), r"shape \(8,\).*gripper_opening.*got \(7,\)"),
        (np.full(8, np.nan), "finite"),
        (np.full(8, np.inf), "finite"),
    ],
)
def test_wrong_action_is_named(env, action, message):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_action_beyond_its_bounds_is_cut(env):
    env.reset(seed=4)
    beyond, *_ = env.step(np.full(8, 7.0))
    env.reset(seed=4)
    at, *_ = env.step(np.ones(8))
    np.testing.assert_array_equal(beyond["state"], at["state"])


def test_reset_has_no_options(env):
    with pytest.raises(ValueError, match="cube"):
        env.reset(options={"cube": 1})


def test_length_of_an_episode_can_be_chosen():
    env = quick(num_steps=3)
    env.reset(seed=0)
    assert [env.step(STAY)[3] for _ in range(3)] == [False, False, True]
    env.reset(seed=0)
    assert not env.step(STAY)[3]


def test_saved_episode_goes_on_exactly(env):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 8)).astype(np.float32)
    env.reset(seed=3)
    for action in actions[:5]:
        env.step(action)
    saved = pickle.loads(pickle.dumps(env.save()))
    expected = [env.step(action) for action in actions[5:]]
    fresh = quick()
    fresh.reset(seed=8)
    for other in (env, fresh):
        for _ in range(2):
            other.restore(saved)
            for action, (observation, reward, *_) in zip(actions[5:], expected, strict=True):
                again, reward_again, *_ = other.step(action)
                np.testing.assert_array_equal(again["state"], observation["state"])
                assert reward_again == reward


def test_images_show_the_present_state():
    env = franka_pick(cameras=("hand",))
    env.reset(seed=0)
    for _ in range(3):
        seen, *_ = env.step(np.ones(8, np.float32))
    again = env.restore(env.save())
    np.testing.assert_array_equal(again["image_hand"], seen["image_hand"])
    env.close()


def test_displaced_cube_is_elsewhere(env):
    before, _ = env.reset(seed=0)
    env.displace((0.03, -0.02, 0.0))
    after, *_ = env.step(STAY)
    np.testing.assert_allclose(
        after["state"][16:19] - before["state"][16:19], [0.03, -0.02, 0], atol=1e-3
    )


def test_shadows_and_samples_change_the_picture():
    pictures = []
    for options in ({}, {"shadows": True}, {"samples": 4}):
        env = franka_pick(cameras=("front",), image_size=64, **options)
        pictures.append(env.reset(seed=0)[0]["image_front"].astype(int))
        env.close()
    plain, shadowed, smooth = pictures
    assert shadowed.mean() < plain.mean() - 0.5
    assert 0 < np.abs(smooth - plain).mean() < 5
