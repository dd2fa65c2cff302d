"""Use a third-party Gymnasium environment without changes, although it has no `interface`.

    python -m policies.train env=gymnasium env.id=module:Id-v0 expert=module:function

The action and observation spec is derived from the observation space and the action space:

- Cameras: images are found in the same way as by the wrappers (`toto_robot.wrappers.images`). If
  the observation contains no image, the image that `render()` returns is used.
- Proprioception: all vectors and discrete entries of the observation are concatenated, or only the
  entries that `env.proprio` lists.
- Actions: the limits of the action space are mapped to -1 and 1.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.interface import LIMITS, CameraSpec, Interface
from toto_robot.rendering import configure
from toto_robot.wrappers.images import ImageEntry, NoImageError, find_images, read_entry

from .named_expert import ADAPTER, named, with_env

__all__ = ["AdaptedEnv", "GymnasiumEnv", "all_tasks_completed", "leaves", "open_env"]

SUCCESS = ("success", "is_success")
_RATE_HZ = 10.0  # control rate of environments without `render_fps`
_ENTRY = re.compile(r"(?P<name>.*?)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?")
_VECTORS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True, kw_only=True, slots=True)
class GymnasiumEnv:
    """Settings of a third-party environment that is used without changes.

    Attributes:
        id: environment id for `gymnasium.make`. With `module:name`, the module is imported first.
        kwargs: keyword arguments for `gymnasium.make`, for example `max_episode_steps`.
        proprio: entries of the observation that are used as proprioception, for example `state` or
            `state[0:4]`. None: all vectors and discrete entries. Set this if some entries contain
            what the policy should learn to recognise in the images, for example the goal.
        success: `module:function` that returns whether the task has succeeded. The arguments of the
            function are `info`, or `info` and the environment. None: `info["success"]` or
            `info["is_success"]` is used.
        cameras: paths or names of the images to use; None: all images that are found in the
            observation, or the image of `render()`.
        exclude: paths or names of images that are not used.
        layout: order of the axes of images whose shape is ambiguous: `hwc`, `chw` or `hw`; None: it
            is derived from the shape.
        colour_order: order of the colour channels: `rgb` or `bgr`.
        flip: the operation that makes the images upright: `vertical` or `rotate180`; None: the
            images are upright.
    """

    kind: ClassVar[str] = "gymnasium"
    id: str
    kwargs: dict[str, Any]
    proprio: tuple[str, ...] | None
    success: str | None
    cameras: tuple[str, ...] | None
    exclude: tuple[str, ...]
    layout: str | None
    colour_order: str
    flip: str | None


def all_tasks_completed(info: Mapping[str, Any], env: Any) -> bool:
    """Return whether an episode of Franka Kitchen has completed all tasks that were requested.

    For `env.success=policies.gymnasium_env:all_tasks_completed`, because the info of
    `FrankaKitchen-v1` has no `success`.

    Raises:
        ValueError: this is another environment.
    """
    if "episode_task_completions" not in info:
        raise ValueError(
            "env.success=...:all_tasks_completed is for Franka Kitchen; the info of this "
            f"environment has {sorted(info)}"
        )
    return set(info["episode_task_completions"]) >= set(env.goal)


def open_env(name: str, options: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment by its id, without the checks of Gymnasium, which are slow.

    Raises:
        ValueError: the id, its module or an option is unknown.
    """
    try:
        # the passive checker takes as long as the physics of a step
        return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        known = ", ".join(sorted(name for name in gymnasium.registry if name.startswith("toto/")))
        raise ValueError(f"{error} Environments of this project: {known}") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"environment {name!r}: {error}") from error
    except TypeError as error:  # an argument that the environment does not have
        raise ValueError(f"{name} with {dict(options)}: {error}") from error


class AdaptedEnv(gymnasium.Wrapper):
    """A wrapper that converts the observations and actions of a third-party environment.

    Observations are `image_<camera>` and `proprio`, and actions are within [-1, 1], as policies
    need them.

    Args:
        config: settings of the environment.
        with_images: True if the policy uses images.
        privileged: True if an expert acts or labels.
        filmed: True if `render()` must return images for a video.

    Attributes:
        interface: the action and observation spec that was derived from the spaces.
        images: the images of the observation that are used, or the image of `render()`.
        is_rendered: True if the image is that of `render()`.
        raw: the newest observation, as the environment returned it.

    Raises:
        ValueError: the environment does not exist, or its spaces cannot be converted; the message
            says why.
    """

    def __init__(
        self, config: GymnasiumEnv, *, with_images: bool, privileged: bool, filmed: bool = False
    ) -> None:
        env = _opened(config, rendered=filmed)
        images, is_rendered = list[ImageEntry](), False
        if with_images:
            env, images, is_rendered = _find_images(env, config)
        super().__init__(env)
        self.images, self.is_rendered = images, is_rendered
        self._name, self._privileged = config.id.rpartition(":")[2], privileged
        _refuse_frame_stack(env, images, config, self._name)
        self._vectors, others = _vectors(env.observation_space, config, self._name)
        seen = {image.name for image in self.images}
        self._unused = [name for name in others if name not in seen]
        self._low, self._high = _limits(env.action_space, self._name)
        self._success = None
        if config.success is not None:
            function = named(config.success, "env.success")
            self._success = with_env(function, f"env.success={config.success}", "info")
        self.interface = self._interface(config)
        boxes: dict[str, spaces.Space] = {
            f"image_{one.name}": spaces.Box(0, 255, (one.height, one.width, 3), np.uint8)
            for one in self.interface.cameras
        }
        size = len(self.interface.proprio)
        boxes["proprio"] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = spaces.Dict(boxes)
        self.action_space = spaces.Box(-1.0, 1.0, self._low.shape, np.float32)
        self.raw: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the environment, and return the converted observation and the info."""
        raw, info = self.env.reset(seed=seed, options=options)
        return self._observation(raw), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Execute an action [a] within [-1, 1], and add `success` to the info.

        Raises:
            ValueError: the info does not contain whether the task has succeeded.
        """
        box = self.env.action_space
        whole = self._low + (np.asarray(action, np.float64) + 1) / 2 * (self._high - self._low)
        whole = whole.reshape(box.shape).astype(box.dtype)
        raw, reward, terminated, truncated, info = self.env.step(whole)
        success = self._is_success(info)
        return (
            self._observation(raw), reward, terminated, truncated, {**info, "success": success}
        )  # fmt: skip

    def render(self) -> Any:
        """Return the image that the third-party environment renders.

        If it renders no image, return the newest image of the first camera.

        Raises:
            ValueError: there is no image.
        """
        frame = self.env.render() if self.env.render_mode == "rgb_array" else None
        if frame is None and self.images:
            frame = self.image_of(self.images[0], self.raw)
        if frame is None:
            raise ValueError(f"{self._name} renders no images")
        return frame

    @property
    def raw_action_shape(self) -> tuple[int, ...]:
        """Shape of the actions of the third-party environment, with the wrappers that it has."""
        return self.env.action_space.shape or ()

    def scaled(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Scale an action from the units of the third-party environment to [-1, 1].

        Args:
            action: the action, in the shape of the environment's action space.

        Returns:
            [a] the scaled action, flattened.
        """
        unit = 2 * (action.reshape(-1) - self._low) / (self._high - self._low) - 1
        return unit.astype(np.float32)

    def describe(self) -> str:
        """Return a text for the user: which cameras, proprioception and actions were derived."""
        interface = self.interface
        source = "render()" if self.is_rendered else ""
        cameras = [source or image.describe() for image in self.images]
        limits = [
            f"{name} [{low:g}, {high:g}]"
            for name, low, high in zip(interface.action, self._low, self._high, strict=True)
        ]
        rows = {
            "cameras": "; ".join(cameras) or "none",
            "proprioception": ", ".join(interface.proprio),
            "not used": ", ".join(self._unused) or "nothing",
            "actions": ", ".join(limits),
            "success": " or ".join(f"info[{key!r}]" for key in SUCCESS)
            if self._success is None
            else "env.success",
            "rate": f"{interface.rate_hz:g} Hz",
        }
        lines = [f"  {name + ':':<16}{text}" for name, text in rows.items()]
        return "\n".join([f"derived from the spaces of {self._name}:", *lines, ""])

    def proprio_of(self, raw: Any) -> NDArray[np.float32]:
        """Return the proprioception [p] in an observation of the third-party environment."""
        parts = [one.read(raw) for one in self._vectors]
        return np.concatenate(parts) if parts else np.zeros(1, np.float32)

    def _observation(self, raw: Any) -> dict[str, Any]:
        self.raw = raw
        made: dict[str, Any] = {
            f"image_{entry.camera}": self.image_of(entry, raw) for entry in self.images
        }
        made["proprio"] = self.proprio_of(raw)
        if self._privileged:
            made[ADAPTER] = self
        return made

    def image_of(self, entry: ImageEntry, raw: Any) -> NDArray[np.uint8]:
        """Return an image, uint8 [h w 3], of an observation, or the image of `render()`."""
        image = self.env.render() if self.is_rendered else read_entry(raw, entry.path)
        # a copy, because the environment may reuse its array
        return np.array(entry.frames(np.asarray(image)[None])[0], order="C")

    def _is_success(self, info: Mapping[str, Any]) -> bool:
        if self._success is not None:
            return bool(self._success(info, self.unwrapped))
        for key in SUCCESS:
            if key in info:
                return bool(info[key])
        raise ValueError(
            f"{self._name}: info has neither 'success' nor 'is_success' but {sorted(info)}: set "
            "env.success=module:function"
        )

    def _interface(self, config: GymnasiumEnv) -> Interface:
        samples = [
            one.frames(np.zeros((1, *one.shape), np.float32 if one.is_float else np.uint8))
            for one in self.images
        ]
        names = [name for one in self._vectors for name in one.names]
        scale = (self._high - self._low) / 2
        rate_hz = (self.env.metadata or {}).get("render_fps") or _RATE_HZ
        reading = config.colour_order + (f", flip {config.flip}" if config.flip else "")
        return Interface(
            arm=self._name,
            cameras=tuple(
                CameraSpec(name=entry.camera, height=frames.shape[-3], width=frames.shape[-2])
                for entry, frames in zip(self.images, samples, strict=True)
            ),
            proprio=tuple(names) or ("constant",),
            action_kind=LIMITS,
            action=tuple(f"action_{index}" for index in range(len(scale))),
            action_scale=tuple(scale.tolist()),
            rate_hz=float(rate_hz),
            image_reading=reading if self.images else None,
            action_middle=tuple(((self._low + self._high) / 2).tolist()),
        )


@dataclass(frozen=True, slots=True)
class _Vector:
    """An entry of the observation, or some elements of it, that is used as proprioception."""

    path: tuple[str | int, ...]
    space: spaces.Space
    elements: slice
    names: tuple[str, ...]

    def read(self, raw: Any) -> NDArray[np.float32]:
        value = spaces.flatten(self.space, read_entry(raw, self.path))
        return np.asarray(value, np.float32)[self.elements]


def _opened(config: GymnasiumEnv, *, rendered: bool) -> gymnasium.Env[Any, Any]:
    """Make the environment.

    Args:
        config: settings of the environment.
        rendered: True: `render()` returns images, if the environment supports this.
    """
    if "mujoco" not in sys.modules and importlib.util.find_spec("mujoco") is not None:
        configure()  # MuJoCo reads its rendering back end when it is imported, by the environment
    env = open_env(config.id, config.kwargs)
    can = "rgb_array" in (env.metadata or {}).get("render_modes", ())
    if rendered and can and env.render_mode is None:
        env.close()
        env = open_env(config.id, {**config.kwargs, "render_mode": "rgb_array"})
    return env


def _find_images(
    env: gymnasium.Env[Any, Any], config: GymnasiumEnv
) -> tuple[gymnasium.Env[Any, Any], list[ImageEntry], bool]:
    """Find the images in the observation space, or use the image of `render()`.

    Returns:
        The environment, which is made again if `render()` is used; a description of each image;
        whether the images come from `render()`.
    """
    choice: dict[str, Any] = {
        "layout": config.layout, "colour_order": config.colour_order, "flip": config.flip
    }  # fmt: skip
    try:
        space = env.observation_space
        entries, _ = find_images(space, cameras=config.cameras, exclude=config.exclude, **choice)
        return env, entries, False
    except NoImageError as error:
        env.close()
        env = _opened(config, rendered=True)
        if env.render_mode != "rgb_array":
            raise ValueError(f"{config.id}: {error}, and it has no render_mode rgb_array") from None
    env.reset(seed=0)
    frame = np.asarray(env.render())
    if config.layout is None and frame.shape[-1:] == (4,):
        choice["layout"] = "hwc"  # RGBA, because `render()` returns no stack of grey images
    (entry,), _ = find_images(spaces.Box(0, 255, frame.shape, np.uint8), **choice)
    return env, [replace(entry, camera="render")], True


def _refuse_frame_stack(
    env: gymnasium.Env[Any, Any], images: Sequence[ImageEntry], config: GymnasiumEnv, name: str
) -> None:
    """Raise ValueError if an observation contains several frames, of which one would be used.

    Vectors become matrices in a frame stack, which are no proprioception unless they are listed.
    """
    found = [image.describe() for image in images if image.stacked]
    inner = env
    while config.proprio is None and isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, gymnasium.wrappers.FrameStackObservation):
            found.append("gymnasium.wrappers.FrameStackObservation")
        inner = inner.env
    if found:
        raise ValueError(
            f"{name} stacks frames ({'; '.join(found)}), but a policy gets one frame per step: "
            "register the environment without the frame stack, and set encoder=stream, whose "
            "embeddings also depend on earlier frames"
        )


def _vectors(
    space: spaces.Space, config: GymnasiumEnv, name: str
) -> tuple[list[_Vector], list[str]]:
    """Choose the entries of the observation that are used as proprioception.

    Args:
        space: the observation space.
        config: settings of the environment.
        name: name of the environment, for messages.

    Returns:
        The chosen entries, and the names of the entries that are not used.
    """
    entries = {"/".join(map(str, path)) or "state": (path, one) for path, one in leaves(space)}
    if config.proprio is None:
        chosen = [key for key, (_, one) in entries.items() if _is_vector(one)]
    else:
        chosen = list(config.proprio)
    made = []
    for text in chosen:
        found = _ENTRY.fullmatch(text)
        assert found is not None  # the pattern accepts every text
        if found["name"] not in entries:
            raise ValueError(
                f"env.proprio: {name} has no {found['name']!r}, it has {sorted(entries)}"
            )
        path, one = entries[found["name"]]
        try:
            size = spaces.flatdim(one)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"env.proprio: {text!r} is no array but {one}") from error
        start, stop = (int(found[key]) if found[key] else None for key in ("start", "stop"))
        elements = slice(start, stop)
        numbers = range(size)[elements]
        if not numbers:
            raise ValueError(f"env.proprio: {text!r} is empty, the entry has {size} elements")
        names = tuple(f"{found['name']}_{number}" for number in numbers)
        made.append(_Vector(path, one, elements, names if size > 1 else (found["name"],)))
    used = {one.path for one in made}
    return made, [key for key, (path, one) in entries.items() if path not in used]


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, _VECTORS) or (isinstance(space, spaces.Box) and len(space.shape) <= 1)


def leaves(
    space: spaces.Space, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], spaces.Space]]:
    """Return the entries of a space that are neither Dict nor Tuple: path and space of each."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        below = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        for key, one in below:
            yield from leaves(one, (*path, key))
    else:
        yield path, space


def _limits(space: spaces.Space, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"{name}: policies need continuous actions (a Box of floats), got {space}")
    low, high = (one.astype(np.float64).reshape(-1) for one in (space.low, space.high))
    if not (np.isfinite([low, high]).all() and (low < high).all()):
        raise ValueError(
            f"{name}: actions need finite limits, got {space}; register the environment with "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, "
            f"gymnasium.spaces.Box(low, high, {space.shape})), with the limits of the robot"
        )
    return low, high
