"""Collections as their users have them on disk, listed."""

import json

import pytest

from toto_robot.data.sources import Ego4D, HowTo100M, Images, Kinetics, LeRobot, Record, Videos


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(listing):
    return [record.name for record in listing.records]


def test_a_folder_of_videos_is_listed_with_what_it_leaves_out(tmp_path):
    touch(tmp_path, "b.MP4", "a.webm", "inner/c.mkv", "notes.txt", "more.txt", "LICENCE")
    listing = Videos(path=tmp_path).listing()
    assert names(listing) == ["a.webm", "b.MP4", "inner/c.mkv"]
    assert listing.records[2] == Record(
        name="inner/c.mkv", file=str(tmp_path / "inner/c.mkv"), group="inner/c.mkv"
    )
    assert listing.ignored == {".txt": 2, "LICENCE": 1}
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        Videos(path=tmp_path / "nowhere").listing()


def test_imagenet_has_a_folder_for_each_class(tmp_path):
    touch(tmp_path, "n01440764/n01440764_10026.JPEG", "n01440764/n01440764_18.JPEG", "n02/a.png")
    touch(tmp_path, "flat.jpg")
    listing = Images(path=tmp_path).listing()
    assert names(listing) == [
        "flat.jpg",
        "n01440764/n01440764_10026.JPEG",
        "n01440764/n01440764_18.JPEG",
        "n02/a.png",
    ]


def test_kinetics_clips_are_found_flat_or_by_class(tmp_path):
    table = tmp_path / "kinetics_600.csv"
    table.write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,0347ZoDXyP0,95,105,train\n"
        '"tying necktie",-3B32lodo2M,59,69,train\n'
        "abseiling,gone_gone_1,0,10,train\n"
        "abseiling,valvalvalv_,1,11,val\n"
    )
    touch(tmp_path / "clips", "abseiling/0347ZoDXyP0_000095_000105.mp4")
    touch(tmp_path / "clips", "-3B32lodo2M_000059_000069.mp4", "valvalvalv__000001_000011.mp4")
    source = Kinetics(path=tmp_path / "clips", csv=table, split="train")
    listing = source.listing()
    assert names(listing) == ["-3B32lodo2M_000059_000069", "0347ZoDXyP0_000095_000105"]
    assert listing.records[1].group == "0347ZoDXyP0"
    assert listing.records[1].start_s is None  # the file is the clip
    assert listing.missing == ("gone_gone_1_000000_000010",)
    other = Kinetics(path=tmp_path / "clips", csv=table, split="test")
    with pytest.raises(ValueError, match=r"no row of split 'test'; there are \['train', 'val'\]"):
        other.listing()
    table.write_text("label,youtube_id\n")
    with pytest.raises(
        ValueError, match=r"lacks the columns \['time_start', 'time_end', 'split'\]"
    ):
        source.listing()
    with pytest.raises(ValueError, match=r"none\.csv is not a file"):
        Kinetics(path=tmp_path, csv=tmp_path / "none.csv", split="train").listing()


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_a_table_may_have_a_byte_order_mark_and_labels_in_latin_1(tmp_path):
    table = tmp_path / "kinetics.csv"
    table.write_bytes(b"\xef\xbb\xbf" + KINETICS.encode() + b"caf\xe9,a,1,2,train\n")
    touch(tmp_path / "clips", "a_000001_000002.mp4")
    source = Kinetics(path=tmp_path / "clips", csv=table, split="train")
    assert names(source.listing()) == ["a_000001_000002"]
    table.write_text("video_id\na_000001_000002\n", encoding="utf-8-sig")
    source = HowTo100M(path=tmp_path / "clips", csv=table)
    assert names(source.listing()) == ["a_000001_000002"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"run,a,1\n", "line 3: time_end is None"),
        (b"run,a,inf,2,train\n", "a: invalid times: 'inf' to '2'"),
        (b"run,a,1,nan,train\n", "a: invalid times: '1' to 'nan'"),
        (b"run,a,x,2,train\n", "a: invalid times: 'x' to '2'"),
        (b"run,a\xe9,1,2,train\n", "line 3: youtube_id is 'a"),
        (b"r" * 200_000 + b",a,1,2,train\n", "line 3: field larger than"),
    ],
)
def test_a_damaged_row_of_a_table_is_named(tmp_path, row, message):
    table = tmp_path / "kinetics.csv"
    table.write_bytes(KINETICS.encode() + b"run,b,1,2,train\n" + row)
    with pytest.raises(ValueError, match=rf"kinetics\.csv[,:] {message}"):
        Kinetics(path=tmp_path, csv=table, split="train").listing()


@pytest.mark.parametrize(
    "videos", ["[5]", '[{"video_uid": "a"}, {"video_uid": 5}]', '["video_uid"]']
)
def test_videos_of_ego4d_of_another_shape_are_named(tmp_path, videos):
    metadata = tmp_path / "ego4d.json"
    metadata.write_text(f'{{"videos": {videos}}}')
    with pytest.raises(ValueError, match=r"ego4d\.json: expected a list 'videos'"):
        Ego4D(path=tmp_path, metadata=metadata).listing()


def test_ego4d_names_its_videos_in_a_json(tmp_path):
    uids = ["0a1b-2c", "3d4e-5f", "6a7b-8c"]
    metadata = tmp_path / "ego4d.json"
    metadata.write_text(
        json.dumps({"videos": [{"video_uid": uid, "duration_sec": 480.0} for uid in uids]})
    )
    touch(tmp_path / "full_scale", "3d4e-5f.mp4", "0a1b-2c.mp4", "unknown.mp4", "manifest.csv")
    source = Ego4D(path=tmp_path / "full_scale", metadata=metadata)
    listing = source.listing()
    assert names(listing) == ["0a1b-2c", "3d4e-5f"]
    assert listing.missing == ("6a7b-8c",)
    for text, message in (("{}", "expected a list 'videos'"), ("{", r"ego4d\.json is damaged")):
        metadata.write_text(text)
        with pytest.raises(ValueError, match=message):
            source.listing()


def test_howto100m_has_any_suffix_and_repeats(tmp_path):
    table = tmp_path / "HowTo100M_v1.csv"
    table.write_text(
        "video_id,category_1,category_2,rank,task_id\n"
        "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\n"
        "_97kyZVWVG0,Hobbies and Crafts,Crafts,34,119814\n"
        "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,3,11\n"
        "gkjnR3-ZVts,Food and Entertaining,Drinks,6,25938\n"
    )
    touch(tmp_path / "videos", "nVbIUDjzWY4.webm", "part2/gkjnR3-ZVts.mp4", "gkjnR3-ZVts.info.json")
    listing = HowTo100M(path=tmp_path / "videos", csv=table).listing()
    assert names(listing) == ["gkjnR3-ZVts", "nVbIUDjzWY4"]
    assert listing.missing == ("_97kyZVWVG0",)


def write_lerobot(folder, version="v3.0"):
    """Write the meta data of three episodes of two cameras; the last file is not there."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cameras = ("observation.images.front", "observation.images.hand")
    info = {
        "codebase_version": version,
        "fps": 10,
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {camera: {"dtype": "video"} for camera in cameras}
        | {"action": {"dtype": "float32"}, "observation.images.still": {"dtype": "image"}},
    }
    touch(folder, *(f"videos/{camera}/chunk-000/file-000.mp4" for camera in cameras))
    touch(folder, "meta/episodes/chunk-000/x")
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    columns = {"episode_index": [1, 0, 2], "length": [12, 30, 4]}
    for camera in cameras:
        columns |= {
            f"videos/{camera}/chunk_index": [0, 0, 0],
            f"videos/{camera}/file_index": [0, 0, 1],
            f"videos/{camera}/from_timestamp": [3.0, 0.0, 0.0],
            f"videos/{camera}/to_timestamp": [4.2, 3.0, 0.4],
        }
    parquet.write_table(
        arrow.table(columns), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    )
    return cameras


def test_lerobot_episodes_are_parts_of_files(tmp_path):
    front, hand = write_lerobot(tmp_path)
    listing = LeRobot(path=tmp_path, cameras=()).listing()
    assert names(listing) == [
        f"episode_{number:06}/{camera}" for number in (0, 1) for camera in (front, hand)
    ]
    assert listing.missing == (f"episode_000002/{front}", f"episode_000002/{hand}")
    second = listing.records[2]
    assert (second.start_s, second.end_s, second.group) == (3.0, 4.2, "episode_000001")
    assert second.file == str(tmp_path / "videos" / front / "chunk-000" / "file-000.mp4")
    only = LeRobot(path=tmp_path, cameras=(hand,)).listing()
    assert names(only) == [f"episode_{number:06}/{hand}" for number in (0, 1)]
    with pytest.raises(ValueError, match=r"has no camera \['top'\]; it has \['observation"):
        LeRobot(path=tmp_path, cameras=("top",)).listing()


def test_lerobot_of_another_format_is_refused(tmp_path):
    write_lerobot(tmp_path, version="v2.1")
    with pytest.raises(ValueError, match=r"has LeRobot format 'v2\.1', needed 'v3\.0'"):
        LeRobot(path=tmp_path, cameras=()).listing()
