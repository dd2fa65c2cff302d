"""Folders as people have them: links, loops, companions, names of any bytes."""

import json
import os
from collections import Counter

import cv2
import numpy as np
import pytest

from tests.toto_robot.data.fake_videos import numbered, write
from toto_robot.data.decode import DecodeConfig, decode
from toto_robot.data.shards import Source
from toto_robot.data.sources import Images, Kinetics, Videos
from toto_robot.data.walk import require_regular, walk


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in walk(folder, (".mp4",), **options)]


def test_a_linked_folder_is_walked_and_each_file_comes_once(tmp_path):
    touch(tmp_path, "data/b.mp4", "data/a/c.MP4", "elsewhere/d.mp4")
    data = tmp_path / "data"
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "again").symlink_to(tmp_path / "elsewhere")
    (data / "a" / "b_too.mp4").symlink_to(data / "b.mp4")
    assert names(data) == ["a/c.MP4", "again/d.mp4", "b.mp4"]
    assert names(data, deep=False) == ["b.mp4"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_upwards_end(tmp_path, target):
    touch(tmp_path, "top/data/a.mp4", "top/data/in/b.mp4", "top/other.mp4", "far.mp4")
    data = tmp_path / "top" / "data"
    (data / "up").symlink_to(target)
    (data / "in" / "up").symlink_to(target)
    assert names(data) == ["a.mp4", "in/b.mp4"]


def test_two_links_that_lead_to_each_other_end(tmp_path):
    touch(tmp_path, "one/a.mp4", "two/b.mp4")
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "one").symlink_to(tmp_path / "one")
    assert names(tmp_path) == ["one/a.mp4", "two/b.mp4"]
    assert names(tmp_path / "one") == ["a.mp4", "two/b.mp4"]


def test_the_real_name_is_kept_whatever_is_met_first(tmp_path):
    touch(tmp_path, "z/a.mp4")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "z" / "a.mp4")
    assert names(tmp_path) == ["z/a.mp4"]


def test_companions_and_unfinished_files_are_counted_not_read(tmp_path):
    touch(tmp_path, "a.mp4", "._a.mp4", ".b.mp4.part", "in/._c.mp4", "notes.txt", "README")
    ignored = Counter()
    assert [path.name for path in walk(tmp_path, (".mp4",), ignored)] == ["a.mp4"]
    assert ignored == {"hidden": 3, ".txt": 1, "README": 1}


def test_what_is_no_folder_or_cannot_be_read_is_an_error(tmp_path):
    touch(tmp_path, "a.mp4")
    for path in (tmp_path / "none", tmp_path / "a.mp4"):
        with pytest.raises(ValueError, match=f"{path.name} is not a folder"):
            walk(path, (".mp4",))


def test_every_command_lists_the_same_files(tmp_path):
    data = tmp_path / "data"
    touch(data, "a_a_a_a_a_a_000001_000011.mp4", "._x.mp4", "in/broken.mp4")
    touch(tmp_path, "elsewhere/b.mp4")
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "in" / "up").symlink_to(data)
    listed = [record.name for record in Videos(path=data).listing().records]
    assert listed == ["a_a_a_a_a_a_000001_000011.mp4", "in/broken.mp4", "linked/b.mp4"]
    source = Source(name="clips", kind="video", path=data, crops=1, stride=1)
    with pytest.raises(ValueError, match="no readable video") as refused:
        decode(DecodeConfig(sources=(source,), size=16, seed=0), tmp_path / "out")
    assert all(name in str(refused.value) for name in listed)
    assert len(str(refused.value).splitlines()) == 1 + len(listed)
    table = tmp_path / "k.csv"
    table.write_text("youtube_id,time_start,time_end,split\na_a_a_a_a_a,1,11,train\n")
    kinetics = Kinetics(path=data, csv=table, split="train").listing()
    assert [record.name for record in kinetics.records] == ["a_a_a_a_a_a_000001_000011"]


def test_names_that_are_no_utf8_are_used_and_printed(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for name in (b"good\xff.mp4", b"bad\xfe.mp4", b"still\xfd.png"):
        (data / os.fsdecode(name)).write_bytes(b"x")
    write(data / os.fsdecode(b"good\xff.mp4"), numbered(20))
    (record,) = Images(path=data).listing().records
    assert record.name == r"still\xfd.png"
    source = Source(name="clips", kind="video", path=data, crops=1, stride=1)
    decode(DecodeConfig(sources=(source,), size=16, seed=0), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "clips" / "manifest.json").read_text())
    assert [clip["file"] for clip in manifest["clips"]] == [r"good\xff.mp4"]
    assert [item["file"] for item in manifest["skipped"]] == [r"bad\xfe.mp4"]
    printed = capsys.readouterr().out
    assert r"skipped bad\xfe.mp4" in printed
    printed.encode()  # as a pipe or a log file would


def test_a_pipe_a_device_or_a_link_to_itself_is_left_out_by_name(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    cv2.imwrite(str(data / "good.png"), np.zeros((16, 16, 3), np.uint8))
    os.mkfifo(data / "pipe.png")
    (data / "endless.png").symlink_to("/dev/zero")
    (data / "loop.png").symlink_to("loop.png")
    (data / "huge.png").touch()
    os.truncate(data / "huge.png", 1 << 33)
    source = Source(name="stills", kind="image", path=data, crops=1, stride=1)
    decode(DecodeConfig(sources=(source,), size=16, seed=0), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "stills" / "manifest.json").read_text())
    assert [clip["file"] for clip in manifest["clips"]] == ["good.png"]
    reasons = {item["file"]: item["reason"] for item in manifest["skipped"]}
    assert "not a regular file" in reasons["pipe.png"]
    assert "not a regular file" in reasons["endless.png"]
    assert "symbolic links" in reasons["loop.png"]
    assert "8589934592 bytes" in reasons["huge.png"]
    with pytest.raises(ValueError, match="data is not a regular file"):
        require_regular(data)
