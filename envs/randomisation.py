"""Vary how a scene looks from episode to episode: named groups, with their ranges as data."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .patterns import PATTERNS
from .scene import Appearance, Camera, CameraShift, Lighting, Paint, Pattern, Scene, Vector

GROUPS = ("colours", "lights", "camera")

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourRange:
    """Bound hue, saturation and value, each in [0, 1], of a random colour."""

    hue: Range = (0.0, 1.0)
    saturation: Range = (0.0, 1.0)
    value: Range = (0.0, 1.0)
    patterns: tuple[Pattern, ...] = ("plain",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """Bound what a group may change.

    Attributes:
        colours: by the name of a box or of one of the arm's materials; what is not named stays.
        light_tilt_rad: angle of the far light from the vertical.
        light_diffuse: strength of the far light.
        light_ambient: strength of the light from everywhere.
        light_head: strength of the light at the camera.
        light_tint: each of red, green and blue is multiplied by 1 plus or minus up to this.
        camera_translation_m: of a camera that stands in the world, along each axis, to either side.
        carried_camera_translation_m: of a camera on the arm, which more would put into the hand.
        camera_rotation_rad: about each axis, to either side.
        camera_fov_y_deg: to either side.
    """

    colours: Mapping[str, ColourRange] = field(
        default_factory=lambda: {
            "cube": ColourRange(saturation=(0.4, 1.0), value=(0.25, 1.0)),
            "table": ColourRange(saturation=(0.0, 0.6), value=(0.3, 1.0), patterns=PATTERNS),
            "floor": ColourRange(saturation=(0.0, 0.6), value=(0.15, 0.9), patterns=PATTERNS),
            "arm": ColourRange(saturation=(0.0, 0.25), value=(0.55, 1.0)),
            "trim": ColourRange(saturation=(0.0, 0.4), value=(0.08, 0.45)),
            "finger": ColourRange(saturation=(0.0, 0.4), value=(0.15, 0.7)),
        }
    )
    light_tilt_rad: Range = (0.0, 1.0)
    light_diffuse: Range = (0.25, 0.8)
    light_ambient: Range = (0.2, 0.5)
    light_head: Range = (0.0, 0.3)
    light_tint: float = 0.12
    camera_translation_m: float = 0.05
    carried_camera_translation_m: float = 0.01
    camera_rotation_rad: float = np.deg2rad(5.0)
    camera_fov_y_deg: float = 5.0


def check_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """Give the groups as a tuple.

    Raises:
        ValueError: for an unknown group, listing the known ones.
    """
    if isinstance(groups, str):
        raise ValueError(f"randomise takes a sequence of groups, such as ({groups!r},)")
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(
            f"unknown randomise group {', '.join(map(repr, unknown))}; known: {', '.join(GROUPS)}"
        )
    return tuple(groups)


def draw_appearance(
    scene: Scene, groups: Sequence[str], rng: np.random.Generator, ranges: Ranges | None = None
) -> Appearance:
    """Draw the look of one episode.

    Every group draws from its own stream, so that switching one on changes nothing in another.
    """
    ranges = ranges or Ranges()
    streams = dict(zip(GROUPS, rng.spawn(len(GROUPS)), strict=True))
    return Appearance(
        paints=_draw_paints(streams["colours"], ranges) if "colours" in groups else {},
        lighting=_draw_lighting(streams["lights"], ranges) if "lights" in groups else None,
        camera_shifts=(
            {
                camera.name: _draw_shift(streams["camera"], camera, ranges)
                for camera in scene.cameras
            }
            if "camera" in groups
            else {}
        ),
    )


def _draw_paints(rng: np.random.Generator, ranges: Ranges) -> dict[str, Paint]:
    return {
        name: Paint(
            rgb=colorsys.hsv_to_rgb(
                rng.uniform(*colour.hue),
                rng.uniform(*colour.saturation),
                rng.uniform(*colour.value),
            ),
            pattern=colour.patterns[rng.integers(len(colour.patterns))],
        )
        for name, colour in ranges.colours.items()
    }


def _draw_lighting(rng: np.random.Generator, ranges: Ranges) -> Lighting:
    tilt = rng.uniform(*ranges.light_tilt_rad)
    azimuth = rng.uniform(-np.pi, np.pi)
    direction = (
        float(np.sin(tilt) * np.cos(azimuth)),
        float(np.sin(tilt) * np.sin(azimuth)),
        float(-np.cos(tilt)),
    )

    def strength(bounds: Range) -> Vector:
        tint = 1.0 + rng.uniform(-ranges.light_tint, ranges.light_tint, 3)
        red, green, blue = np.clip(rng.uniform(*bounds) * tint, 0.0, 1.0)
        return float(red), float(green), float(blue)

    return Lighting(
        direction=direction,
        diffuse=strength(ranges.light_diffuse),
        ambient=strength(ranges.light_ambient),
        head=strength(ranges.light_head),
    )


def _draw_shift(rng: np.random.Generator, camera: Camera, ranges: Ranges) -> CameraShift:
    def vector(bound: float) -> Vector:
        x, y, z = rng.uniform(-bound, bound, 3)
        return float(x), float(y), float(z)

    return CameraShift(
        translation_m=vector(
            ranges.camera_translation_m
            if camera.body is None
            else ranges.carried_camera_translation_m
        ),
        rotation_rad=vector(ranges.camera_rotation_rad),
        fov_y_deg=float(rng.uniform(-ranges.camera_fov_y_deg, ranges.camera_fov_y_deg)),
    )
