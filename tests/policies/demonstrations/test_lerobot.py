"""A data set holds what was put into it, in LeRobot's format; what is wrong with one is said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from policies.demonstrations.lerobot import layout, statistics
from policies.demonstrations.lerobot.layout import Column
from policies.demonstrations.lerobot.reader import DatasetReader, is_dataset
from policies.demonstrations.lerobot.video import LOSSLESS, encode, small
from policies.demonstrations.lerobot.writer import DatasetWriter
from tests.equal_bytes import outputs
from tests.policies.demonstrations.demonstrations import noise, noise_interface
from toto_robot.data.sources import LeRobot
from toto_robot.data.video import read_frames, read_frames_at

COLUMNS = (
    Column(name="force", dtype="float64", names=("x", "y")),
    Column(name="count", dtype="int64", names=("count",)),
    Column(name="mode", dtype="string", names=("mode",)),
)


def with_columns(steps, seed):
    rng = np.random.default_rng(seed)
    columns = {
        "force": rng.normal(size=(steps, 2)),
        "count": rng.integers(0, 2**40, steps),
        "mode": np.array(["idle", "moving", "ö"], dtype=object)[rng.integers(0, 3, steps)],
    }
    return noise(steps, seed, columns=columns)


def write(folder, *episodes, columns=()):
    with DatasetWriter(folder, episodes[0].interface, columns) as writer:
        for episode in episodes:
            writer.append(episode)
    return DatasetReader(folder)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_what_was_appended_comes_back_to_the_bit(tmp_path, lengths, seed):
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    episodes = [with_columns(steps, seed + place) for place, steps in enumerate(lengths)]
    reader = write(tmp_path / "set", *episodes, columns=COLUMNS)
    assert len(reader) == len(episodes)
    for found, expected in zip(reader, episodes, strict=True):
        for name in expected.images:
            assert np.array_equal(found.images[name], expected.images[name])
        for name in ("proprio", "actions", "labelled"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        for name, column in expected.columns.items():
            assert np.array_equal(found.columns[name], column)
        assert found.facts["seed"] == expected.facts["seed"]
        assert (found.interface, found.task) == (expected.interface, expected.task)


def test_the_pretraining_reads_it_too(tmp_path):
    write(tmp_path, noise(3), noise(5))
    records = LeRobot(path=tmp_path, cameras=()).listing().records
    assert [(one.name, one.end_s) for one in records] == [
        ("episode_000000/observation.images.eye", 0.3),
        ("episode_000000/observation.images.side", 0.3),
        ("episode_000001/observation.images.eye", 0.5),
        ("episode_000001/observation.images.side", 0.5),
    ]
    assert all(Path(one.file).is_file() for one in records)


def test_statistics_are_those_of_all_episodes(tmp_path):
    episodes = [noise(4, 0), noise(9, 1), noise(2, 2)]
    write(tmp_path, *episodes)
    found = json.loads((tmp_path / layout.STATS).read_text())["action"]
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], getattr(actions, name)(0), rtol=1e-9)
    assert found["count"] == [15]
    images = json.loads((tmp_path / layout.STATS).read_text())["observation.images.eye"]
    assert np.shape(images["mean"]) == (3, 1, 1)
    assert 0.4 < images["mean"][0][0][0] < 0.6


def test_statistics_leave_out_what_is_no_number():
    found = statistics.of_column(np.array([[1.0, np.nan], [3.0, np.nan]]))
    assert found["mean"].tolist() == [2.0, 0.0]
    assert found["count"].tolist() == [2]


def test_statistics_of_before_a_kill_are_made_anew(tmp_path):
    write(tmp_path, noise(4, 0))
    before = json.loads((tmp_path / layout.STATS).read_text())
    for damage in ("{}", json.dumps({**before, "action": {**before["action"], "count": [9]}})):
        (tmp_path / layout.STATS).write_text(damage)
        with DatasetWriter(tmp_path, noise_interface()) as writer:
            writer.append(noise(3, 1))
        found = json.loads((tmp_path / layout.STATS).read_text())
        expected = 4 + 3 * (len(DatasetReader(tmp_path)) - 1)
        assert found["action"]["count"] == [expected]


def test_episodes_of_another_kind_are_refused(tmp_path):
    write(tmp_path, noise())
    with pytest.raises(ValueError, match=r"(?s)interface.*rate_hz: 10.0 != 20.0"):
        DatasetWriter(tmp_path, noise_interface(rate_hz=20.0))
    with pytest.raises(ValueError, match=r"(?s)other columns.*force: not there"):
        DatasetWriter(tmp_path, noise_interface(), COLUMNS)
    with pytest.raises(ValueError, match="other columns"):
        DatasetWriter(tmp_path, noise_interface(), codec=small(18))
    with DatasetWriter(tmp_path, noise_interface()) as writer:
        with pytest.raises(ValueError, match="has the columns"):
            writer.append(with_columns(3, 0))
        with pytest.raises(ValueError, match="cameras"):
            writer.append(noise(interface=noise_interface(cameras=("eye",))))
    with pytest.raises(ValueError, match="is closed"):
        writer.append(noise())
    assert len(DatasetReader(tmp_path)) == 1


def test_frames_per_second_are_whole(tmp_path):
    with pytest.raises(ValueError, match=r"whole number of Hz, got 12\.5"):
        DatasetWriter(tmp_path, noise_interface(rate_hz=12.5))


def test_a_demonstration_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match=r"proprio must be float32 \(4, 3\)"):
        noise(proprio=np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match=r"images must be of the cameras \['eye', 'side'\]"):
        noise(images={})
    with pytest.raises(ValueError, match="column 'a' must have 4 rows"):
        noise(columns={"a": np.zeros(3)})


def test_damage_is_said_with_the_file(tmp_path):
    write(tmp_path / "set", noise(), noise(seed=1))

    def damaged(name, data=b"nonsense"):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "set", folder)
        (folder / name).write_bytes(data)
        return folder

    video = layout.VIDEO_PATH.format(video_key="observation.images.eye", **layout.place(1))
    data = layout.DATA_PATH.format(**layout.place(1))
    for name, reason in (
        (video, ": not a readable video"),
        (data, " is damaged"),
        (layout.RECORD_PATH.format(index=1), " is damaged"),
    ):
        reader = DatasetReader(damaged(name))
        assert reader[0].num_steps == 4
        with pytest.raises(ValueError, match=f"{Path(name).name}{reason}"):
            reader[1]
    with pytest.raises(ValueError, match=r"info\.json is damaged"):
        DatasetReader(damaged(layout.INFO))
    with pytest.raises(ValueError, match=r"format 'v2\.1', needed 'v3\.0'"):
        DatasetReader(damaged(layout.INFO, b'{"codebase_version": "v2.1"}'))
    with pytest.raises(FileNotFoundError, match=r"info\.json is missing"):
        DatasetReader(tmp_path)
    assert is_dataset(tmp_path / "set")
    assert not is_dataset(tmp_path)
    with pytest.raises(IndexError, match="episode 2 of 2"):
        DatasetReader(tmp_path / "set")[2]


def test_many_episodes_in_one_file_are_told_apart(tmp_path):
    """LeRobot's own recorder joins episodes to files, and writes no interface."""
    episodes = [noise(4, 0), noise(6, 1)]
    write(tmp_path / "ours", *episodes)
    folder = tmp_path / "theirs"
    shutil.copytree(tmp_path / "ours", folder)
    shutil.rmtree(folder / "records")
    first, second = (layout.place(index) for index in range(2))
    for pattern in (layout.DATA_PATH, layout.EPISODES_PATH):
        tables = [parquet.read_table(folder / pattern.format(**one)) for one in (first, second)]
        (folder / pattern.format(**second)).unlink()
        rows = pa.concat_tables(tables).to_pylist()
        for row in rows:
            for name in list(row):
                if name.endswith("file_index"):
                    row[name] = 0
                if name.startswith("videos/") and row["episode_index"] == 1:
                    shift = {"from_timestamp": 0.4, "to_timestamp": 1.0}
                    row[name] = shift.get(name.rpartition("/")[2], row[name])
        parquet.write_table(pa.Table.from_pylist(rows), folder / pattern.format(**first))
    for camera in ("eye", "side"):
        joined = np.concatenate([episode.images[camera] for episode in episodes])
        key = layout.video_key(camera)
        path = folder / layout.VIDEO_PATH.format(video_key=key, **first)
        path.write_bytes(encode(joined, 10, LOSSLESS))
    with pytest.raises(ValueError, match="was not written by this project"):
        DatasetReader(folder)
    reader = DatasetReader(folder, noise_interface())
    for found, expected in zip(reader, episodes, strict=True):
        assert np.array_equal(found.images["side"], expected.images["side"])
        assert np.array_equal(found.actions, expected.actions)
        assert found.facts == {}
    with pytest.raises(ValueError, match=r"lacks observation\.images\.back; it has"):
        DatasetReader(folder, noise_interface(cameras=("back",)))


def test_losses_are_a_choice(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.broadcast_to(rng.integers(0, 256, (1, 1, 1, 3)), (5, 32, 32, 3)).astype(np.uint8)
    (tmp_path / "small.mp4").write_bytes(encode(smooth, 10, small(18)))
    found = read_frames(tmp_path / "small.mp4")
    assert 0 < np.abs(found.astype(int) - smooth).max() < 12
    with pytest.raises(ValueError, match=r"its frame at 0\.500 s cannot be decoded"):
        read_frames_at(tmp_path / "small.mp4", np.arange(6) / 10)
    with pytest.raises(ValueError, match="crf must be in"):
        small(99)


def test_a_column_has_a_name_of_its_own():
    for name in ("action.raw", "observation.force", "a/b", "index", "labelled"):
        with pytest.raises(ValueError, match=r"begin with 'observation'|is reserved"):
            Column(name=name, dtype="float32", names=("x",))
    with pytest.raises(ValueError, match="a name for each element"):
        Column(name="x", dtype="float32", names=())


def test_equal_images_give_equal_bytes_in_every_process():
    program = """
import hashlib
import numpy as np
from policies.demonstrations.lerobot.video import LOSSLESS, encode, small
images = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
for codec in (LOSSLESS, small(18), small(23)):
    print(hashlib.sha256(encode(images, 10, codec)).hexdigest())
"""
    assert len(outputs(program)) == 1
