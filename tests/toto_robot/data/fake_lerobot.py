"""LeRobot data sets that tests write as others' recorders do: many episodes in one file."""

import json

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tests.toto_robot.data.fake_videos import RATE, numbered, write

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def stamps_ms(number, lost=(), offset_ms=0, drift_ms=0, restamped=False, rate=RATE):
    """Return number and time of each frame that a camera kept, of so many."""
    kept = [index for index in range(number) if index not in lost]
    places = range(len(kept)) if restamped else kept
    return {
        index: offset_ms + round(place * 1000 / rate) + round(drift_ms * place / max(1, number - 1))
        for index, place in zip(kept, places, strict=True)
    }


def doubled(kept, place, restamped=True, rate=RATE):
    """Return number and time of each frame, with the one at a place twice, as pairs.

    Args:
        kept: the result of `stamps_ms`.
        place: of the frame that comes twice; -1: an extra one comes before the first.
        restamped: all after it come later by a frame; else it comes half a frame after itself.
        rate: frames a second.
    """
    pairs, step_ms = [*kept.items()], round(1000 / rate)
    number, time_ms = pairs[max(place, 0)]
    if not restamped:
        return [*pairs[: place + 1], (number, time_ms + step_ms // 2), *pairs[place + 1 :]]
    later = [(one, time_ms + step_ms) for one, time_ms in pairs[max(place, 0) :]]
    return [*pairs[: max(place, 0)], (number, time_ms), *later]


def video_key(camera):
    """Return a camera's column; a name that is one already stays."""
    return camera if camera.startswith("observation.") else f"observation.images.{camera}"


def write_set(
    folder, lengths, cameras=None, *, info=None, columns=None, tasks=None, keys=12, rate=RATE
):
    """Write a data set whose images are `numbered` through the file; a row's state is its number.

    Args:
        folder: where.
        lengths: steps of each episode.
        cameras: by name, the result of `stamps_ms` or `doubled`; None: one, `eye`, with all frames.
        info: what else `meta/info.json` holds.
        columns: of the table of steps, beside the usual ones: lists of values, one for each row.
        tasks: words by number; episode i has the i-th of them, and the last.
        keys: every how many frames there is a key frame.
        rate: frames a second.
    """
    total = sum(lengths)
    cameras = {"eye": stamps_ms(total, rate=rate)} if cameras is None else cameras
    tasks = {0: "reach"} if tasks is None else tasks
    begins = np.cumsum([0, *lengths])[:-1].tolist()
    features = {
        name: {"dtype": "float32", "shape": [width], "names": None}
        for name, width in (("observation.state", 3), ("action", 2))
    }
    features |= {video_key(name): {"dtype": "video"} for name in cameras}
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / name).mkdir(parents=True)
    about = {
        "codebase_version": "v3.0", "fps": rate, "total_episodes": len(lengths),
        "total_frames": total, "data_path": DATA_PATH, "video_path": VIDEO_PATH,
        "features": features,
    }  # fmt: skip
    about |= {**(info or {}), "features": features | (info or {}).get("features", {})}
    (folder / "meta" / "info.json").write_text(json.dumps(about))
    table = {"task_index": list(tasks), "__index_level_0__": list(tasks.values())}
    parquet.write_table(pa.table(table), folder / "meta" / "tasks.parquet")
    numbers = [list(tasks)[min(index, len(tasks) - 1)] for index in range(len(lengths))]
    rows = {
        "observation.state": [[float(row)] * 3 for row in range(total)],
        "action": [[float(row)] * 2 for row in range(total)],
        "episode_index": [index for index, length in enumerate(lengths) for _ in range(length)],
        "timestamp": [step / rate for length in lengths for step in range(length)],
        "task_index": [one for one, n in zip(numbers, lengths, strict=True) for _ in range(n)],
    } | (columns or {})  # fmt: skip
    parquet.write_table(pa.table(rows), folder / "data" / "chunk-000" / "file-000.parquet")
    episodes = {"episode_index": list(range(len(lengths))), "length": list(lengths)}
    episodes |= {f"data/{name}": [0] * len(lengths) for name in ("chunk_index", "file_index")}
    for name, kept in cameras.items():
        key = video_key(name)
        for part in ("chunk_index", "file_index"):
            episodes[f"videos/{key}/{part}"] = [0] * len(lengths)
        episodes[f"videos/{key}/from_timestamp"] = [begin / rate for begin in begins]
        ends = [(begin + n) / rate for begin, n in zip(begins, lengths, strict=True)]
        episodes[f"videos/{key}/to_timestamp"] = ends
        path = folder / VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        images = numbered(total, 32, 32)
        pairs = [*kept.items()] if isinstance(kept, dict) else kept
        write(path, [images[index] for index, _ in pairs], [time for _, time in pairs], keys=keys)
    parquet.write_table(
        pa.table(episodes), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    )
    return folder
