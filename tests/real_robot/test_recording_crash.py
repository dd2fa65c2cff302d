"""A process that writes episodes is killed at 50 random moments; nothing finished is lost."""

import multiprocessing
import os
import signal

import numpy as np
import pandas  # noqa: F401  # pyarrow imports it when it first writes, in each child
import pytest

from policies.demonstrations.lerobot.reader import DatasetReader
from real_robot.recording import Recorder, demonstration_of
from tests.real_robot.records import interface, make_record

KILLS = 50


def write_for_ever(folder, finished):
    """Append episodes, each of its own number, and say so when each is saved."""
    with Recorder(folder, interface()) as recorder:
        while True:
            index = recorder.num_episodes
            assert recorder.save(make_record(steps=2 + index % 3, seed=index)) == index
            finished.send(index)


def check(folder, finished):
    """Return how many episodes there are, after reading all that may have changed."""
    reader = DatasetReader(folder)
    assert len(reader) > finished  # what was said to be there is there
    for index in range(max(0, len(reader) - 3), len(reader)):
        expected = demonstration_of(make_record(steps=2 + index % 3, seed=index), interface())
        found = reader[index]
        for name in ("hand", "front"):
            assert np.array_equal(found.images[name], expected.images[name])
        assert np.array_equal(found.proprio, expected.proprio)
        assert np.array_equal(found.actions, expected.actions)
        for name, column in expected.columns.items():
            equal_nan = column.dtype != object
            assert np.array_equal(found.columns[name], column, equal_nan=equal_nan), name
        assert found.facts["notes"]["seed"] == index
    return len(reader)


@pytest.mark.slow  # 50 processes; the test below stops before each file in turn
@pytest.mark.timeout(300)
def test_a_kill_at_any_moment_leaves_whole_episodes(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.real_robot.test_recording_crash"])
    rng = np.random.default_rng(0)
    folder, finished, asides, leftovers = tmp_path / "demos", -1, 0, 0
    for _ in range(KILLS):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=write_for_ever, args=(folder, sender), daemon=True)
        process.start()
        sender.close()
        # each gets some episodes done, and dies a random while after that
        for _ in range(int(rng.integers(1, 3))):
            finished = receiver.recv()
        process.join(rng.uniform(0, 0.04))
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while receiver.poll():
            try:
                finished = receiver.recv()
            except EOFError:
                break
        length = check(folder, finished)
        asides += bool(list(folder.rglob(".*.part")))
        leftovers += len(list(folder.rglob("*.mp4"))) != 2 * length
    assert asides + leftovers > 5  # else it was never killed in the middle
    with Recorder(folder, interface()) as recorder:
        assert not list(folder.rglob(".*.part"))
        assert len(list(folder.rglob("*.mp4"))) == 2 * recorder.num_episodes
        assert len(list((folder / "data").rglob("*.parquet"))) == recorder.num_episodes
        assert recorder.save(make_record()) == recorder.num_episodes - 1
    for index in range(length):
        assert DatasetReader(folder).facts(index)["notes"]["seed"] == index


def test_every_prefix_of_the_writing_is_whole(tmp_path, monkeypatch):
    """Stop before each file that an episode writes: the episode before stays, the new is not."""
    replace, left = os.replace, [10**9]

    def failing(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", failing)
    with Recorder(tmp_path, interface()) as recorder:
        recorder.save(make_record(seed=0))
    for stop in range(10**9):
        left[0] = 10**9
        with Recorder(tmp_path, interface()) as recorder:
            left[0] = stop
            try:
                recorder.save(make_record(seed=1, task="another"))
                break
            except KeyboardInterrupt:
                reader = DatasetReader(tmp_path)
                assert len(reader) == 1
                assert reader.facts(0)["notes"]["seed"] == 0
                assert reader[0].num_steps == 3
    assert stop == 7  # 2 videos, record, row, table, statistics, info; the task is there already
    assert len(DatasetReader(tmp_path)) == 2
