"""`toto-robot ego4d_sta`: the command as a user types it, and errors that name file and field."""

import copy
import csv
import json

import pytest

from tests.command_lines import run

MODULE = "toto_robot.recognition.ego4d_sta"
ROW = {
    "box": [10, 20, 60, 90],
    "noun_category_id": 4,
    "verb_category_id": 1,
    "time_to_contact": 0.5,
}


def annotations(key="video_id"):
    """Three images of two videos in the layout of Ego4D; `key` differs between its versions."""
    videos = {name: {"frame_width": 192, "frame_height": 108, "fps": 30.0} for name in "ab"}
    images = [
        {"uid": f"{video}_{frame:07d}", key: video, "frame": frame, "objects": [dict(ROW)]}
        for video, frame in (("a", 45), ("a", 90), ("b", 30))
    ]
    return {
        "info": {"description": "Ego4D STA", "version": "1.0", "video_metadata": videos},
        "noun_categories": [{"id": 4, "name": "cup_(cup, mug)"}, {"id": 7, "name": "drawer"}],
        "verb_categories": [{"id": 1, "name": "take"}, {"id": 2, "name": "open"}],
        "annotations": images,
    }


def predictions():
    """A right prediction, one with another verb, and an image without predictions."""
    rows = {
        "a_0000045": [{**ROW, "score": 0.9}],
        "a_0000090": [{**ROW, "verb_category_id": 2, "score": 0.8}],
        "b_0000030": [],
    }
    return {"version": "1.0", "challenge": "ego4d_sta", "results": rows}


def score(folder, real, found, settings=""):
    (folder / "real.json").write_text(json.dumps(real))
    (folder / "found.json").write_text(json.dumps(found))
    files = f"annotations={folder}/real.json predictions={folder}/found.json"
    return run(MODULE, f"{files} out={folder}/out {settings}")


@pytest.mark.parametrize("key", ["video_id", "video_uid"])
def test_ego4d_sta_scores_a_file_as_published_and_corrected(tmp_path, key):
    done = score(tmp_path, annotations(key), predictions())
    assert done.code == 0, done.err
    assert (
        "3 annotated objects in 3 images of 2 videos; 2 predictions, none in 1 images" in done.out
    )
    found = json.loads((tmp_path / "out/results.json").read_text())
    measures = ("noun", "noun_verb", "noun_ttc", "overall")
    # the false verb of an image with one object is dropped by the top-5 rule
    assert [found["published"][name] for name in measures] == [100, 50, 100, 50]
    corrected = [found["corrected"][name] for name in measures]
    assert corrected == pytest.approx([200 / 3, 100 / 3, 200 / 3, 100 / 3])
    assert found["images_without_predictions"] == 1
    assert found["corrected"]["noun_interval"] == pytest.approx([0, 100])  # only b, or only a
    with open(tmp_path / "out/nouns.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "cup_(cup, mug)"
    assert row["objects"] == "3"
    table = done.out.splitlines()
    assert any(line.split()[:2] == ["published", "100.00"] for line in table)
    assert any(line.split()[-4:] == ["15.20", "6.75", "5.41", "2.70"] for line in table)


def test_one_video_has_no_interval(tmp_path):
    real, found = annotations(), predictions()
    del real["annotations"][2], found["results"]["b_0000030"]
    done = score(tmp_path, real, found)
    assert done.code == 0, done.err
    scores = json.loads((tmp_path / "out/results.json").read_text())["corrected"]
    assert scores["noun"] == 100
    assert scores["noun_interval"] is None


def test_top_1_keeps_false_positives_and_intervals_can_be_left_out(tmp_path):
    found = predictions()
    found["results"]["a_0000045"].append({**ROW, "box": [100, 20, 120, 40], "score": 0.95})
    done = score(tmp_path, annotations(), found, "top_k=1 resamples=0")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out/results.json").read_text())["published"]
    assert results["noun"] == pytest.approx(100 * 2 / 3)
    assert results["noun_interval"] is None


def test_boxes_outside_the_image_are_reported_and_scored(tmp_path):
    real = annotations()
    real["annotations"][1]["objects"][0]["box"] = [10, 20, 193, 90]
    real["annotations"][2]["objects"][0]["box"] = [10, 20, 10, 90]
    done = score(tmp_path, real, predictions())
    assert done.code == 0, done.err
    assert "2 annotated boxes are empty or not inside the image" in done.out
    with open(tmp_path / "out/problems.csv") as file:
        outside, empty = csv.DictReader(file)
    assert outside["file"].endswith("real.json")
    assert outside["field"] == "annotations[1].objects[0].box"
    assert "not inside the 192 x 108 of a_0000090" in outside["problem"]
    assert "empty" in empty["problem"]


def test_annotations_without_objects_are_named(tmp_path):
    real = annotations()
    for image in real["annotations"]:
        image["objects"] = []
    done = score(tmp_path, real, predictions())
    assert done.code == 1
    assert "real.json: annotations has no image with an object" in done.err


DELETE = object()
REAL_FAULTS = [
    (
        ("annotations", 1, "objects", 0, "noun_category_id"),
        5,
        "noun_category_id is 5, which is not",
    ),
    (("annotations", 1, "objects", 0, "verb_category_id"), DELETE, "verb_category_id is missing"),
    (("annotations", 1, "objects", 0, "time_to_contact"), -0.1, "must be at least 0 s"),
    (("annotations", 1, "objects", 0, "time_to_contact"), float("nan"), "not a finite number"),
    (("annotations", 1, "objects", 0, "box"), [1, 2, 3], "box has 3 numbers"),
    (("annotations", 1, "objects", 0, "box"), [1, 2, "3", 4], 'box.x2 is "3", not of type'),
    (
        ("annotations", 1, "objects", 0),
        7,
        "annotations[1].objects[0] is of type int, not an object",
    ),
    (("annotations", 1, "objects"), DELETE, "the test set has no objects"),
    (("annotations", 1, "uid"), "a_0000045", "annotations[1].uid: a_0000045 is the uid of another"),
    (
        ("annotations", 1, "video_id"),
        "c",
        "annotations[1].video_id: c is not in info.video_metadata",
    ),
    (("annotations",), [], "annotations is empty"),
    (("annotations", 0, "frame"), -3, "annotations[0].frame is -3, not a whole number of at"),
    (("annotations", 0, "frame"), 2.5, "annotations[0].frame is 2.5, not a whole number of at"),
    (("annotations", 1, "objects", 0, "verb_category_id"), True, "is true, not of type int"),
    (("info", "video_metadata", "a", "frame_height"), 0, "frame_height is 0, not a whole number"),
    (("noun_categories", 1, "id"), 4, "noun_categories[1].id: 4 is the id of another class"),
    (("info", "video_metadata", "a", "frame_width"), DELETE, "frame_width is missing"),
    (("noun_categories",), DELETE, "noun_categories is missing"),
]
FOUND_FAULTS = [
    (("results", "a_0000090"), DELETE, "no list for 1 of 3 annotated images, such as a_0000090"),
    (("results", "a_0000090", 0, "score"), DELETE, "results.a_0000090[0].score is missing"),
    (("results", "a_0000090", 0, "score"), True, "score is true, not of type int or float"),
    (("results", "a_0000090", 0, "noun_category_id"), 99, "which is not one of the 2 classes"),
    (("results",), {key: [] for key in predictions()["results"]}, "no prediction for any"),
]


@pytest.mark.parametrize(
    ("file", "place", "value", "message"),
    [("real", *fault) for fault in REAL_FAULTS] + [("found", *fault) for fault in FOUND_FAULTS],
)
def test_faults_are_named_by_file_and_field(tmp_path, file, place, value, message):
    data = copy.deepcopy({"real": annotations(), "found": predictions()})
    parent = data[file]
    for key in place[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    done = score(tmp_path, data["real"], data["found"])
    assert done.code == 1
    assert f"{file}.json" in done.err
    assert message in done.err
    assert not (tmp_path / "out/results.json").exists()


def test_a_file_that_is_no_json_is_an_error(tmp_path):
    (tmp_path / "real.json").write_text("{")
    done = run(MODULE, f"annotations={tmp_path}/real.json out={tmp_path}/out")
    assert done.code == 1
    assert "real.json is not a readable JSON file" in done.err
