"""Render simple objects that are placed frame by frame, without an arm and without physics.

All lengths have the same unit. It can be any unit, because an image does not show absolute sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import Floats, Vector
from .mujoco_look import make_renderer
from .mujoco_model import camera_quaternion, mujoco
from .scene import Quality

__all__ = ["Tabletop", "Toy"]

CONE_FACES = 16
CAMERA = "camera"
_QUALITY = Quality(round_faces=16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    """An object that `Tabletop` renders.

    Attributes:
        shape: `sphere`, `cube`, `cylinder`, `cone` or `snitch` (three crossed capsules).
        size: radius, or half the edge of a cube. The height of all shapes is twice the size.
        rgb: colour, in [0, 1].
    """

    shape: str
    size: float
    rgb: Vector


class Tabletop:
    """Images of objects on a square table."""

    def __init__(
        self, toys: Sequence[Toy], half_table: float, table_rgb: Vector, image_size: int
    ) -> None:
        """Build the scene.

        Args:
            toys: the objects.
            half_table: half the edge of the table.
            table_rgb: colour of the table, in [0, 1].
            image_size: height and width of the images, pixels.
        """
        spec = mujoco.MjSpec()
        spec.visual.headlight.ambient[:] = 0.45
        spec.visual.headlight.diffuse[:] = 0.35
        spec.worldbody.add_light(
            pos=[-4, -4, 9], dir=[0.4, 0.4, -0.9], castshadow=False, diffuse=[0.4] * 3
        )
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0, 0, -0.1],
            size=[half_table, half_table, 0.1],
            rgba=[*table_rgb, 1],
        )
        for i, toy in enumerate(toys):
            _add_toy(spec, spec.worldbody.add_body(name=f"toy_{i}", mocap=True), toy, f"cone_{i}")
        holder = spec.worldbody.add_body(name=CAMERA, mocap=True)
        holder.add_camera(name=CAMERA, fovy=40)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._heights = np.array([toy.size for toy in toys])
        self._renderer = make_renderer(self._model, image_size, image_size, _QUALITY)

    def render(self, positions: Floats, yaws_rad: Floats, camera: Floats) -> NDArray[np.uint8]:
        """Return an image [h w 3].

        Args:
            positions: [n 3] lowest point of each object.
            yaws_rad: [n] rotation of each object about the vertical.
            camera: [3] position of the camera, which is directed at the origin.
        """
        data, count = self._data, len(self._heights)
        data.mocap_pos[:count] = positions
        data.mocap_pos[:count, 2] += self._heights
        data.mocap_quat[:count, 0] = np.cos(yaws_rad / 2)
        data.mocap_quat[:count, 3] = np.sin(yaws_rad / 2)
        data.mocap_pos[count] = camera
        data.mocap_quat[count] = camera_quaternion(camera.tolist(), (0, 0, 0), (0, 0, 1))
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        self._renderer.update_scene(data, camera=CAMERA)
        return np.ascontiguousarray(self._renderer.render())

    def close(self) -> None:
        """Free the graphics memory."""
        self._renderer.close()


def _add_toy(spec: mujoco.MjSpec, body: mujoco.MjsBody, toy: Toy, mesh: str) -> None:
    """Add the shapes of an object to its body, whose origin is the centre of the object."""
    kinds, size, rgba = mujoco.mjtGeom, toy.size, [*toy.rgb, 1]
    if toy.shape == "cone":
        angles = 2 * np.pi * np.arange(CONE_FACES) / CONE_FACES
        rim = np.stack([np.cos(angles), np.sin(angles), -np.ones(CONE_FACES)], axis=1)
        vertices = size * np.concatenate([rim, [[0, 0, 1]]])
        spec.add_mesh(name=mesh, uservert=vertices.ravel())
        body.add_geom(type=kinds.mjGEOM_MESH, meshname=mesh, rgba=rgba)
    elif toy.shape == "snitch":
        for turn in ([1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]):
            body.add_geom(
                type=kinds.mjGEOM_CAPSULE, size=[0.45 * size, 0.55 * size, 0], quat=turn, rgba=rgba
            )
    else:
        kind = {
            "sphere": kinds.mjGEOM_SPHERE,
            "cube": kinds.mjGEOM_BOX,
            "cylinder": kinds.mjGEOM_CYLINDER,
        }[toy.shape]
        body.add_geom(type=kind, size=[size] * 3, rgba=rgba)
