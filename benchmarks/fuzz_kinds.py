"""The kinds of files that `benchmarks.fuzz` damages, with their writers and readers.

Readers are imported inside the functions, so that only the worker processes import them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from safetensors.torch import save_file

__all__ = ["KINDS", "Kind", "update_hashes"]

Read = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Attributes:
        make: function that writes valid files into a folder.
        damaged: glob pattern of the files to damage.
        reads: the functions that read the file, by name.
        whole: True if the readers open the folder. False if they open the damaged file.
    """

    make: Callable[[Path], object]
    damaged: str
    reads: dict[str, Read]
    whole: bool = False


def _mp4(folder: Path) -> Path:
    path = folder / "video.mp4"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(10), options={"g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        base = random.integers(0, 256, (48, 64, 3), np.uint8)
        for index in range(12):
            frame = av.VideoFrame.from_ndarray(np.roll(base, index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _image(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / f"image{suffix}"
        pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
        cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (9, 9), 3))

    return make


def _vit_weights() -> dict[str, torch.Tensor]:
    dim = 8
    one = {
        "norm1.weight": (dim,), "norm1.bias": (dim,), "attn.qkv.weight": (3 * dim, dim),
        "attn.qkv.bias": (3 * dim,), "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,),
        "norm2.weight": (dim,), "norm2.bias": (dim,), "mlp.fc1.weight": (16, dim),
        "mlp.fc1.bias": (16,), "mlp.fc2.weight": (dim, 16), "mlp.fc2.bias": (dim,),
    }  # fmt: skip
    shapes = {
        "cls_token": (1, 1, dim), "pos_embed": (1, 17, dim), "norm.weight": (dim,),
        "norm.bias": (dim,), "patch_embed.proj.weight": (dim, 3, 4, 4),
        "patch_embed.proj.bias": (dim,),
    } | {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in one.items()}  # fmt: skip
    return {name: torch.full(shape, 0.1) for name, shape in shapes.items()}


def _safetensors(folder: Path) -> None:
    save_file(_vit_weights(), folder / "vit.safetensors")


def _torch(folder: Path) -> None:
    torch.save({"model": _vit_weights(), "epoch": 3}, folder / "vit.pth")


def _torch_stream(folder: Path) -> None:
    torch.save(_vit_weights(), folder / "old.pth", _use_new_zipfile_serialization=False)


def _npz(folder: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        np.savez(
            folder / f"episode_{index}.npz",
            frames=random.integers(0, 256, (6, 1, 16, 16, 3), np.uint8),
            proprio=random.normal(size=(6, 3)).astype(np.float32),
            labels=random.normal(size=(6, 2)).astype(np.float32),
        )


def _parquet(folder: Path) -> None:
    table = pa.table({"a": list(range(50)), "s": [[0.5] * 3] * 50, "t": ["reach"] * 50})
    parquet.write_table(table, folder / "table.parquet")


def _lerobot(folder: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "observation.images.cam": {"dtype": "video", "shape": [48, 64, 3]},
    }
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / name).mkdir(parents=True)
    video = folder / "videos/observation.images.cam/chunk-000"
    video.mkdir(parents=True)
    _mp4(video).rename(video / "file-000.mp4")
    info = {"codebase_version": "v3.0", "fps": 10, "total_episodes": 2, "total_frames": 12}
    (folder / "meta" / "info.json").write_text(json.dumps(info | paths | {"features": features}))
    tasks = pa.table({"task_index": [0], "__index_level_0__": ["reach"]})
    parquet.write_table(tasks, folder / "meta" / "tasks.parquet")
    rows = {
        "observation.state": [[0.1 * i] * 3 for i in range(12)],
        "action": [[0.1 * i] * 2 for i in range(12)],
        "timestamp": [0.1 * (i % 6) for i in range(12)],
        "frame_index": [i % 6 for i in range(12)],
        "episode_index": [i // 6 for i in range(12)],
        "index": list(range(12)),
        "task_index": [0] * 12,
    }
    parquet.write_table(pa.table(rows), folder / "data" / "chunk-000" / "file-000.parquet")
    camera = "videos/observation.images.cam"
    episodes = {
        "episode_index": [0, 1], "length": [6, 6], "tasks": [["reach"]] * 2,
        "dataset_from_index": [0, 6], "dataset_to_index": [6, 12],
        "data/chunk_index": [0, 0], "data/file_index": [0, 0], f"{camera}/chunk_index": [0, 0],
        f"{camera}/file_index": [0, 0], f"{camera}/from_timestamp": [0.0, 0.6],
        f"{camera}/to_timestamp": [0.6, 1.2],
    }  # fmt: skip
    parquet.write_table(
        pa.table(episodes), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    )


def _encoder(folder: Path) -> None:
    from toto_robot import TotoConfig, save_encoder
    from toto_robot.tokenizers import LightConfig

    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=16, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = TotoConfig(
        codes=8192, dim=16, layers=2, heads=2, mlp_hidden=24, tie_embeddings=True,
        tokens_per_frame=4, frames=4, rope_base=10000.0, norm_eps=1e-5,
    ).build()  # fmt: skip
    save_encoder(folder / "toto", tokenizer, transformer, 1, "mean")


def update_hashes(folder: Path) -> None:
    """Correct the hashes in the folder of a damaged encoder, so that the damaged file is read."""
    toto = folder / "toto"
    try:
        data = json.loads((toto / "config.json").read_bytes())
        data.pop("config_sha256", None)
        data["sha256"] = hashlib.sha256((toto / "weights.safetensors").read_bytes()).hexdigest()
        (toto / "config.json").write_text(json.dumps(data))
    except (ValueError, TypeError, AttributeError):
        return  # after the damage, the file is not a JSON object


def _read_video(path: Path) -> None:
    from toto_robot.data.video import frame_times, read_frames

    frame_times(path)
    read_frames(path)


def _read_clips(path: Path) -> None:
    from toto_robot.data.clips import ByFrames, ClipReader

    reader = ClipReader(
        path,
        size=32,
        frames=4,
        whole=False,
        sampling=ByFrames(stride=1),
        delay=0.0,
        place=lambda _: (0.5, 0.5),
    )
    for clip in reader:
        assert clip.shape == (4, 32, 32, 3)


def _read_image(path: Path) -> None:
    from toto_robot.data.images import read_image, read_square

    read_square(path, 32, 0.5, 0.5)
    read_image(path)


def _load_vit(path: Path) -> None:
    from toto_robot import load_encoder

    load_encoder(path, format="mae", heads=2)


def _read_state(path: Path) -> None:
    from toto_robot.tokenizers.unpickle import read_state

    read_state(path)


def _read_rows(path: Path) -> None:
    from toto_robot.data.tables import read_rows

    read_rows(path)


def _read_demonstrations(path: Path) -> None:
    from toto_robot.probing.episodes import read_demonstrations, read_frames

    found = read_demonstrations(path, "state", None, None, 1, None)
    for file in found.paths:
        read_frames(file, found.view)


def _read_dataset(path: Path) -> None:
    from toto_robot.data.lerobot import LeRobotFolder

    folder = LeRobotFolder(path)
    folder.tasks()
    rows = folder.episodes(folder.cameras)
    for row in rows[:3]:
        times = folder.values(row, ("timestamp", "observation.state", "action"))["timestamp"]
        for camera in folder.cameras:
            folder.images(row, camera, times, rows)


def _read_source(path: Path) -> None:
    from toto_robot.data.sources import LeRobot

    LeRobot(path=path, cameras=()).listing()


def _load_toto(path: Path) -> None:
    from toto_robot import load_encoder

    load_encoder(path / "toto")


LEROBOT: dict[str, Read] = {"data set": _read_dataset, "source": _read_source}
KINDS: dict[str, Kind] = {
    "mp4": Kind(_mp4, "*.mp4", {"video": _read_video, "clips": _read_clips}),
    "png": Kind(_image(".png"), "*.png", {"image": _read_image}),
    "jpeg": Kind(_image(".jpg"), "*.jpg", {"image": _read_image}),
    "safetensors": Kind(_safetensors, "*.safetensors", {"vit": _load_vit, "state": _read_state}),
    "torch": Kind(_torch, "*.pth", {"vit": _load_vit}),
    "torch stream": Kind(_torch_stream, "*.pth", {"vit": _load_vit, "state": _read_state}),
    "npz": Kind(_npz, "*.npz", {"demonstrations": _read_demonstrations}, whole=True),
    "parquet": Kind(_parquet, "*.parquet", {"rows": _read_rows}),
    "lerobot json": Kind(_lerobot, "meta/*.json", LEROBOT, whole=True),
    "lerobot parquet": Kind(_lerobot, "**/*.parquet", LEROBOT, whole=True),
    "lerobot video": Kind(_lerobot, "**/*.mp4", LEROBOT, whole=True),
    "encoder json": Kind(_encoder, "toto/*.json", {"encoder": _load_toto}, whole=True),
    "encoder": Kind(_encoder, "toto/*", {"encoder": _load_toto}, whole=True),
}
