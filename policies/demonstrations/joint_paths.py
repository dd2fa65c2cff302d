"""From the joints that an arm went through to the actions that lead it there.

Others' demonstrations say where joints and hand were. As in RPT and real-world MVP (Radosavovic et
al., arXiv 2306.10007; Xiao et al., arXiv 2210.03109) the action is the way to the next frame's
joints and the next frame's hand, here as the increments that our arms take. By choice it is the
file's own, as it is, which no arm of ours takes.
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
NUM_JOINTS = len(FRANKA_PANDA.joint_names)


@dataclass(frozen=True, kw_only=True, slots=True)
class PathConfig:
    """Say how a Franka's path becomes a demonstration.

    Attributes:
        rate_hz: of the file's frames; None: what the file says. One that it contradicts is refused.
        every: every how many frames one is used; actions then lead that far.
        joint_step_rad: what an action of 1 means; a longer way is cut, and told.
        image_size: side that pictures are scaled to, after they are cut to the square in their
            middle; None: as they are.
        actions: `joints`: the way to the next frame's; `own`: the file's own, in its units.
    """

    rate_hz: float | None
    every: int
    joint_step_rad: float
    image_size: int | None
    actions: Literal["joints", "own"] = "joints"

    def __post_init__(self) -> None:
        if self.actions == "own" and self.every != 1:
            raise ValueError(
                f"actions=own: the file's actions lead to its next frame: every=1, not {self.every}"
            )
        if self.every < 1 or self.joint_step_rad <= 0:
            raise ValueError("every must be at least 1, joint_step_rad positive")
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ValueError(f"rate_hz must be positive and finite, got {self.rate_hz}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be positive, got {self.image_size}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JointPath:
    """What a file says of an episode.

    Attributes:
        pictures: uint8 [t h w 3] of each camera.
        joints_rad: [t 7].
        width_m: [t], between the fingers; None where only the command is known.
        commands: [t], the hand's from each frame on, -1 closed to 1 open.
        columns: what is carried along, [t k].
        task: in words.
        facts: as in `Demonstration`; `rate_hz` is that of the frames, where the file says it.
        own: [t a], the file's own actions; None: it has none.
    """

    pictures: Mapping[str, NDArray[np.uint8]]
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
                f"joints must be [t {NUM_JOINTS}] with two steps or more: {self.joints_rad.shape}"
            )
        if not self.pictures:
            raise ValueError("an episode needs a camera")
        for name, picture in self.pictures.items():
            odd = picture.ndim != 4 or picture.shape[-1] != 3 or picture.dtype != np.uint8
            if odd or 0 in picture.shape:
                raise ValueError(
                    f"pictures of {name!r} must be uint8 [t h w 3], "
                    f"got {picture.dtype} {picture.shape}"
                )
        given = {**self.pictures, "commands": self.commands, **self.columns}
        if self.width_m is not None:
            given["width"] = self.width_m
        if self.own is not None:
            given["actions"] = self.own
        for name, array in given.items():
            if len(array) != steps:
                raise ValueError(f"{steps} steps of joints, but {len(array)} of {name}")
        for name, numbers in (("joints", self.joints_rad), ("commands", self.commands)):
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} must be finite")


def rate_of(path: JointPath, given_hz: float | None, place: str) -> float:
    """Return the rate of a file's frames, Hz: what the file says, or else what was given.

    Raises:
        ValueError: neither says it, they differ, or the file's is no rate.
    """
    found = path.facts.get("rate_hz")
    if found is None and given_hz is None:
        raise ValueError(f"{place} does not say its rate: path.rate_hz=<frames a second>")
    rate_hz = given_hz if found is None else found
    if not isinstance(rate_hz, (int, float)) or not 0 < rate_hz < math.inf:
        raise ValueError(f"{place}: its rate must be a positive number of Hz, it says {found!r}")
    if given_hz not in (None, rate_hz):
        raise ValueError(
            f"{place} says {rate_hz:g} Hz, and path.rate_hz={given_hz:g} was given: leave "
            "path.rate_hz out; path.every=2 uses every second frame"
        )
    return float(rate_hz)


def demonstration(path: JointPath, config: PathConfig) -> Demonstration:
    """Return a demonstration whose last frame has no label; `facts["cut"]` counts those cut.

    Raises:
        ValueError: the file's own actions are asked for and it has none.
    """
    assert config.rate_hz is not None  # see `rate_of`
    rows = slice(None, None, config.every)
    joints, commands = path.joints_rad[rows], path.commands[rows]
    actions, meaning, num_cut = _actions(path, config)
    pictures = {
        name: fitted(frames[rows], config.image_size) for name, frames in path.pictures.items()
    }
    names = FRANKA_PANDA.joint_names
    positions = tuple(f"{name}_position" for name in names)
    if path.width_m is None:
        # what was last commanded; before the first frame nobody knows, so it is that of the first
        hand, hand_name = np.concatenate([commands[:1], commands[:-1]]), f"{_HAND.name}_command"
    else:
        hand, hand_name = path.width_m[rows], f"{_HAND.name}_width"
    return Demonstration(
        interface=Interface(
            arm=FRANKA_PANDA.name,
            cameras=tuple(
                CameraSpec(name=name, height=frames.shape[1], width=frames.shape[2])
                for name, frames in pictures.items()
            ),
            proprio=(*positions, hand_name),
            rate_hz=config.rate_hz / config.every,
            **meaning,
        ),
        pictures=pictures,
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
    """Return the actions, what an Interface says of them, and how many were cut."""
    if config.actions == "own":
        if path.own is None:
            raise ValueError("actions=own: the file has no actions of its own")
        own = path.own.reshape(len(path.own), -1).astype(np.float32)
        names = tuple(f"action[{index}]" for index in range(own.shape[1]))
        meaning = {"action_kind": OWN, "action": names, "action_scale": (1.0,) * len(names)}
        return own, meaning, 0
    joints, commands = path.joints_rad[:: config.every], path.commands[:: config.every]
    increments = np.diff(joints, axis=0) / config.joint_step_rad
    actions = np.zeros((len(joints), NUM_JOINTS + 1), np.float32)
    actions[:-1, :-1] = np.clip(increments, -1.0, 1.0)
    actions[:, -1] = np.clip(commands, -1.0, 1.0)
    names = (*(f"{name}_increment" for name in FRANKA_PANDA.joint_names), f"{_HAND.name}_opening")
    scale = (*(config.joint_step_rad,) * NUM_JOINTS, 1.0)
    meaning = {"action_kind": "joint_increment", "action": names, "action_scale": scale}
    return actions, meaning, int((np.abs(increments) > 1).any(axis=1).sum())


def fitted(pictures: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """Return pictures [t side side 3]: the square in the middle, scaled by area."""
    if side is None:
        return pictures
    height, width = pictures.shape[1:3]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    squares = pictures[:, top : top + edge, left : left + edge]
    scaled = [cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in squares]
    return np.stack(scaled).astype(np.uint8, copy=False)
