"""Record the demonstrations of the scripted experts, and read them.

    <data>/scene.json                         settings of the images, and versions of the packages
    <data>/<task>/episode-000000.npz          the successful demonstration of a seed
    <data>/<task>/failures.json               seeds of the other demonstrations

An episode has t frames and t - 1 actions: `frames` uint8 [t c h w 3], `labels` float32 [t-1 4] (the
expert's actions), `proprio` [t 4], `state` [t 3] (position of the first object, m), `success` [t],
`seed`, and the names `camera_names`, `proprio_names` and `state_names`. `toto_robot.sweep` reads
these folders too. In demonstrations with changed appearance, `<task>` is `<task>-changed`; the
episode of a seed has the same motion.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.config import differences, to_dict
from toto_robot.files import write_json, written_aside
from toto_robot.locks import lock
from toto_robot.runs import read_record

from ..rollouts.seeds import TRAINING_SEEDS
from .process import PROPRIO, Appearance, SceneConfig, SuiteProcess

STATE = ("object_x", "object_y", "object_z")
# More failures of the expert than this, beside as many as successes, are an error.
PATIENCE = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """A demonstration without its images: t states and t - 1 actions.

    Attributes:
        path: file of the episode.
        proprio: float32 [t 4], position of the hand (m) and opening of the gripper.
        objects: float32 [t 3], position of the first object, m.
        actions: float32 [t-1 4], the expert's actions, in [-1, 1].
    """

    path: Path
    proprio: NDArray[np.float32]
    objects: NDArray[np.float32]
    actions: NDArray[np.float32]

    def frames(self) -> NDArray[np.uint8]:
        """Return the images uint8 [t c h w 3]."""
        return _arrays(self.path, "frames")["frames"]


def folder_of(data: Path, task: str, appearance: Appearance) -> Path:
    """Return the folder with the demonstrations of a task."""
    return data / (task if appearance == "same" else f"{task}-{appearance}")


def found(folder: Path) -> list[Path]:
    """Return the files of the demonstrations of a task, by seed."""
    return sorted(folder.glob("episode-*.npz"))


def require_scene(data: Path, scene: SceneConfig) -> None:
    """Check that the demonstrations in `data` have the same settings; write them if there are none.

    Raises:
        ValueError: the settings differ; the message lists the differences.
    """
    asked = to_dict(scene)
    del asked["demonstrations"]
    path = data / "scene.json"
    if not path.is_file():
        write_json(path, asked, shared=True)
    there = read_record(path, data)
    there.pop("versions", None)
    if lines := differences(there, asked):
        raise ValueError(
            f"{data} has demonstrations with other settings (there != here); choose another "
            "data=:\n  " + "\n  ".join(lines)
        )


def collect(
    suite: SuiteProcess, data: Path, task: str, scene: SceneConfig, appearance: Appearance
) -> None:
    """Record demonstrations of a task, until there are `scene.demonstrations` successful ones.

    Raises:
        ValueError: the expert fails too often.
    """
    folder = folder_of(data, task, appearance)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, wait=True):  # another command may use the same demonstrations
        _collect(suite, data, task, scene, appearance, folder)


def _collect(
    suite: SuiteProcess,
    data: Path,
    task: str,
    scene: SceneConfig,
    appearance: Appearance,
    folder: Path,
) -> None:
    """Record into a folder that this process has locked."""
    done = len(found(folder))
    if done >= scene.demonstrations:
        return
    versions = suite.open(task, scene, appearance)
    record = read_record(data / "scene.json", data)
    write_json(data / "scene.json", record | {"versions": versions}, shared=True)
    path = folder / "failures.json"
    failures: list[int] = json.loads(path.read_text()) if path.is_file() else []
    with tqdm(total=scene.demonstrations, initial=done, desc=task, unit="episode") as bar:
        for seed in count(TRAINING_SEEDS.start):
            place = folder / f"episode-{seed:06d}.npz"
            if seed in failures or place.is_file():
                continue
            state, actions = suite.demonstrate(seed, scene)
            if not state.success.any():
                failures.append(seed)
                write_json(path, failures)
                if len(failures) > PATIENCE + done:
                    raise ValueError(
                        f"{task}: the expert failed in {len(failures)} episodes and succeeded in "
                        f"{done}; choose another task, or a larger scene.max_steps"
                    )
                continue
            arrays: dict[str, Any] = {
                "frames": state.frames, "labels": actions, "proprio": state.proprio,
                "state": state.objects, "success": state.success, "seed": seed,
                "camera_names": list(scene.cameras), "proprio_names": list(PROPRIO),
                "state_names": list(STATE),
            }  # fmt: skip
            with written_aside(place, shared=True) as aside, aside.open("wb") as file:
                np.savez_compressed(file, **arrays)
            done += 1
            bar.update()
            if done == scene.demonstrations:
                return


def read(data: Path, task: str, scene: SceneConfig, appearance: Appearance) -> list[Recording]:
    """Return the first `scene.demonstrations` demonstrations of a task."""
    paths = found(folder_of(data, task, appearance))[: scene.demonstrations]
    return list(_read(paths))


def _read(paths: list[Path]) -> Iterator[Recording]:
    for path in paths:
        arrays = _arrays(path, "proprio", "state", "labels")
        yield Recording(
            path=path,
            proprio=arrays["proprio"],
            objects=arrays["state"],
            actions=arrays["labels"],
        )


def _arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Return some arrays of an episode; the others are not decompressed.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors
        raise ValueError(f"{path} is damaged ({error!r}); delete it") from error
