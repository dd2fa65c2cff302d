"""Open a data set with LeRobot's own reader and hold every frame against ours; run by hand.

    python tests/lerobot_check.py runs/demos                    # where LeRobot is installed
    python tests/lerobot_check.py runs/demos --without-torchvision

LeRobot has pins of its own (0.6.1: Python 3.12, NumPy < 2.3, torch < 2.12), so it wants an
environment of its own: `pip install 'lerobot[dataset]==0.6.1'` in one. This script needs nothing of
ours but this checkout. Where torchvision cannot be had, `--without-torchvision` stands in for its
import, which reading does not need, and decodes with PyAV.
"""

import argparse
import importlib.machinery
import importlib.metadata
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from policies.demonstrations.lerobot import layout
from policies.demonstrations.lerobot.reader import DatasetReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--without-torchvision", action="store_true")
    arguments = parser.parse_args()
    ours = DatasetReader(arguments.dataset)
    if arguments.without_torchvision:
        stand_in_for_torchvision()
    import lerobot.datasets.lerobot_dataset as theirs

    if arguments.without_torchvision:
        for name in ("lerobot_dataset", "dataset_reader"):
            module = sys.modules.get(f"lerobot.datasets.{name}")
            if module is not None and hasattr(module, "decode_video_frames"):
                module.decode_video_frames = decode_with_pyav
    step_s = 1 / layout.rate_of(ours.interface)
    dataset = theirs.LeRobotDataset(
        "local/check",
        root=arguments.dataset,
        delta_timestamps={"action": [0.0, step_s, 2 * step_s]},
    )
    assert dataset.meta.total_episodes == len(ours), dataset.meta.total_episodes
    total = sum(ours.num_steps(index) for index in range(len(ours)))
    assert len(dataset) == total, (len(dataset), total)
    row, worst = 0, 0.0
    for index in range(len(ours)):
        episode = ours[index]
        assert dataset.meta.episodes[index]["length"] == episode.num_steps
        for step in range(episode.num_steps):
            item = dataset[row]
            worst = max(worst, compare(item, episode, index, step))
            row += 1
    statistics = dataset.meta.stats["action"]
    if int(statistics["count"][0]) == total:  # one more, if killed just before the last file
        actions = np.concatenate([episode.actions for episode in ours])
        assert np.allclose(statistics["mean"], actions.mean(0), atol=1e-5), statistics
    print(
        f"lerobot {importlib.metadata.version('lerobot')}: {len(ours)} episodes, {row} frames, "
        f"{len(ours.columns)} columns of ours; states, actions, times and tasks equal, "
        f"images differ by {worst:.3f} of 255 at most"
    )


def compare(item, episode, index, step) -> float:
    """Hold one step against ours; give by how much its images differ, in grey levels."""
    assert int(item["episode_index"]) == index
    assert int(item["frame_index"]) == step
    assert item["task"] == episode.task
    assert np.array_equal(item[layout.STATE].numpy(), episode.proprio[step])
    chunk = episode.actions[np.minimum(np.arange(step, step + 3), episode.num_steps - 1)]
    assert np.array_equal(item["action"].numpy(), chunk)
    for name, column in episode.columns.items():
        value = item[name]
        if isinstance(value, str):
            assert value == column[step], name
        else:  # LeRobot makes float32 of our float64
            expected = np.asarray(column[step], value.numpy().dtype)
            assert np.array_equal(value.numpy(), expected, equal_nan=expected.dtype.kind == "f"), (
                name
            )
    worst = 0.0
    for camera, images in episode.images.items():
        found = item[layout.video_key(camera)].numpy().transpose(1, 2, 0) * 255.0
        worst = max(worst, float(np.abs(found - images[step]).max()))
    return worst


def stand_in_for_torchvision() -> None:
    """Let `import torchvision` and its transforms succeed; none of it is used to read."""

    def module(name: str) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__path__ = []
        sys.modules[name] = made
        return made

    torchvision, transforms = module("torchvision"), module("torchvision.transforms")
    torchvision.transforms = transforms
    transforms.v2 = module("torchvision.transforms.v2")


def decode_with_pyav(path, timestamps, tolerance_s, *_, **__):
    """Return the frames [n 3 h w] at these times, within [0, 1]: what LeRobot's decoders give."""
    import av
    import torch

    with av.open(str(path)) as container:
        frames = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    times = np.array([time for time, _ in frames])
    rows = [int(np.abs(times - wanted).argmin()) for wanted in timestamps]
    assert np.abs(times[rows] - timestamps).max() < tolerance_s
    chosen = np.stack([frames[row][1] for row in rows])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    main()
