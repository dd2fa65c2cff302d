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
    """The colour of a surface: red, green and blue in [0, 1], multiplied by a grey pattern."""

    rgb: Vector
    pattern: Pattern = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A box with its own body in the simulation, such as the table or the cube.

    Attributes:
        name: name of the box and of its body.
        size_m: [3] full edge lengths, m.
        position_m: [3] centre in the world frame, m. An episode can move a movable box.
        paint: default colour and pattern.
        paint_name: name under which an episode changes the paint; boxes with the same paint
            name are always changed together. None: the name of the box.
        mass_kg: mass, kg; None: the box is fixed to the world.
    """

    name: str
    size_m: Vector
    position_m: Vector
    paint: Paint
    paint_name: str | None = None
    mass_kg: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A primitive shape; several shapes form a rigid body of a fixture (`Part`).

    Attributes:
        kind: `box`, `cylinder` or `capsule`.
        size_m: [3], m. For a box: the edge lengths. For a cylinder or a capsule: the diameter, the
            diameter again, and the length along z. The length of a capsule does not include its
            round ends.
        position_m: [3] centre in the body's frame, m.
        quaternion: [4] orientation in the body's frame, w first.
        paint: name of one of the fixture's paints.
        mass_kg: mass, kg.
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
    """A joint without a motor, such as the slide of a drawer or the hinge of a door.

    Attributes:
        kind: `slide` (along the axis, in m) or `hinge` (about the axis, in rad).
        axis: [3] direction of the axis in the body's frame.
        lower: lowest position, m or rad.
        upper: highest position, m or rad.
        damping: force or torque per velocity, N s/m or N m s/rad.
        armature: additional inertia, kg or kg m^2.
        friction: constant friction, N or N m.
    """

    kind: Literal["slide", "hinge"]
    axis: Vector
    lower: float
    upper: float
    damping: float
    armature: float
    friction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A rigid body of a fixture, such as a drawer.

    Attributes:
        name: name of the body and of its joint.
        position_m: [3] origin of the body's frame in the fixture's frame, m. A hinge rotates about
            this point.
        shapes: the shapes that form the body.
        joint: the joint between the body and the fixture; None: the body is fixed to the fixture.
    """

    name: str
    position_m: Vector
    shapes: tuple[Shape, ...]
    joint: PassiveJoint | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixture:
    """A piece of furniture, such as a cabinet. Its bodies do not collide with each other.

    Attributes:
        name: name of the body that carries all other bodies of the fixture.
        position_m: [3] default position in the world frame, m. An episode can change it.
        parts: the rigid bodies, which are fixed or move on passive joints.
        paints: default colours and patterns, by the name that the shapes use.
    """

    name: str
    position_m: Vector
    parts: tuple[Part, ...]
    paints: Mapping[str, Paint]


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """The position, the viewing direction and the field of view of a camera.

    Attributes:
        name: name of the camera.
        body: name of the body to which the camera is fixed; None: the camera is fixed in the world.
        position_m: [3] position of the lens, m, in the frame of this body or of the world.
        target_m: [3] a point that is at the centre of the image, m, in the same frame.
        up: [3] direction that is upwards in the image, in the same frame.
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
    """The lights of a scene; all strengths are red, green and blue in [0, 1].

    Attributes:
        direction: [3] direction in which the directional light shines, in the world frame.
        diffuse: strength of the directional light.
        ambient: strength of the ambient light.
        head: strength of the light at the camera.
    """

    direction: Vector
    diffuse: Vector
    ambient: Vector
    head: Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The surroundings of the arm: objects, cameras and lights, and the pose of the arm's base.

    Attributes:
        base_position_m: [3] position of the arm's base in the world frame, m.
        base_yaw_rad: rotation of the arm's base about the vertical, rad.
        boxes: fixed and movable boxes.
        cameras: the cameras that policies can use.
        viewer: the camera of `render()`, for videos.
        lighting: default lighting.
        timestep_s: time step of the physics, s.
        fixtures: furniture with moving parts.
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
    """The positions of everything at the start of an episode; all velocities are 0.

    Attributes:
        arm_rad: [j] positions of the arm's j joints, rad.
        hand: [h] positions of the hand's h servos, rad or m.
        box_poses: world pose [7] (position in m, then quaternion, w first) of each movable box, by
            name.
        box_sizes_m: edge lengths [3] of boxes, m, by name; the other boxes keep their size.
        fixture_positions_m: world position [3] of each fixture, m, by name. The joints of the
            fixtures start at 0.
    """

    arm_rad: NDArray[np.float64]
    hand: NDArray[np.float64]
    box_poses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    box_sizes_m: Mapping[str, Vector] = field(default_factory=dict)
    fixture_positions_m: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A horizontal rectangle on which objects can stand.

    Attributes:
        center_m: [3] centre in the world frame, m.
        half_m: [2] half edge lengths along x and y, m.
    """

    center_m: Vector
    half_m: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The quality of rendered images; higher quality takes more time.

    Attributes:
        shadows: whether the directional light casts shadows.
        samples: number of samples per pixel (anti-aliasing); 0: one sample.
        round_faces: number of flat faces that approximate a round shape such as a cylinder.
    """

    shadows: bool = False
    samples: int = 0
    round_faces: int = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraShift:
    """A change of a camera's pose and field of view.

    Attributes:
        translation_m: [3] translation in the frame of the camera, m.
        rotation_rad: [3] rotation vector (axis times angle) in the frame of the camera, rad.
        fov_y_deg: change of the vertical field of view, degrees.
    """

    translation_m: Vector
    rotation_rad: Vector
    fov_y_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Appearance:
    """The changes of colours, lights and cameras for one episode.

    Attributes:
        paints: new paints, by the name of a paint of the scene or of a material of the arm. The
            other paints keep their defaults.
        lighting: new lighting; None: the default lighting of the scene.
        camera_shifts: changes of cameras, by camera name.
    """

    paints: Mapping[str, Paint] = field(default_factory=dict)
    lighting: Lighting | None = None
    camera_shifts: Mapping[str, CameraShift] = field(default_factory=dict)


def require_known(name: str, names: Collection[str], what: str) -> str:
    """Check that a name is known, and return the name.

    Args:
        name: the name to check.
        names: the known names.
        what: what the name refers to, for the message; for example `camera`.

    Raises:
        ValueError: the name is unknown; the message lists the known names.
    """
    if name not in names:
        raise ValueError(f"there is no {what} {name!r} in the scene; known: {', '.join(names)}")
    return name
