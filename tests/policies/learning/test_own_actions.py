"""LeRobot data sets of others are cloned as they are: their actions, in their own units."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")

from envs.interface import OWN, CameraSpec, Interface
from policies.demonstrations.lerobot.others import LerobotLayout
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.rpt import RptDemonstrations
from policies.demonstrations.source import Demonstrations
from policies.student import StudentPolicy, load_student, read_metadata
from policies.train import train
from policies.vision import NoVision
from tests.policies.fake_world import ENV, ReachEnv, metadata, save_tiny_encoder
from tests.policies.test_train import config, metrics
from tests.toto_robot.data.fake_lerobot import stamps_ms, write_set
from toto_robot import load_encoder

LAYOUT = LerobotLayout(
    cameras=(), state=("observation.state", "observation.gripper mm"), action="action.raw"
)
MOTORS = ["shoulder/pan", "élan", "a b", "wrist.roll", "é", "jaw %"]
LENGTHS = (12, 9, 10, 11)
TASKS = {2: "pick the cube", 5: "fold ünder"}
RATE = 15


def own_actions(state):
    """Return actions [t 6] that follow from states, in units of all sorts; one never moves."""
    x, y = state[:, 0], state[:, 1]
    return np.stack(
        [180 * x, 4096 * y, 1e-4 * (x + y), x - y, np.full(len(x), 7.5), 50 + 40 * y], 1
    )


def numbers(lengths=LENGTHS):
    steps = np.arange(sum(lengths))
    state = np.stack([np.sin(0.9 * steps), np.cos(0.4 * steps), 0 * steps], 1).astype(np.float32)
    return state, own_actions(state).astype(np.float32)


def others_set(folder, lengths=LENGTHS, cameras=None, **columns):
    """Write a data set with cameras, names, units and a rate as others choose them."""
    total = sum(lengths)
    state, actions = numbers(lengths)
    every = {
        "observation.image": stamps_ms(total, rate=RATE),
        "Wrist-cam 2": stamps_ms(total, rate=RATE),
    }
    return write_set(
        folder,
        lengths,
        every | (cameras or {}),
        tasks=TASKS,
        rate=RATE,
        columns={
            "observation.state": state.tolist(),
            "observation.gripper mm": np.linspace(0, 80, total).tolist(),
            "action.raw": actions.tolist(),
            **columns,
        },
        info={
            "robot_type": "so101 follower",
            "features": {
                "observation.gripper mm": {"dtype": "float64", "shape": [1], "names": None},
                "action.raw": {"dtype": "float32", "shape": [6], "names": {"motors": MOTORS}},
                "extra": {"dtype": "string", "shape": [1], "names": None},
            },
        },
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    return others_set(tmp_path_factory.mktemp("others") / "set")


@pytest.fixture(scope="module")
def cloned(encoder, demos, tmp_path_factory):
    out = tmp_path_factory.mktemp("cloned") / "run"
    train(cloning(encoder, demos, chunk=2), out)
    return out


def cloning(eyes, folder, steps=300, chunk=1, **changes):
    plain = config(eyes)
    values = {
        "method": "bc",
        "env": None,
        "data": folder,
        "layout": LAYOUT,
        "imitation": replace(
            plain.imitation,
            last_steps=steps,
            log_every=steps,
            optimizer=replace(plain.imitation.optimizer, lr=1e-2),
        ),
        "student": replace(plain.student, chunk=chunk, dropout=0.0, hidden=(64,)),
    }
    return config(eyes, **(values | changes))


def test_its_interface_says_what_the_data_set_says(demos):
    found = DatasetReader(demos, others=LAYOUT)
    assert found.interface == Interface(
        arm="so101 follower",
        cameras=(
            CameraSpec(name="observation.image", height=32, width=32),
            CameraSpec(name="Wrist-cam 2", height=32, width=32),
        ),
        proprio=(*(f"observation.state[{i}]" for i in range(3)), "observation.gripper mm[0]"),
        action_kind=OWN,
        action=tuple(MOTORS),
        action_scale=(1.0,) * 6,
        rate_hz=15.0,
    )
    _, actions = numbers()
    assert np.array_equal(np.concatenate([one.actions for one in found]), actions)  # as they are
    assert [one.task for one in found] == ["pick the cube", *["fold ünder"] * 3]
    assert [round(float(i.mean()) / 5) for i in found[1].images["Wrist-cam 2"]] == [*range(12, 21)]


def test_one_camera_may_be_chosen_and_a_missing_column_is_named(demos):
    one = LerobotLayout(cameras=("Wrist-cam 2",), state=("observation.state",), action="action.raw")
    assert DatasetReader(demos, others=one).interface.camera_names == ("Wrist-cam 2",)
    for changes, message in (
        ({"cameras": ("top",)}, "no camera top; it has observation.image, Wrist-cam 2"),
        ({"action": "acts"}, r"no column 'acts'; it has .*action\.raw"),
        ({"state": ("extra",)}, "'extra' must hold a list of numbers per step, it has string"),
    ):
        values = {"cameras": (), "state": ("observation.state",), "action": "action.raw"} | changes
        with pytest.raises(ValueError, match=message):
            DatasetReader(demos, others=LerobotLayout(**values))


def test_a_policy_gives_actions_in_the_data_sets_units(cloned, encoder):
    interface = read_metadata(cloned / "policy").interface
    assert (interface.action_kind, interface.rate_hz) == (OWN, 15.0)
    student = load_student(cloned / "policy", load_encoder(encoder), interface)
    state = np.array([[0.5, -0.4, 0.0, 40.0], [-0.6, 0.6, 0.0, 20.0]], np.float32)
    embedding = np.zeros((2, load_encoder(encoder).dim), np.float32)
    observation = {
        "embedding_observation.image": embedding,
        "embedding_Wrist-cam 2": embedding,
        "proprio": state,
    }
    found = student.act(observation)
    _, actions = numbers()
    reach = np.ptp(actions, axis=0)
    assert (found[:, 4] == 7.5).all()  # what never moved is given back to the bit
    assert np.ptp(found[:, 0]) > 60  # degrees, not [-1, 1]
    assert student.act_chunk(observation).shape == (2, 2, 6)
    far = {**observation, "proprio": 100 * state}
    assert (student.act(far) >= actions.min(0) - 1e-3 * reach).all()
    assert (student.act(far) <= actions.max(0) + 1e-3 * reach).all()


def test_what_is_learned_are_its_numbers(demos, encoder, tmp_path):
    train(cloning(encoder, demos, steps=600, encoder=NoVision()), tmp_path / "run")
    assert metrics(tmp_path / "run")["held_out_errors"][-1] < 0.1
    interface = read_metadata(tmp_path / "run" / "policy").interface
    student = load_student(tmp_path / "run" / "policy", None, interface)
    state, actions = numbers()
    found = student.act({"proprio": np.c_[state, np.linspace(0, 80, len(state))].astype("f4")})
    reach = np.ptp(actions, axis=0)
    assert (np.abs(found - actions).mean(0) <= 0.1 * reach).all()


def test_it_is_refused_wherever_an_arm_is_moved(cloned, encoder, demos, tmp_path):
    eyes = load_encoder(encoder)
    ours = ReachEnv().interface
    message = r"in the units of a third-party data set \(shoulder/pan.*needs joint_increment"
    with pytest.raises(ValueError, match=message):
        load_student(cloned / "policy", eyes, ours)
    with pytest.raises(ValueError, match=message):
        ours.require_equal(read_metadata(cloned / "policy").interface)
    for changes in ({"env": ENV}, {"env": ENV, "method": "dagger"}):
        with pytest.raises(ValueError, match=r"layout=lerobot.*method=bc env=none"):
            train(cloning(encoder, demos, **changes), tmp_path / "none")
    rpt = RptDemonstrations(path=demos, cameras=(), task="pick")
    with pytest.raises(
        ValueError, match=r"layout=rpt must be converted first.*convert_demonstrations"
    ):
        train(cloning(encoder, demos, layout=rpt), tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is no LeRobot data set"):
        train(cloning(encoder, tmp_path / "no"), tmp_path / "none")
    with pytest.raises(ValueError, match="no column 'acts'"):
        train(cloning(encoder, demos, layout=replace(LAYOUT, action="acts")), tmp_path / "none")
    assert not (tmp_path / "none").exists()  # a failed start claims no folder
    given = Demonstrations(folder=demos, which="all")
    with pytest.raises(ValueError, match=r"was not written by this project.*layout=lerobot"):
        given.open(eyes, cloned / "again", "reach", ours)


def test_a_bad_episode_is_named_and_the_others_are_learned_from(tmp_path, encoder, capsys):
    lost = {"Wrist-cam 2": stamps_ms(sum(LENGTHS), lost={14}, rate=RATE)}
    demos = others_set(tmp_path / "set", cameras=lost)
    run = tmp_path / "run"
    blind = {"encoder": NoVision()}
    train(cloning(encoder, demos, steps=5, **blind), run)
    told = json.loads((run / "data" / "left_out.json").read_text())
    assert list(told) == ["1"]
    assert "frame 2" in told["1"]
    assert "Wrist-cam 2" in told["1"]
    assert "skipped: episode 1: " in capsys.readouterr().out
    assert metrics(run)["episodes"] == 3
    everything = stamps_ms(sum(LENGTHS), offset_ms=50, rate=RATE)
    demos = others_set(tmp_path / "late", cameras={"Wrist-cam 2": everything})
    with pytest.raises(ValueError, match=r"no episode can be read: episode 0 of .*frame 0"):
        train(cloning(encoder, demos, steps=5, **blind), tmp_path / "late_run")


def test_numbers_that_are_none_leave_their_episode_out(tmp_path, encoder):
    _, actions = numbers()
    actions[3, 1] = np.nan
    demos = others_set(tmp_path / "set", **{"action.raw": actions.tolist()})
    train(cloning(encoder, demos, steps=5, encoder=NoVision()), tmp_path / "run")
    assert metrics(tmp_path / "run")["episodes"] == 3


def test_the_range_is_that_of_the_data_and_a_checkpoint_of_ours_has_none(cloned, encoder):
    ours = StudentPolicy(metadata(load_encoder(encoder)))
    assert not [name for name in ours.state_dict() if name.startswith("action_")]
    actions = torch.randn(4, 2)
    ours.set_range(actions)
    assert ours.as_outputs(actions) is actions
    own = load_student(
        cloned / "policy", load_encoder(encoder), read_metadata(cloned / "policy").interface
    )
    store = json.loads((cloned / "metrics.json").read_text())["held_out"]
    begins = np.cumsum([0, *LENGTHS])
    rows = np.concatenate(
        [range(begins[i], begins[i + 1] - 1) for i in range(len(LENGTHS)) if i not in store]
    )
    fitted = numbers()[1][rows]
    outputs = own.as_outputs(torch.from_numpy(fitted))
    assert outputs.amin() == pytest.approx(-1, abs=1e-5)
    assert outputs.amax() == pytest.approx(1, abs=1e-5)
    assert (outputs[:, 4] == 0).all()


def test_the_command_clones_a_data_set_of_others(tmp_path):
    demos = others_set(tmp_path / "set")
    arguments = [
        "method=bc", "env=none", "encoder=none", "layout=lerobot", f"data={demos}",
        f"out={tmp_path / 'run'}", "layout.action=action.raw", "imitation.last_steps=3",
        "layout.state=[observation.state]", "device=cpu",
    ]  # fmt: skip
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-m", "policies.train", *arguments], cwd=root, env=environment, check=True
    )
    metadata = read_metadata(tmp_path / "run" / "policy")
    student = load_student(tmp_path / "run" / "policy", None, metadata.interface)
    assert metadata.interface.action == tuple(MOTORS)
    action = student.act({"proprio": np.zeros(3, np.float32)})
    low, high = numbers()[1].min(0), numbers()[1].max(0)
    assert ((low <= action) & (action <= high)).all()
