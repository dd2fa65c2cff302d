"""The appearance of a MuJoCo model (surface colours, light, cameras), and its renderer.

By default, images have no shadows, no multisampling, and few faces on round shapes, because
rendering without a GPU is slow.
"""

import atexit
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.rendering import NONE, TOO_LATE, remedy

from .mujoco_model import ROUTE, SCENE_CENTER_M, material_name, mujoco, paint_name
from .scene import Appearance, CameraShift, Lighting, Quality, Scene, require_known

_LIGHT_DISTANCE_M = 2.0
# Fields of the model that an episode changes.
_FIELDS = ("mat_rgba", "geom_matid", "cam_pos", "cam_quat", "cam_fovy")


class ModelAppearance:
    """The colours, lights and cameras of a compiled MuJoCo model, which each episode can change."""

    def __init__(self, model: mujoco.MjModel, scene: Scene) -> None:
        """Store the default appearance, to which `apply` resets the model."""
        self._model = model
        self._lighting = scene.lighting
        self._painted = _painted_geoms(model, scene)
        self._defaults = {name: getattr(model, name).copy() for name in _FIELDS}
        self._materials = {model.material(i).name: i for i in range(model.nmat)}
        self._cameras = [model.camera(i).name for i in range(model.ncam)]

    def apply(self, appearance: Appearance) -> None:
        """Reset the model to its default appearance, then apply paints, lighting, camera shifts.

        Raises:
            ValueError: the scene has no paint or camera of a name in `appearance`.
        """
        model = self._model
        for name in _FIELDS:
            getattr(model, name)[:] = self._defaults[name]
        for name, paint in appearance.paints.items():
            if name in self._painted:
                material = model.material(material_name(name, paint.pattern)).id
                model.geom_matid[self._painted[name]] = material
            else:
                known = (*self._painted, *(name for name in self._materials if "/" not in name))
                material = self._materials[require_known(name, known, "paint")]
            model.mat_rgba[material, :3] = paint.rgb
        _apply_lighting(model, appearance.lighting or self._lighting)
        for name, shift in appearance.camera_shifts.items():
            _shift_camera(model.camera(require_known(name, self._cameras, "camera")), shift)


def _painted_geoms(model: mujoco.MjModel, scene: Scene) -> dict[str, list[int]]:
    """Return a mapping from the name of each `Paint` in the scene to the ids of its geoms."""
    painted: dict[str, list[int]] = {}
    for box in scene.boxes:
        painted.setdefault(paint_name(box), []).append(model.geom(box.name).id)
    for fixture in scene.fixtures:
        for part in fixture.parts:
            for index, shape in enumerate(part.shapes):
                geom = model.geom(f"{part.name}/{index}").id
                painted.setdefault(shape.paint, []).append(geom)
    return painted


def _shift_camera(camera: Any, shift: CameraShift) -> None:
    moved, turned, turn = np.zeros(3), np.zeros(4), np.zeros(4)
    mujoco.mju_rotVecQuat(moved, np.array(shift.translation_m), camera.quat)
    angle = float(np.linalg.norm(shift.rotation_rad))
    mujoco.mju_axisAngle2Quat(turn, np.array(shift.rotation_rad) / max(angle, 1e-12), angle)
    mujoco.mju_mulQuat(turned, camera.quat, turn)
    camera.pos[:] += moved
    camera.quat[:] = turned
    camera.fovy[:] += shift.fov_y_deg


def _apply_lighting(model: mujoco.MjModel, lighting: Lighting) -> None:
    light = model.light("key")
    direction = np.array(lighting.direction) / np.linalg.norm(lighting.direction)
    light.dir[:] = direction
    light.pos[:] = (
        SCENE_CENTER_M - _LIGHT_DISTANCE_M * direction
    )  # a directional light's position matters only for shadows
    light.diffuse[:] = lighting.diffuse
    light.ambient[:] = 0.0
    light.specular[:] = 0.2
    model.vis.headlight.ambient[:] = lighting.ambient
    model.vis.headlight.diffuse[:] = lighting.head
    model.vis.headlight.specular[:] = 0.0


def make_renderer(
    model: mujoco.MjModel, height: int, width: int, quality: Quality
) -> mujoco.Renderer:
    """Return a renderer for images of one size and quality.

    Raises:
        RuntimeError: no rendering back end works on this machine, or mujoco was imported before a
            back end was chosen.
    """
    if ROUTE == NONE:
        raise RuntimeError(remedy())
    # These settings are read when the context is created. Vertices are most of the cost of a
    # small image with software rendering: 12 faces around a capsule and one square per side
    # reduce it from 3.5 ms to 2.0 ms.
    settings = model.vis.quality
    settings.offsamples, settings.numslices = quality.samples, quality.round_faces
    settings.numstacks, settings.numquads = quality.round_faces // 2, 1
    try:
        renderer = mujoco.Renderer(model, height, width)
    except mujoco.FatalError as error:
        if ROUTE != "glfw":
            raise
        raise RuntimeError(TOO_LATE) from error
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_SHADOW)] = quality.shadows
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_REFLECTION)] = False
    return renderer


class Renderers:
    """The renderers of one thread, by image size and quality; worlds of one scene can share them.

    An OpenGL context belongs to the thread that uses it, so all calls must come from one thread.
    """

    def __init__(self) -> None:
        self._renderers: dict[tuple[int, int, Quality], mujoco.Renderer] = {}
        self._option = mujoco.MjvOption()

    def render(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        camera: mujoco.MjvCamera,
        size: tuple[int, int],
        quality: Quality,
    ) -> NDArray[np.uint8]:
        """Return an image [h w 3] of a world.

        Args:
            model: the model of the world. It may differ from the models of earlier calls in what an
                episode changes (poses, sizes, colours, lights), but not in meshes and textures.
            data: the state of the world.
            camera: the camera, see `fixed_camera`.
            size: height and width of the image, pixels.
            quality: the quality of the image.
        """
        key = (*size, quality)
        if key not in self._renderers:
            self._renderers[key] = make_renderer(model, *key)
            if not _open:  # after OpenGL was loaded, so that this runs before it ends
                atexit.register(_close_all)
            _open.add(self)
        renderer = self._renderers[key]
        # `Renderer.update_scene` does the same, but only for the model that it was made with.
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(model, data, self._option, None, camera, everything, renderer.scene)
        return renderer.render()

    def close(self) -> None:
        """Free the graphics memory; a later `render` allocates it again."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        _open.discard(self)


_open: weakref.WeakSet[Renderers] = weakref.WeakSet()


def _close_all() -> None:
    """Close what is still open at exit; later, MuJoCo would print errors."""
    for renderers in list(_open):
        renderers.close()


def fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """Return the camera of the model with this name, for rendering.

    Raises:
        ValueError: the model has no camera of this name.
    """
    cameras = [model.camera(index).name for index in range(model.ncam)]
    camera = mujoco.MjvCamera()
    camera.fixedcamid = cameras.index(require_known(name, cameras, "camera"))
    camera.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
    return camera
