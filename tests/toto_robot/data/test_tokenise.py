"""A collection to tokens: good files used, bad ones reported, the same bytes whoever works."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.toto_robot.data.fake_videos import noisy, numbered, write
from tests.toto_robot.data.test_sources import write_lerobot
from toto_robot.checkpoint import save_checkpoint
from toto_robot.config import from_dict, to_dict
from toto_robot.data.clips import ByFrames, BySeconds
from toto_robot.data.mixture import SequenceMixture
from toto_robot.data.runners import Local, Plan, RayCluster, Slurm
from toto_robot.data.sources import Images, LeRobot, Videos
from toto_robot.data.token_shards import TokenShards
from toto_robot.data.tokenise import Stills, TokeniseConfig, VideoClips, report, tokenise
from toto_robot.encoders.loading import load_tokenizer
from toto_robot.locks import REPORT
from toto_robot.models import SequenceLayout
from toto_robot.tokenizers import LightConfig

LIGHT = LightConfig(
    image_size=16,
    levels=(8, 8, 8, 4, 4),
    widths=(8, 8),
    blocks=(1, 1),
    decoder_widths=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer") / "light"
    save_checkpoint(folder, "tokenizer", to_dict(LIGHT), LIGHT.build().state_dict())
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Good files and bad ones, as an unlucky download has them."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write(folder / f"good{number}.mp4", np.roll(noisy(40), 5 * number, axis=1))
    write(folder / "ten_bits.mp4", noisy(40), pixels="yuv420p10le")
    write(folder / "turned.mp4", noisy(40), rotation=90)
    whole = write(folder / "truncated.mp4", noisy(80), options={"movflags": "faststart"})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    headless = write(folder / "headless.mp4", noisy(40))
    headless.write_bytes(headless.read_bytes()[:-400])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is a letter\n" * 100)
    write(folder / "one_frame.mp4", noisy(1))
    write(folder / "odd_angle.mp4", noisy(40), rotation=45)
    times = np.cumsum(np.tile([33, 100, 33, 200], 10)).tolist()
    write(folder / "variable.mkv", noisy(40), times)
    (folder / "notes.txt").write_text("not a video")
    return folder


def config_of(videos, tokenizer, **changes):
    settings = TokeniseConfig(
        name="clips",
        source=Videos(path=videos),
        clips=VideoClips(frames=4, whole=False, sampling=ByFrames(stride=4)),
        tokenizer_from=str(tokenizer),
        image_size=None,
        passes=1,
        records_per_shard=3,
        batch=7,
        threads=1,
        device="cpu",
        seed=0,
        runner=Local(workers=1),
    )
    return replace(settings, **changes)


def content(folder):
    """Return the bytes of all that a run leaves, but the plan, which names the runner's config."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in ("manifest.json", REPORT)
    }


@pytest.fixture(scope="module")
def done(videos, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens") / "one"
    tokenise(config_of(videos, tokenizer), out)
    return out


def test_good_files_are_used_and_bad_ones_named_with_their_reason(done, videos):
    report = json.loads((done / "report.json").read_text())
    problems = {item["name"]: (item["used"], item["problem"]) for item in report["problems"]}
    used = {f"good{number}.mp4" for number in range(5)} | {"ten_bits.mp4", "turned.mp4"}
    assert set(problems) == {path.name for path in videos.iterdir()} - used - {"notes.txt"}
    for name, clips, reason in (
        ("truncated.mp4", 2, "ends early: "),
        ("headless.mp4", 0, "not readable: "),
        ("empty.mp4", 0, "not readable: "),
        ("text.mp4", 0, "not readable: "),
        ("one_frame.mp4", 0, "too short: 1 frames of the 4 of a clip"),
        ("odd_angle.mp4", 0, "not readable: its display rotation is 45 degrees"),
        ("variable.mkv", 0, "2 of 2 clips left out: variable rate, 33 to 200 ms"),
    ):
        assert problems[name][0] == clips, name
        assert problems[name][1].startswith(reason), problems[name]
    assert report["records"] == 14
    assert report["used"] == len(used) + 1
    assert report["clips"] == 2 * len(used) + 2
    assert report["frames"] == 4 * report["clips"]
    assert report["ignored"] == {".txt": 1}


def test_device_auto_is_a_device(videos, tokenizer, tmp_path):
    for name in ("good0.mp4", "good1.mp4"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).symlink_to(videos / name)
    config = config_of(tmp_path / "videos", tokenizer, device="auto")
    tokenise(config, tmp_path / "out")
    assert json.loads((tmp_path / "out/report.json").read_text())["used"] == 2


def test_tokens_are_those_of_the_frames(done, tokenizer):
    module = load_tokenizer(tokenizer)
    data = TokenShards.open(done)
    layout = SequenceLayout(codes=8192, tokens_per_frame=4, frames=4)
    mixture = SequenceMixture([data], [1.0], module, layout, 4, validation=False, seed=0)
    rows = mixture.rows(0, 16)
    assert len({tuple(row) for row in rows.tolist()}) > 10
    # noisy pictures repeat after 96 / 3 = 32 frames, so each clip's first frame is its fifth too
    assert data.manifest["tokenizer"]["codes"] == 8192
    assert data.manifest["resizer"].startswith("swscale ")
    assert data.damaged() == []


def test_the_crop_of_a_clip_stays_and_differs_between_clips_and_passes(tokenizer, tmp_path):
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 16, 0).repeat(3, 2)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.mp4", [ramp] * 32)
    config = config_of(tmp_path / "in", tokenizer, passes=2)
    tokenise(config, tmp_path / "out")
    tokens = TokenShards.open(tmp_path / "out").all_tokens()[np.arange(16)].reshape(4, 4, 4)
    assert (tokens == tokens[:, :1]).all()  # nothing moves, so the frames of a clip are equal
    assert len({tuple(clip[0]) for clip in tokens.tolist()}) == 4


class Slow:
    """A job that notes which worker had a slice; slice 0 waits for all others."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, number):
        others = range(1, 6)
        while number == 0 and not all((self.folder / str(one)).exists() for one in others):
            time.sleep(0.01)
        (self.folder / str(number)).write_text(str(os.getpid()))


def test_a_free_worker_takes_the_next_slice(tmp_path):
    Local(workers=2).run(Slow(tmp_path), range(6))
    by = [(tmp_path / str(number)).read_text() for number in range(6)]
    assert by[0] not in by[1:]
    assert len(set(by)) == 2


class Deadly(Slow):
    """The same, but the worker of slice 0 dies."""

    def __call__(self, number):
        if number == 0:
            os._exit(3)
        super().__call__(number)


def test_the_others_take_the_slices_of_a_dead_worker(tmp_path):
    with pytest.raises(RuntimeError, match=r"1 of 2 workers ended with \[3\]; run again"):
        Local(workers=2).run(Deadly(tmp_path), range(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4", "5"]


def test_the_last_tasks_may_write_the_report_at_once(done, tmp_path):
    shutil.copytree(done, tmp_path / "out")
    expected = (done / "report.json").read_bytes()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, [tmp_path / "out"] * 100))
    assert (tmp_path / "out/report.json").read_bytes() == expected


def test_a_slurm_array_makes_the_same_bytes(done, videos, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    config = config_of(videos, tokenizer, runner=Slurm(slices_per_task=2))
    with pytest.raises(ValueError, match="has no plan yet: run the command once with runner=plan"):
        tokenise(config, tmp_path / "out")
    tokenise(replace(config, runner=Plan()), tmp_path / "out")
    assert "5 of 5 slices are still to do; the first is 0" in capsys.readouterr().out
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID is not set"):
        tokenise(config, tmp_path / "out")
    for task in ("2", "0", "1"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        tokenise(config, tmp_path / "out")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(ValueError, match=r"task 3 has no slice: use --array=0-2"):
        tokenise(config, tmp_path / "out")
    assert content(tmp_path / "out") == content(done)


def test_a_finished_collection_starts_no_workers(done, videos, tokenizer, capsys):
    before = content(done)
    ray = RayCluster(address=None, workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0)
    tokenise(config_of(videos, tokenizer, runner=ray), done)
    assert f"report {done / 'report.json'}" in capsys.readouterr().out
    assert content(done) == before


KILLED = """
import sys, json, os, signal
from pathlib import Path
from toto_robot.config import from_dict
from toto_robot.data import tokenise as module
data = json.loads(sys.argv[1])
original, made = module.SliceWorker._make, []
def make(self, number):
    if made:  # in the midst of the second slice
        original_write = module._Batch._write
        def die(*arguments):
            original_write(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        module._Batch._write = die
    made.append(number)
    original(self, number)
module.SliceWorker._make = make
module.tokenise(from_dict(module.TokeniseConfig, data), Path(sys.argv[2]))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(done, videos, tokenizer, tmp_path):
    config = config_of(videos, tokenizer)
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(to_dict(config)), str(out)],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list(out.glob("clips-*.json"))) == 1
    assert len(list(out.glob(".*.part"))) == 1  # what it was at
    first = (out / "clips-00000-of-00005.u16").stat().st_mtime_ns
    tokenise(config, out)
    assert (out / "clips-00000-of-00005.u16").stat().st_mtime_ns == first  # kept
    assert content(out) == content(done)  # and nothing is left of the half shard


def test_another_config_is_no_resume(done, videos, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"config\.passes: 1 != 2\n  config\.seed: 0 != 1"):
        tokenise(config_of(videos, tokenizer, seed=1, passes=2), done)
    with pytest.raises(ValueError, match="source=videos does not fit clips of kind 'image'"):
        tokenise(config_of(videos, tokenizer, clips=Stills()), tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to tokenise"):
        tokenise(config_of(tmp_path / "empty", tokenizer), tmp_path / "a")
    for name in ("passes", "records_per_shard", "batch", "threads"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            config_of(videos, tokenizer, **{name: 0})
    with pytest.raises(
        ValueError, match="name must consist of letters, digits, _ and -, got 'a/b'"
    ):
        config_of(videos, tokenizer, name="a/b")


def test_variable_rates_are_used_by_seconds(videos, tokenizer, tmp_path):
    clips = VideoClips(frames=4, whole=True, sampling=BySeconds(interval_s=0.2))
    tokenise(config_of(videos, tokenizer, clips=clips), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "variable.mkv" not in {item["name"] for item in report["problems"]}
    lengths = {
        length for run in TokenShards.open(tmp_path / "out").runs(False) for length in run[1:2]
    }
    assert 20 in lengths  # 4 s by 0.2 s


def test_images_are_stills_and_every_21st_is_held_out(tokenizer, tmp_path):
    generator = np.random.default_rng(0)
    for number in range(22):
        folder = tmp_path / "in" / f"n{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = generator.integers(0, 256, (20, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.JPEG"), picture)
    cut = tmp_path / "in" / "n0" / "00.JPEG"
    cut.write_bytes(cut.read_bytes()[:500])
    config = config_of(
        tmp_path / "in", tokenizer, source=Images(path=tmp_path / "in"), clips=Stills(), passes=2
    )
    tokenise(config, tmp_path / "out")
    data = TokenShards.open(tmp_path / "out")
    assert data.kind == "image"
    assert data.runs(True)[:, 1:].tolist() == [[1, 2]]
    assert sum(count for _, _, count in data.runs(False)) == 2 * 20
    (problem,) = json.loads((tmp_path / "out" / "report.json").read_text())["problems"]
    assert problem["name"] == "n0/00.JPEG"
    assert problem["problem"].endswith("not a readable image (truncated after 500 bytes)")


def test_lerobot_episodes_are_cut_at_their_times(tokenizer, tmp_path):
    pytest.importorskip("pyarrow")
    front, hand = write_lerobot(tmp_path / "in")
    for camera in (front, hand):
        write(tmp_path / "in" / "videos" / camera / "chunk-000" / "file-000.mp4", numbered(42))
    clips = VideoClips(frames=4, whole=True, sampling=ByFrames(stride=1))
    source = LeRobot(path=tmp_path / "in", cameras=())
    tokenise(config_of(tmp_path, tokenizer, source=source, clips=clips), tmp_path / "out")
    data = TokenShards.open(tmp_path / "out")
    assert data.runs(False)[:, 1:].tolist() == [[30, 2], [12, 1], [12, 1]]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["problems"] == []
    assert report["missing"] == [f"episode_000002/{front}", f"episode_000002/{hand}"]


@pytest.mark.parametrize(
    ("changes", "clips", "told"),
    [
        ({}, 4, set()),
        (
            {"lost": {2}},
            2,
            {"7 frames of the 8 of this part", "1 of 1 clips left out: a frame is missing"},
        ),
        ({"offset_ms": 200}, 3, {"6 frames of the 8 of this part"}),
    ],
)
def test_lerobot_episodes_without_all_their_frames_are_reported(
    tokenizer, tmp_path, changes, clips, told
):
    pytest.importorskip("pyarrow")
    from tests.toto_robot.data.fake_lerobot import stamps_ms, write_set

    write_set(tmp_path / "in", (8, 8), {"eye": stamps_ms(16, **changes)})
    config = config_of(
        tmp_path,
        tokenizer,
        source=LeRobot(path=tmp_path / "in", cameras=()),
        clips=VideoClips(frames=4, whole=False, sampling=ByFrames(stride=1)),
    )
    tokenise(config, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["clips"] == clips
    problems = report["problems"]
    assert {one["problem"] for one in problems if "000000/" in one["name"]} == told


def test_names_that_are_no_utf8_are_tokenised_and_told(tokenizer, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / os.fsdecode(b"good\xff.mp4"), numbered(20))
    for name in (b"bad\xfe.mp4", b"._good\xff.mp4"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    tokenise(config_of(folder, tokenizer), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["used"], report["clips"]) == (1, 1)
    assert report["ignored"] == {"hidden": 1}
    assert [one["name"] for one in report["problems"]] == [r"bad\xfe.mp4"]


RUN = """
import json, sys
from pathlib import Path
from toto_robot.config import from_dict
from toto_robot.data.tokenise import TokeniseConfig, tokenise
if __name__ == "__main__":
    tokenise(from_dict(TokeniseConfig, json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow  # processes with torch
def test_workers_make_the_same_bytes_and_end_with_the_run(done, videos, tokenizer, tmp_path):
    config = config_of(videos, tokenizer, runner=Local(workers=2))
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(RUN)
    run = subprocess.Popen([sys.executable, str(script), json.dumps(to_dict(config)), str(out)])
    deadline = time.monotonic() + 120
    while not list(out.glob("clips-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = _children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(children) >= 2
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)
    tokenise(config, out)
    assert content(out) == content(done)


LONG_SLICES = """
import os, sys, time
from pathlib import Path
from toto_robot.data.runners import Local

def job(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(300)

if __name__ == "__main__":
    Local(workers=2).run(job, [0, 1])
"""


def test_workers_end_with_a_killed_run_also_within_a_slice(tmp_path):
    script, begun = tmp_path / "run.py", tmp_path / "begun"
    script.write_text(LONG_SLICES)
    begun.mkdir()
    deadline = time.monotonic() + 100
    with subprocess.Popen([sys.executable, str(script), str(begun)]) as run:
        while len(list(begun.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        run.kill()
    workers = [int(path.name) for path in begun.iterdir()]
    assert len(workers) == 2
    try:
        while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(worker) for worker in workers)
    finally:
        for worker in filter(_alive, workers):
            os.kill(worker, signal.SIGKILL)


def _children(parent):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry))
    return found


def _alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_config_goes_through_plain_data(videos, tokenizer):
    config = config_of(videos, tokenizer)
    assert from_dict(TokeniseConfig, to_dict(config)) == config
