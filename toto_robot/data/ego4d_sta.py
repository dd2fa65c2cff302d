"""Read annotations and predictions of Ego4D's short-term object interaction anticipation (STA).

The annotations `fho_sta_{train,val}.json` have a list of `annotations`, one for each image. Each
has a `uid`, the video (`video_id` in version 1, `video_uid` in version 2), the number of the
`frame`, and `objects` with `box`, `noun_category_id`, `verb_category_id` and `time_to_contact`.
`info.video_metadata` has the image size of each video; `noun_categories` and `verb_categories` have
the classes. Predictions are one list per image, with the same fields and a `score`:

    {"results": {"<uid>": [{"box": [x1, y1, x2, y2], "noun_category_id": 3, "verb_category_id": 8,
                            "time_to_contact": 0.75, "score": 0.6}, ...], ...}}
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

__all__ = ["StaAnnotations", "StaObjects", "read_sta_annotations", "read_sta_predictions"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StaObjects:
    """The objects of one image that the person touches next: annotated or predicted.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels.
        nouns: number of the class (noun) of each object.
        verbs: number of the class (verb) of each interaction.
        times: time until the contact, in seconds.
        scores: confidence of each prediction; 1 for annotations.
    """

    boxes: Float[ndarray, "n 4"]
    nouns: Int[ndarray, " n"]
    verbs: Int[ndarray, " n"]
    times: Float[ndarray, " n"]
    scores: Float[ndarray, " n"]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaImage:
    """An annotated image.

    Attributes:
        uid: name of the image.
        video: name of the video.
        frame: number of the image in the video.
        size: width and height of the image, in pixels.
        objects: the annotated objects.
    """

    uid: str
    video: str
    frame: int
    size: tuple[int, int]
    objects: StaObjects


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StaAnnotations:
    """The annotations of one file.

    Attributes:
        images: the images, in the order of the file.
        nouns: maps the number of each noun to its name.
        verbs: maps the number of each verb to its name.
        problems: pairs of a field of the file and its fault, such as a box outside the image. The
            objects with these faults are kept, as in the official evaluation.
    """

    images: tuple[StaImage, ...]
    nouns: Mapping[int, str]
    verbs: Mapping[int, str]
    problems: tuple[tuple[str, str], ...]

    @property
    def num_objects(self) -> int:
        """Return the number of objects in all images."""
        return sum(len(image.objects) for image in self.images)


def read_sta_annotations(path: Path) -> StaAnnotations:
    """Return the annotations of a file of version 1 or 2.

    Raises:
        ValueError: the file is not readable, or a field is missing or has an invalid value, such as
            an unknown class; the message names the file and the field.
    """
    data = _read_json(path)
    nouns, verbs = (
        _categories(_field(data, name, list, f"{path}:"), f"{path}: {name}")
        for name in ("noun_categories", "verb_categories")
    )
    info = _field(data, "info", dict, f"{path}:")
    videos = _field(info, "video_metadata", dict, f"{path}: info")
    images: dict[str, StaImage] = {}
    problems: list[tuple[str, str]] = []
    for number, row in enumerate(_field(data, "annotations", list, f"{path}:")):
        place = f"{path}: annotations[{number}]"
        uid = _field(row, "uid", str, place)
        if uid in images:
            raise ValueError(f"{place}.uid: {uid} is the uid of another annotation")
        if "objects" not in row:
            raise ValueError(f"{place}.objects is missing; the file of the test set has no objects")
        key = "video_uid" if "video_uid" in row else "video_id"
        video = _field(row, key, str, place)
        if video not in videos:
            raise ValueError(f"{place}.{key}: {video} is not in info.video_metadata")
        where = f"{path}: info.video_metadata.{video}"
        width, height = (
            _whole_number(videos[video], name, where, 1) for name in ("frame_width", "frame_height")
        )
        objects = _objects(_field(row, "objects", list, place), nouns, verbs, f"{place}.objects")
        images[uid] = StaImage(
            uid=uid,
            video=video,
            frame=_whole_number(row, "frame", place, 0),
            size=(width, height),
            objects=objects,
        )
        for i, (x1, y1, x2, y2) in enumerate(objects.boxes):
            box = f"annotations[{number}].objects[{i}].box", f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
            if x2 <= x1 or y2 <= y1:
                problems.append((box[0], f"{box[1]} of image {uid} is empty"))
            elif min(x1, y1) < 0 or x2 > width or y2 > height:
                problems.append((box[0], f"{box[1]} is not inside the {width} x {height} of {uid}"))
    if not images:
        raise ValueError(f"{path}: annotations is empty")
    if not any(len(image.objects) for image in images.values()):
        raise ValueError(f"{path}: annotations has no image with an object")
    return StaAnnotations(
        images=tuple(images.values()), nouns=nouns, verbs=verbs, problems=tuple(problems)
    )


def read_sta_predictions(path: Path, annotations: StaAnnotations) -> list[StaObjects]:
    """Return the predictions for the annotated images, in the order of the annotations.

    Predictions for other images are ignored, as in the official evaluation.

    Raises:
        ValueError: the file is not readable, an annotated image has no list of predictions, a field
            is missing or has an invalid value, or all lists are empty; the message names the file
            and the field.
    """
    results = _field(_read_json(path), "results", dict, f"{path}:")
    missing = [image.uid for image in annotations.images if image.uid not in results]
    if missing:
        raise ValueError(
            f"{path}: results has no list for {len(missing)} of {len(annotations.images)} "
            f"annotated images, such as {missing[0]}; an image without predictions needs an empty "
            "list"
        )
    predictions = [
        _objects(
            _field(results, image.uid, list, f"{path}: results"),
            annotations.nouns,
            annotations.verbs,
            f"{path}: results.{image.uid}",
            scored=True,
        )
        for image in annotations.images
    ]
    if not any(map(len, predictions)):
        raise ValueError(f"{path}: results has no prediction for any annotated image")
    return predictions


def _objects(
    rows: list[Any],
    nouns: Mapping[int, str],
    verbs: Mapping[int, str],
    place: str,
    *,
    scored: bool = False,
) -> StaObjects:
    boxes, numbers = [], []
    for i, row in enumerate(rows):
        where = f"{place}[{i}]"
        box = _field(row, "box", list, where)
        corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=False))
        if len(box) != 4:
            raise ValueError(f"{where}.box has {len(box)} numbers, not x1, y1, x2, y2")
        boxes.append([_number(corners, name, f"{where}.box") for name in corners])
        time = _number(row, "time_to_contact", where)
        if time < 0:
            raise ValueError(f"{where}.time_to_contact is {time}; it must be at least 0 s")
        noun = _category(row, "noun_category_id", nouns, where)
        verb = _category(row, "verb_category_id", verbs, where)
        numbers.append((noun, verb, time, _number(row, "score", where) if scored else 1.0))
    table = np.array(numbers, float).reshape(-1, 4)
    return StaObjects(
        boxes=np.array(boxes, float).reshape(-1, 4),
        nouns=table[:, 0].astype(np.int64),
        verbs=table[:, 1].astype(np.int64),
        times=table[:, 2],
        scores=table[:, 3],
    )


def _categories(rows: list[Any], place: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for i, row in enumerate(rows):
        number = _field(row, "id", int, f"{place}[{i}]")
        if number in found:
            raise ValueError(f"{place}[{i}].id: {number} is the id of another class")
        found[number] = _field(row, "name", str, f"{place}[{i}]")
    return found


def _category(row: Any, key: str, known: Mapping[int, str], place: str) -> int:
    value = _field(row, key, int, place)
    if value not in known:
        raise ValueError(f"{place}.{key} is {value}, which is not one of the {len(known)} classes")
    return value


def _number(row: Any, key: str, place: str) -> float:
    value = _field(row, key, (int, float), place)
    if not math.isfinite(value):
        raise ValueError(f"{place}.{key} is {value}, not a finite number")
    return float(value)


def _whole_number(row: Any, key: str, place: str, least: int) -> int:
    value = _number(row, key, place)
    if value != int(value) or value < least:
        raise ValueError(f"{place}.{key} is {value:g}, not a whole number of at least {least}")
    return int(value)


def _field(row: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """Return a value of a JSON object, and check that it exists and its type is right."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(one.__name__ for one in kinds)
    if not isinstance(row, dict):
        raise ValueError(f"{place} is of type {type(row).__name__}, not an object with {key!r}")
    name = f"{place} {key}" if place.endswith(":") else f"{place}.{key}"
    if key not in row:
        raise ValueError(f"{name} is missing")
    if not isinstance(row[key], kinds) or isinstance(row[key], bool):
        raise ValueError(f"{name} is {json.dumps(row[key])[:60]}, not of type {names}")
    return row[key]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error})") from error
