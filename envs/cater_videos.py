"""`python -m envs.cater_videos`: render videos of hidden objects in the folder layout of CATER.

The snitch is the golden object that a model must locate. The command writes these files:

    out/videos/<name>.mp4              300 frames at 24 Hz, or every `frame_step`-th of them
    out/scenes/<name>.json             objects, their actions, and the snitch's path
    out/lists/localize/train.txt       `<name>.mp4 <cell of the snitch at the end, 0..35>`
    out/lists/localize/val.txt         the same for the test videos, 30 % of all videos
    out/lists/localize/hidden.txt      the test videos in which a cone covers the snitch at the end

`python -m toto_robot.recognition.cater` reads the videos. See `envs.cater_actions` for the actions.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.data.video import write_video
from toto_robot.files import write_aside, write_json
from toto_robot.runs import claim

from .cater_actions import NUM_FRAMES, RATE_HZ, Plan, cell_of, plan_video
from .simulation.tabletop import Tabletop, Toy

__all__ = ["CaterVideosConfig", "cater_videos"]

HALF_TABLE, TABLE_RGB = 3.4, (0.72, 0.72, 0.7)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaterVideosConfig:
    """Settings of the command `cater_videos`.

    Attributes:
        num_videos: number of videos. A larger number adds videos to existing ones.
        image_size: height and width of the frames, pixels.
        frame_step: every `frame_step`-th of the 300 frames is rendered, always including the last
            frame. 300 must be divisible by this number.
        moving_camera: true for a camera that moves around the table.
        first_seed: seed of the first video; each further video adds 1.
        num_workers: number of processes; each process renders different videos.
    """

    num_videos: int
    image_size: int
    frame_step: int
    moving_camera: bool
    first_seed: int
    num_workers: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_videos", "image_size", "frame_step", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if NUM_FRAMES % self.frame_step:
            raise ValueError(f"frame_step must divide {NUM_FRAMES}, got {self.frame_step}")


def cater_videos(config: CaterVideosConfig, out: Path) -> None:
    """Render the videos that do not exist yet, and write the lists.

    Raises:
        ValueError: the folder has videos with other settings, or another process uses the folder.
    """
    claim(out, config)
    print(
        f"{config.num_videos} videos of {NUM_FRAMES // config.frame_step} frames at "
        f"{RATE_HZ / config.frame_step:g} Hz, seeds {config.first_seed} to "
        f"{config.first_seed + config.num_videos - 1}",
        flush=True,
    )
    names = [_name(config, number) for number in range(config.num_videos)]
    left = [i for i, name in enumerate(names) if not _scene(out, name).is_file()]
    render = partial(_render, config, out)
    if config.num_workers == 1:
        _follow(map(render, left), len(names), len(left))
    else:
        # "spawn", because a forked process would inherit the state of the renderer
        with get_context("spawn").Pool(config.num_workers) as pool:
            _follow(pool.imap_unordered(render, left), len(names), len(left))
    _write_lists(out, names)


def _name(config: CaterVideosConfig, number: int) -> str:
    return f"CATER_new_{config.first_seed + number:06d}"


def _scene(out: Path, name: str) -> Path:
    return out / "scenes" / f"{name}.json"


def _follow(results: Iterable[None], total: int, left: int) -> None:
    """Wait for all results with a progress bar."""
    for _ in tqdm(results, desc="render", unit="video", total=total, initial=total - left):
        pass


def _render(config: CaterVideosConfig, out: Path, number: int) -> None:
    """Render a video, and then write its scene file, which marks the video as complete."""
    name = _name(config, number)
    plan = plan_video(np.random.default_rng(config.first_seed + number), config.moving_camera)
    toys = [Toy(shape=item.shape, size=item.size, rgb=item.rgb) for item in plan.items]
    tabletop = Tabletop(toys, HALF_TABLE, TABLE_RGB, config.image_size)
    frames = [
        tabletop.render(plan.positions[frame], plan.yaws_rad[frame], plan.camera[frame])
        for frame in range(config.frame_step - 1, NUM_FRAMES, config.frame_step)
    ]
    tabletop.close()
    path = out / "videos" / f"{name}.mp4"
    write_video(path, frames, RATE_HZ / config.frame_step, faithful=True)
    write_json(_scene(out, name), _record(plan))


def _record(plan: Plan) -> dict[str, object]:
    """Return the content of a scene file."""
    return {
        "cell": cell_of(plan.positions[-1, 0]),
        "hidden": bool(plan.covered[-1, 0]),
        "objects": [asdict(item) for item in plan.items],
        "movements": [asdict(movement) for movement in plan.movements],
        "snitch_path": plan.positions[:, 0].round(4).tolist(),
        "snitch_covered": np.flatnonzero(plan.covered[:, 0]).tolist(),
    }


def _write_lists(out: Path, names: list[str]) -> None:
    """Write the lists of training and test videos.

    Of every ten videos, the last three are test videos.
    """
    lines: dict[str, list[str]] = {"train": [], "val": [], "hidden": []}
    for number, name in enumerate(names):
        scene = json.loads(_scene(out, name).read_text())
        part = "train" if number % 10 < 7 else "val"
        line = f"{name}.mp4 {scene['cell']}\n"
        lines[part].append(line)
        if part == "val" and scene["hidden"]:
            lines["hidden"].append(line)
    for part, found in lines.items():
        write_aside(out / "lists/localize" / f"{part}.txt", "".join(found))
    counts = {part: len(found) for part, found in lines.items()}
    print(
        f"{counts['train']} training videos and {counts['val']} test videos; the snitch is hidden "
        f"at the end of {counts['hidden']} of these: {out}"
    )


main = command("cater_videos", CaterVideosConfig)(cater_videos)

if __name__ == "__main__":
    main()
