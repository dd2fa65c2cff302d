"""Compute actions from recorded joint positions: the joint increments from each frame to the next.

Demonstrations of other projects contain joint positions and gripper states. As in RPT (Radosavovic
et al., arXiv 2306.10007) and real-world MVP (Xiao et al., arXiv 2210.03109), the action of a frame
is the motion to the joint positions and the gripper state of the next frame. Here the action is the
difference of the joint positions, because the arms of this project execute joint increments. With
`actions=own` the actions in the file are kept; the arms of this project cannot execute them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.arms.franka import FRANKA_PANDA
from envs.interface import OWN, CameraSpec, Interface

from .lerobot.demonstration import Array, Demonstration

(_HAND,) = FRANKA_PANDA.hand_servos
MAX_WIDTH_M = _HAND.upper * len(_HAND.joints)
# A motion of the fingers within a frame that a sensor's noise does not cause, m.
_FINGERS_MOVE_M = 5e-4
_FEWEST_FRAMES = 3  # with fewer, a delay of the hand could look like another sign
NUM_JOINTS = len(FRANKA_PANDA.joint_names)


@dataclass(frozen=True, kw_only=True, slots=True)
class PathConfig:
    """Settings for computing actions from the recorded joint positions of a Franka.

    Attributes:
        rate_hz: frame rate of the recording, Hz; None: read the rate from the file. If the file
            contains a rate, the two rates must be equal.
        every: use only every n-th frame. An action is then the motion to the next used frame, and
            the last gripper command before that frame.
        joint_step_rad: joint increment that an action of 1 stands for, rad. Larger increments are
            clipped, and the number of clipped actions is printed.
        image_size: height and width of the images in the result, pixels. Each image is cropped to
            its central square and scaled. None: images are not changed.
        actions: `joints`: an action is the increment to the joint positions of the next frame.
            `own`: the actions in the file are used, in the units of the file.
    """

    rate_hz: float | None
    every: int
    joint_step_rad: float
    image_size: int | None
    actions: Literal["joints", "own"] = "joints"

    def __post_init__(self) -> None:
        if self.actions == "own" and self.every != 1:
            raise ValueError(
                f"actions=own needs every=1, got {self.every}: the file's actions lead to its next "
                "frame"
            )
        if self.every < 1 or self.joint_step_rad <= 0:
            raise ValueError("every must be at least 1, and joint_step_rad must be positive")
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ValueError(f"rate_hz must be positive and finite, got {self.rate_hz}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be positive, got {self.image_size}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JointPath:
    """A recorded episode of t frames, as the reader of a file returns it.

    `demonstration` computes the actions from it.

    Attributes:
        images: uint8 [t h w 3] of each camera, by camera name.
        joints_rad: [t 7], joint positions, rad.
        width_m: [t], distance between the fingers, m; None: only the gripper command is known.
        commands: [t], gripper command at each frame, from -1 (close) to 1 (open).
        columns: additional columns to keep, each [t k] with k numbers per frame, by name.
        task: the task in words.
        facts: data of the whole episode, as in `Demonstration`; also `rate_hz`, the frame rate in
            Hz, if the file contains it.
        own: [t a], the actions in the file; None: the file contains no actions.

    Raises:
        ValueError: shapes, dtypes or lengths are not consistent, a joint position or a gripper
            command is not finite, or there is no camera.
    """

    images: Mapping[str, NDArray[np.uint8]]
    joints_rad: NDArray[np.float64]
    width_m: NDArray[np.float64] | None
    commands: NDArray[np.float64]
    columns: Mapping[str, Array]
    task: str
    facts: Mapping[str, Any]
    own: Array | None = None

    def __post_init__(self) -> None:
        steps = len(np.atleast_1d(self.joints_rad))
        if self.joints_rad.shape != (steps, NUM_JOINTS) or steps < 2:
            raise ValueError(
                f"joints must be [t {NUM_JOINTS}] with t >= 2, got {self.joints_rad.shape}"
            )
        if not self.images:
            raise ValueError("an episode needs at least one camera, got none")
        for name, image in self.images.items():
            odd = image.ndim != 4 or image.shape[-1] != 3 or image.dtype != np.uint8
            if odd or 0 in image.shape:
                raise ValueError(
                    f"images of {name!r} must be uint8 [t h w 3], got {image.dtype} {image.shape}"
                )
        given = {**self.images, "commands": self.commands, **self.columns}
        if self.width_m is not None:
            given["width"] = self.width_m
        if self.own is not None:
            given["actions"] = self.own
        for name, array in given.items():
            if len(array) != steps:
                raise ValueError(f"joints has {steps} steps, but {name} has {len(array)}")
        for name, numbers in (("joints", self.joints_rad), ("commands", self.commands)):
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} must be finite")


def rate_of(path: JointPath, given_hz: float | None, place: str) -> float:
    """Return the frame rate of a recording in Hz.

    Args:
        path: the recording, which may contain the rate.
        given_hz: the rate in the settings; None: not given.
        place: name of the file, for messages.

    Raises:
        ValueError: neither rate is known, the two rates differ, or the rate in the file is not a
            positive number.
    """
    found = path.facts.get("rate_hz")
    if found is None and given_hz is None:
        raise ValueError(f"{place} has no frame rate: set path.rate_hz=<frames per second>")
    rate_hz = given_hz if found is None else found
    if not isinstance(rate_hz, (int, float)) or not 0 < rate_hz < math.inf:
        raise ValueError(f"{place}: the rate must be a positive number of Hz, got {found!r}")
    if given_hz not in (None, rate_hz):
        raise ValueError(
            f"{place} has a rate of {rate_hz:g} Hz, but path.rate_hz={given_hz:g} was given: omit "
            "path.rate_hz; path.every=2 uses every second frame"
        )
    return float(rate_hz)


def demonstration(path: JointPath, config: PathConfig) -> Demonstration:
    """Compute the actions of a recording, and return it as a demonstration.

    The last frame has no label, because there is no next frame. `facts["cut"]` is the number of
    clipped actions.

    Raises:
        ValueError: `actions=own`, but the file has no actions.
    """
    assert config.rate_hz is not None  # see `rate_of`
    rows = slice(None, None, config.every)
    joints = path.joints_rad[rows]
    actions, meaning, num_cut = _actions(path, config)
    images = {name: fitted(frames[rows], config.image_size) for name, frames in path.images.items()}
    names = FRANKA_PANDA.joint_names
    positions = tuple(f"{name}_position" for name in names)
    if path.width_m is None:
        # the previous command; unknown at the first frame, where the first command is used
        hand = np.concatenate([path.commands[:1], _commands(path, config.every)[:-1]])
        hand_name = f"{_HAND.name}_command"
    else:
        hand, hand_name = path.width_m[rows], f"{_HAND.name}_width"
    return Demonstration(
        interface=Interface(
            arm=FRANKA_PANDA.name,
            cameras=tuple(
                CameraSpec(name=name, height=frames.shape[1], width=frames.shape[2])
                for name, frames in images.items()
            ),
            proprio=(*positions, hand_name),
            rate_hz=config.rate_hz / config.every,
            **meaning,
        ),
        images=images,
        proprio=np.column_stack([joints, hand]).astype(np.float32),
        actions=actions,
        labelled=np.arange(len(joints)) < len(joints) - 1,
        columns={name: column[rows] for name, column in path.columns.items()},
        task=path.task,
        facts={**path.facts, "cut": num_cut},
    )


def _actions(
    path: JointPath, config: PathConfig
) -> tuple[NDArray[np.float32], dict[str, Any], int]:
    """Compute the actions of a recording.

    Returns:
        The actions [t a]; the fields of `Interface` that describe the actions; the number of
        clipped actions.
    """
    if config.actions == "own":
        if path.own is None:
            raise ValueError(
                "path.actions=own, but the file has no actions; use path.actions=joints"
            )
        own = path.own.reshape(len(path.own), -1).astype(np.float32)
        names = tuple(f"action[{index}]" for index in range(own.shape[1]))
        meaning = {"action_kind": OWN, "action": names, "action_scale": (1.0,) * len(names)}
        return own, meaning, 0
    joints = path.joints_rad[:: config.every]
    if path.width_m is not None:
        _require_sign(path.width_m, path.commands)
    increments = np.diff(joints, axis=0) / config.joint_step_rad
    actions = np.zeros((len(joints), NUM_JOINTS + 1), np.float32)
    actions[:-1, :-1] = np.clip(increments, -1.0, 1.0)
    actions[:, -1] = np.clip(_commands(path, config.every), -1.0, 1.0)
    names = (*(f"{name}_increment" for name in FRANKA_PANDA.joint_names), f"{_HAND.name}_opening")
    scale = (*(config.joint_step_rad,) * NUM_JOINTS, 1.0)
    meaning = {"action_kind": "joint_increment", "action": names, "action_scale": scale}
    return actions, meaning, int((np.abs(increments) > 1).any(axis=1).sum())


def _commands(path: JointPath, every: int) -> NDArray[np.float64]:
    """Return, for each used frame, the last gripper command before the next used frame.

    A joint increment, too, contains all motion until that frame. The last used frame has no next
    used frame, so its command is at most the last one of the recording.
    """
    steps = len(path.commands)
    return path.commands[np.minimum(np.arange(0, steps, every) + every - 1, steps - 1)]


def _require_sign(width_m: NDArray[np.float64], commands: NDArray[np.float64]) -> None:
    """Raise an error if the fingers mostly move in the other direction than the commands say.

    Args:
        width_m: [t], distance between the fingers, m.
        commands: [t], gripper commands, from -1 (close) to 1 (open).
    """
    moved = np.diff(width_m)
    for motion, sign in (("open", 1), ("close", -1)):
        frames = np.flatnonzero(sign * moved > _FINGERS_MOVE_M)
        others = int((sign * commands[frames] <= 0).sum())
        if len(frames) >= _FEWEST_FRAMES and others > len(frames) / 2:
            raise ValueError(
                f"in {others} of the {len(frames)} frames in which the fingers {motion}, the "
                "gripper's command is another: change the sign and the range of the commands in "
                "the file (the last element of robomimic's actions: -1 open, 1 closed)"
            )


def fitted(images: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """Crop images [t h w 3] to their central squares, and scale them by area averaging.

    Args:
        images: the images.
        side: height and width of the result, pixels; None: return the images unchanged.
    """
    if side is None:
        return images
    height, width = images.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    squares = images[:, top : top + edge, left : left + edge]
    scaled = [cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in squares]
    return np.stack(scaled).astype(np.uint8, copy=False)
