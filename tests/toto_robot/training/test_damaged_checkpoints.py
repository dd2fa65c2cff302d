"""What a power cut or a stranger leaves in a checkpoint's folder."""

import json
import os
import pickle
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from tests.toto_robot.training.test_engine import ENGINE, log_of, same, train
from toto_robot.training.checkpoint_index import DataPlanner, DataReader


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train(out, ENGINE)


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def newest(out):
    return out / "checkpoints" / "step-0000012"


def data_file(folder):
    (found,) = folder.glob("*.distcp")
    return found


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = {
    "state.json emptied": lambda f: (f / "state.json").write_bytes(b""),
    "state.json cut off": lambda f: (f / "state.json").write_text('{"step": 1'),
    "state.json of another kind": lambda f: (f / "state.json").write_text("[]"),
    "state.json missing": lambda f: (f / "state.json").unlink(),
    "index emptied": lambda f: (f / ".metadata").write_bytes(b""),
    "index missing": lambda f: (f / ".metadata").unlink(),
    "index zeroed": lambda f: zeroed(f / ".metadata"),
    "data emptied": lambda f: data_file(f).write_bytes(b""),
    "data cut off": lambda f: os.truncate(data_file(f), data_file(f).stat().st_size - 1),
    "data zeroed": lambda f: zeroed(data_file(f)),
    "data missing": lambda f: data_file(f).unlink(),
    "all emptied": lambda f: [path.write_bytes(b"") for path in f.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(damage, run, copy, capsys):
    damage(newest(copy))
    again = train(copy, ENGINE)
    assert same(again.weights, run[1].weights)
    assert log_of(copy) == log_of(run[0])
    assert "step-0000012 is damaged (" in (told := capsys.readouterr().out)
    assert "continuing from step-0000008" in told
    kept = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert kept == ["damaged-step-0000012", "step-0000008", "step-0000012"]


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(copy):
    for folder in (copy / "checkpoints").iterdir():
        (folder / "state.json").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"none of the checkpoints can be read.*\n.*0012.*\n.*0008"
    ):
        train(copy, ENGINE)
    assert len(list((copy / "checkpoints").glob("step-*"))) == 2


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("inside", [False, True])
def test_an_index_that_would_run_code_is_not_run(inside, copy, tmp_path, capsys):
    mark, path = tmp_path / "ran", newest(copy) / ".metadata"
    index = pickle.loads(path.read_bytes()) if inside else None
    if inside:
        index.planner_data = Runs(mark)
    path.write_bytes(pickle.dumps(index or Runs(mark)))
    train(copy, ENGINE)
    assert not mark.exists()
    assert "it names posix.mkdir, which no index needs" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_value_that_would_run_code_is_not_run(copy, tmp_path):
    """Values that are no tensors are pickles of their own in the data file."""
    folder, mark = newest(copy), tmp_path / "ran"
    state = json.loads((folder / "state.json").read_text())
    shutil.rmtree(folder)
    dcp.save(
        {"model": {"odd": torch.ones(2)}, "optimizer": {"lr": Runs(mark)}},
        checkpoint_id=folder,
        no_dist=True,
    )
    (folder / "state.json").write_text(json.dumps(state))
    parts = {"model": {"odd": torch.ones(2)}, "optimizer": {"lr": 0.1}}
    with pytest.raises(CheckpointException, match=r"Weights only load failed"):
        dcp.load(parts, storage_reader=DataReader(folder), planner=DataPlanner(), no_dist=True)
    assert not mark.exists()


def test_an_index_that_names_a_file_elsewhere_is_refused(copy, capsys):
    path = newest(copy) / ".metadata"
    index = pickle.loads(path.read_bytes())
    for place in index.storage_data.values():
        place.relative_path = f"../step-0000008/{place.relative_path}"
    path.write_bytes(pickle.dumps(index))
    train(copy, ENGINE)
    assert "names a file outside the folder" in capsys.readouterr().out
