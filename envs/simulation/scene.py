"""A scene as frozen data, and how it begins and looks in one episode."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import Vector

Quaternion = tuple[float, float, float, float]  # w first
Pattern = Literal["plain", "checker", "planks", "speckle", "blotches"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paint:
    """Colour a surface: red, green and blue in [0, 1], times the grey levels of a pattern."""

    rgb: Vector
    pattern: Pattern = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Place a box.

    Attributes:
        name: also the name of its body.
        size_m: full edge lengths.
        position_m: centre in the world; for a movable box only the default.
        paint: its default look.
        paint_name: of boxes that look alike; the box's own name when None.
        mass_kg: None for a box that never moves.
    """

    name: str
    size_m: Vector
    position_m: Vector
    paint: Paint
    paint_name: str | None = None
    mass_kg: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A rigid piece of a part: a box, a cylinder or a capsule.

    Attributes:
        kind: what `size_m` means: the edges of a box; diameter, diameter and length along z of a
            cylinder or of a capsule (without its round ends).
        position_m: of the middle, in the part's frame.
        quaternion: how it is turned, w first.
        paint: the name of one of the fixture's paints.
        mass_kg: its share of the part's mass.
        solid: whether it touches things.
        grippable: whether it is made for fingers: it resists turning in a grasp.
    """

    kind: Literal["box", "cylinder", "capsule"] = "box"
    size_m: Vector
    position_m: Vector = (0.0, 0.0, 0.0)
    quaternion: Quaternion = (1.0, 0.0, 0.0, 0.0)
    paint: str
    mass_kg: float = 0.0
    solid: bool = True
    grippable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PassiveJoint:
    """Let a part slide (m) or swing (rad) along or about an axis; nothing drives it."""

    kind: Literal["slide", "hinge"]
    axis: Vector
    lower: float
    upper: float
    damping: float
    armature: float
    friction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One rigid body of a fixture.

    Attributes:
        name: also the name of its body and, if it moves, of its joint.
        position_m: of its frame in the fixture's frame; a joint turns about this point.
        joint: None for a part that is fixed to the fixture.
    """

    name: str
    position_m: Vector
    shapes: tuple[Shape, ...]
    joint: PassiveJoint | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixture:
    """A piece of furniture: fixed parts, and parts that slide or swing. Its parts never collide.

    Attributes:
        name: also the name of its body.
        position_m: of its frame in the world; an episode may put it elsewhere.
        paints: the default look of its shapes, by name.
    """

    name: str
    position_m: Vector
    parts: tuple[Part, ...]
    paints: Mapping[str, Paint]


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Place a camera that looks from a point at another.

    Attributes:
        body: what carries it: a body's name, or None for the world.
        position_m: of the lens, in the carrier's frame.
        target_m: a point in the middle of the picture, in the carrier's frame.
        up: direction that is up in the picture, in the carrier's frame.
        fov_y_deg: full vertical opening angle.
    """

    name: str
    body: str | None
    position_m: Vector
    target_m: Vector
    up: Vector
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lighting:
    """Light the scene: one far light and what comes from everywhere, each in [0, 1]."""

    direction: Vector
    diffuse: Vector
    ambient: Vector
    head: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Describe everything around the arm.

    Attributes:
        base_position_m: of the arm.
        base_yaw_rad: of the arm, about the vertical.
        boxes: what there is beside the arm.
        fixtures: furniture with moving parts.
        cameras: the cameras that policies may use.
        viewer: the camera of `render()`, for people.
        lighting: default lighting.
        timestep_s: of the physics.
    """

    base_position_m: Vector
    base_yaw_rad: float
    boxes: tuple[Box, ...]
    cameras: tuple[Camera, ...]
    viewer: Camera
    lighting: Lighting
    timestep_s: float
    fixtures: tuple[Fixture, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Return where everything is when an episode begins, at rest.

    Attributes:
        arm_rad: [j] the arm's joints.
        hand: [h] positions of the hand's servos, rad or m.
        box_poses: [7] position and quaternion (w first) by the name of a movable box.
        box_sizes_m: edges by the name of a box; what is not named has its own.
        fixture_positions_m: [3] by the name of a fixture; its joints begin at 0.
    """

    arm_rad: NDArray[np.float64]
    hand: NDArray[np.float64]
    box_poses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    box_sizes_m: Mapping[str, Vector] = field(default_factory=dict)
    fixture_positions_m: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Bound a level rectangle on which things may stand: its middle, and half its edges."""

    center_m: Vector
    half_m: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Say how carefully a picture is drawn; what is more careful costs time.

    Attributes:
        shadows: whether the far light casts them.
        samples: of each pixel, against jagged edges; 0 for one.
        round_faces: faces around a round shape.
    """

    shadows: bool = False
    samples: int = 0
    round_faces: int = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraShift:
    """Move a camera: metres and radians (rotation vector) in its own frame, and degrees of fov."""

    translation_m: Vector
    rotation_rad: Vector
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Appearance:
    """Say how a scene looks in one episode; what is not named keeps its default.

    Attributes:
        paints: by the name of a paint, or of one of the arm's materials.
        lighting: None for the scene's own.
        camera_shifts: by camera name.
    """

    paints: Mapping[str, Paint] = field(default_factory=dict)
    lighting: Lighting | None = None
    camera_shifts: Mapping[str, CameraShift] = field(default_factory=dict)


def require_known(name: str, names: Collection[str], what: str) -> str:
    """Return the name.

    Raises:
        ValueError: the scene does not have it; the error lists the names that it has.
    """
    if name not in names:
        raise ValueError(f"there is no {what} {name!r} in the scene; known: {', '.join(names)}")
    return name
