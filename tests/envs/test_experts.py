import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import ENVIRONMENTS
from envs.catalogue import make, variant
from envs.expert_check import ExpertCheckConfig, expert_check, run_episode
from envs.experts import EXPERTS
from envs.experts.franka_pick import FrankaPickExpert
from envs.experts.scripted import slices
from envs.geometry import yaw_to_nearest_face
from envs.success_rates import wilson_interval
from tests.command_lines import run


@pytest.fixture(scope="module")
def env():
    made = gymnasium.make("envs:toto/FrankaPick-v0", cameras=(), privileged=True)
    yield made
    made.close()


def test_expert_picks_the_cube_from_twenty_starts(env):
    expert = FrankaPickExpert()
    steps = [run_episode(env, expert.act, seed) for seed in range(20)]
    assert None not in steps
    assert np.median(steps) <= 40


def test_expert_recovers_from_a_kick(env):
    expert = FrankaPickExpert()
    steps = [run_episode(env, expert.act, seed, kick_steps=2) for seed in range(100, 110)]
    assert sum(taken is not None for taken in steps) >= 9


def test_expert_follows_a_cube_that_is_moved(env):
    expert = FrankaPickExpert()
    steps = [run_episode(env, expert.act, seed, push_m=0.03) for seed in range(200, 205)]
    assert None not in steps


def test_expert_grasps_again_what_it_lost(env):
    expert = FrankaPickExpert()
    observation, _ = env.reset(seed=0)
    dropped, success = False, False
    for _ in range(80):
        action = expert.act(observation)
        if not dropped and observation["state"][18] > 0.5:
            action[-1], dropped = 1.0, True
        observation, _, _, _, info = env.step(action)
        success = info["success"]
    assert dropped
    assert success


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("protocol", ["robot", "pixmc"])
def test_experts_read_the_state_by_the_environments_names(name, protocol):
    env = make(env_id=name, protocol=protocol, cameras=(), privileged=True)
    names = np.array(env.state_names)
    found = slices(variant(name, protocol))
    assert sum(part.stop - part.start for part in found.values()) == len(names)
    for quantity in variant(name, protocol).task.state:
        assert all(one.startswith(quantity) for one in names[found[quantity]])
    for reading, ending in (("arm_target", "_target"), ("hand_command", "_command")):
        if reading in found:
            assert all(one.endswith(ending) for one in names[found[reading]])


def test_expert_has_no_memory(env):
    one, other = FrankaPickExpert(), FrankaPickExpert()
    observation, _ = env.reset(seed=1)
    for _ in range(25):
        action = one.act(observation)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        last = observation
        observation, *_ = env.step(action)
    # one that saw the whole episode and one that saw a single state agree
    np.testing.assert_array_equal(one.act(last), other.act({"state": last["state"]}))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_action_for_one_observation_is_its_row_of_a_batch(name):
    env, expert = make(env_id=name, cameras=(), privileged=True), EXPERTS[name]()
    observation, _ = env.reset(seed=7)
    states, actions = [], []
    for _ in range(30):
        states.append(observation["state"])
        actions.append(expert.act(observation))
        observation, *_ = env.step(actions[-1])
    for rows in (slice(0, 1), slice(3, 10), slice(None)):
        batch = expert.act({"state": np.stack(states[rows])})
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, np.stack(actions[rows]))
    assert len(np.unique(actions, axis=0)) > 20


def test_expert_holds_still_at_the_goal(env):
    expert = FrankaPickExpert()
    observation, _ = env.reset(seed=2)
    for _ in range(60):
        observation, _, _, _, info = env.step(action := expert.act(observation))
    assert info["success"]
    assert np.abs(action[:7]).max() < 0.05
    assert 0.72 < observation["state"][18] < 0.8


def test_expert_needs_the_privileged_state():
    env = make(env_id="toto/FrankaPick-v0", cameras=())
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="privileged=True"):
        EXPERTS["toto/FrankaPick-v0"]().act(observation)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_expert_refuses_the_state_of_another_protocol(name):
    env = make(env_id=name, protocol="pixmc", cameras=(), privileged=True)
    observation, _ = env.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"needs a state of \d+ numbers, got \d+: .*protocol='robot'"
    ):
        EXPERTS[name]().act(observation)


@given(st.floats(-np.pi, np.pi), st.integers(0, 3), st.integers(0, 3))
def test_yaw_of_a_cube_repeats_with_its_faces(yaw, turns, tips):
    quaternion = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
    for axis, count in ((3, turns), (1, tips)):
        turn = np.zeros(4)
        turn[0], turn[axis] = np.cos(count * np.pi / 4), np.sin(count * np.pi / 4)
        quaternion = multiply(quaternion, turn)
    found = yaw_to_nearest_face(quaternion)
    assert abs(found) <= np.pi / 4 + 1e-6
    assert np.sin(4 * found) == pytest.approx(np.sin(4 * yaw), abs=1e-6)


def multiply(left, right):
    a, b, c, d = left
    e, f, g, h = right
    return np.array(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def test_wilson_interval_at_known_values():
    assert wilson_interval(200, 200) == pytest.approx((0.9812, 1.0), abs=1e-4)
    assert wilson_interval(10, 16) == pytest.approx((0.3864, 0.8152), abs=1e-3)
    assert wilson_interval(0, 5)[0] == 0.0


def test_check_writes_its_result(tmp_path, capsys):
    config = ExpertCheckConfig(
        env_id="toto/FrankaPick-v0", episodes=2, first_seed=1000, kick_steps=0, push_m=0.03
    )
    expert_check(config, tmp_path)
    assert "2/2 succeeded" in capsys.readouterr().out
    assert '"successes": 2' in (tmp_path / "expert_check.json").read_text()


def test_check_randomises(tmp_path):
    far = (
        "+randomise={latency: {steps: [100, 100]}}"  # no action is executed before the episode ends
    )
    done = run("envs.expert_check", ["episodes=1", f"out={tmp_path}", far])
    assert done.code == 0, done.err
    assert '"successes": 0' in (tmp_path / "expert_check.json").read_text()
    done = run("envs.expert_check", "'+randomise={colour: {}}'")
    assert "unknown randomise group 'colour'" in done.err


def test_unknown_environment_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: toto/FrankaPick-v0"):
        ExpertCheckConfig(env_id="toto/Dance-v0", episodes=1, first_seed=0, kick_steps=0, push_m=0)
