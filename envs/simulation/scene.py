"""Data classes of a scene, and of the start and the appearance of an episode."""

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
    """A surface colour: red, green and blue in [0, 1], times the grey levels of a pattern."""

    rgb: Vector
    pattern: Pattern = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A box.

    Attributes:
        name: name of the box and its body.
        size_m: [3] full edge lengths, m.
        position_m: [3] centre in the world frame, m; for a movable box only the default.
        paint: default paint.
        paint_name: common paint name of several boxes; None: the box's own name.
        mass_kg: mass, kg; None for a fixed box.
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
        kind: shape type.
        size_m: edges of a box; diameter, diameter and length along z of a cylinder or a capsule
            (without its round ends).
        position_m: centre in the part's frame.
        quaternion: orientation in the part's frame, w first.
        paint: name of one of the fixture's paints.
        mass_kg: mass.
        solid: whether the shape collides with other bodies.
        grippable: whether the shape has torsional friction, so that it does not rotate in a grasp.
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
    """A joint without a motor: a part slides (m) along an axis or rotates (rad) about it."""

    kind: Literal["slide", "hinge"]
    axis: Vector
    lower: float
    upper: float
    damping: float
    armature: float
    friction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A rigid body of a fixture.

    Attributes:
        name: name of its body and, if it moves, of its joint.
        position_m: position of its frame in the fixture's frame; a hinge rotates about this point.
        shapes: the shapes of the body.
        joint: None for a part that is fixed to the fixture.
    """

    name: str
    position_m: Vector
    shapes: tuple[Shape, ...]
    joint: PassiveJoint | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixture:
    """A piece of furniture with fixed and moving parts, which do not collide with each other.

    Attributes:
        name: name of its body.
        position_m: default position of its frame in the world; an episode can change it.
        parts: the rigid bodies.
        paints: default paints of its shapes, by name.
    """

    name: str
    position_m: Vector
    parts: tuple[Part, ...]
    paints: Mapping[str, Paint]


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A camera.

    Attributes:
        name: name of the camera.
        body: name of the body that carries it, or None for the world.
        position_m: position of the lens in the carrier's frame.
        target_m: [3] a point that is at the centre of the image, in the carrier's frame, m.
        up: [3] direction that is upwards in the image, in the carrier's frame.
        fov_y_deg: full vertical field of view, degrees.
    """

    name: str
    body: str | None
    position_m: Vector
    target_m: Vector
    up: Vector
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lighting:
    """The lighting: a directional light, ambient light and a headlight, strengths in [0, 1]."""

    direction: Vector
    diffuse: Vector
    ambient: Vector
    head: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything around the arm.

    Attributes:
        base_position_m: position of the arm's base.
        base_yaw_rad: rotation of the arm's base about the vertical, rad.
        boxes: fixed and movable boxes.
        fixtures: furniture with moving parts.
        cameras: the cameras that policies can use.
        viewer: the camera of `render()`.
        lighting: default lighting.
        timestep_s: time step of the physics, s.
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
    """The start of an episode, at rest.

    Attributes:
        arm_rad: [j] positions of the arm's joints.
        hand: [h] positions of the hand's servos, rad or m.
        box_poses: [7] position and quaternion (w first) by the name of a movable box.
        box_sizes_m: edge lengths by the name of a box; other boxes keep their size.
        fixture_positions_m: [3] position by the name of a fixture; its joints start at 0.
    """

    arm_rad: NDArray[np.float64]
    hand: NDArray[np.float64]
    box_poses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    box_sizes_m: Mapping[str, Vector] = field(default_factory=dict)
    fixture_positions_m: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A horizontal rectangle on which objects can stand: its centre and half edge lengths."""

    center_m: Vector
    half_m: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Render quality; higher quality takes more time.

    Attributes:
        shadows: whether the directional light casts shadows.
        samples: samples per pixel (anti-aliasing); 0: one sample.
        round_faces: number of faces around a round shape.
    """

    shadows: bool = False
    samples: int = 0
    round_faces: int = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraShift:
    """A shift of a camera: translation and rotation vector in its own frame, and field of view."""

    translation_m: Vector
    rotation_rad: Vector
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Appearance:
    """The appearance of a scene in one episode; everything else keeps its default.

    Attributes:
        paints: paint by the name of a scene's paint, or of one of the arm's materials.
        lighting: lighting; None: the scene's own.
        camera_shifts: camera shift by camera name.
    """

    paints: Mapping[str, Paint] = field(default_factory=dict)
    lighting: Lighting | None = None
    camera_shifts: Mapping[str, CameraShift] = field(default_factory=dict)


def require_known(name: str, names: Collection[str], what: str) -> str:
    """Return the name if it is known.

    Raises:
        ValueError: the scene lacks the name; the message lists the known names.
    """
    if name not in names:
        raise ValueError(f"there is no {what} {name!r} in the scene; known: {', '.join(names)}")
    return name
