"""The MuJoCo simulator: the only file that imports mujoco.

Settings that were measured to hold a grasp (100 of 100 scripted picks on held-out resets): the
`discrete` integrator, pyramidal cones, impratio 1, a time step of 2 ms. Settings that make software
rendering quick: a box as floor (an infinite plane costs 3 to 6 ms a frame), no shadows, no
multisampling, and round shapes of few faces.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arms import Arm, Servo
from .patterns import PATTERNS, draw_pattern
from .rendering import NONE, configure, remedy
from .scene import Appearance, Box, Camera, CameraShift, Lighting, Scene
from .simulator import Floats

_ROUTE = configure()  # MuJoCo reads MUJOCO_GL when it is imported
import mujoco  # noqa: E402

# Bits of contype and conaffinity: the robot meets the scene, the scene meets everything.
_SCENE_CONTYPE, _SCENE_CONAFFINITY = 2, 3
_TILE_M = 0.5  # edge of one repeat of a pattern
# Samples a pixel, then slices and stacks of a round shape and squares of a flat one. Vertices are
# most of the cost of a small picture in software: from 20, 10 and 4 to this, 3.5 ms became 2.0.
_PLAIN = (0, 12, 6, 1)
_FINE = (4, 20, 10, 1)
_DIVERGED = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]
_FINE_SHADOW_PX = 1024


class MujocoSimulator:
    """Run one world in MuJoCo on the CPU; see `Simulator` for what the methods promise."""

    def build(self, scene: Scene, arm: Arm) -> None:
        """Make the world."""
        self._scene = scene
        self._arm = arm
        self._servos = (*arm.servos, arm.gripper)
        spec = mujoco.MjSpec.from_file(str(arm.model))
        _place_arm(spec, scene, arm)
        _add_world(spec, scene)
        for camera in (*scene.cameras, scene.viewer):
            _add_camera(spec, camera)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._renderers: dict[tuple[int, int, bool], mujoco.Renderer] = {}
        model = self._model
        self._actuators = np.array([model.actuator(servo.name).id for servo in self._servos])
        self._qpos = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self._dof = {model.joint(i).name: int(model.jnt_dofadr[i]) for i in range(model.njnt)}
        self._paint_ids = {box.name: model.geom(box.name).id for box in scene.boxes}
        self._default_rgba = model.mat_rgba.copy()
        self._default_geom_material = model.geom_matid.copy()
        self._default_cameras = {
            camera.name: (
                model.camera(camera.name).pos.copy(),
                model.camera(camera.name).quat.copy(),
                float(model.camera(camera.name).fovy[0]),
            )
            for camera in scene.cameras
        }

    def reset(
        self,
        joint_positions: Mapping[str, float],
        box_poses: Mapping[str, Floats],
        appearance: Appearance,
    ) -> None:
        """Start anew, at rest, with targets equal to positions."""
        model, data = self._model, self._data
        mujoco.mj_resetData(model, data)
        for name, position in joint_positions.items():
            data.qpos[self._qpos[name]] = position
        for name, pose in box_poses.items():
            start = self._qpos[name]
            data.qpos[start : start + 7] = pose
        for actuator, servo in zip(self._actuators, self._servos, strict=True):
            data.ctrl[actuator] = np.mean([data.qpos[self._qpos[name]] for name in servo.joints])
        self._apply(appearance)
        mujoco.mj_forward(model, data)

    def set_joint_targets(self, targets: Floats) -> None:
        """Set servo targets [servos]: the arm's in order, then the gripper's."""
        self._data.ctrl[self._actuators] = targets

    def step(self, num_steps: int) -> None:
        """Advance by `num_steps` time steps.

        Raises:
            RuntimeError: when the physics diverged.
        """
        mujoco.mj_step(self._model, self._data, num_steps)
        # MuJoCo puts a world that diverged back to its default, and counts a warning.
        if any(self._data.warning[warning].number for warning in _DIVERGED):
            raise RuntimeError("the physics diverged: a position, speed or force is not finite")

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Give positions and velocities, each [names]."""
        positions = self._data.qpos[[self._qpos[name] for name in names]]
        velocities = self._data.qvel[[self._dof[name] for name in names]]
        return positions, velocities

    def bodies(self, names: Sequence[str]) -> Floats:
        """Give poses [names 7]: position, then quaternion."""
        # mj_step leaves xpos one step old, so positions are made to fit the joints first.
        mujoco.mj_kinematics(self._model, self._data)
        ids = [self._model.body(name).id for name in names]
        return np.concatenate([self._data.xpos[ids], self._data.xquat[ids]], axis=1)

    def contact_force(self, body: str) -> Floats:
        """Give the length of the net contact force on a body, in newtons."""
        model, data = self._model, self._data
        body_id = model.body(body).id
        total, wrench = np.zeros(3), np.zeros(6)
        for index in range(data.ncon):
            contact = data.contact[index]
            sides = [int(model.geom_bodyid[geom]) for geom in contact.geom]
            if body_id not in sides or sides[0] == sides[1]:
                continue
            mujoco.mj_contactForce(model, data, index, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            total += force if sides[1] == body_id else -force
        return np.asarray(np.linalg.norm(total), dtype=np.float64)

    def render(
        self, camera: str, height: int, width: int, *, fine: bool = False
    ) -> NDArray[np.uint8]:
        """Give a picture [h w 3]; `fine` adds shadows and smooth edges."""
        key = (height, width, fine)
        if key not in self._renderers:
            self._renderers[key] = _renderer(self._model, height, width, fine)
        renderer = self._renderers[key]
        renderer.update_scene(self._data, camera=camera)
        # MuJoCo gives a view that runs bottom up, which torch cannot wrap.
        return np.ascontiguousarray(renderer.render())

    def close(self) -> None:
        """Free graphics memory."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _apply(self, appearance: Appearance) -> None:
        model = self._model
        model.mat_rgba[:] = self._default_rgba
        model.geom_matid[:] = self._default_geom_material
        for name, paint in appearance.paints.items():
            if name in self._paint_ids:
                material = model.material(_material_name(name, paint.pattern)).id
                model.geom_matid[self._paint_ids[name]] = material
            else:
                material = model.material(name).id
            model.mat_rgba[material, :3] = paint.rgb
        _apply_lighting(model, appearance.lighting or self._scene.lighting)
        for name, (position, quaternion, fov_y_deg) in self._default_cameras.items():
            camera = model.camera(name)
            camera.pos[:], camera.quat[:], camera.fovy[:] = position, quaternion, fov_y_deg
            if name in appearance.camera_shifts:
                _shift_camera(camera, appearance.camera_shifts[name])


def _add_world(spec: mujoco.MjSpec, scene: Scene) -> None:
    spec.option.timestep = scene.timestep_s
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_DISCRETE
    spec.option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    spec.option.impratio = 1.0
    spec.visual.global_.offwidth = 1920
    spec.visual.global_.offheight = 1080
    spec.visual.quality.shadowsize = _FINE_SHADOW_PX
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.visual.map.shadowclip = 1.6
    spec.stat.extent = 1.0
    spec.stat.center = [0.5, 0.0, 0.5]
    sky = spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        width=32,
        height=192,
    )
    sky.rgb1, sky.rgb2 = [0.75, 0.80, 0.86], [0.40, 0.45, 0.52]
    for pattern in PATTERNS:
        pixels = draw_pattern(pattern)
        texture = spec.add_texture(
            name=f"pattern/{pattern}",
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            width=pixels.shape[1],
            height=pixels.shape[0],
            nchannel=3,
        )
        texture.data = pixels.tobytes()
    light = spec.worldbody.add_light(name="key", pos=[0.0, -0.4, 2.0])
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    light.castshadow = True
    for box in scene.boxes:
        _add_box(spec, box)


def _add_box(spec: mujoco.MjSpec, box: Box) -> None:
    for pattern in PATTERNS:
        material = spec.add_material(
            name=_material_name(box.name, pattern), rgba=[*box.paint.rgb, 1.0]
        )
        material.specular, material.shininess = 0.2, 0.3
        if pattern != "plain":
            # On a box geom a 2D texture is stretched over the whole face: count the tiles.
            material.texrepeat = [
                max(1.0, box.size_m[0] / _TILE_M),
                max(1.0, box.size_m[1] / _TILE_M),
            ]
            material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = f"pattern/{pattern}"
    body = spec.worldbody.add_body(name=box.name, pos=box.position_m)
    geom = body.add_geom(
        name=box.name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[edge / 2 for edge in box.size_m],
        material=_material_name(box.name, box.paint.pattern),
        contype=_SCENE_CONTYPE,
        conaffinity=_SCENE_CONAFFINITY,
        friction=[1.0, 0.01, 0.001],
        condim=4,
    )
    if box.mass_kg is not None:
        body.add_freejoint(name=box.name)
        geom.mass = box.mass_kg
        geom.solref = [0.01, 1.0, *geom.solref[2:]]
        geom.solimp = [0.95, 0.99, 0.001, 0.5, 2.0]


def _material_name(box: str, pattern: str) -> str:
    return f"{box}/{pattern}"


def _place_arm(spec: mujoco.MjSpec, scene: Scene, arm: Arm) -> None:
    base = spec.worldbody.first_body()
    base.pos = scene.base_position_m
    base.quat = [np.cos(scene.base_yaw_rad / 2), 0, 0, np.sin(scene.base_yaw_rad / 2)]
    for servo in (*arm.servos, arm.gripper):
        _add_servo(spec, servo)


def _add_servo(spec: mujoco.MjSpec, servo: Servo) -> None:
    for name in servo.joints:
        joint = spec.joint(name)
        joint.range = [servo.lower, servo.upper]
        joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator = spec.add_actuator(name=servo.name)
    if len(servo.joints) == 1:
        actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
        actuator.target = servo.joints[0]
    else:
        tendon = spec.add_tendon(name=servo.name)
        for name in servo.joints:
            tendon.wrap_joint(name, 1 / len(servo.joints))
        for name in servo.joints[1:]:
            same = spec.add_equality(name1=servo.joints[0], name2=name)
            same.type = mujoco.mjtEq.mjEQ_JOINT
            same.objtype = mujoco.mjtObj.mjOBJ_JOINT
            same.data[:2] = [0.0, 1.0]  # the second is the first, times one
            same.solref = [0.005, 1.0]
            same.solimp = [0.95, 0.99, 0.001, 0.5, 2.0]
        actuator.trntype = mujoco.mjtTrn.mjTRN_TENDON
        actuator.target = servo.name
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = servo.stiffness
    actuator.biasprm[:3] = [0.0, -servo.stiffness, -servo.damping]
    actuator.forcerange = [-servo.max_force, servo.max_force]
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.ctrlrange = [servo.lower, servo.upper]
    actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_TRUE


def _add_camera(spec: mujoco.MjSpec, camera: Camera) -> None:
    body = spec.worldbody if camera.body is None else spec.body(camera.body)
    body.add_camera(
        name=camera.name,
        pos=camera.position_m,
        quat=_look_at(camera.position_m, camera.target_m, camera.up),
        fovy=camera.fov_y_deg,
    )


def _look_at(position: Sequence[float], target: Sequence[float], up: Sequence[float]) -> Floats:
    """Give the quaternion of a camera that looks along its -z, with y up."""
    backward = np.subtract(position, target)
    backward = backward / np.linalg.norm(backward)
    right = np.cross(up, backward)
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion


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
    light.dir[:] = np.array(lighting.direction) / np.linalg.norm(lighting.direction)
    light.diffuse[:] = lighting.diffuse
    light.ambient[:] = 0.0
    light.specular[:] = 0.2
    model.vis.headlight.ambient[:] = lighting.ambient
    model.vis.headlight.diffuse[:] = lighting.head
    model.vis.headlight.specular[:] = 0.0


def _renderer(model: mujoco.MjModel, height: int, width: int, fine: bool) -> mujoco.Renderer:
    if _ROUTE == NONE:
        raise RuntimeError(remedy())
    # The quality is read when the context is made, so it is set just for that moment.
    quality = model.vis.quality
    samples, slices, stacks, quads = _FINE if fine else _PLAIN
    quality.offsamples, quality.numslices = samples, slices
    quality.numstacks, quality.numquads = stacks, quads
    renderer = mujoco.Renderer(model, height, width)
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_SHADOW)] = fine
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_REFLECTION)] = False
    return renderer
