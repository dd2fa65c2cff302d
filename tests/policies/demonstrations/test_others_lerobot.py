"""LeRobot data sets of others: each row's own image, task and numbers, or an error."""

import json
import tempfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pyarrow")

from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from policies.demonstrations.lerobot.reader import DatasetReader
from tests.policies.demonstrations.demonstrations import noise_interface
from tests.toto_robot.data.fake_lerobot import VIDEO_PATH, doubled, stamps_ms, write_set
from tests.toto_robot.data.fake_videos import numbered, write
from toto_robot.data.sources import LeRobot

HALF_MS = 50


def reader(folder, cameras=("eye",)):
    return DatasetReader(folder, noise_interface(cameras=cameras, height=32, width=32))


def shown(demonstration, camera="eye"):
    """Return the numbers of the images of an episode."""
    return [round(float(image.mean()) / 5) for image in demonstration.images[camera]]


def declare(folder, **features):
    """Add features to a data set's `info.json`."""
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"] |= features
    path.write_text(json.dumps(info))


def test_each_row_has_the_image_of_its_time(tmp_path):
    data = reader(write_set(tmp_path / "set", (6, 4, 5)))
    assert [shown(one) for one in data] == [
        list(range(6)), list(range(6, 10)), list(range(10, 15)),
    ]  # fmt: skip
    assert data[1].proprio[:, 0].tolist() == [6, 7, 8, 9]


def test_a_lost_frame_is_named_with_its_episode_and_gap(tmp_path):
    data = reader(write_set(tmp_path / "set", (6, 4), {"eye": stamps_ms(10, lost={2})}))
    with pytest.raises(ValueError, match=r"episode 0 of .*frame 2, due at 0\.200 s.*0\.100 s away"):
        data[0]
    assert shown(data[1]) == [6, 7, 8, 9]


def test_a_lost_frame_that_left_no_gap_spoils_the_file(tmp_path):
    kept = stamps_ms(10, lost={2}, restamped=True)
    data = reader(write_set(tmp_path / "set", (6, 4), {"eye": kept}))
    for index in range(2):
        with pytest.raises(ValueError, match=f"episode {index} of"):
            data[index]
    with pytest.raises(
        ValueError, match=r"9 frames for 10 steps, .* do not show which frames are missing"
    ):
        data[0]


@pytest.mark.parametrize("place", [-1, 0, 3, 7])
@pytest.mark.parametrize("restamped", [True, False])
def test_a_frame_too_many_spoils_the_file(tmp_path, place, restamped):
    kept = doubled(stamps_ms(10), max(place, -restamped), restamped)
    data = reader(write_set(tmp_path / "set", (6, 4), {"eye": kept}))
    for index in range(2):
        with pytest.raises(
            ValueError, match=rf"episode {index} of .*11 frames for 10 steps, .*\(.*\.mp4\)"
        ):
            data[index]


def test_frames_that_the_table_knows_to_be_of_no_step_are_left(tmp_path):
    folder = write_set(tmp_path / "set", (6, 4, 5))
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = parquet.read_table(path)
    # another tool left out the second episode; its frames stayed
    parquet.write_table(rows.take([0, 2]).set_column(0, "episode_index", [[0, 1]]), path)
    table = folder / "data" / "chunk-000" / "file-000.parquet"
    steps = parquet.read_table(table).take([*range(6), *range(10, 15)])
    numbers = steps.schema.get_field_index("episode_index")
    steps = steps.set_column(numbers, "episode_index", [[0] * 6 + [1] * 5])
    parquet.write_table(steps, table)
    about = folder / "meta" / "info.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"total_episodes": 2}))
    assert [shown(one) for one in reader(folder)] == [[*range(6)], [*range(10, 15)]]


def test_a_file_whose_end_was_cut_off_is_right_until_there(tmp_path):
    folder = write_set(tmp_path / "set", (6, 4, 5))
    place = {"video_key": "observation.images.eye", "chunk_index": 0, "file_index": 0}
    path = folder / VIDEO_PATH.format(**place)
    noise = np.random.default_rng(0).integers(-2, 3, (15, 32, 32, 3))
    images = (np.stack(numbered(15, 32, 32)) + 2 + noise).astype(np.uint8)

    def cut(images):
        write(path, images, keys=1, options={"movflags": "faststart"})
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        path.write_bytes(data[: int(len(data) * 0.88)])

    cut(images)
    data = reader(folder)
    assert [shown(data[index]) for index in range(2)] == [list(range(6)), list(range(6, 10))]
    with pytest.raises(ValueError, match=r"episode 2 of .*frame \d, due at"):
        data[2]
    cut(np.delete(images, 2, axis=0))  # and a frame is missing: which one cannot be told
    for index in range(3):
        with pytest.raises(ValueError, match=f"episode {index} of"):
            reader(folder)[index]


@pytest.mark.parametrize("changes", [{"offset_ms": 200}, {"offset_ms": 60}, {"drift_ms": 60}])
def test_videos_that_begin_late_or_drift_are_refused(tmp_path, changes):
    data = reader(write_set(tmp_path / "set", (6, 4), {"eye": stamps_ms(10, **changes)}))
    with pytest.raises(ValueError, match=r"episode 1 of .*frame \d"):
        data[1]
    if "offset_ms" in changes:
        with pytest.raises(ValueError, match=r"episode 0 of .*frame 0"):
            data[0]


def test_within_half_a_frame_images_are_found(tmp_path):
    data = reader(write_set(tmp_path / "set", (6, 4), {"eye": stamps_ms(10, offset_ms=40)}))
    assert [shown(one) for one in data] == [list(range(6)), list(range(6, 10))]


def test_a_camera_that_stopped_early_is_named(tmp_path):
    cameras = {"eye": stamps_ms(6), "side": stamps_ms(6, lost={5})}
    data = reader(write_set(tmp_path / "set", (6,), cameras), ("eye", "side"))
    with pytest.raises(ValueError, match=r"camera observation\.images\.side: frame 5"):
        data[0]
    assert shown(reader(tmp_path / "set")[0]) == list(range(6))


@pytest.mark.parametrize("tasks", [{1: "pick", 2: "place"}, {0: "pick", 2: "place"}])
def test_tasks_go_by_their_number(tmp_path, tasks):
    data = reader(write_set(tmp_path / "set", (3, 4), tasks=tasks))
    assert [one.task for one in data] == ["pick", "place"]


def test_a_task_without_words_is_an_error(tmp_path):
    columns = {"task_index": [7] * 3}
    with pytest.raises(ValueError, match="task 7"):
        reader(write_set(tmp_path / "set", (3,), columns=columns))[0]


def write_tasks(folder, **columns):
    parquet.write_table(pa.table(columns), folder / "meta" / "tasks.parquet")
    return folder


@pytest.mark.parametrize("words", ["task", "__index_level_0__"])
def test_words_are_found_by_the_name_of_their_column(tmp_path, words):
    columns = {"lang": ["en", "en"], "task_index": [1.0, 0.0], words: ["place", "pick"]}
    folder = write_tasks(write_set(tmp_path / "set", (3,)), **columns)
    assert reader(folder)[0].task == "pick"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"task_index": [0, 0], "task": ["a", "b"]}, "task_index 0 occurs twice"),
        ({"task_index": [0, 1], "task": ["a", None]}, "task 1 has no text, but None"),
        ({"task_index": [0, 1], "task": [1.5, 2.5]}, "task 0 has no text, but 1.5"),
        ({"task_index": [0.0, np.nan], "task": ["a", "b"]}, "nan is not an integer"),
        ({"task_index": [0.7, 1.0], "task": ["a", "b"]}, "0.7 is not an integer"),
        ({"task_index": ["x", "y"], "task": ["a", "b"]}, "'x' is not an integer"),
        ({"task_index": [[0], [1]], "task": ["a", "b"]}, r"\[0\] is not an integer"),
        ({"task": ["a"]}, "None is not an integer"),
        ({"task_index": [0]}, "task 0 has no text"),
        ({"task_index": [3], "task": ["a"]}, "the task 0, which the table lacks"),
    ],
)
def test_a_damaged_table_of_tasks_is_named(tmp_path, columns, message):
    folder = write_tasks(write_set(tmp_path / "set", (3,)), **columns)
    with pytest.raises(ValueError, match=message) as error:
        reader(folder)[0]
    assert str(folder / "meta" / "tasks.parquet") in str(error.value)


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "2", "3"],
        [["1", "2"]] * 3,
        [[Decimal("1.5"), Decimal("2.5")]] * 3,
        [{"x": 1.0}] * 3,
        [b"1"] * 3,
        [[]] * 3,
        [datetime(2026, 1, 1)] * 3,
    ],
)
def test_columns_that_hold_no_numbers_are_named(tmp_path, cells):
    folder = write_set(tmp_path / "set", (3,), columns={"action": cells})
    with pytest.raises(ValueError, match=r"file-000\.parquet, episode 0: column 'action': "):
        reader(folder)[0]


def test_ragged_columns_that_nobody_needs_are_left(tmp_path):
    # 2 + 4 + 3 + 3 = 4 x 3 would divide
    ragged = {"extra": [[0.0] * n for n in (2, 4, 3, 3)]}
    folder = write_set(tmp_path / "set", (4,), columns=ragged)
    assert reader(folder)[0].actions[:, 0].tolist() == [0, 1, 2, 3]
    declare(folder, extra={"dtype": "float32", "shape": [3], "names": None})
    found = reader(folder)[0]
    assert found.actions[:, 0].tolist() == [0, 1, 2, 3]
    assert "extra" not in found.columns


def test_ragged_columns_that_are_needed_name_the_row(tmp_path):
    ragged = {"action": [[0.0] * n for n in (2, 2, 1, 3)]}
    with pytest.raises(ValueError, match=r"episode 0: column 'action': row 2 has 1 numbers"):
        reader(write_set(tmp_path / "a", (4,), columns=ragged))[0]
    empty = {"action": [[0.0, 1.0], None, [0.0, 1.0], [0.0, 1.0]]}
    with pytest.raises(ValueError, match=r"column 'action': row 1 is empty"):
        reader(write_set(tmp_path / "b", (4,), columns=empty))[0]
    # of another episode: no matter
    ragged["action"] = [[0.0] * n for n in (2, 2, 1, 2)]
    assert len(reader(write_set(tmp_path / "c", (2, 2), columns=ragged))[0].actions) == 2


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("video_path", "http://127.0.0.1:1/{video_key}.mp4"),
        ("video_path", "/tmp/{video_key}/{chunk_index}-{file_index}.mp4"),
        ("video_path", "../{video_key}.mp4"),
        ("video_path", "videos/{chunk_index:0999999999d}.mp4"),
        ("video_path", "videos/{video_key.__class__}.mp4"),
        ("video_path", None),
        ("data_path", "/etc/{chunk_index}"),
        ("data_path", "data/../../{file_index}.parquet"),
        ("data_path", "data/{chunk_index!r:>99999999}.parquet"),
    ],
)
def test_no_template_leads_out_of_the_folder(tmp_path, name, template):
    folder = write_set(tmp_path / "set", (3,), info={name: template})
    with pytest.raises(ValueError, match=rf"info\.json: {name}"):
        reader(folder)[0]
    if name == "video_path":
        with pytest.raises(ValueError, match=rf"info\.json: {name}"):
            LeRobot(path=folder, cameras=()).listing()


def test_images_in_a_table_are_read_and_listed(tmp_path):
    images = [np.full((32, 32, 3), 5 * number, np.uint8) for number in range(5)]
    cells = [{"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None} for image in images]
    folder = write_set(
        tmp_path / "set", (2, 3), cameras={}, columns={"observation.images.eye": cells}
    )
    declare(folder, **{"observation.images.eye": {"dtype": "image"}})
    assert [shown(one) for one in reader(folder)] == [[0, 1], [2, 3, 4]]
    listing = LeRobot(path=folder, cameras=()).listing()
    assert listing.records == ()
    assert listing.ignored == {"observation.images.eye (images in tables)": 2}
    with pytest.raises(ValueError, match=r"in tables, not videos: \('observation\.images\.eye',\)"):
        LeRobot(path=folder, cameras=("observation.images.eye",)).listing()


def test_times_that_do_not_increase_are_refused(tmp_path):
    columns = {"timestamp": [0.0, 0.1, 0.1]}
    with pytest.raises(ValueError, match="episode 0: the times of its steps do not increase"):
        reader(write_set(tmp_path / "set", (3,), columns=columns))[0]


def read_or_refuse(data, index):
    """Return an episode, or None of one whose refusal names it."""
    try:
        return data[index]
    except ValueError as error:
        if f"episode {index} of" in str(error):
            return None
        raise


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_image_is_never_off_by_more_than_half_a_frame(data):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    total = sum(lengths)
    lost = data.draw(st.sets(st.integers(0, total - 1), max_size=min(2, total - 1)))
    restamped = data.draw(st.booleans())
    changes = {}
    if not restamped:  # times that lie twice may look like true ones
        changes["offset_ms"] = data.draw(st.sampled_from((0, 0, 30, 60, 100, 200, 250)))
        changes["drift_ms"] = data.draw(st.sampled_from((0, 0, 40, 60, 130, -60)))
    kept = stamps_ms(total, lost, restamped=restamped, **changes)
    # a lost frame and a doubled one together cannot be told
    twice = None if lost or any(changes.values()) else data.draw(st.none() | st.integers(-1, 5))
    frames = kept
    if twice is not None:
        frames = doubled(kept, min(twice, total - 1), restamped or twice < 0)
    widths = data.draw(st.lists(st.integers(0, 4), min_size=total, max_size=total))
    tasks = data.draw(st.sampled_from(({0: "a"}, {3: "b", 9: "c"}, {1: "a", 0: "c"})))
    keys = data.draw(st.sampled_from((2, 3, 12)))
    with tempfile.TemporaryDirectory() as folder:
        extra = {"extra": [[1.0] * width for width in widths]}
        write_set(
            Path(folder) / "set", lengths, {"eye": frames}, columns=extra, tasks=tasks, keys=keys
        )
        found = reader(Path(folder) / "set")
        for index, (begin, length) in enumerate(
            zip(np.cumsum([0, *lengths])[:-1].tolist(), lengths, strict=True)
        ):
            episode = read_or_refuse(found, index)
            if episode is None:
                assert lost or any(changes.values()) or twice is not None
                continue
            assert twice is None
            assert episode.task == tasks[list(tasks)[min(index, len(tasks) - 1)]]
            assert episode.actions[:, 0].tolist() == list(range(begin, begin + length))
            for step, number in enumerate(shown(episode)):
                due_ms = 100 * (begin + step)
                assert abs(kept[number] - due_ms) <= HALF_MS
                if restamped and lost:  # the times lie: the truth is the number
                    assert number == begin + step


def test_a_damaged_table_is_named(tmp_path):
    folder = write_set(tmp_path / "set", (3,))
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"file-000\.parquet is damaged"):
        reader(folder)
