"""Episodes beside videos: an episode's own cameras, each frame in its place."""

import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.toto_robot.data.fake_videos import numbered, write
from toto_robot.probing.episodes import open_episode, read_demonstrations, read_frames


def episode(folder, name, cameras, steps=6, start=0, times=None):
    frames = numbered(start + steps, 16, 16)[start:]
    for camera in cameras:
        write(folder / f"{name}_{camera}.mp4", frames, times)
    state = np.arange(steps, dtype=float)[:, None]
    np.savez(folder / f"{name}.npz", state=state, labels=state[:-1])


def first_numbers(folder, name):
    frames = read_frames(folder / f"{name}.npz", "videos")
    return [round(float(image.mean()) / 5) for image in frames[0]]


def read(folder, kind="state"):
    return read_demonstrations(folder, kind, None, None, 1, None)


def test_cameras_of_another_episode_are_not_taken(tmp_path):
    episode(tmp_path, "pick", ["front"], start=1)
    episode(tmp_path, "pick_place", ["front", "hand_left"], start=9)
    assert first_numbers(tmp_path, "pick") == [1]
    assert first_numbers(tmp_path, "pick_place") == [9, 9]


def test_cameras_of_an_episode_whose_own_file_is_gone_are_not_taken(tmp_path):
    episode(tmp_path, "pick", ["front"], start=1)
    episode(tmp_path, "pick_place", ["front"], start=9)
    (tmp_path / "pick_place.npz").unlink()
    assert first_numbers(tmp_path, "pick") == [1]


def test_cameras_whose_names_end_alike_are_kept(tmp_path):
    for name in ("0", "1"):
        episode(tmp_path, name, ["left", "wrist_left"], start=2)
    assert first_numbers(tmp_path, "0") == first_numbers(tmp_path, "1") == [2, 2]


@pytest.mark.parametrize("name", ["take[1]", "take*", "a?b", "[!a]"])
def test_a_name_is_no_pattern(tmp_path, name):
    episode(tmp_path, name, ["front"], start=3)
    episode(tmp_path, "take1", ["front"], start=9)
    assert first_numbers(tmp_path, name) == [3]
    assert len(read(tmp_path).paths) == 2


def test_a_frame_that_is_missing_is_named(tmp_path):
    times = [0, 100, 300, 400, 500, 600]
    episode(tmp_path, "0", ["front"], times=times)
    with pytest.raises(ValueError, match=r"0_front\.mp4: a frame is missing: number 2"):
        read(tmp_path)


def test_proprioception_of_another_length_is_refused(tmp_path):
    episode(tmp_path, "0", ["front"])
    np.savez(tmp_path / "0.npz", labels=np.zeros((6, 1)), proprio=np.zeros((8, 2)))
    with pytest.raises(ValueError, match=r"0\.npz: 6 videos but 8 proprio"):
        read(tmp_path, "action")


def test_companions_are_no_episodes(tmp_path):
    episode(tmp_path, "0", ["front"])
    (tmp_path / "._0.npz").write_bytes(b"x")
    (tmp_path / "._0_front.mp4").write_bytes(b"x")
    assert len(read(tmp_path).paths) == 1
    assert first_numbers(tmp_path, "0") == [0]


def test_an_archive_with_an_entry_that_is_no_array_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("frames", b"text")
    with pytest.raises(ValueError, match=r"a\.npz is damaged: \['frames'\] are not arrays"):
        open_episode(tmp_path / "a.npz")


@pytest.mark.parametrize("place", [0, 2, 30, -10, -30])
def test_an_archive_with_a_damaged_header_is_named(place, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, frames=np.zeros((3, 1, 8, 8, 3), np.uint8), proprio=np.zeros((3, 2)))
    data = bytearray(path.read_bytes())
    data[place : place + 8 if place != -10 else None] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        open_episode(path)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 100, 200, 400, 500, 600], r"0_wrist\.mp4: a frame is missing: number 3"),
        ([0, 100, 140, 240, 340, 440], r"0_wrist\.mp4: a frame is duplicated: number 2"),
        ([500, 600, 700, 800, 900, 1000], r"0_wrist\.mp4: frame times differ by up to 0\.500 s"),
        ([0, 200, 400, 600, 800, 1000], r"0_wrist\.mp4: frame times differ by up to 0\.500 s"),
        ([0, 100, 200, 300, 400], r"0_wrist\.mp4: 5 frames"),
    ],
)
def test_frames_of_every_camera_are_of_one_time(tmp_path, times, message):
    episode(tmp_path, "0", ["front"], times=[0, 100, 200, 300, 400, 500])
    write(tmp_path / "0_wrist.mp4", numbered(6, 16, 16)[: len(times)], times)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("bad", ["0", "1"])
def test_a_bad_episode_is_named_and_left_out(tmp_path, capsys, bad):
    for name in ("0", "1", "2"):
        episode(tmp_path, name, ["front"])
    (tmp_path / f"{bad}_front.mp4").write_bytes(b"no video")
    assert [path.stem for path in read(tmp_path).paths] == sorted({"0", "1", "2"} - {bad})
    assert f"left out: {bad}.npz: " in capsys.readouterr().out


def test_episodes_with_other_cameras_are_refused(tmp_path):
    episode(tmp_path, "0", ["front", "wrist"])
    episode(tmp_path, "1", ["front", "side"])
    with pytest.raises(ValueError, match=r"1\.npz has videos of .*'side'.*0\.npz of .*'wrist'"):
        read(tmp_path)


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    episode(tmp_path, "0", ["front"])
    (tmp_path / "0.npz").rename(tmp_path / "0.NPZ")
    (tmp_path / "0_front.mp4").rename(tmp_path / "0.MP4")
    assert len(read(tmp_path).target) == 6


@pytest.mark.parametrize("facts", ["[1]", "[" * 100_000, "{"])
def test_odd_metadata_is_told(tmp_path, facts):
    state = np.arange(6, dtype=float)[:, None]
    save_file({"state": state}, tmp_path / "0.safetensors", metadata={"episode": facts})
    with pytest.raises(ValueError, match=r"0\.safetensors is damaged"):
        read(tmp_path)
