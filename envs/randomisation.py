"""Randomisation of episodes, in named groups; `randomisation.yaml` contains the default ranges.

All groups are off by default. Examples:

    gymnasium.make("envs:toto/FrankaPick-v0", randomise=("colours", "lights"))
    gymnasium.make("envs:toto/FrankaPick-v0", randomise={"latency": {"steps": [2, 2]}})
    gymnasium.make("envs:toto/FrankaPick-v0", randomise=suite("camera"))

Every group has its own random generator, so enabling one group does not change the random numbers
of another. The module `envs.variation` draws the random numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from toto_robot.config import from_dict
from toto_robot.moved import moved_names

from .geometry import Vector
from .simulation.scene import Pattern

RANGES = Path(__file__).with_name("randomisation.yaml")

Range = tuple[float, float]
Randomise = Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourRange:
    """The ranges (lowest, highest) of the hue, saturation and value of a random colour.

    Saturation and value are in [0, 1]. Hue has a period of 1 and is in [0, 2], so that a range can
    include red (hue 1): [0.9, 1.1]. One of `patterns` is drawn for the surface.
    """

    hue: Range
    saturation: Range
    value: Range
    patterns: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        _check(self, "hue", 0.0, 2.0)
        _check(self, "saturation", 0.0, 1.0)
        _check(self, "value", 0.0, 1.0)
        if not self.patterns:
            raise ValueError("patterns must name at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class Colours:
    """A colour range for each named surface (`Paint`) of the scene or the arm."""

    paints: dict[str, ColourRange]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lights:
    """Ranges of the lighting: tilt of the directional light (rad), strengths and tint (in [0, 1]).

    `tilt_rad` is the angle between the direction of the light and the vertical. `diffuse`,
    `ambient` and `head` are the strengths of the directional light, of the ambient light and of the
    light at the camera. `tint` is the maximum relative change of red, green and blue.
    """

    tilt_rad: Range
    diffuse: Range
    ambient: Range
    head: Range
    tint: float

    def __post_init__(self) -> None:
        _check(self, "tilt_rad", 0.0, 1.5)
        for name in ("diffuse", "ambient", "head"):
            _check(self, name, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraShifts:
    """Maximum changes of a camera's position, rotation and field of view, in both directions.

    Attributes:
        translation_m: maximum shift along each axis of a camera that is fixed in the world, m.
        carried_translation_m: maximum shift along each axis of a camera on the hand, m.
        rotation_rad: maximum rotation about each axis, rad.
        fov_y_deg: maximum change of the vertical field of view, degrees.
    """

    translation_m: float
    carried_translation_m: float
    rotation_rad: float
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Textures:
    """The surfaces (names of `Paint`) that get a random pattern, and the possible patterns."""

    paints: tuple[str, ...]
    patterns: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("patterns must name at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSize:
    """The range of the scale factor for the edge lengths of the task's object."""

    scale: Range

    def __post_init__(self) -> None:
        _check(self, "scale", 0.1, 10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectPose:
    """Maximum shift (m) and yaw (rad) that are added to the object's pose, in both directions."""

    shift_m: Vector
    yaw_rad: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Distractors:
    """Ranges for distractors: additional boxes that the task does not need.

    Number of boxes, length of each edge (m), minimum distance to the object's centre (m), colour.
    """

    count: tuple[int, int]
    size_m: Range
    clearance_m: float
    colour: ColourRange

    def __post_init__(self) -> None:
        _check(self, "count", 0, 20)
        _check(self, "size_m", 0.01, 0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """The range of the number of control steps between an action and its execution."""

    steps: tuple[int, int]

    def __post_init__(self) -> None:
        _check(self, "steps", 0, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionNoise:
    """Standard deviations of the noise on action elements of arm and hand, which are in [-1, 1]."""

    arm: float
    hand: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProprioNoise:
    """Standard deviations of the noise on `proprio`: arm positions and velocities, hand positions.

    `hand_position` is in rad for a finger joint and in m for a finger of a gripper.
    """

    position_rad: float
    velocity_rad_s: float
    hand_position: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Randomisation:
    """The ranges of every enabled randomisation group; None for a disabled group.

    The order of the fields must not change, because the random generator of a group depends on this
    order.
    """

    colours: Colours | None = None
    lights: Lights | None = None
    camera: CameraShifts | None = None
    textures: Textures | None = None
    object_size: ObjectSize | None = None
    object_pose: ObjectPose | None = None
    distractors: Distractors | None = None
    latency: Latency | None = None
    action_noise: ActionNoise | None = None
    proprio_noise: ProprioNoise | None = None


GROUPS: dict[str, type] = {
    "colours": Colours,
    "lights": Lights,
    "camera": CameraShifts,
    "textures": Textures,
    "object_size": ObjectSize,
    "object_pose": ObjectPose,
    "distractors": Distractors,
    "latency": Latency,
    "action_noise": ActionNoise,
    "proprio_noise": ProprioNoise,
}
assert tuple(GROUPS) == tuple(field.name for field in fields(Randomisation))


def suite(name: str) -> dict[str, dict[str, Any]]:
    """Return the groups and ranges of an evaluation suite, as a value for `randomise=`.

    A suite is a named set of groups in `randomisation.yaml`, for the comparison of policies.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    suites = _read()["suites"]
    if name not in suites:
        raise ValueError(f"unknown suite {name!r}; known: {', '.join(suites)}")
    return {group: dict(ranges) for group, ranges in suites[name].items()}


def suites() -> tuple[str, ...]:
    """Return the names of the evaluation suites."""
    return tuple(_read()["suites"])


def parse(randomise: Randomise) -> Randomisation:
    """Return the ranges of the groups to randomise.

    Args:
        randomise: a sequence of group names, or a mapping from group names to ranges that replace
            the default ranges.

    Raises:
        ValueError: a group or a range is unknown, or the value of a range is invalid; the message
            says what is valid.
    """
    if isinstance(randomise, str):
        raise ValueError(f"randomise takes a sequence of groups, such as ({randomise!r},)")
    chosen = (
        {group: ranges or {} for group, ranges in randomise.items()}
        if isinstance(randomise, Mapping)
        else {group: {} for group in randomise}
    )
    unknown = [group for group in chosen if group not in GROUPS]
    if unknown:
        raise ValueError(
            f"unknown randomise group {', '.join(map(repr, unknown))}; known: {', '.join(GROUPS)}"
        )
    defaults = _read()["groups"]
    return Randomisation(
        **{
            group: from_dict(GROUPS[group], {**defaults[group], **ranges}, at=f"randomise.{group}")
            for group, ranges in chosen.items()
        }
    )


def known_paints() -> tuple[str, ...]:
    """Return the names of all surfaces, of any scene, that have a default colour range."""
    return tuple(_read()["groups"]["colours"]["paints"])


@cache
def _read() -> dict[str, Any]:
    with RANGES.open() as file:
        return yaml.safe_load(file)


def _check(ranges: Any, name: str, least: float, most: float) -> None:
    values = {field.name: getattr(ranges, field.name) for field in fields(ranges)}[name]
    if not least <= values[0] <= values[1] <= most:
        raise ValueError(f"{name} must be ascending, within [{least}, {most}], got {values}")


__getattr__ = moved_names(
    __name__,
    {
        "Variation": f"{__package__}.variation:Variation",
        "draw": f"{__package__}.variation:draw",
        "populate": f"{__package__}.variation:populate",
    },
)
