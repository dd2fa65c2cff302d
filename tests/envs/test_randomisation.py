import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import ENVIRONMENTS
from envs.catalogue import make, variant
from envs.randomisation import GROUPS, parse, suite, suites
from envs.simulation.patterns import PATTERNS, draw_pattern
from envs.simulation.scene import Appearance
from envs.variation import draw, populate

PICK = variant("toto/FrankaPick-v0")
SEEDS = st.integers(0, 2**32)
LOOKS = ("colours", "lights", "camera", "textures")


def drawn(groups, seed=0, chosen=PICK):
    randomisation = parse(groups)
    scene = populate(chosen.task.scene(chosen.arm), randomisation)
    start = chosen.task.sample_start(chosen.arm, np.random.default_rng(0))
    return draw(scene, chosen.task, start, randomisation, np.random.default_rng(seed))


def quick(name="toto/FrankaPick-v0", **options):
    return make(env_id=name, cameras=(), privileged=True, **options)


def hold(env):
    return np.append(np.zeros(7), np.ones(env.action_space.shape[0] - 7)).astype(np.float32)


@given(SEEDS)
def test_no_group_changes_nothing(seed):
    nothing = drawn((), seed)
    assert nothing.appearance == Appearance()
    assert nothing.latency_steps == 0
    start = PICK.task.sample_start(PICK.arm, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing.start.box_poses["cube"], start.box_poses["cube"])


def paints(one, attribute):
    """Return an attribute of the paints of all surfaces but those of distractors."""
    return {
        name: getattr(paint, attribute)
        for name, paint in one.appearance.paints.items()
        if not name.startswith("distractor")
    }


# group: what it draws, by name
DRAWS = {
    "colours": lambda one: paints(one, "rgb"),
    "lights": lambda one: {"lights": one.appearance.lighting},
    "camera": lambda one: one.appearance.camera_shifts,
    "textures": lambda one: paints(one, "pattern"),
    "object_size": lambda one: {"size": one.start.box_sizes_m["cube"]},
    "object_pose": lambda one: {"pose": one.start.box_poses["cube"][[0, 1, 3, 4, 5, 6]].tolist()},
    "distractors": lambda one: {
        name: (size, one.appearance.paints[name])
        for name, size in one.start.box_sizes_m.items()
        if name != "cube"
    },
    "latency": lambda one: {"steps": one.latency_steps},
    "action_noise": lambda one: {"seed": one.noise_seed},
    "proprio_noise": lambda one: {"seed": one.noise_seed},
}


@pytest.mark.parametrize("group", GROUPS)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_a_group_draws_the_same_whatever_the_others_do(group, seed):
    alone = DRAWS[group](drawn((group,), seed))
    everything = DRAWS[group](drawn(tuple(GROUPS), seed))
    assert alone
    assert {name: everything[name] for name in alone} == alone


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_draws_something_else_for_another_seed(group):
    assert DRAWS[group](drawn((group,), 0)) != DRAWS[group](drawn((group,), 1))


@given(SEEDS)
@settings(max_examples=25)
def test_everything_is_within_its_range(seed):
    one, ranges = drawn(tuple(GROUPS), seed), parse(tuple(GROUPS))
    for paint in one.appearance.paints.values():
        assert min(paint.rgb) >= 0
        assert max(paint.rgb) <= 1
        assert paint.pattern in PATTERNS
    light = one.appearance.lighting
    assert light.direction[2] < 0
    assert max(*light.diffuse, *light.ambient, *light.head) <= 1
    front, hand = one.appearance.camera_shifts["front"], one.appearance.camera_shifts["hand"]
    assert np.abs(front.translation_m).max() <= ranges.camera.translation_m
    assert np.abs(hand.translation_m).max() <= ranges.camera.carried_translation_m
    assert np.abs(front.rotation_rad).max() <= ranges.camera.rotation_rad
    assert 0 <= one.latency_steps <= 3
    cube = one.start.box_poses["cube"]
    edge = one.start.box_sizes_m["cube"][0]
    assert 0.85 * 0.045 <= edge <= 1.05 * 0.045
    assert cube[2] == pytest.approx(0.4 + edge / 2)
    assert np.linalg.norm(cube[3:]) == pytest.approx(1)


@given(SEEDS)
@settings(max_examples=25)
def test_distractors_stand_clear_of_the_cube_and_of_each_other(seed):
    one = drawn(("distractors",), seed)
    cube = one.start.box_poses["cube"][:2]
    standing = [
        (one.start.box_poses[name], one.start.box_sizes_m[name])
        for name in one.start.box_sizes_m
        if name.startswith("distractor") and one.start.box_poses[name][0] > -1
    ]
    assert 1 <= len(standing) <= 5
    for index, (pose, size) in enumerate(standing):
        radius = np.hypot(*size[:2]) / 2
        assert np.hypot(*(pose[:2] - cube)) > 0.12
        assert pose[2] == pytest.approx(0.4 + size[2] / 2)
        assert abs(pose[0] - 0.5) < 0.3
        for other, other_size in standing[:index]:
            gap = np.hypot(*(pose[:2] - other[:2]))
            assert gap > radius + np.hypot(*other_size[:2]) / 2


def test_a_mapping_changes_some_ranges():
    one = drawn({"latency": {"steps": [2, 2]}, "lights": {"tint": 0.0}})
    assert one.latency_steps == 2
    assert len(set(one.appearance.lighting.diffuse)) == 1


@pytest.mark.parametrize(
    ("randomise", "message"),
    [
        (("smell",), "'smell'; known: colours, lights, camera"),
        ("lights", "sequence"),
        ({"lights": {"brightness": 1}}, "brightness"),
        ({"latency": {"steps": [3, 1]}}, "steps must be ascending"),
        ({"latency": {"steps": [-1, 1]}}, "steps must be ascending"),
        ({"lights": {"head": [0.0, 1.5]}}, "head must be ascending"),
        ({"distractors": {"count": [3, 1]}}, "count must be ascending"),
        ({"textures": {"paints": ["tabel"]}}, "unknown paint 'tabel'; known: .*table"),
    ],
)
def test_wrong_request_is_named(randomise, message):
    with pytest.raises(ValueError, match=message):
        drawn(randomise)


def test_suites_are_made_of_groups():
    assert suites() == ("nominal", "appearance", "camera", "distractors", "latency")
    for name in suites():
        parse(suite(name))
    assert suite("nominal") == {}
    with pytest.raises(ValueError, match="known: nominal, appearance"):
        suite("hard")


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("group", LOOKS)
def test_looks_change_pictures_and_not_physics(name, group):
    plain = make(env_id=name, image_size=32, privileged=True)
    varied = make(env_id=name, image_size=32, privileged=True, randomise=(group,))
    pictures_differ = False
    for seed in (0, 1):
        one, other = plain.reset(seed=seed)[0], varied.reset(seed=seed)[0]
        for key in one:
            if key.startswith("image"):
                pictures_differ |= not np.array_equal(one[key], other[key])
        for _ in range(2):
            one, other = plain.step(hold(plain))[0], varied.step(hold(varied))[0]
        np.testing.assert_array_equal(one["state"], other["state"])
    assert pictures_differ
    plain.close()
    varied.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_group_at_once_runs_and_repeats(name):
    env = make(env_id=name, image_size=32, privileged=True, randomise=tuple(GROUPS))
    runs = []
    for _ in range(2):
        observation, _ = env.reset(seed=4)
        seen = [observation, *(env.step(hold(env))[0] for _ in range(4))]
        runs.append(seen)
        assert env.observation_space.contains(seen[-1])
    for one, other in zip(*runs, strict=True):
        for key, values in one.items():
            np.testing.assert_array_equal(values, other[key])
    env.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_resized_and_moved_objects_lie_still(name):
    env = quick(name, randomise={"object_size": {}, "object_pose": {}, "distractors": {}})
    for seed in range(4):
        env.reset(seed=seed)
        before = env.task.measure(env.simulator, env.arm)
        for _ in range(5):
            env.step(hold(env))
        after = env.task.measure(env.simulator, env.arm)
        thing = "cube_position" if "Pick" in name else "handle_position"
        np.testing.assert_allclose(after[thing], before[thing], atol=2e-3)


@pytest.mark.parametrize("steps", [0, 2])
def test_arm_moves_so_many_steps_later(steps):
    env = quick(randomise={"latency": {"steps": [steps, steps]}})
    env.reset(seed=0)
    action = hold(env)
    action[0] = 1.0
    moved = []
    for _ in range(4):
        before = env.save().arm_targets[0]
        env.step(action)
        moved.append(env.save().arm_targets[0] - before > 0.05)
    assert moved == [index >= steps for index in range(4)]


def test_noise_has_the_stated_deviation():
    env = quick(randomise={"proprio_noise": {"position_rad": 0.01, "velocity_rad_s": 0.0}})
    observation, _ = env.reset(seed=0)
    off = []
    for _ in range(79):
        off.append(observation["proprio"][:7] - observation["state"][:7])
        observation, *_ = env.step(hold(env))
    assert np.std(off) == pytest.approx(0.01, rel=0.1)
    assert abs(np.mean(off)) < 0.002
    env = quick(randomise={"action_noise": {"arm": 0.2, "hand": 0.0}})
    env.reset(seed=0)
    moves = []
    for _ in range(79):
        before = env.save().arm_targets
        env.step(hold(env))
        moves.append((env.save().arm_targets - before) / 0.1)
    assert np.std(moves) == pytest.approx(0.2, rel=0.1)


def test_noise_of_one_kind_is_the_same_whatever_the_other_does():
    both = quick(randomise=("action_noise", "proprio_noise"))
    one, other = quick(randomise=("action_noise",)), quick(randomise=("proprio_noise",))
    for env in (both, one, other):
        env.reset(seed=3)
    for _ in range(3):
        observation, expected = both.step(hold(both))[0], one.step(hold(one))[0]
        np.testing.assert_array_equal(observation["state"], expected["state"])
        assert not np.array_equal(observation["proprio"], expected["proprio"])
    first, second = both.reset(seed=3)[0], other.reset(seed=3)[0]
    np.testing.assert_array_equal(first["proprio"], second["proprio"])


def test_replay_is_exact_with_latency_and_noise():
    env = quick(randomise=("latency", "action_noise", "proprio_noise"))
    env.reset(seed=2)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 8))
    for action in actions[:5]:
        env.step(action)
    now = env.step(actions[5])[0]
    saved = env.save()
    expected = [env.step(action)[0] for action in actions[6:]]
    fresh = quick(randomise=("latency", "action_noise", "proprio_noise"))
    fresh.reset(seed=9)
    np.testing.assert_array_equal(fresh.restore(saved)["proprio"], now["proprio"])
    for action, observation in zip(actions[6:], expected, strict=True):
        again = fresh.step(action)[0]
        np.testing.assert_array_equal(again["proprio"], observation["proprio"])


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_is_always_the_same_and_bright(name):
    pixels = draw_pattern(name)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.mean() > 150
    np.testing.assert_array_equal(pixels, draw_pattern(name))


def test_unknown_pattern_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: plain, checker"):
        draw_pattern("tartan")
