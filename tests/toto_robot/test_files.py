"""Files and folders are whole or not there."""

import csv
import stat

import pytest
import torch

from toto_robot.checkpoint import load_weights, read_config, save_checkpoint
from toto_robot.files import write_aside, write_csv, written_aside


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_is_there_is_replaced_whole(tmp_path):
    for number in (1, 2):
        with written_aside(tmp_path / "one") as aside:
            aside.mkdir()
            (aside / f"{number}.txt").write_text("x")
        assert names(tmp_path) == ["one"]
        assert names(tmp_path / "one") == [f"{number}.txt"]


def fail_half_way(path, error, *, folder):
    with written_aside(path) as aside:
        if folder:
            aside.mkdir()
        else:
            aside.write_text("half")
        raise error


def test_what_fails_leaves_what_was_there(tmp_path):
    write_aside(tmp_path / "file", "before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "before").touch()
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(tmp_path / "file", KeyboardInterrupt(), folder=False)
    with pytest.raises(OSError, match="full"):
        fail_half_way(tmp_path / "folder", OSError("full"), folder=True)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path / "folder") == ["before"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    for left in (".one.part", ".one.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "rest").write_text("x")
    save_checkpoint(tmp_path / "one", "toy", {"a": 1}, {"w": torch.zeros(2)})
    save_checkpoint(tmp_path / "one", "toy", {"a": 2}, {"w": torch.ones(2)}, step=3)
    assert names(tmp_path) == ["one"]
    data = read_config(tmp_path / "one", "toy")
    assert (data["config"], data["step"]) == ({"a": 2}, 3)
    weights = load_weights(tmp_path / "one", data["sha256"])
    assert torch.equal(weights["w"], torch.ones(2))
    mode = (tmp_path / "one" / "weights.safetensors").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


def test_rows_come_back_from_csv(tmp_path):
    rows = [{"name": "a, b", "value": 1.5}, {"name": "c", "value": None}]
    write_csv(tmp_path / "deep" / "rows.csv", rows)
    with (tmp_path / "deep" / "rows.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"name": "a, b", "value": "1.5"},
            {"name": "c", "value": ""},
        ]


def test_of_several_that_write_a_shared_folder_the_first_one_stays(tmp_path):
    """Another process may read it already."""
    with (
        written_aside(tmp_path / "folder", shared=True) as one,
        written_aside(tmp_path / "folder", shared=True) as other,
    ):
        for number, aside in enumerate((one, other)):
            aside.mkdir()
            (aside / "file").write_text(str(number))
    assert (tmp_path / "folder/file").read_text() == "1"  # the inner block ended first
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
