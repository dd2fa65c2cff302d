"""Videos to clips: which frames, where cropped, upright; and what damaged files become."""

import re

import av
import cv2
import numpy as np
import pytest

from tests.equal_bytes import outputs
from tests.toto_robot.data.fake_videos import noisy, numbered, write
from toto_robot.data.clips import ByFrames, BySeconds, ClipReader
from toto_robot.data.images import read_square
from toto_robot.data.video import SquareCrop, read_frames, write_video

CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def reader(path, **changes):
    settings = {
        "size": 32,
        "frames": 4,
        "whole": False,
        "sampling": ByFrames(stride=4),
        "delay": 0.0,
        "place": lambda number: (0.5, 0.5),
    }
    return ClipReader(path, **(settings | changes))


def numbers(clips):
    """Return which of the `numbered` frames the clips show."""
    return [[round(float(frame.mean()) / 5) for frame in clip] for clip in clips]


def test_clips_are_every_nth_frame_one_after_the_other(tmp_path):
    path = write(tmp_path / "a.mp4", numbered(40))
    every_fourth = reader(path)
    assert numbers(every_fourth) == [[0, 4, 8, 12], [16, 20, 24, 28]]  # 32 and 36 make no clip
    assert every_fourth.problems == []
    assert numbers(reader(path, delay=0.5)) == [[2, 6, 10, 14], [18, 22, 26, 30]]
    assert numbers(reader(path, whole=True)) == [list(range(0, 40, 4))]
    assert next(iter(every_fourth)).shape == (4, 32, 32, 3)
    short = reader(path, frames=11)
    assert list(short) == []
    told = "too short: 10 frames of the 11 of a clip"
    assert short.problems == [f"{told}, with stride 4: one frame in 4"]
    plain = reader(path, frames=41, sampling=ByFrames(stride=1))
    assert list(plain) == []
    assert plain.problems == ["too short: 40 frames of the 41 of a clip"]
    timed = reader(path, frames=41, sampling=BySeconds(interval_s=0.2))
    assert list(timed) == []
    assert timed.problems == ["too short: 20 frames of the 41 of a clip, one frame every 0.2 s"]


@pytest.mark.parametrize("size", [(33, 32), (32, 33), (33, 35)])
def test_an_odd_size_that_players_cannot_have_is_told(size, tmp_path):
    frames = [np.zeros((*size, 3), np.uint8)] * 3
    even = f"{size[0] // 2 * 2} x {size[1] // 2 * 2}"
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels.*to {even}, or store"):
        write_video(tmp_path / "odd.mp4", frames, 10.0)
    assert not list(tmp_path.iterdir())
    write_video(tmp_path / "odd.mp4", frames, 10.0, faithful=True)
    assert read_frames(tmp_path / "odd.mp4").shape == (3, *size, 3)


@pytest.mark.parametrize("faithful", [True, False])
def test_equal_frames_give_equal_bytes_in_every_process(faithful, tmp_path):
    program = f"""
import hashlib
from pathlib import Path
from tests.toto_robot.data.fake_videos import noisy
from toto_robot.data.video import write_video
path = Path({str(tmp_path / "a.mp4")!r})
write_video(path, noisy(12), 10.0, faithful={faithful})
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""
    assert len(outputs(program)) == 1


def test_a_part_of_a_file_is_read_from_any_frame(tmp_path):
    path = write(tmp_path / "a.mp4", numbered(40), keys=12)
    part = reader(path, start_s=1.7, end_s=2.5, sampling=ByFrames(stride=2))
    assert numbers(part) == [[17, 19, 21, 23]]
    assert part.problems == []
    whole = reader(path, start_s=3.6, end_s=4.0, frames=1, whole=True, sampling=ByFrames(stride=1))
    assert numbers(whole) == [[36, 37, 38, 39]]


def test_the_frame_that_is_shown_is_taken_at_each_time(tmp_path):
    times = [0, 100, 150, 400, 500, 1000, 1100, 1200, 1300]
    path = write(tmp_path / "a.mkv", numbered(9), times)
    even = reader(path, sampling=BySeconds(interval_s=0.2), frames=6)
    assert numbers(even) == [[0, 2, 3, 4, 4, 5]]  # at 0, 200, 400, 600, 800 and 1000 ms
    later = reader(path, sampling=BySeconds(interval_s=0.2), frames=6, delay=0.5)
    assert numbers(later) == [[1, 2, 4, 4, 4, 6]]  # 100 ms later
    fast = reader(path, sampling=BySeconds(interval_s=0.05), frames=5)
    assert numbers(fast)[0] == [0, 0, 1, 2, 2]


def test_uneven_times_are_refused_where_frames_are_counted(tmp_path):
    gaps = np.tile([33, 100, 33, 200], 10)
    path = write(tmp_path / "a.mkv", numbered(40), np.cumsum(gaps).tolist())
    uneven = reader(path)
    assert list(uneven) == []
    assert uneven.problems == [
        "2 of 2 clips left out: variable rate, 33 to 200 ms a frame: sample it by seconds "
        "(python -m toto_robot.data.tokenise clips=seconds)"
    ]
    dropped = np.cumsum([33] * 20 + [66] + [33] * 19).tolist()
    assert len(list(reader(write(tmp_path / "b.mkv", numbered(40), dropped)))) == 2
    hole = np.cumsum([33] * 20 + [900] + [33] * 19).tolist()
    broken = reader(write(tmp_path / "c.mkv", numbered(40), hole))
    assert len(list(broken)) == 1
    assert broken.problems == ["1 of 2 clips left out: a hole in the times"]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_stand_upright_as_opencv_shows_them(tmp_path, rotation):
    path = write(tmp_path / "a.mp4", [CORNERS] * 4, rotation=rotation)
    (clip,) = reader(path, sampling=ByFrames(stride=1), size=48)
    found, shown = cv2.VideoCapture(str(path)).read()
    assert found
    top, left = (extent - 48 for extent in shown.shape[:2])
    shown = shown[top // 2 :, left // 2 :][:48, :48, ::-1]
    assert np.abs(clip[0].astype(int) - shown).mean() < 3


def test_an_odd_angle_is_refused(tmp_path):
    odd = reader(write(tmp_path / "a.mp4", [CORNERS] * 16, rotation=45))
    assert list(odd) == []
    assert odd.problems == [
        "not readable: its display rotation is 45 degrees, which is not a multiple of 90"
    ]


def test_the_shortest_side_is_resized_and_the_crop_stays_in_place(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    path = write(tmp_path / "a.mp4", [ramp] * 32)
    places = {0: (0.0, 0.0), 1: (0.0, 0.999)}
    left, right = reader(path, place=places.__getitem__)
    expected = cv2.resize(ramp, (64, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(left.astype(int) - expected[None, :, :32]).mean() < 4
    assert np.abs(right.astype(int) - expected[None, :, 32:]).mean() < 4


def test_ten_bits_are_rounded_to_eight(tmp_path):
    ten = write(tmp_path / "ten.mp4", [CORNERS] * 16, pixels="yuv420p10le")
    eight = write(tmp_path / "eight.mp4", [CORNERS] * 16, pixels="yuv420p")
    with av.open(str(ten)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p10le"
    (one,), (two,) = reader(ten), reader(eight)
    assert np.abs(one.astype(int) - two).mean() < 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_what_comes_before_a_cut_is_used_and_the_cut_is_told(tmp_path, suffix):
    whole = write(tmp_path / f"a.{suffix}", noisy(40), options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: len(data) * 3 // 4])
    found = reader(cut)
    assert np.array_equal(list(found), list(reader(whole))[:1])
    assert re.fullmatch(r"ends early: 2\.\d of 4\.0 s", found.problems[-1])


def packets(path):
    """Where the data of each frame lies in a file: slices of its bytes."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        starts = [data.index(bytes(packet), packet.pos) for packet in found]
    return [slice(start, start + packet.size) for start, packet in zip(starts, found, strict=True)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_clips_with_damaged_frames_are_left_out_and_no_others(tmp_path, suffix):
    """A frame's data is lost as a whole, which every decoder notices."""
    whole = write(tmp_path / f"a.{suffix}", noisy(80), keys=8)
    data, damaged = whole.read_bytes(), tmp_path / f"b.{suffix}"
    every = list(reader(whole, sampling=ByFrames(stride=1)))
    for number in (8, 20, 37):  # a key frame, and two that are built upon others
        place = packets(whole)[number]
        lost = b"\xff" * (place.stop - place.start)
        damaged.write_bytes(data[: place.start] + lost + data[place.stop :])
        found = reader(damaged, sampling=ByFrames(stride=1))
        clips = list(found)
        assert np.array_equal(clips[: number // 4], every[: number // 4])
        sound = np.concatenate(every)[number // 8 * 8 + 8 :]  # from the next key frame on
        shown = np.concatenate(clips[number // 4 :])
        first = next(n for n in range(4) if (sound[n] == shown[0]).all())
        assert np.array_equal(shown, sound[first : first + len(shown)])
        assert len(sound) - len(shown) < 8  # less than a clip at the beginning, and one at the end
        assert any("damaged frames" in problem for problem in found.problems)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_random_damage_is_noticed_as_a_rule_and_spoils_no_clip_that_it_does_not_reach(
    tmp_path, suffix
):
    """H.264 has no checksum: of 1,200 damages of 4 to 200 bytes, one went unnoticed."""
    whole = write(tmp_path / f"a.{suffix}", noisy(80), keys=8)
    data, damaged = whole.read_bytes(), tmp_path / f"b.{suffix}"
    every = list(reader(whole, sampling=ByFrames(stride=1)))
    generator = np.random.default_rng(0)
    noticed, starts = 0, np.linspace(0.2, 0.8, 12)
    for start in (int(len(data) * share) for share in starts):
        length = int(generator.integers(4, 200))
        damaged.write_bytes(data[:start] + generator.bytes(length) + data[start + length :])
        found = reader(damaged, sampling=ByFrames(stride=1))
        clips = list(found)
        before = sum(place.stop <= start for place in packets(whole)) // 4
        assert np.array_equal(clips[:before], every[:before])
        noticed += bool(found.problems)
    assert noticed >= len(starts) // 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not readable: "),
        (b"a shopping list\n" * 40, "not readable: "),
        (None, "not readable"),
    ],
)
def test_files_that_are_no_videos_raise_nothing(tmp_path, data, problem):
    path = tmp_path / "a.mp4"
    if data is not None:
        path.write_bytes(data)
    found = reader(path)
    assert list(found) == []
    assert len(found.problems) == 1
    assert found.problems[0].startswith(problem)


def test_sound_without_pictures_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = reader(path)
    assert list(found) == []
    assert found.problems == ["not readable: has no video stream"]


def test_steps_that_go_nowhere_are_refused():
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        ByFrames(stride=0)
    with pytest.raises(ValueError, match=r"interval_s must be above 0, got 0\.0"):
        BySeconds(interval_s=0.0)


def test_images_are_resized_and_cropped_alike(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        cv2.imwrite(str(path), ramp[..., ::-1])
        expected = cv2.resize(ramp, (64, 32), interpolation=cv2.INTER_AREA)
        left, right = (read_square(path, 32, 0.0, across) for across in (0.0, 0.999))
        assert np.abs(left.astype(int) - expected[:, :32]).mean() < 2
        assert np.abs(right.astype(int) - expected[:, 32:]).mean() < 2
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="truncated after"):
            read_square(path, 32, 0.0, 0.0)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a readable image"):
        read_square(path, 32, 0.0, 0.0)


def test_a_square_is_a_copy_that_keeps_no_whole_frame(tmp_path):
    with av.open(str(write(tmp_path / "a.mp4", [CORNERS] * 2))) as container:
        frame = next(container.decode(video=0))
    square = SquareCrop(32)(frame, 0.0, 0.0)
    assert square.base is None
    assert square.flags.c_contiguous
