"""Recordings become data with DROID's names, rate and units, and DROID's own layout is read."""

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from envs.arms.franka import FRANKA_PANDA
from envs.interface import CameraSpec, Interface
from policies.convert_demonstrations import ConvertConfig, convert
from policies.demonstrations.droid import DroidView
from policies.demonstrations.joint_paths import PathConfig
from policies.demonstrations.lerobot.layout import Column
from policies.demonstrations.lerobot.others import LerobotLayout
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.lerobot.writer import DatasetWriter
from tests.policies.demonstrations.demonstrations import noise, noise_interface
from tests.toto_robot.data.fake_lerobot import stamps_ms, write_set
from toto_robot.data.lerobot import LeRobotFolder

NAMES = FRANKA_PANDA.joint_names
STEPS = 13
# names, dtypes and widths of lerobot/droid_1.0.1
JOINTS = [f"joint_{index}" for index in range(7)]
DROID = {
    "observation.state": [*JOINTS, "gripper"],
    "observation.state.joint_position": JOINTS,
    "observation.state.gripper_position": ["gripper"],
    "action": [*JOINTS, "gripper"],
    "action.joint_position": JOINTS,
    "action.joint_velocity": JOINTS,
    "action.gripper_position": ["gripper"],
}


def interface(**changes):
    values = {
        "arm": "franka_panda",
        "cameras": tuple(CameraSpec(name=one, height=12, width=16) for one in ("hand", "front")),
        "proprio": (*(f"{name}_position" for name in NAMES), "gripper_width"),
        "action_kind": "joint_increment",
        "action": (*(f"{name}_increment" for name in NAMES), "gripper_opening"),
        "action_scale": (0.1,) * 7 + (1.0,),
        "rate_hz": 10.0,
    }
    return Interface(**(values | changes))


def recording(seed=0, success=True, **changes):
    """Return an episode whose joints move by 0.03 rad a step, with a hand that closes half-way."""
    joints = 0.1 * seed + 0.03 * np.arange(STEPS)[:, None] + np.zeros(7)
    width = np.linspace(0.08, 0.0, STEPS)
    actions = np.zeros((STEPS, 8), np.float32)
    actions[:, 7] = np.where(np.arange(STEPS) < 6, 1, -1)
    values = {
        "interface": interface(),
        "proprio": np.column_stack([joints, width]).astype(np.float32),
        "actions": actions,
        "facts": {"complete": True, "success": success, "seed": seed},
    }
    return noise(STEPS, seed, **(values | changes))


def recordings(folder, *episodes, columns=()):
    with DatasetWriter(folder, episodes[0].interface, columns) as writer:
        for episode in episodes:
            writer.append(episode)
    return folder


def droid(folder, **changes):
    path = PathConfig(rate_hz=None, every=3, joint_step_rad=0.1, image_size=128)
    cameras = {"hand": "wrist_left", "front": "exterior_1_left"}
    values = {"path": folder, "data_episodes": "successful", "cameras": cameras}
    return ConvertConfig(layout=DroidView(**(values | changes)), path=path, episodes=None)


def table(folder, index=0):
    """Return the columns of DROID of an exported episode."""
    files = LeRobotFolder(folder)
    return files.values(files.episodes(())[index], (*DROID, "is_episode_successful"))


def test_a_recording_has_the_names_rate_and_units_of_droid(tmp_path):
    source = recordings(tmp_path / "raw", recording(0), recording(1, success=False), recording(2))
    convert(droid(source), tmp_path / "out")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["fps"], info["total_episodes"]) == (15, 2)  # without the failed one
    found = {name: feature["names"] for name, feature in info["features"].items() if name in DROID}
    assert found == DROID
    assert {info["features"][name]["dtype"] for name in DROID} == {"float32"}
    cameras = {"observation.images.wrist_left", "observation.images.exterior_1_left"}
    assert cameras == {n for n, f in info["features"].items() if f["dtype"] == "video"}
    statistics = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert set(DROID) <= set(statistics)  # LeRobot's policies normalise them

    columns = table(tmp_path / "out")
    steps = len(columns["action"])
    assert steps == 18  # 1.2 s
    # 0.3 rad/s for 1/15 s is 0.02 rad, and an action of 1 is 0.2 rad
    np.testing.assert_allclose(columns["action.joint_velocity"], 0.1, atol=1e-5)
    joints = columns["observation.state.joint_position"]
    np.testing.assert_allclose(joints[:, 3], 0.02 * np.arange(steps), atol=1e-6)
    moved = joints + 0.2 * columns["action.joint_velocity"]
    np.testing.assert_allclose(columns["action.joint_position"], moved, atol=1e-6)
    closed = columns["observation.state.gripper_position"]
    np.testing.assert_allclose(closed, np.arange(steps) / 18, atol=1e-6)
    command = (np.arange(steps) >= 9).astype(float)  # from 0.6 s
    np.testing.assert_array_equal(columns["action.gripper_position"], command)
    state = np.column_stack([joints, closed])
    np.testing.assert_array_equal(columns["observation.state"], state)
    assert columns["is_episode_successful"].all()


def test_images_are_those_of_the_last_recorded_step(tmp_path):
    episode = recording()
    convert(droid(recordings(tmp_path / "raw", episode)), tmp_path / "out")
    found = DatasetReader(tmp_path / "out")[0]
    rows = [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11]
    np.testing.assert_array_equal(found.images["wrist_left"], episode.images["hand"][rows])
    np.testing.assert_array_equal(found.images["exterior_1_left"], episode.images["front"][rows])


@pytest.mark.parametrize("kind", ["command.after.joints", "state"])
def test_desired_positions_of_the_recording_are_the_action(tmp_path, kind):
    joints = recording().proprio[:, :7].astype(np.float64)
    if kind == "state":  # the stored targets at the time of the observation
        names = ("x", *(f"{name}_target" for name in NAMES))
        values = np.column_stack([np.zeros(STEPS), joints + 0.05])
    else:  # the targets at the end of the step; one was not sent
        names, values = NAMES, np.concatenate([joints[1:], joints[-1:]]) + 0.05
        values[4] = np.nan
    column = Column(name=kind, dtype="float64", names=names)
    episode = recording(columns={kind: values})
    convert(droid(recordings(tmp_path / "raw", episode, columns=[column])), tmp_path / "out")
    velocity = table(tmp_path / "out")["action.joint_velocity"][:, 0]
    expected = np.full(18, (0.02 + 0.05) / 0.2)
    if kind != "state":
        # before the first target at 0.1 s, and where one is missing at 0.5 s, the measured joints
        # stand in; between two recorded steps the lead is interpolated
        expected[[0, 6, 7]] = (0.02 + 0.05 * np.array([2, 1, 1]) / 3) / 0.2
    np.testing.assert_allclose(velocity, expected, atol=1e-5)


def test_actions_beyond_one_are_scaled_down_as_droids_controller_does(tmp_path, capsys):
    lead = np.array([0.4, -0.2, 0.0, 0.0, 0.0, 0.0, 0.1])  # rad; the unit is 0.2
    joints = recording().proprio[:, :7].astype(np.float64)
    joints = np.concatenate([joints[1:], joints[-1:]])
    episode = recording(columns={"command.after.joints": joints + lead})
    column = Column(name="command.after.joints", dtype="float64", names=NAMES)
    convert(droid(recordings(tmp_path / "raw", episode, columns=[column])), tmp_path / "out")
    columns = table(tmp_path / "out")
    expected = (0.02 + lead) / 0.42  # the largest is 0.42 rad
    np.testing.assert_allclose(columns["action.joint_velocity"][5], expected, atol=1e-5)
    moved = columns["observation.state.joint_position"] + 0.2 * columns["action.joint_velocity"]
    np.testing.assert_allclose(columns["action.joint_position"], moved, atol=1e-6)
    assert np.abs(columns["action.joint_velocity"]).max() <= 1
    assert "18 actions beyond 1 were scaled down" in capsys.readouterr().out


def test_the_same_command_resumes(tmp_path):
    source = recordings(tmp_path / "raw", *(recording(seed) for seed in range(3)))
    for number in (1, 3, 3):
        config = droid(source)
        convert(
            ConvertConfig(layout=config.layout, path=config.path, episodes=number), tmp_path / "out"
        )
        assert len(DatasetReader(tmp_path / "out")) == number
    found = [table(tmp_path / "out", index)["action"][0, 0] for index in range(3)]
    np.testing.assert_allclose(found, [0.02, 0.12, 0.22], atol=1e-6)
    other = recordings(tmp_path / "other", recording(0))
    with pytest.raises(ValueError, match=r"another config .*\n  layout.path: '.*raw' != '.*other'"):
        convert(droid(other), tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()  # as a conversion of an earlier version
    with pytest.raises(ValueError, match="contains other episodes, choose another out"):
        convert(droid(other), tmp_path / "out")


def test_recordings_that_do_not_fit_are_refused(tmp_path):
    source = recordings(tmp_path / "raw", recording())
    with pytest.raises(ValueError, match=r"has no camera wrist; it has hand, front; set layout\."):
        convert(droid(source, cameras={"wrist": "wrist_left"}), tmp_path / "out")
    other = noise(interface=noise_interface(cameras=("hand", "front")))
    point = recordings(tmp_path / "point", other)
    with pytest.raises(ValueError, match=r"not a recording of a Franka.*lack joint1_position"):
        convert(droid(point), tmp_path / "out")
    fast = interface(rate_hz=60.0)
    short = recordings(tmp_path / "short", noise(2, interface=fast))
    with pytest.raises(ValueError, match="an episode of 2 steps is too short for 15 Hz"):
        convert(droid(short), tmp_path / "out")


def test_velocities_and_gripper_of_droids_own_layout_are_read(tmp_path):
    """As in `lerobot/droid_1.0.1`: axes with names, texts in each row, many episodes in a file."""
    total, rng = 11, np.random.default_rng(0)
    numeric = {
        name: rng.normal(size=(total, len(names))).astype(np.float32)
        for name, names in DROID.items()
    }
    single = [name for name, values in numeric.items() if values.shape[1] == 1]
    features = {
        name: {"dtype": "float32", "shape": [len(names)], "names": {"axes": names}}
        for name, names in DROID.items()
    }
    features |= {
        "is_first": {"dtype": "bool", "shape": [1], "names": None},
        "language_instruction": {"dtype": "string", "shape": [1], "names": None},
    }
    folder = write_set(
        tmp_path / "set",
        (6, 5),
        {
            name: stamps_ms(total, rate=15)
            for name in ("wrist_left", "exterior_1_left", "exterior_2_left")
        },
        rate=15,
        tasks={0: "put the marker in the pot", 1: "open the drawer"},
        info={"robot_type": "Franka", "features": features},
        columns={
            **{n: (v[:, 0] if n in single else v).tolist() for n, v in numeric.items()},
            "is_first": [index in (0, 6) for index in range(total)],
            "language_instruction": ["put the marker in the pot"] * total,
        },
    )
    layout = LerobotLayout(
        cameras=("wrist_left", "exterior_1_left"),
        state=("observation.state.joint_position", "observation.state.gripper_position"),
        action=("action.joint_velocity", "action.gripper_position"),
    )
    reader = DatasetReader(folder, others=layout)
    assert reader.interface.action == (*JOINTS, "gripper")
    assert reader.interface.proprio == (*JOINTS, "gripper")
    assert reader.interface.rate_hz == 15
    assert [one.task for one in reader] == ["put the marker in the pot", "open the drawer"]
    actions = np.concatenate([one.actions for one in reader])
    parts = [numeric["action.joint_velocity"], numeric["action.gripper_position"]]
    np.testing.assert_array_equal(actions, np.column_stack(parts))
    parts = [numeric[name] for name in layout.state]
    np.testing.assert_array_equal(
        np.concatenate([one.proprio for one in reader]), np.column_stack(parts)
    )
    assert set(reader[0].images) == {"wrist_left", "exterior_1_left"}
