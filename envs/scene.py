"""A scene as frozen data, and how it looks in one episode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Vector = tuple[float, float, float]
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
        name: also the name of its body and of its paint.
        size_m: full edge lengths.
        position_m: centre in the world; for a movable box only the default.
        paint: its default look.
        mass_kg: None for a box that never moves.
    """

    name: str
    size_m: Vector
    position_m: Vector
    paint: Paint
    mass_kg: float | None = None


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
        paints: by the name of a box or of one of the arm's materials.
        lighting: None for the scene's own.
        camera_shifts: by camera name.
    """

    paints: Mapping[str, Paint] = field(default_factory=dict)
    lighting: Lighting | None = None
    camera_shifts: Mapping[str, CameraShift] = field(default_factory=dict)
