"""The command that embeds files: its rows, its names and times, and what it does with odd files."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.toto_robot.data.fake_videos import noisy, numbered, write
from tests.toto_robot.tiny import tiny_toto
from toto_robot import StreamConfig, load_encoder
from toto_robot.data.images import read_image
from toto_robot.data.video import read_frames
from toto_robot.encode import main
from toto_robot.encoders.loading import load_toto, save_encoder
from toto_robot.encoders.streamed import StreamedEncoder

HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder, four images of two sizes and two videos, one of them in a folder."""
    folder = tmp_path_factory.mktemp("encode")
    tiny = tiny_toto(16)
    save_encoder(folder / "encoder", tiny.tokenizer, tiny.transformer, layer=1, pool="grid2")
    (folder / "files" / "below").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("a", (24, 32)), ("b", (48, 40)), ("c", (24, 32)), ("z", (48, 40))):
        picture = random.integers(0, 256, (*size, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "files" / f"{name}.png"), picture)
    write(folder / "files" / "below" / "clip.mp4", noisy(24))
    write(folder / "files" / "m.mkv", noisy(7), times=[0, 100, 200, 450, 500, 900, 1000])
    (folder / "files" / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def run(folder, monkeypatch, tmp_path):
    """The command as it is typed, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        words = [f"encoder.name_or_path={folder / 'encoder'}", "device=cpu", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["encode", *words])
        main()

    return run


def read(path):
    """Return a result's embeddings and rows."""
    with path.with_name(f"{path.name}.csv").open(newline="") as file:
        return np.load(path), list(csv.DictReader(file))


def test_rows_are_those_of_the_encoder_with_names_and_times(folder, run, tmp_path, capsys) -> None:
    run(f"images={folder / 'files'}", "out=x.npy")
    embeddings, rows = read(tmp_path / "x.npy")
    names = ["a.png", "b.png", *["below/clip.mp4"] * 24, "c.png", *["m.mkv"] * 7, "z.png"]
    assert [row["name"] for row in rows] == names
    assert [row["time_s"] for row in rows if row["name"].endswith("png")] == [""] * 4
    assert [row["frame"] for row in rows if row["name"] == "m.mkv"] == [*"0123456"]
    times = [float(row["time_s"]) for row in rows if row["name"] == "m.mkv"]
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.45, 0.5, 0.9, 1], atol=0.002)
    encoder = load_encoder(folder / "encoder")
    assert embeddings.dtype == np.float32
    files = folder / "files"
    expected = [encoder(read_image(files / name)[None]) for name in ("a.png", "b.png")]
    expected.append(encoder(read_frames(files / "below" / "clip.mp4")))
    expected.append(encoder(read_image(files / "c.png")[None]))
    expected.append(encoder(read_frames(files / "m.mkv")))
    expected.append(encoder(read_image(files / "z.png")[None]))
    np.testing.assert_allclose(embeddings, np.concatenate(expected), atol=1e-5)
    printed = capsys.readouterr().out
    assert "encode 4 images and 2 videos of" in printed
    assert printed.splitlines()[-1] == "results: x.npy, x.npy.csv, x.npy.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.npy.csv", "x.npy.json"]
    told = json.loads((tmp_path / "x.npy.json").read_text())
    assert told["run"]["fingerprint"] == encoder.fingerprint
    assert (told["rows"], told["dim"], told["ignored"]) == (35, encoder.dim, {".txt": 1})


def test_a_parquet_holds_the_same_in_four_columns(folder, run, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(f"images={folder / 'files'}", "out=x.npy", "keep_every=5", "batch_size=4")
    run(f"images={folder / 'files'}", "out=y.parquet", "keep_every=5", "batch_size=4")
    embeddings, rows = read(tmp_path / "x.npy")
    table = parquet.read_table(tmp_path / "y.parquet")
    assert table.column_names == ["name", "frame", "time_s", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[64]"
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), embeddings)
    for row, told in zip(table.to_pylist(), rows, strict=True):
        assert row["name"] == told["name"]
        assert ("" if row["frame"] is None else str(row["frame"])) == told["frame"]
        assert ("" if row["time_s"] is None else str(row["time_s"])) == told["time_s"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("stride=3", [0, 3, 6]),
        ("every_s=0.4", [0, 3, 5]),  # at 0, 0.45 and 0.9 s: the first at or after 0, 0.4 and 0.8
        ("every_s=0.01", [0, 1, 2, 3, 4, 5, 6]),  # no frame twice
    ],
)
def test_frames_are_chosen_by_number_or_by_time(folder, run, tmp_path, setting, expected) -> None:
    run(f"images={folder / 'files' / 'm.mkv'}", "out=x.npy", setting)
    embeddings, rows = read(tmp_path / "x.npy")
    assert [int(row["frame"]) for row in rows] == expected
    frames = read_frames(folder / "files" / "m.mkv")[expected]
    encoded = load_encoder(folder / "encoder")(frames)
    np.testing.assert_allclose(embeddings, encoded, atol=1e-5)


def test_a_glob_names_files_below_its_fixed_part(folder, run, tmp_path) -> None:
    run(f"images={folder}/files/*.png", "out=x.npy")
    assert [row["name"] for row in read(tmp_path / "x.npy")[1]] == [f"{x}.png" for x in "abcz"]
    run(f"images={folder}/f*/below", "out=y.npy")
    assert {row["name"] for row in read(tmp_path / "y.npy")[1]} == {"files/below/clip.mp4"}
    run(f"images={folder}/**/clip.*", "out=z.npy")
    assert len(read(tmp_path / "z.npy")[0]) == 24


def test_with_a_stream_each_video_is_an_episode(folder, run, tmp_path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "ab":
        write(videos / f"{name}.mp4", noisy(9))
    stream = "encoder.stream={context:3,mode:rolling,frame_skip:1,camera_hz:null}"
    run(f"images={videos}", "out=x.npy", stream, "batch_size=4")
    embeddings, _ = read(tmp_path / "x.npy")
    encoder = StreamedEncoder(load_toto(folder / "encoder"), StreamConfig(context=3))
    streams = encoder.open_streams(1)
    codes = encoder.compress(read_frames(videos / "a.mp4"))
    expected = np.concatenate([streams.embed(code[None], [0]) for code in codes])
    np.testing.assert_allclose(embeddings[:9], expected, atol=1e-5)
    np.testing.assert_array_equal(embeddings[:9], embeddings[9:])
    assert np.abs(expected[1:] - load_toto(folder / "encoder").embed(codes)[1:]).max() > 1e-3
    cv2.imwrite(str(videos / "still.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(
        SystemExit, match="1 of 3 files are single images, and the encoder has a stream"
    ):
        run(f"images={videos}", "out=y.npy", stream)


def test_odd_files_are_left_out_and_told(run, tmp_path, capsys) -> None:
    files = tmp_path / "files"
    files.mkdir()
    picture = np.zeros((8, 12, 3), np.uint8)
    _, coded = cv2.imencode(".png", picture)
    odd = ["a,b.png", "c=d.png", "it's [1] (2)*?.png", "new\nline.png", "ü ~$.PNG", "\udcff.png"]
    for name in odd:
        (files / name).write_bytes(coded.tobytes())
    (files / "cut.png").write_bytes(coded.tobytes()[:-20])
    (files / "empty.jpg").write_bytes(b"")
    (files / "page.mp4").write_text("<!DOCTYPE html><html>")
    (files / "gone.png").symlink_to(files / "nothing.png")
    (files / "._hidden.png").write_bytes(b"mac")
    os.mkfifo(files / "pipe.png")
    whole = write(files / "whole.mkv", noisy(40), keys=8).read_bytes()
    (files / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (files / "video \udcfe.mkv").write_bytes(whole)
    run("images=files", "out=x.npy")
    embeddings, rows = read(tmp_path / "x.npy")
    names = {row["name"] for row in rows}
    assert names >= {"a,b.png", "it's [1] (2)*?.png", "new\nline.png", "ü ~$.PNG", "\\xff.png"}
    assert sum(row["name"] == "video \\xfe.mkv" for row in rows) == 40
    assert 0 < sum(row["name"] == "cut.mkv" for row in rows) < 40
    assert len(embeddings) == len(rows)
    problems = json.loads((tmp_path / "x.npy.json").read_text())["problems"]
    reasons = {one["file"]: one["reason"] for one in problems}
    assert set(reasons) == {
        "cut.mkv", "cut.png", "empty.jpg", "gone.png", "page.mp4", "pipe.png",
    }  # fmt: skip
    assert "ends early" in reasons["cut.mkv"]
    assert "truncated" in reasons["cut.png"]
    assert "is a web page" in reasons["page.mp4"]
    assert [one["file"] for one in problems if one["in_part"]] == ["cut.mkv"]
    printed = capsys.readouterr().out
    assert "6 of 14 files could not be read, or only in part:" in printed
    assert "pipe.png: " in printed


def test_a_folder_and_a_result_may_have_any_name(run, tmp_path) -> None:
    for odd in ("a,b", "a=b", "take (1)", "it's", "[1]", "{x}", "*", "a b", "100%"):
        (tmp_path / odd).mkdir()
        cv2.imwrite(str(tmp_path / odd / "a.png"), np.zeros((8, 8, 3), np.uint8))
        run(f"images={odd}", f"out={odd}.npy")
        assert [row["name"] for row in read(tmp_path / f"{odd}.npy")[1]] == ["a.png"]
    run("images=*b", "out=x.npy")  # a glob, since nothing has that name
    names = [row["name"] for row in read(tmp_path / "x.npy")[1]]
    assert names == ["a b/a.png", "a,b/a.png", "a=b/a.png"]


def test_where_nothing_can_be_read_the_command_fails(run, tmp_path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(b"")
    (tmp_path / "files" / "b.mp4").write_text("text")
    with pytest.raises(SystemExit, match=r"no frame of files could be read:\n  a\.png: (.*)\n  b"):
        run("images=files", "out=x.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x.csv"], r"ends in \.npy or \.parquet, got x\.csv"),
        (["out=files"], r"ends in"),
        (["images=none"], "none does not exist"),
        (["images=files/*.jpg"], r"files/\*\.jpg does not exist"),
        (["images=files/notes.txt"], r"has no image .* but 1 of \.txt"),
        (["stride=0"], "stride must be at least 1"),
        (["every_s=0"], "every_s must be above 0"),
        (["stride=2", "every_s=0.1"], "set only one of them"),
        (["device=cuda:99"], "device 'cuda:99' cannot be used"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, words, message) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").write_text("no image")
    write(tmp_path / "files" / "a.mp4", numbered(2))
    with pytest.raises(SystemExit, match=message):
        run("images=files", "out=x.npy", *words)
    assert not (tmp_path / "x.npy").exists()


def test_what_is_finished_is_kept_and_nothing_else_is_overwritten(folder, run, tmp_path) -> None:
    images = f"images={folder / 'files' / 'm.mkv'}"
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(SystemExit, match=r"x\.npy\.json does not describe it"):
        run(images, "out=x.npy")
    (tmp_path / "x.npy").unlink()
    run(images, "out=x.npy")
    before = (tmp_path / "x.npy").stat().st_mtime_ns
    run(images, "out=x.npy", "batch_size=3")
    assert (tmp_path / "x.npy").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match=r"another config .*\n.*config\.stride: 1 != 2"):
        run(images, "out=x.npy", "stride=2")
    assert (tmp_path / "x.npy").stat().st_mtime_ns == before


def test_the_page_shows_what_the_command_does(tmp_path, monkeypatch, capsys) -> None:
    """The section of docs/toto_robot.md: its commands as typed, what they print, its Python."""
    page = (HERE / "docs" / "toto_robot.md").read_text()
    section = page.partition("## Embeddings of your images and videos")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)
    for folder in ("recordings", "runs/a"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "recordings" / "door.mp4", noisy(40))
    (tmp_path / "recordings" / "hall.mp4").touch()
    for number in range(3):
        picture = np.zeros((24, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "recordings" / f"shelf_{number}.jpg"), picture)
    write(tmp_path / "runs" / "a" / "front.mp4", noisy(4))
    monkeypatch.chdir(tmp_path)
    lines = [line for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    shown = next(text for kind, text in blocks if text.startswith("encode "))
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:3] == ["python", "-m", "toto_robot.encode"]
        monkeypatch.setattr(sys, "argv", [words[2], *words[3:], "device=cpu"])
        main()
        printed = capsys.readouterr().out
        if line == lines[0]:
            found = printed[printed.index("\nencode ") + 1 :]
            assert re.sub(r"[\d.]+ frames", "", found) == re.sub(r"[\d.]+ frames", "", shown)
    (python,) = [text for kind, text in blocks if kind == "python"]
    names: dict[str, object] = {}
    exec(python, names)
    assert len(names["embeddings"]) == len(names["rows"]) == 7


PROGRAM = """
import sys, time
from pathlib import Path
import toto_robot.encode as command

embed = command._Embedder.__call__
def until_the_second_part(self, batch):
    while Path(".x.npy.run/00000002.npz").exists():
        time.sleep(60)
    return embed(self, batch)
command._Embedder.__call__ = until_the_second_part
command.main()
"""


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_command_goes_on_and_gives_the_same(run, tmp_path, stream, capsys) -> None:
    (tmp_path / "files").mkdir()
    for name in "abc":
        write(tmp_path / "files" / f"{name}.mp4", noisy(8))
    (tmp_path / "files" / "a2.mp4").write_text("no video")
    words = ["images=files", "keep_every=4", "batch_size=4"]
    if stream:
        words.append("encoder.stream={context:3,mode:rolling,frame_skip:1,camera_hz:null}")
    run("out=y.npy", *words)
    overrides = [word for word in sys.argv[1:] if not word.startswith("out=")]
    command = [sys.executable, "-c", PROGRAM, "out=x.npy", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    part = tmp_path / ".x.npy.run" / "00000002.npz"
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        while not part.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.npy").exists()
    with pytest.raises(SystemExit, match=r"another config .*\n.*config\.stride: 1 != 2"):
        run("out=x.npy", *words, "stride=2")
    (tmp_path / ".x.npy.run" / ".00000003.npz.part").write_bytes(b"half")
    capsys.readouterr()
    run("out=x.npy", *words)
    # a video with a past begins again, at its first frame
    told = r"continuing: (8|16) of 24 frames found" if stream else r"continuing: (12|16|20) of 24"
    assert re.search(told, capsys.readouterr().out)
    for name in ("", ".csv"):
        resumed, whole = ((tmp_path / f"{out}.npy{name}").read_bytes() for out in "xy")
        assert resumed == whole
    one, two = (json.loads((tmp_path / f"{out}.npy.json").read_text()) for out in "xy")
    assert one == two
    assert [problem["file"] for problem in one["problems"]] == ["a2.mp4"]
    assert not (tmp_path / ".x.npy.run").exists()


def test_jobs_of_a_multirun_number_their_files(folder, run, tmp_path) -> None:
    run("-m", f"images={folder / 'files' / 'm.mkv'}", "encoder.layer=0,1", "out=x.npy")
    one, two = (np.load(tmp_path / f"x-{number}.npy") for number in (0, 1))
    assert np.abs(one - two).max() > 1e-3
    layers = [json.loads((tmp_path / f"x-{i}.npy.json").read_text())["layer"] for i in (0, 1)]
    assert layers == [0, 1]
    assert not (tmp_path / "x.npy").exists()
