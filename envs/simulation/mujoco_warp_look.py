"""Images of the worlds of MuJoCo Warp, by ray casting, with the look of MuJoCo's OpenGL renderer.

The OpenGL renderer computes light at the corners of a face. So a large flat face has no highlight
there, but would have one here, where light is computed for every pixel: the paints of boxes and
fixtures have no highlights here.

MuJoCo's headlight shines along the viewing direction of the camera. MuJoCo Warp has one fixed
headlight for all worlds, so each camera gets a light of its own instead; only that of the camera
that renders is on. The ambient light of the headlight becomes that of the key light.
"""

from collections.abc import Callable
from typing import Any

import mujoco_warp
import numpy as np
import torch
import warp
from torch import Tensor

from ..geometry import Floats
from .mujoco_model import mujoco
from .scene import Quality, Scene, require_known

# Fields of the model that an appearance changes, so that each world has its own values.
LOOK_FIELDS = (
    "geom_matid",
    "mat_rgba",
    "cam_pos",
    "cam_quat",
    "cam_fovy",
    "light_pos",
    "light_dir",
    "light_ambient",
    "light_diffuse",
    "light_specular",
)
_PREFIX = "headlight/"
# MuJoCo Warp rounds the values of pixels down, OpenGL rounds them to the nearest number. So colours
# are half a level brighter here, for a surface in light of about 0.9.
_ROUNDING = 0.5 / 255 / 0.9
_TOP, _FRONT = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
_HEAD_ON = 0.7  # mean cosine of the angle at which the headlight meets these surfaces


def match_opengl(spec: mujoco.MjSpec) -> None:
    """Add one light to each camera of a model, and remove the highlights of boxes and fixtures."""
    for material in spec.materials:
        if "/" in material.name:  # a paint with a pattern; the arm's materials have no pattern
            material.specular = 0.0
    for camera in spec.cameras:
        light = camera.parent.add_light(name=f"{_PREFIX}{camera.name}", pos=camera.pos)
        light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        light.castshadow = False
        light.specular = [0.0, 0.0, 0.0]
        light.ambient = [0.0, 0.0, 0.0]


def textured_materials(model: mujoco.MjModel, scene: Scene) -> tuple[list[int], Floats]:
    """Return the materials [m] with a texture, and the normals [m 3] of the surfaces to see.

    The surface of a box that cameras see most is its top, and that of a fixture is its front.
    """
    upright = {name for fixture in scene.fixtures for name in fixture.paints}
    textured = [index for index in range(model.nmat) if model.mat_texid[index].max() >= 0]
    paints = [model.material(index).name.split("/")[0] for index in textured]
    return textured, np.array([_FRONT if paint in upright else _TOP for paint in paints])


def adapt_look(model: mujoco.MjModel, textured: list[int], normals: Floats) -> None:
    """Adapt colours and lights after an appearance was applied.

    OpenGL limits the lit colour of a surface to 1 before it multiplies the colour by the texture.
    Here, the limit comes after the multiplication. So the colours of materials with a texture are
    reduced where the light is too bright. The pose and the strength of the headlight of each camera
    are copied to the camera's light.

    Args:
        model: the model.
        textured: the materials [m] with a texture.
        normals: [m 3] the normals of their surfaces.
    """
    head, key = model.vis.headlight, model.light("key")
    lit = np.maximum(normals @ -key.dir, 0.0)[:, None] * key.diffuse
    strength = np.maximum(head.ambient + _HEAD_ON * head.diffuse + lit, 1e-6)
    model.mat_rgba[textured, :3] = np.minimum(model.mat_rgba[textured, :3], 1 / strength)
    model.mat_rgba[:, :3] += _ROUNDING
    key.ambient[:] = head.ambient
    for index in range(model.ncam):
        light = model.light(f"{_PREFIX}{model.camera(index).name}")
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, model.cam_quat[index])
        light.pos[:] = model.cam_pos[index]
        light.dir[:] = -matrix.reshape(3, 3)[:, 2]
        light.diffuse[:] = head.diffuse


class WarpRenderers:
    """The renderers of all worlds, by camera, image size and quality."""

    def __init__(
        self, model: mujoco.MjModel, warp_model: Any, data: Any, wait: Callable[[], None]
    ) -> None:
        """Store the models.

        Args:
            model: the compiled MuJoCo model.
            warp_model: the same model on the device.
            data: the state of the worlds on the device.
            wait: a function that waits until the device has finished.
        """
        self._model, self._warp_model, self._data = model, warp_model, data
        self._wait = wait
        self._active = warp.to_torch(warp_model.light_active)
        self._contexts: dict[tuple[str, int, int, bool], Any] = {}
        self._cameras = [model.camera(index).name for index in range(model.ncam)]

    def render(self, camera: str, height: int, width: int, quality: Quality) -> Tensor:
        """Return the images [n h w 3] of all worlds, uint8. `Quality.round_faces` has no effect.

        Raises:
            ValueError: there is no such camera.
        """
        require_known(camera, self._cameras, "camera")
        scale = max(1, round(quality.samples**0.5))
        images = self._draw(camera, height * scale, width * scale, quality.shadows)
        if scale == 1:
            return images
        blocks = images.reshape(len(images), height, scale, width, scale, 3)
        return blocks.float().mean(dim=(2, 4)).round().to(torch.uint8)

    def close(self) -> None:
        """Free the memory; a later `render` allocates it again."""
        self._contexts.clear()

    def _draw(self, camera: str, height: int, width: int, shadows: bool) -> Tensor:
        key = (camera, height, width, shadows)
        if key not in self._contexts:
            self._contexts[key] = self._make(*key)
        context = self._contexts[key]
        for index in range(self._model.nlight):
            name = self._model.light(index).name
            self._active[:, index] = name in ("key", f"{_PREFIX}{camera}")
        self._wait()
        mujoco_warp.refit_bvh(self._warp_model, self._data, context)
        mujoco_warp.render(self._warp_model, self._data, context)
        self._wait()
        # One pixel is a 32-bit number: blue, green, red and alpha, from the lowest byte.
        pixels = warp.array(
            ptr=context.rgb_data.ptr,
            shape=(self._data.nworld, height, width, 4),
            dtype=warp.uint8,
            device=context.rgb_data.device,
        )
        return warp.to_torch(pixels)[..., [2, 1, 0]]

    def _make(self, camera: str, height: int, width: int, shadows: bool) -> Any:
        active = self._model.vis.headlight.active
        self._model.vis.headlight.active = 0
        context = mujoco_warp.create_render_context(
            self._model,
            nworld=self._data.nworld,
            cam_res=(width, height),
            cam_active=[camera],
            render_rgb=True,
            render_depth=False,
            render_seg=False,
            use_shadows=shadows,
            use_precomputed_rays=False,  # the field of view differs between worlds
            render_skybox=True,
        )
        self._model.vis.headlight.active = active
        return context
