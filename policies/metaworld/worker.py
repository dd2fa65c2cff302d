"""Run environments of Meta-World in a process of its own, for `policies.metaworld.process`.

    <python of Meta-World's environment> worker.py DESCRIPTOR

The file imports nothing of this project, so this environment needs only the package `metaworld`.
Each line of the standard input is a request as JSON, `{"call": "reset", "seeds": [0, 1]}`. An
answer is written to the open file DESCRIPTOR, not to the standard output, because packages print:
8 bytes with its length, and an `.npz` archive. If a request fails, the archive has only the text
`error`. The first request is `open`.
"""

import io
import json
import os
import re
import struct
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

# These cameras hang upside down: the top of their image points to the floor.
UPSIDE_DOWN = "corner[234]?"
# Materials whose colour changes; the colour multiplies the texture.
SURFACES = ("table_wood", "basic_floor", "wall_metal")
CAMERA_SHIFT_M = 0.04  # along each axis
FIELD_OF_VIEW_DEG = 2.0


class World:
    """An environment of one task, with its cameras.

    Attributes:
        env: the environment of Meta-World. Its observation contains the goal, for the expert.
    """

    def __init__(
        self,
        task: str,
        cameras: list[str],
        image_size: int,
        shadows: bool,
        samples: int,
        appearance: str,
    ) -> None:
        env = self.env = ALL_V3_ENVIRONMENTS[task]()
        # The space is cached, and would clip the goal of the observation to zero.
        del env.sawyer_observation_space
        env._partially_observable = False
        env.max_path_length = sys.maxsize  # the requests have their own limits
        env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
        self._cameras, self._changes = cameras, appearance == "changed"
        model = env.model
        self._original = {name: getattr(model, name).copy() for name in _FIELDS}
        if cameras:
            known = [model.camera(number).name for number in range(model.ncam)]
            if unknown := [name for name in cameras if name not in known]:
                raise ValueError(f"unknown cameras {unknown}; known: {', '.join(known)}")
            model.vis.quality.offsamples = samples
            self._renderer = mujoco.Renderer(model, image_size, image_size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = shadows

    def reset(self, seed: int) -> dict[str, Any]:
        """Begin the episode of a seed, which determines the start, the goal and the appearance."""
        for name, value in self._original.items():
            getattr(self.env.model, name)[:] = value
        if self._changes:
            _change(self.env.model, np.random.default_rng(seed))
        self.env.seed(seed)
        return self._seen(self.env.reset()[0], success=False)

    def step(self, action: Any) -> dict[str, Any]:
        """Take an action [4] in [-1, 1]."""
        action = np.clip(np.asarray(action, np.float32), -1, 1)
        observation, _, _, _, info = self.env.step(action)
        return self._seen(observation, success=bool(info["success"]))

    def _seen(self, observation: Any, success: bool) -> dict[str, Any]:
        frames = []
        for camera in self._cameras:
            self._renderer.update_scene(self.env.data, camera)
            frame = self._renderer.render()
            frames.append(np.rot90(frame, 2) if re.fullmatch(UPSIDE_DOWN, camera) else frame)
        return {
            "frames": np.stack(frames).copy() if frames else np.zeros((0, 0, 0, 3), np.uint8),
            "observation": np.asarray(observation, np.float64),
            "success": np.asarray(success),
        }


class Worker:
    """The requests that the process answers."""

    def __init__(self) -> None:
        self._worlds: list[World] = []
        self._arguments: dict[str, Any] = {}
        self._task = ""

    def open(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Open a task, and return the versions and the names of all tasks."""
        if task not in ALL_V3_ENVIRONMENTS or task not in ENV_POLICY_MAP:
            raise ValueError(f"unknown task {task!r}; known: {', '.join(ALL_V3_ENVIRONMENTS)}")
        if (task, arguments) != (self._task, self._arguments):
            self._task, self._arguments, self._worlds = task, arguments, []
        self._need(1)
        names = ("metaworld", "mujoco", "numpy")
        return {"versions": np.array([f"{name} {_version(name)}" for name in names])}

    def demonstrate(self, seed: int, steps_after_success: int, max_steps: int) -> dict[str, Any]:
        """Run the scripted expert, until some steps after its success."""
        (world,) = self._need(1)
        expert = ENV_POLICY_MAP[self._task]()
        steps, actions, left = [world.reset(seed)], [], None
        while len(actions) < max_steps and left != 0:
            actions.append(np.clip(expert.get_action(steps[-1]["observation"]), -1, 1))
            steps.append(world.step(actions[-1]))
            if left is None and steps[-1]["success"]:
                left = steps_after_success + 1
            left = None if left is None else left - 1
        return {"actions": np.array(actions, np.float32), **_stacked(steps)}

    def reset(self, seeds: list[int]) -> dict[str, Any]:
        """Begin one episode per seed."""
        worlds = self._need(len(seeds))
        return _stacked([world.reset(seed) for world, seed in zip(worlds, seeds)])  # noqa: B905

    def step(self, rows: list[int], actions: list[list[float]]) -> dict[str, Any]:
        """Take one action in each of the episodes with the numbers `rows`."""
        pairs = zip(rows, actions)  # noqa: B905
        return _stacked([self._worlds[row].step(action) for row, action in pairs])

    def _need(self, count: int) -> list[World]:
        while len(self._worlds) < count:
            self._worlds.append(World(self._task, **self._arguments))
        return self._worlds[:count]


_FIELDS = (
    "light_dir", "light_diffuse", "light_ambient", "mat_rgba", "cam_pos", "cam_fovy",
)  # fmt: skip


def _change(model: Any, rng: np.random.Generator) -> None:
    """Change the light, the colours of table, floor and walls, and the cameras of a model."""
    tilt = rng.uniform(-0.4, 0.4, model.light_dir.shape)
    model.light_dir[:] = model.light_dir + tilt
    model.light_diffuse[:] = model.light_diffuse * rng.uniform(0.5, 1.3, (model.nlight, 3))
    model.light_ambient[:] = model.light_ambient * rng.uniform(0.5, 1.3, (model.nlight, 1))
    for number in range(model.nmat):
        colour = rng.uniform(0.4, 1.0, 3)
        if model.material(number).name in SURFACES:
            model.mat_rgba[number, :3] *= colour
    for number in range(model.ncam):
        shift = rng.uniform(-CAMERA_SHIFT_M, CAMERA_SHIFT_M, 3)
        model.cam_fovy[number] += rng.uniform(-FIELD_OF_VIEW_DEG, FIELD_OF_VIEW_DEG)
        if model.cam_bodyid[number] == 0:  # a camera on the hand keeps its place
            model.cam_pos[number] += shift


def _stacked(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(int(sys.argv[1]), "wb")
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: Any = getattr(worker, request.pop("call"))(**request)
        except Exception as error:  # it is raised again by the process that asked
            answer = {"error": np.array(f"{type(error).__name__}: {error}")}
        archive = io.BytesIO()
        np.savez(archive, **answer)  # pyrefly: ignore
        answers.write(struct.pack("<Q", len(archive.getvalue())) + archive.getvalue())
        answers.flush()


if __name__ == "__main__":
    main()
