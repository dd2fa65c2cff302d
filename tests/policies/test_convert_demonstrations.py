"""Others' files become a data set that is learned from; what is wrong with one is said."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.arms.franka import FRANKA_PANDA
from envs.interface import OWN
from policies.convert_demonstrations import ConvertConfig, convert
from policies.demonstrations.joint_paths import PathConfig, fitted
from policies.demonstrations.lerobot.others import LerobotLayout
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.robomimic import RobomimicDemonstrations
from policies.demonstrations.rpt import RptDemonstrations
from policies.student import load_student, read_metadata
from policies.train import train
from real_robot.limits import FR3
from real_robot.translator import Translator
from tests.command_lines import run
from tests.policies.fake_world import save_tiny_encoder
from tests.policies.test_train import config, metrics
from toto_robot import load_encoder

PATH = PathConfig(rate_hz=30.0, every=3, joint_step_rad=0.1, image_size=32)
STEPS = 13


def make_path(seed, steps=STEPS):
    """Return joints that move by 0.02 rad a frame, and a hand that closes."""
    joints = 0.3 + 0.02 * np.arange(steps)[:, None] + np.zeros(7) + seed
    return joints, np.linspace(0.08, 0.0, steps)


def random_images(seed, height=24, width=40, steps=STEPS):
    return np.random.default_rng(seed).integers(0, 256, (steps, height, width, 3), dtype=np.uint8)


def rpt_arrays(seed, **changes):
    joints, width = make_path(seed)
    arrays = {
        "rgb_hand": random_images(seed),
        "rgb_left": random_images(seed + 100),
        "joint_pos": joints,
        "gripper_width": width[:, None],
        "success": np.array(True),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def rpt(folder, *episodes, **changes):
    folder.mkdir(exist_ok=True)
    for number, arrays in enumerate(episodes):
        np.savez(folder / f"{number:03d}.npz", **arrays)
    return ConvertConfig(
        layout=RptDemonstrations(path=folder, cameras=(), task="pick"),
        **{"path": PATH, "episodes": None, **changes},
    )


def test_joints_become_the_actions_that_lead_there(tmp_path):
    convert(rpt(tmp_path / "raw", rpt_arrays(0), rpt_arrays(1)), tmp_path / "out")
    reader = DatasetReader(tmp_path / "out")
    assert len(reader) == 2
    found = reader[0]
    assert found.num_steps == 5  # of 13 frames every third
    assert found.labelled.tolist() == [True] * 4 + [False]
    np.testing.assert_allclose(found.actions[:4, :7], 0.6, atol=1e-6)
    joints, width = make_path(0)
    np.testing.assert_allclose(found.actions[:4, 7], width[3::3] / 0.04 - 1, atol=1e-6)
    np.testing.assert_allclose(found.proprio[:, :7], joints[::3], atol=1e-6)
    np.testing.assert_allclose(found.proprio[:, 7], width[::3], atol=1e-6)
    assert found.interface.rate_hz == 10
    assert found.interface.camera_names == ("hand", "left")
    assert np.array_equal(found.images["hand"], fitted(random_images(0)[::3], 32))
    assert (found.task, found.facts["success"], found.facts["source"]) == ("pick", True, "000.npz")
    Translator(found.interface, FRANKA_PANDA, FR3)  # an arm can execute this


@pytest.mark.parametrize("closes", [2, 4, 5, 6])  # the used frames are 0, 3, 6, 9, 12
def test_a_hand_that_says_only_whether_it_is_closed(tmp_path, closes):
    closed = np.arange(STEPS) >= closes
    arrays = rpt_arrays(0, gripper_width=None, gripper_closed=closed.astype(int), success=None)
    convert(rpt(tmp_path / "raw", arrays), tmp_path / "out")
    (found,) = DatasetReader(tmp_path / "out")
    assert found.interface.proprio[-1] == "gripper_command"
    states = np.where(closed[::3], -1, 1)
    assert found.actions[:4, 7].tolist() == states[1:].tolist()  # the state of the next used frame
    assert found.proprio[:, 7].tolist() == states.tolist()
    assert found.facts["success"] is None
    Translator(found.interface, FRANKA_PANDA, FR3)


def test_steps_that_are_too_large_are_clipped_and_counted(tmp_path, capsys):
    small = PathConfig(rate_hz=30.0, every=3, joint_step_rad=0.05, image_size=None)
    convert(rpt(tmp_path / "raw", rpt_arrays(0), path=small), tmp_path / "out")
    assert "4 of 5 steps exceed path.joint_step_rad=0.05" in capsys.readouterr().out
    found = DatasetReader(tmp_path / "out")[0]
    assert found.actions[0, :7].tolist() == [1.0] * 7
    assert found.images["hand"].shape == (5, 24, 40, 3)


def test_it_goes_on_where_it_ended(tmp_path):
    episodes = [rpt_arrays(seed) for seed in range(3)]
    convert(rpt(tmp_path / "raw", *episodes, episodes=1), tmp_path / "out")
    convert(rpt(tmp_path / "raw", *episodes), tmp_path / "out")
    reader = DatasetReader(tmp_path / "out")
    assert [reader.facts(index)["source"] for index in range(3)] == [
        "000.npz", "001.npz", "002.npz",
    ]  # fmt: skip
    (tmp_path / "raw" / "000.npz").unlink()
    with pytest.raises(ValueError, match="contains other episodes"):
        convert(rpt(tmp_path / "raw"), tmp_path / "out")


def test_another_source_or_other_settings_are_not_mixed_in(tmp_path):
    setting = robomimic_config(robomimic(tmp_path / "a.hdf5"))
    convert(replace(setting, episodes=1), tmp_path / "out")
    other = robomimic_config(robomimic(tmp_path / "b.hdf5", 3))
    for changed, difference in (
        (other, r"layout\.path: '.*a\.hdf5' != '.*b\.hdf5'"),
        (replace(setting, path=replace(setting.path, every=4)), r"path\.every: 2 != 4"),
        (replace(setting, path=replace(setting.path, joint_step_rad=0.2)), "step_rad: 0.1 != 0.2"),
        (replace(setting, layout=replace(setting.layout, task="other")), "task: None != 'other'"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)holds a run with another config.*{difference}"):
            convert(changed, tmp_path / "out")
    assert sources(tmp_path / "out") == ["demo_9"]
    convert(setting, tmp_path / "out")
    assert sources(tmp_path / "out") == ["demo_9", "demo_10"]


def test_settings_of_which_no_episode_came_are_changed(tmp_path):
    setting = rpt(tmp_path / "raw", rpt_arrays(0, joint_pos=None))
    np.savez(tmp_path / "raw" / "001.npz", **rpt_arrays(1, rgb_left=None))
    wrong = replace(setting, layout=replace(setting.layout, cameras=("left",)))
    with pytest.raises(ValueError, match=r"000\.npz"):
        convert(wrong, tmp_path / "out")
    convert(setting, tmp_path / "out")
    assert sources(tmp_path / "out") == ["001.npz"]


@pytest.mark.usefixtures("no_folder_locks")
def test_a_file_system_that_locks_no_folders_is_converted_to(tmp_path):
    convert(rpt(tmp_path / "raw", rpt_arrays(0)), tmp_path / "out")
    assert sources(tmp_path / "out") == ["000.npz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_pos": None}, r"lacks joint_pos; it has gripper_width, rgb_hand"),
        ({"gripper_width": None}, "lacks gripper_width or gripper_closed"),
        ({"joint_pos": np.zeros((STEPS, 6))}, r"joints must be \[t 7\]"),
        ({"joint_pos": np.zeros((4, 7))}, "joints has 4 steps, but hand has 13"),
        ({"joint_pos": np.full((STEPS, 7), np.nan)}, "joints must be finite"),
        ({"rgb_left": np.zeros((STEPS, 4, 4, 3))}, r"images of 'left' must be uint8"),
        ({"gripper_width": np.zeros((STEPS, 2))}, r"gripper_width must be \[t\] or \[t 1\]"),
        ({"rgb_hand": None, "rgb_left": None}, "needs at least one camera"),
        ({"joint_pos": np.array([{}], dtype=object)}, "damaged, or holds pickled objects"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"(?s)000\.npz.*{message}"):
        convert(rpt(tmp_path / "raw", rpt_arrays(0, **changes)), tmp_path / "out")


def test_nothing_to_convert(tmp_path):
    with pytest.raises(FileNotFoundError, match="no episodes"):
        convert(rpt(tmp_path / "raw"), tmp_path / "out")


def left_out(out):
    return json.loads((out / "left_out.json").read_text())


def sources(out):
    reader = DatasetReader(out)
    return [reader.facts(index)["source"] for index in range(len(reader))]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_episode_is_named_and_left_out(tmp_path, capsys, bad):
    good = [rpt_arrays(seed) for seed in range(4)]
    setting = rpt(tmp_path / "raw", *good[:bad], rpt_arrays(bad, joint_pos=None), *good[bad:])
    (tmp_path / "raw" / "003.npz").write_bytes(b"no archive")
    smaller = rpt_arrays(4) | {name: random_images(4, 16) for name in ("rgb_hand", "rgb_left")}
    np.savez(tmp_path / "raw" / "004.npz", **smaller)
    setting = replace(setting, path=replace(PATH, image_size=None))
    kept = [f"{number:03d}.npz" for number in range(3) if number != bad]
    for _ in range(2):  # the same command again does not stop there either
        convert(setting, tmp_path / "out")
        assert sources(tmp_path / "out") == kept
        found = left_out(tmp_path / "out")
        assert [*found] == [f"{bad:03d}.npz", "003.npz", "004.npz"]
        assert f"{bad:03d}.npz: lacks joint_pos; it has" in found[f"{bad:03d}.npz"]
        assert "damaged" in found["003.npz"]
        assert "hand 16x40" in found["004.npz"]
        printed = capsys.readouterr().out
        assert f"3 episodes were skipped: {tmp_path / 'out' / 'left_out.json'}" in printed
    for number in (bad, 3, 4):  # mended
        np.savez(tmp_path / "raw" / f"{number:03d}.npz", **rpt_arrays(number))
    convert(setting, tmp_path / "out")
    assert sources(tmp_path / "out") == [*kept, f"{bad:03d}.npz", "003.npz", "004.npz"]
    assert not (tmp_path / "out" / "left_out.json").exists()


def test_demonstrations_with_odd_names_are_in_the_report(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = robomimic(tmp_path / "image.hdf5")
    with h5py.File(path, "a") as file:
        file.copy("data/demo_9", "data/demo_x")
        file["data/demo_11"] = h5py.SoftLink("/nowhere")
    convert(robomimic_config(path), tmp_path / "out")
    assert sources(tmp_path / "out") == ["demo_9", "demo_10"]
    found = left_out(tmp_path / "out")
    assert [*found] == ["demo_x", "demo_11"]
    assert "not demo_<number>" in found["demo_x"]
    assert "data/demo_11: " in found["demo_11"]


def robomimic(path: Path, number=2, **changes):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        about = {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
        file.create_group("data").attrs["env_args"] = json.dumps(about)
        for index in range(number):
            joints, width = make_path(index)
            group = file.create_group(f"data/demo_{9 + index}")  # 9, 10: not in the order of words
            actions = np.zeros((STEPS, 7))
            actions[:, -1] = np.where(np.arange(STEPS) < 5, -1, 1)
            arrays = {
                "obs/agentview_image": random_images(index),
                "obs/robot0_joint_pos": joints,
                "obs/robot0_gripper_qpos": np.stack([width / 2, -width / 2], 1),
                "actions": actions,
            }
            for name, array in (arrays | changes).items():
                if array is not None:
                    group.create_dataset(name, data=array)
        file.create_dataset("mask/valid", data=np.array([b"demo_10"]))
    return path


def robomimic_config(path, mask=None, rate_hz=20.0):
    demonstrations = RobomimicDemonstrations(path=path, cameras=(), mask=mask, task=None)
    setting = PathConfig(rate_hz=rate_hz, every=2, joint_step_rad=0.1, image_size=None)
    return ConvertConfig(layout=demonstrations, path=setting, episodes=None)


@pytest.mark.parametrize("commands", [1.0, 0.0], ids=["other sign", "0 opens"])
def test_a_gripper_with_another_sign_is_refused(tmp_path, commands):
    opening = np.linspace(0.0, 0.04, STEPS)
    changes = {
        "obs/robot0_gripper_qpos": np.stack([opening, -opening], 1),
        "actions": np.full((STEPS, 7), commands),
    }
    path = robomimic(tmp_path / "image.hdf5", **changes)
    with pytest.raises(ValueError, match="no episode"):
        convert(robomimic_config(path), tmp_path / "out")
    (reason, *_) = left_out(tmp_path / "out").values()
    assert "in which the fingers open, the gripper's command is another" in reason
    own = replace(robomimic_config(path), path=replace(PATH, every=1, rate_hz=20.0, actions="own"))
    convert(own, tmp_path / "own")  # the file's actions are used as they are


def test_robomimic_is_read(tmp_path):
    path = robomimic(tmp_path / "image.hdf5")
    convert(robomimic_config(path), tmp_path / "out")
    reader = DatasetReader(tmp_path / "out")
    assert [reader.facts(index)["source"] for index in range(2)] == ["demo_9", "demo_10"]
    found = reader[1]
    assert found.task == "Lift"
    assert found.interface.camera_names == ("agentview",)
    assert np.array_equal(found.images["agentview"], random_images(1)[::2])
    np.testing.assert_allclose(found.actions[:6, :7], 0.4, atol=1e-6)
    # there, -1 opens; the command of frame 5 is the last one before the used frame 6
    assert found.actions[:, 7].tolist() == [1, 1, -1, -1, -1, -1, -1]
    np.testing.assert_allclose(found.proprio[0, 7], 0.08, atol=1e-6)
    assert found.columns["source"][-1].tolist() == [0.0] * 6 + [1.0]
    convert(robomimic_config(path, mask="valid"), tmp_path / "valid")
    (only,) = DatasetReader(tmp_path / "valid")
    assert only.facts["source"] == "demo_10"


def test_the_rate_is_what_the_file_says(tmp_path, capsys):
    for number, given in enumerate((None, 20.0)):
        path = robomimic(tmp_path / f"{number}.hdf5")
        convert(robomimic_config(path, rate_hz=given), tmp_path / str(number))
        assert DatasetReader(tmp_path / str(number)).interface.rate_hz == 10
        assert "2 episodes at 10 steps per second" in capsys.readouterr().out
    unknown = replace(PATH, rate_hz=None)
    with_rate = rpt(tmp_path / "rpt", rpt_arrays(0, rate_hz=np.array(15)), path=unknown)
    convert(with_rate, tmp_path / "out")
    assert DatasetReader(tmp_path / "out").interface.rate_hz == 5
    with pytest.raises(
        ValueError, match=r"000\.npz has a rate of 15 Hz, but path\.rate_hz=30 was given"
    ):
        convert(replace(with_rate, path=PATH), tmp_path / "other")


@pytest.mark.parametrize(
    ("frequency", "given", "message"),
    [
        (None, None, r"demo_9 has no frame rate: set path\.rate_hz=<frames per second>"),
        ("fast", None, "must be a positive number of Hz, got 'fast'"),
        (-20, None, "must be a positive number of Hz, got -20"),
        (float("nan"), 20.0, "must be a positive number of Hz, got nan"),
    ],
)
def test_a_rate_that_nobody_says_is_asked_for(tmp_path, frequency, given, message):
    h5py = pytest.importorskip("h5py")
    path = robomimic(tmp_path / "image.hdf5")
    with h5py.File(path, "a") as file:
        about = {"env_name": "Lift", "env_kwargs": {"control_freq": frequency}}
        file["data"].attrs["env_args"] = json.dumps(about)
    with pytest.raises(ValueError, match=message):
        convert(robomimic_config(path, rate_hz=given), tmp_path / "out")
    assert not (tmp_path / "out" / "meta").exists()


def test_a_file_without_a_rate_takes_the_one_that_is_given(tmp_path):
    arrays = rpt_arrays(0)
    with pytest.raises(ValueError, match=r"000\.npz has no frame rate: set path\.rate_hz="):
        convert(rpt(tmp_path / "raw", arrays, path=replace(PATH, rate_hz=None)), tmp_path / "out")
    convert(rpt(tmp_path / "raw", arrays), tmp_path / "out")
    assert DatasetReader(tmp_path / "out").interface.rate_hz == 10


def test_cameras_of_libero_are_found_in_robomimics_files(tmp_path):
    images = {"obs/agentview_image": None, "obs/agentview_rgb": random_images(1)}
    path = robomimic(tmp_path / "rgb.hdf5", **images, **{"obs/eye_in_hand_rgb": random_images(0)})
    convert(robomimic_config(path), tmp_path / "out")
    found = DatasetReader(tmp_path / "out")[0]
    assert found.interface.camera_names == ("agentview", "eye_in_hand")
    assert np.array_equal(found.images["agentview"], random_images(1)[::2])
    assert np.array_equal(found.images["eye_in_hand"], random_images(0)[::2])


def test_what_is_wrong_with_robomimics_file_is_said(tmp_path):
    path = robomimic(tmp_path / "image.hdf5")
    with pytest.raises(ValueError, match=r"no mask 'train'; it has \['valid'\]"):
        convert(robomimic_config(path, mask="train"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"rate of 20 Hz, but path\.rate_hz=10 was given: omit"):
        convert(robomimic_config(path, rate_hz=10.0), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file "):
        convert(robomimic_config(tmp_path / "none"), tmp_path / "out")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        convert(robomimic_config(tmp_path / "text"), tmp_path / "out")
    low = robomimic(tmp_path / "low.hdf5", **{"obs/agentview_image": None})
    with pytest.raises(ValueError, match="low-dimensional data"):
        convert(robomimic_config(low), tmp_path / "out")
    odd = robomimic(
        tmp_path / "odd.hdf5", **{"obs/agentview_image": None, "obs/eye": random_images(0)}
    )
    with pytest.raises(ValueError, match=r"; eye could be images: rename them"):
        convert(robomimic_config(odd), tmp_path / "out")
    lacking = robomimic(tmp_path / "lacking.hdf5", **{"obs/robot0_joint_pos": None})
    with pytest.raises(ValueError, match=r"demo_9 lacks robot0_joint_pos; it has agentview_image"):
        convert(robomimic_config(lacking), tmp_path / "out")


def in_another_file(group):
    del group["obs/robot0_gripper_qpos"]
    place = {"shape": (STEPS, 2), "dtype": "f8", "external": [("/etc/passwd", 0, STEPS * 16)]}
    group["obs"].create_dataset("robot0_gripper_qpos", **place)


def linked_elsewhere(group):
    h5py = pytest.importorskip("h5py")
    del group["obs/robot0_joint_pos"]
    group["obs/robot0_joint_pos"] = h5py.ExternalLink(
        "other.hdf5", "data/demo_9/obs/robot0_joint_pos"
    )


def a_group(group):
    del group["actions"]
    group.create_group("actions")


def absurd_size(group):
    del group["obs/agentview_image"]
    shape = (STEPS, 1 << 21, 1 << 21, 3)
    group["obs"].create_dataset("agentview_image", shape, "u1", chunks=(1, 64, 64, 3))


def odd_facts(group):
    group.parent.attrs["env_args"] = '{"env_kwargs": null}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_another_file, "robot0_gripper_qpos is stored in another file"),
        (linked_elsewhere, "robot0_joint_pos is stored in another file"),
        (a_group, "actions is a Group"),
        (absurd_size, "Unable to allocate"),
        (odd_facts, "env_args and its env_kwargs must be JSON objects"),
    ],
)
def test_a_strangers_file_reads_no_other_and_is_named(tmp_path, change, message):
    h5py = pytest.importorskip("h5py")
    robomimic(tmp_path / "other.hdf5")
    robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        change(file["data/demo_10"])
    setting = robomimic_config(tmp_path / "a.hdf5")
    if change is odd_facts:  # of the whole file
        with pytest.raises(ValueError, match=rf"a\.hdf5: .*{message}"):
            convert(setting, tmp_path / "out")
        return
    convert(setting, tmp_path / "out")
    assert re.search(rf"a\.hdf5: .*{message}", left_out(tmp_path / "out")["demo_10"])
    assert sources(tmp_path / "out") == ["demo_9"]


def test_a_policy_is_cloned_from_it(tmp_path):
    convert(rpt(tmp_path / "raw", *map(rpt_arrays, range(3))), tmp_path / "out")
    encoder = save_tiny_encoder(tmp_path / "tiny")
    train(config(encoder, method="bc", env=None, data=tmp_path / "out"), tmp_path / "run")
    assert metrics(tmp_path / "run")["fitted_steps"] == 8


OWN_PATH = replace(PATH, every=1, actions="own")


@pytest.mark.parametrize("kind", ["rpt", "robomimic"])
def test_a_files_own_actions_are_kept_by_choice(tmp_path, kind):
    own = np.random.default_rng(0).normal(0, 40, (STEPS, 6)).astype(np.float32)
    if kind == "rpt":
        arrays = [rpt_arrays(seed, actions=own) for seed in range(2)]
        setting = rpt(tmp_path / "raw", *arrays, path=OWN_PATH)
    else:
        given = robomimic_config(robomimic(tmp_path / "image.hdf5", actions=own))
        setting = replace(given, path=replace(given.path, every=1, actions="own"))
    convert(setting, tmp_path / "out")
    found = DatasetReader(tmp_path / "out")[1]
    assert np.array_equal(found.actions, own)  # as they are: not cut, not rebuilt
    assert found.labelled.tolist() == [True] * (STEPS - 1) + [False]
    assert found.interface.action_kind == OWN
    assert found.interface.action == tuple(f"action[{index}]" for index in range(6))
    assert found.proprio.shape == (STEPS, 8)
    with pytest.raises(ValueError, match="needs joint_increment actions"):
        Translator(found.interface, FRANKA_PANDA, FR3)

    encoder = save_tiny_encoder(tmp_path / "tiny")
    train(config(encoder, method="bc", env=None, data=tmp_path / "out"), tmp_path / "run")
    interface = read_metadata(tmp_path / "run" / "policy").interface
    student = load_student(tmp_path / "run" / "policy", load_encoder(encoder), interface)
    act = student.act(
        {
            key: np.zeros(8 if key == "proprio" else load_encoder(encoder).dim, np.float32)
            for key in student.keys
        }
    )
    assert (act >= own.min(0) - 1e-3).all()
    assert (act <= own.max(0) + 1e-3).all()
    assert np.abs(act).max() > 1  # in the file's units
    told = run("policies.evaluate", f"policy={tmp_path / 'run'} out={tmp_path / 'e'}")
    assert "so no environment here can evaluate it. In your own program: policies." in told.err
    with pytest.raises(ValueError, match=r"(?s)different interfaces.*action_kind: 'own' != .*bc"):
        train(config(encoder, data=tmp_path / "out"), tmp_path / "dagger")


def test_own_actions_that_are_not_there_or_would_skip_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"actions=own needs every=1, got 3"):
        replace(PATH, actions="own")
    with pytest.raises(
        ValueError, match=r"000\.npz.*path\.actions=own, but the file has no actions"
    ):
        convert(rpt(tmp_path / "raw", rpt_arrays(0), path=OWN_PATH), tmp_path / "out")
    short = rpt_arrays(0, actions=np.zeros((4, 6)))
    with pytest.raises(ValueError, match=rf"000\.npz: joints has {STEPS} steps, but actions has 4"):
        convert(rpt(tmp_path / "short", short, path=OWN_PATH), tmp_path / "out")


def test_a_lerobot_data_set_is_not_converted(tmp_path):
    layout = LerobotLayout(cameras=(), state=("observation.state",), action="action")
    with pytest.raises(ValueError, match=r"no conversion.*policies\.train .* layout=lerobot"):
        convert(ConvertConfig(layout=layout, path=PATH, episodes=None), tmp_path / "out")
