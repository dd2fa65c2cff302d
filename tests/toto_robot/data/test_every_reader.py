"""One file of video, every reader: upright, unmirrored, local, and whole."""

import os

import numpy as np
import pytest

from tests.toto_robot.data.fake_lerobot import VIDEO_PATH, write_set
from tests.toto_robot.data.fake_videos import noisy, numbered, write
from toto_robot.data.clips import ByFrames, ClipReader
from toto_robot.data.lerobot import LeRobotFolder
from toto_robot.data.video import read_frames
from toto_robot.generate import read_prompt
from toto_robot.probing.episodes import read_frames as read_episode

SIDE = 32
CORNERS = np.zeros((SIDE, SIDE, 3), np.uint8)
CORNERS[:16, :16], CORNERS[:16, 16:], CORNERS[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# the four turns, and the same mirrored: a, b, c, d of the display matrix
MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
            (-1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 0, -1), (0, -1, -1, 0)]  # fmt: skip


def shown(image, matrix):
    """Place each pixel where the matrix sends it: (a p + c q, b p + d q)."""
    a, b, c, d = matrix
    result = np.empty_like(image)
    for q in range(SIDE):
        for p in range(SIDE):
            x, y = a * p + c * q, b * p + d * q
            result[y + (SIDE - 1) * (b + d < 0), x + (SIDE - 1) * (a + c < 0)] = image[q, p]
    return result


def clip(path):
    reader = ClipReader(
        path, size=SIDE, frames=3, whole=True, sampling=ByFrames(stride=1), delay=0.0,
        place=lambda _: (0.0, 0.0),
    )  # fmt: skip
    found = list(reader)
    if not found:
        raise ValueError("; ".join(reader.problems))
    return found[0]


def episode(path):
    np.savez(path.with_suffix(".npz"), state=np.zeros((3, 1)))
    return read_episode(path.with_suffix(".npz"), "videos")[:, 0]


def lerobot(path):
    pytest.importorskip("pyarrow")
    folder = write_set(path.parent / "set", (3,))
    key = "observation.images.eye"
    video = folder / VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=0)
    video.write_bytes(path.read_bytes())
    data = LeRobotFolder(folder)
    (row,) = data.episodes((key,))
    return data.images(row, key, np.arange(3) / 10)


READERS = {
    "clips": clip,
    "frames": read_frames,
    "sweep": episode,
    "generate": lambda path: read_prompt(path, SIDE, 0, 1, 3),
    "lerobot": lerobot,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_turned_and_mirrored_as_players_show_them(tmp_path, reader, matrix):
    path = write(tmp_path / "a.mp4", [CORNERS] * 3, matrix=matrix)
    found = READERS[reader](path)
    assert found.shape == (3, SIDE, SIDE, 3)
    assert np.abs(found.astype(int) - shown(CORNERS, matrix)).mean() < 8


@pytest.mark.parametrize("reader", READERS)
def test_an_angle_between_is_refused(tmp_path, reader):
    path = write(tmp_path / "a.mp4", [CORNERS] * 3, rotation=45)
    with pytest.raises(ValueError, match="display rotation is 45 degrees"):
        READERS[reader](path)


@pytest.mark.parametrize("folder", ["at_10:30", "http:", "file:", "concat:a|b"])
@pytest.mark.parametrize("reader", ["clips", "frames", "sweep", "generate"])
def test_no_part_of_a_name_is_a_protocol(tmp_path, monkeypatch, folder, reader):
    monkeypatch.chdir(tmp_path)
    os.mkdir(folder)
    path = write(tmp_path / folder / "a.mp4", numbered(3, SIDE, SIDE)).relative_to(tmp_path)
    assert [round(image.mean() / 5) for image in READERS[reader](path)] == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile good.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n#EXT-X-ENDLIST\n",
        "http://127.0.0.1:1/a.mp4\n",
    ],
)
@pytest.mark.parametrize("reader", ["frames", "sweep", "generate"])
def test_a_list_of_other_files_is_no_video(tmp_path, text, reader):
    write(tmp_path / "good.mp4", numbered(3))
    path = tmp_path / "list.mp4"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"list\.mp4: not a readable video"):
        READERS[reader](path)


@pytest.mark.timeout(20)
def test_a_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4: not a readable video"):
        read_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize("reader", ["frames", "sweep", "generate"])
def test_a_damaged_frame_is_an_error_where_every_frame_counts(tmp_path, reader):
    path = write(tmp_path / "a.mp4", noisy(40), keys=40)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(range(200)) + data[half + 200 :])
    with pytest.raises(ValueError, match=r"a\.mp4: not a readable video"):
        READERS[reader](path) if reader != "generate" else read_prompt(path, SIDE, 0, 1, 40)
