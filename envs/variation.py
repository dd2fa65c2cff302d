"""Random variations of episodes, drawn from the ranges of `envs.randomisation`."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .geometry import Vector
from .randomisation import (
    GROUPS,
    CameraShifts,
    ColourRange,
    Colours,
    Distractors,
    Lights,
    Randomisation,
    Range,
    Textures,
    known_paints,
)
from .simulation.scene import (
    Appearance,
    Box,
    Camera,
    CameraShift,
    Lighting,
    Paint,
    Scene,
    Start,
)
from .tasks.task import Task

# Materials of every arm that can be painted.
_ARM_PAINTS = ("arm", "trim", "finger")
# Position of distractors that an episode does not use: behind the front camera.
_PARKED_X_M = -2.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """The random choices for one episode: start, appearance, latency and noise.

    Attributes:
        start: positions of arm, hand and objects at the start.
        appearance: colours, lighting and camera shifts.
        latency_steps: number of control steps between an action and its execution.
        noise_seed: seed of the random generators of action and proprioception noise.
    """

    start: Start
    appearance: Appearance
    latency_steps: int
    noise_seed: int


def populate(scene: Scene, randomisation: Randomisation) -> Scene:
    """Return the scene with the maximum number of distractor boxes added.

    All boxes must exist before the first episode. An episode with fewer distractors leaves the
    remaining boxes outside the workspace. Without the group `distractors`, no box is added.

    Raises:
        ValueError: the ranges name a surface (`Paint`) that exists in no scene; the message lists
            the known names.
    """
    _check_paints(scene, randomisation)
    if randomisation.distractors is None:
        return scene
    edge = randomisation.distractors.size_m[1]
    boxes = tuple(
        Box(
            name=name,
            size_m=(edge, edge, edge),
            position_m=_parked(index, edge),
            paint=Paint(rgb=(0.5, 0.5, 0.5)),
            mass_kg=400.0 * edge**3,
        )
        for index, name in enumerate(_distractor_names(randomisation.distractors))
    )
    return replace(scene, boxes=scene.boxes + boxes)


def draw(
    scene: Scene, task: Task, start: Start, randomisation: Randomisation, rng: np.random.Generator
) -> Variation:
    """Draw the random choices for one episode.

    Args:
        scene: the scene, as returned by `populate`.
        task: the task. Its `vary` moves and resizes the object, and its `spaces` are the free areas
            for distractors.
        start: the start that `task.sample_start` drew.
        randomisation: the ranges of the enabled groups.
        rng: random generator; every group draws from its own child of this generator.
    """
    streams = dict(zip(GROUPS, rng.spawn(len(GROUPS)), strict=True))
    on = randomisation
    if on.object_size or on.object_pose:
        scale = streams["object_size"].uniform(*on.object_size.scale) if on.object_size else 1.0
        shift, yaw = np.zeros(3), 0.0
        if on.object_pose:
            shift = streams["object_pose"].uniform(-1.0, 1.0, 3) * on.object_pose.shift_m
            yaw = streams["object_pose"].uniform(-1.0, 1.0) * on.object_pose.yaw_rad
        start = task.vary(start, float(scale), shift, float(yaw))
    paints = _draw_paints(streams["colours"], scene, on.colours) if on.colours else {}
    if on.textures:
        paints |= _draw_textures(streams["textures"], scene, paints, on.textures)
    if on.distractors:
        start, more = _draw_distractors(streams["distractors"], task, start, on.distractors)
        paints |= more
    return Variation(
        start=start,
        appearance=Appearance(
            paints=paints,
            lighting=_draw_lighting(streams["lights"], on.lights) if on.lights else None,
            camera_shifts=_draw_shifts(streams["camera"], scene, on.camera) if on.camera else {},
        ),
        latency_steps=(
            int(streams["latency"].integers(*on.latency.steps, endpoint=True)) if on.latency else 0
        ),
        noise_seed=int(streams["action_noise"].integers(2**63)),
    )


def _check_paints(scene: Scene, randomisation: Randomisation) -> None:
    """Check that all surfaces (`Paint`) in the ranges exist in this scene or in another scene.

    The surfaces of other scenes are allowed, because the default ranges name all surfaces.

    Raises:
        ValueError: a name is unknown; the message lists the known names.
    """
    known = {*_scene_paints(scene), *known_paints()}
    colours, textures = randomisation.colours, randomisation.textures
    named = (*(colours.paints if colours else ()), *(textures.paints if textures else ()))
    if unknown := [name for name in named if name not in known]:
        raise ValueError(
            f"unknown paint {', '.join(map(repr, unknown))}; known: {', '.join(sorted(known))}"
        )


def _scene_paints(scene: Scene) -> dict[str, Paint]:
    """Return the default `Paint` of every surface of the scene except the arm, by name."""
    paints = {box.paint_name or box.name: box.paint for box in scene.boxes}
    for fixture in scene.fixtures:
        paints |= fixture.paints
    return paints


def _draw_colour(rng: np.random.Generator, colour: ColourRange) -> Paint:
    return Paint(
        rgb=colorsys.hsv_to_rgb(
            rng.uniform(*colour.hue), rng.uniform(*colour.saturation), rng.uniform(*colour.value)
        ),
        pattern=colour.patterns[rng.integers(len(colour.patterns))],
    )


def _draw_paints(rng: np.random.Generator, scene: Scene, colours: Colours) -> dict[str, Paint]:
    there = {*_scene_paints(scene), *_ARM_PAINTS}
    return {
        name: _draw_colour(rng, colour) for name, colour in colours.paints.items() if name in there
    }


def _draw_textures(
    rng: np.random.Generator, scene: Scene, paints: Mapping[str, Paint], textures: Textures
) -> dict[str, Paint]:
    now = {**_scene_paints(scene), **paints}
    return {
        name: replace(now[name], pattern=textures.patterns[rng.integers(len(textures.patterns))])
        for name in textures.paints
        if name in now
    }


def _draw_lighting(rng: np.random.Generator, lights: Lights) -> Lighting:
    tilt = rng.uniform(*lights.tilt_rad)
    azimuth = rng.uniform(-np.pi, np.pi)
    direction = (
        float(np.sin(tilt) * np.cos(azimuth)),
        float(np.sin(tilt) * np.sin(azimuth)),
        float(-np.cos(tilt)),
    )

    def strength(bounds: Range) -> Vector:
        tint = 1.0 + rng.uniform(-lights.tint, lights.tint, 3)
        red, green, blue = np.clip(rng.uniform(*bounds) * tint, 0.0, 1.0)
        return float(red), float(green), float(blue)

    return Lighting(
        direction=direction,
        diffuse=strength(lights.diffuse),
        ambient=strength(lights.ambient),
        head=strength(lights.head),
    )


def _draw_shifts(
    rng: np.random.Generator, scene: Scene, shifts: CameraShifts
) -> dict[str, CameraShift]:
    return {camera.name: _draw_shift(rng, camera, shifts) for camera in scene.cameras}


def _draw_shift(rng: np.random.Generator, camera: Camera, shifts: CameraShifts) -> CameraShift:
    def vector(bound: float) -> Vector:
        x, y, z = rng.uniform(-bound, bound, 3)
        return float(x), float(y), float(z)

    carried = camera.body is not None
    return CameraShift(
        translation_m=vector(shifts.carried_translation_m if carried else shifts.translation_m),
        rotation_rad=vector(shifts.rotation_rad),
        fov_y_deg=float(rng.uniform(-shifts.fov_y_deg, shifts.fov_y_deg)),
    )


def _distractor_names(distractors: Distractors) -> tuple[str, ...]:
    return tuple(f"distractor_{index}" for index in range(1, distractors.count[1] + 1))


def _parked(index: int, edge_m: float) -> Vector:
    return (_PARKED_X_M, 0.3 * index, edge_m / 2)


def _draw_distractors(
    rng: np.random.Generator, task: Task, start: Start, distractors: Distractors
) -> tuple[Start, dict[str, Paint]]:
    """Place distractor boxes in the task's free spaces, away from its object and the other boxes.

    Returns:
        The start with the poses and sizes of the boxes, and the colours of the boxes by name.
    """
    names = _distractor_names(distractors)
    count = int(rng.integers(*distractors.count, endpoint=True))
    taken = [(np.asarray(task.middle(start))[:2], distractors.clearance_m)]
    poses, sizes, paints = dict(start.box_poses), dict(start.box_sizes_m), dict[str, Paint]()
    for index, name in enumerate(names):
        x, y, z = rng.uniform(*distractors.size_m, 3)
        place = _free_place(rng, task, taken, float(np.hypot(x, y)) / 2)
        yaw = rng.uniform(-np.pi, np.pi)
        paints[name] = _draw_colour(rng, distractors.colour)
        if index >= count or place is None:
            place = np.array(_parked(index, 0.0))
        else:
            taken.append((place[:2], float(np.hypot(x, y)) / 2))
        sizes[name] = (float(x), float(y), float(z))
        turned = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        poses[name] = np.array([*place[:2], place[2] + z / 2, *turned])
    return replace(start, box_poses=poses, box_sizes_m=sizes), paints


def _free_place(
    rng: np.random.Generator, task: Task, taken: list[tuple[np.ndarray, float]], radius_m: float
) -> np.ndarray | None:
    """Return a free position [3] for a box, m, or None if forty random positions were not free.

    Args:
        rng: random generator; forty positions are drawn in any case.
        task: the task, with its free spaces.
        taken: a pair for each object and box that is placed already: its horizontal position [2]
            and its radius, m.
        radius_m: horizontal radius of the box.
    """
    spaces = task.spaces
    areas = np.array([space.half_m[0] * space.half_m[1] for space in spaces])
    found = None
    for _ in range(40):
        space = spaces[rng.choice(len(spaces), p=areas / areas.sum())]
        offset = rng.uniform(-1.0, 1.0, 2) * (np.array(space.half_m) - radius_m)
        place = np.array(space.center_m[:2]) + offset
        clear = all(np.hypot(*(place - other)) > gap + radius_m for other, gap in taken)
        if found is None and clear:
            found = np.array([*place, space.center_m[2]])
    return found
