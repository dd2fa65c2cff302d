"""Data sets of Minari: converted by the command as typed, with and without images, and damaged."""

import json
import re
import shlex

import numpy as np
import pytest

from envs.interface import LIMITS
from policies.demonstrations.lerobot.reader import DatasetReader
from tests.command_lines import run
from tests.policies.fake_world import save_tiny_encoder
from tests.policies.minari_world import HAND, KITCHEN, SIDE, jpeg, record, write

h5py = pytest.importorskip("h5py")

OF_KITCHEN = f"env=gymnasium env.id={KITCHEN} \"env.proprio=['observation[0:9]']\""
OF_HAND = f"env=gymnasium env.id={HAND}"
DRIFTING = f"{OF_HAND} 'env.kwargs={{drift: 0.1}}'"
pytestmark = pytest.mark.filterwarnings("ignore:.*get variables from other wrappers")


def typed(folder, words, name="out"):
    return run(
        "policies.convert_demonstrations",
        f"layout=minari layout.path={folder} out={folder}/{name} {words}",
    )


def converted(folder, words, name="out"):
    done = typed(folder, words, name)
    assert done.code == 0, done.err
    return list(DatasetReader(folder / name)), done.out


def refused(folder, words):
    done = typed(folder, words)
    assert done.code == 1, done.out
    return done.err.splitlines()[-1] if "(shapes there" not in done.err else done.err


def test_kitchen_without_images_is_rendered_from_its_observations(tmp_path):
    episodes = list(record(KITCHEN, (0, 1)))
    found, out = converted(write(tmp_path / "set", KITCHEN, episodes), OF_KITCHEN)
    assert "images rendered again by setting its states: 2 of 2 episodes" in out
    assert "not used:       achieved_goal/door, desired_goal/door" in out
    assert "2 episodes at 12 steps per second" in out
    one, recorded = found[1], episodes[1]
    assert one.interface.arm == "mini/Kitchen-v0"
    assert one.interface.action_kind == LIMITS
    assert one.interface.camera_names == ("render",)
    steps = len(recorded["actions"])
    assert one.labelled.tolist() == [True] * steps + [False]
    np.testing.assert_allclose(one.actions[:-1], np.stack(recorded["actions"]), atol=1e-6)
    states = [row["observation"][:9] for row in recorded["observations"]]
    np.testing.assert_allclose(one.proprio, states, atol=1e-6)
    away = np.abs(one.images["render"].astype(int) - recorded["frames"])
    assert away.mean() < 8  # noise of 0.001 rad moves the square by a pixel at most
    assert away.max(axis=(1, 2, 3)).min() == 0
    assert (one.facts["images"], one.facts["source"]) == ("states", "set/episode_1")
    assert one.facts["success"] is None
    assert 0 < one.facts["difference"] < 0.003


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("kept", [("infos", "states"), ()])
def test_a_hand_is_rendered_from_its_states_or_from_its_actions(tmp_path, data_format, kept):
    pytest.importorskip("pyarrow")
    episodes = list(record(HAND, (3, 4)))
    folder = write(tmp_path / "set", HAND, episodes, kept=kept, data_format=data_format)
    found, out = converted(folder, f"{OF_HAND} layout.task='close the hand'")
    way = "setting its states" if kept else "executing its actions"
    assert f"rendered again by {way}: 2 of 2 episodes; an observation differs" in out
    for one, recorded in zip(found, episodes, strict=True):
        assert np.array_equal(one.images["render"], recorded["frames"])
        np.testing.assert_allclose(one.actions[:-1], np.stack(recorded["actions"]) / 2, atol=1e-6)
        np.testing.assert_allclose(one.proprio, recorded["observations"], atol=1e-6)
        assert one.interface.rate_hz == 20
        assert (one.task, one.facts["seed"]) == ("close the hand", recorded["seed"])
        reached = any(info["success"] for info in recorded["infos"])
        assert one.facts["success"] is (reached if kept else None)


@pytest.mark.parametrize("data_format", ["hdf5", "parquet"])
def test_the_recorded_options_of_a_reset_are_used(tmp_path, data_format):
    start = {"qpos": np.full(3, 0.3), "qvel": np.zeros(3), "place": np.array([0.7])}
    episodes = list(record(HAND, (3,), options={"initial_state_dict": start}))
    episodes[0]["seed"] = None  # as in the Adroit data sets of D4RL, the options say everything
    folder = write(tmp_path / "set", HAND, episodes, data_format=data_format)
    (found,), _ = converted(folder, OF_HAND)
    assert np.array_equal(found.images["render"], episodes[0]["frames"])
    assert found.facts["images"] == "actions"


def test_an_episode_that_the_environment_does_not_repeat_is_left_out(tmp_path):
    episodes = list(record(HAND, (0, 1)))
    folder = write(tmp_path / "set", HAND, episodes)
    line = refused(folder, DRIFTING)
    assert "no episode of" in line
    assert re.search(
        r"cannot be rendered again \(layout.tolerance=0.02\): actions: the observation of frame 1 "
        r"differs by 0\.\d+",
        line,
    ), line
    found, out = converted(folder, f"{DRIFTING} layout.tolerance=9", "far")
    assert found[0].facts["difference"] > 0.02
    assert "differs from the recorded one by at most 0." in out
    states = write(tmp_path / "states", HAND, episodes, kept=("states",))
    found, _ = converted(states, DRIFTING)
    assert np.array_equal(found[0].images["render"], episodes[0]["frames"])


def test_wrong_states_are_noticed_and_actions_are_executed_instead(tmp_path):
    episodes = list(record(HAND, (0,)))
    for state in episodes[0]["states"]:
        state["place"] = state["place"] + 0.1
    (found,), _ = converted(write(tmp_path / "set", HAND, episodes, kept=("states",)), OF_HAND)
    assert found.facts["images"] == "actions"
    assert np.array_equal(found.images["render"], episodes[0]["frames"])


@pytest.mark.parametrize(
    ("env_id", "as_jpeg", "data_format"),
    [
        (HAND, True, "hdf5"),
        (HAND, False, "arrow"),
        (KITCHEN, False, "hdf5"),
        (KITCHEN, True, "arrow"),
    ],
)
def test_recorded_images_are_used(tmp_path, env_id, as_jpeg, data_format):
    episodes = list(record(env_id, (5,), images=True))
    folder = write(tmp_path / "set", env_id, episodes, as_jpeg=as_jpeg, data_format=data_format)
    (found,), out = converted(folder, OF_HAND if env_id == HAND else OF_KITCHEN)
    assert "rendered again" not in out
    assert found.facts["images"] == "recorded"
    away = np.abs(found.images["render"].astype(int) - episodes[0]["frames"])
    assert away.mean() < 4 if as_jpeg else away.max() == 0
    (named,), _ = converted(
        folder, f"{OF_HAND if env_id == HAND else OF_KITCHEN} layout.images=pixels", "named"
    )
    assert np.array_equal(named.images["render"], found.images["render"])


def test_the_message_without_an_environment_is_what_to_type(tmp_path):
    folder = write(tmp_path / "set", HAND, record(HAND, (0,)))
    line = refused(folder, "")
    words = line.partition(": add ")[2]
    assert shlex.split(words)[1:] == [
        "env.id=tests:mini/Hand-v0", "env.kwargs={max_episode_steps: 6}"
    ]  # fmt: skip
    converted(folder, words.replace("tests:", "tests.policies.minari_world:"))
    nameless = write(tmp_path / "nameless", HAND, record(HAND, (0,)), env_spec=None)
    assert "metadata.json does not name: env=gymnasium" in refused(nameless, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (OF_KITCHEN, r"actions in .*set do not fit mini/Kitchen-v0 .*\n.*action: \(3,\) != \(9,\)"),
        (f"env=gymnasium env.id={HAND[:-1]}9", "mini/Hand.* doesn't exist|mini/Hand"),
        ("env=gymnasium", r"env.id= must be given"),
        (f"{OF_HAND} layout.tolerance=-1", "layout.tolerance must not be negative, got -1"),
        (f"{OF_HAND} layout.images=pixels", r"layout.images=pixels: .*set has no names"),
        (f"{OF_HAND} episodes=0", "episodes must be at least 1"),
        (f"{OF_HAND} layout=rpt", "env is only for layout=minari, got layout=rpt"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(tmp_path, words, message):
    folder = write(tmp_path / "set", HAND, record(HAND, (0,)))
    if "layout=rpt" in words:
        done = run("policies.convert_demonstrations", f"{words} out={tmp_path}/out")
    else:
        done = typed(folder, words)
    assert done.code == 1
    assert re.search(message, done.err), done.err
    assert "Traceback" not in done.err


def test_another_environment_than_the_recorded_one_is_noted(tmp_path):
    folder = write(tmp_path / "set", HAND, record(HAND, (0,)))
    about = json.loads((folder / "data" / "metadata.json").read_text())
    about["env_spec"] = json.dumps({"id": "AdroitHandDoor-v1"})
    (folder / "data" / "metadata.json").write_text(json.dumps(about))
    _, out = converted(folder, OF_HAND)
    assert f"note: recorded in AdroitHandDoor-v1, but used for env.id={HAND}" in out


def without(name):
    def damage(group):
        del group[name]

    return damage


def set_to(name, value):
    def damage(group):
        del group[name]
        group[name] = value

    return damage


def in_another_file(group):
    del group["actions"]
    group["actions"] = h5py.ExternalLink("/etc/hostname", "/actions")


def in_itself(group):
    group.create_group("infos")
    group["infos/again"] = group["infos"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("actions"), "episode_0: lacks actions; it has observations"),
        (without("observations"), "lacks observations"),
        (set_to("actions", np.zeros((6, 4))), r"actions must be \[t 3\] with t >= 1, got \[6, 4\]"),
        (set_to("actions", np.zeros((0, 3))), r"actions must be .*, got \[0, 3\]"),
        (set_to("actions", np.full((6, 3), np.nan)), "actions must be finite"),
        (set_to("observations", np.full((7, 4), np.inf)), "observations must be finite"),
        (set_to("observations", np.zeros((6, 4))), "6 actions need 7 rows of observations, got 6"),
        (set_to("observations", np.zeros((7, 5))), r"observation.* has the shape \(5,\)|differs"),
        (in_another_file, "cannot be read|stored in another file"),
        (in_itself, "too many groups in groups"),
    ],
)
def test_a_damaged_episode_is_named_and_left_out(tmp_path, damage, message):
    folder = write(tmp_path / "set", HAND, record(HAND, (0, 1)))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        damage(file["episode_0"])
    found, out = converted(folder, OF_HAND)
    assert [one.facts["source"] for one in found] == ["set/episode_1"]
    assert "1 episodes were skipped" in out
    left_out = json.loads((folder / "out" / "left_out.json").read_text())
    assert [*left_out] == ["set/episode_0"]
    assert re.search(message, left_out["set/episode_0"]), left_out


def test_an_image_that_is_damaged_or_of_another_size_is_named(tmp_path):
    folder = write(tmp_path / "set", HAND, record(HAND, (0, 1, 2), images=True))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        frames = file["episode_0/observations/pixels"]
        frames[3] = frames[3][:40]
        small = jpeg([np.zeros((SIDE // 2, SIDE, 3), np.uint8)] * 7)
        del file["episode_1/observations/pixels"]
        file["episode_1/observations/pixels"] = np.stack(small)
    converted(folder, OF_HAND)
    left_out = json.loads((folder / "out" / "left_out.json").read_text())
    assert "not a readable image (truncated after 40 bytes)" in left_out["set/episode_0"]
    assert "images 'pixels' have the shape [16, 32, 3]" in left_out["set/episode_1"]
    assert "set their size in env.kwargs" in left_out["set/episode_1"]


def test_a_damaged_data_set_is_one_line(tmp_path):
    folder = write(tmp_path / "set", HAND, record(HAND, (0,)), total_episodes=3)
    _, out = converted(folder, OF_HAND, "first")
    assert "2 episodes were skipped" in out  # metadata.json counts two more
    about = folder / "data" / "metadata.json"
    text = about.read_text()
    for damaged, message in (
        (text[:-20], r"metadata\.json is damaged"),
        (text.replace('"hdf5"', '"zarr"'), "one of hdf5, arrow, parquet, got 'zarr'"),
        (text.replace("action_space", "other"), "action_space is missing or damaged"),
        (text.replace('{\\"id\\"', '[\\"id\\"'), "env_spec is damaged"),
    ):  # fmt: skip
        about.write_text(damaged)
        assert re.search(message, refused(folder, OF_HAND))
    about.write_text(text)
    (folder / "data" / "main_data.hdf5").write_bytes(b"no HDF5")
    assert "main_data.hdf5 cannot be read as HDF5" in refused(folder, OF_HAND)
    (folder / "data" / "main_data.hdf5").unlink()
    assert "no file" in refused(folder, OF_HAND)
    about.unlink()
    assert "no Minari data set in" in refused(folder, OF_HAND)


def test_the_same_command_resumes_and_another_data_set_is_refused(tmp_path):
    folder = write(tmp_path / "set", HAND, record(HAND, (0, 1, 2)))
    assert len(converted(folder, f"{OF_HAND} episodes=1")[0]) == 1
    found, out = converted(folder, OF_HAND)
    assert len(found) == 3
    assert "2 of 2 episodes" in out
    other = write(tmp_path / "other", HAND, record(HAND, (0,)))
    done = typed(other, f"{OF_HAND} out={folder}/out")
    assert done.code == 1
    assert "contains other episodes, choose another out" in done.err


def test_a_policy_is_trained_evaluated_and_probed(tmp_path):
    """Behaviour cloning in an environment that has no expert."""
    encoder = save_tiny_encoder(tmp_path / "encoder")
    folder = write(tmp_path / "set", KITCHEN, record(KITCHEN, range(5)))
    converted(folder, OF_KITCHEN)
    env = f"{OF_KITCHEN} env.success=policies.gymnasium_env:all_tasks_completed"
    training = (
        f"method=bc data={folder}/out encoder={encoder} experiment=tiny device=cpu "
        f"rollout.num_workers=0 {env} out={tmp_path}/train"
    )
    done = run("policies.train", training)
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "train" / "metrics.json").read_text())
    assert metrics["rounds"][0]["episodes"] == 5
    assert metrics["evaluation"]["episodes"] == 2
    done = run(
        "policies.evaluate",
        f"policy={tmp_path}/train/policy episodes=2 video_episodes=0 rollout.num_workers=0 "
        f"out={tmp_path}/evaluation",
    )
    assert done.code == 0, done.err
    for other, message in (
        (OF_HAND, "all_tasks_completed is for Franka Kitchen; the info of this environment has"),
        (OF_KITCHEN.replace("0:9", "0:8"), "have different interfaces (data != environment)"),
    ):
        done = run("policies.train", training.replace(OF_KITCHEN, other) + "2")
        assert done.code == 1
        assert message in done.err
    done = run(
        "toto_robot.sweep",
        f"data={folder}/out encoder={encoder} target=action folds=3 pools=[mean] width=8 "
        f"resamples=100 device=cpu out={tmp_path}/sweep",
    )
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
