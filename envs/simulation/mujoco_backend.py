"""The MuJoCo simulator: the only file that imports mujoco.

Settings that were measured to hold a grasp (100 of 100 scripted picks on held-out resets): the
`discrete` integrator, pyramidal cones, impratio 1, a time step of 2 ms. Settings that make software
rendering quick: a box as floor (an infinite plane costs 3 to 6 ms a frame), no shadows, no
multisampling, and round shapes of few faces.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arms.arm import Arm, Servo
from ..arms.meshes import Meshes
from ..rendering import NONE, configure, remedy
from .patterns import PATTERNS, draw_pattern
from .scene import (
    Appearance,
    Box,
    Camera,
    CameraShift,
    Fixture,
    Lighting,
    Paint,
    Part,
    Quality,
    Scene,
    Shape,
    Start,
)
from .simulator import Floats

_ROUTE = configure()  # MuJoCo reads MUJOCO_GL when it is imported
import mujoco  # noqa: E402

# Bits of contype and conaffinity. A robot has contype 1 and conaffinity 2, or 3 if it can touch
# itself. Boxes meet everything; a fixture meets everything but itself.
_BOX_CONTYPE, _FIXTURE_CONTYPE, _SCENE_CONAFFINITY = 2, 4, 3
_TILE_M = 0.5  # edge of one repeat of a pattern
_DIVERGED = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]
_SHADOW_MAP_PX = 1024
_SCENE_CENTER_M = np.array([0.5, 0.0, 0.5])
_LIGHT_DISTANCE_M = 2.0
_DARK = 0.3  # what is darker than this in a published model wears our colour of dark parts
_FAST = Quality()
_GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
}
# What of a model an episode's look changes, and what the sizes of its boxes.
_LOOK = ("mat_rgba", "geom_matid", "cam_pos", "cam_quat", "cam_fovy")
_SIZED = ("geom_size", "geom_rbound", "geom_aabb", "body_mass", "body_inertia")
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_GRIP_FRICTION = [1.0, 0.01, 0.001]


class MujocoSimulator:
    """Run one world in MuJoCo on the CPU; see `Simulator` for what the methods promise."""

    def __init__(self, *, meshes: Meshes | None = None) -> None:
        """Draw the arm by published meshes, or by its own light shapes when None."""
        self._meshes = meshes

    def build(self, scene: Scene, arm: Arm) -> None:
        """Make the world."""
        self._scene = scene
        self._servos = (*arm.servos, *arm.hand_servos)
        self._model = build_spec(scene, arm, meshes=self._meshes).compile()
        self._data = mujoco.MjData(self._model)
        self._renderers: dict[tuple[int, int, Quality], mujoco.Renderer] = {}
        model = self._model
        self._actuators = np.array([model.actuator(servo.name).id for servo in self._servos])
        self._qpos = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self._dof = {model.joint(i).name: int(model.jnt_dofadr[i]) for i in range(model.njnt)}
        self._painted = _painted_geoms(model, scene)
        self._defaults = {
            name: getattr(model, name).copy() for name in (*_LOOK, *_SIZED, "body_pos")
        }
        self._box_sizes = {box.name: box.size_m for box in scene.boxes}
        self._divergence = [self._data.warning[warning] for warning in _DIVERGED]
        # Looking a name up costs as much as a tenth of a step: each is looked up once.
        self._joint_indices: dict[tuple[str, ...], tuple[NDArray[Any], NDArray[Any]]] = {}
        self._body_indices: dict[tuple[str, ...], NDArray[Any]] = {}
        self._bodies = {model.body(i).name: i for i in range(model.nbody)}
        self._materials = {model.material(i).name: i for i in range(model.nmat)}
        self._cameras = [model.camera(i).name for i in range(model.ncam)]

    def reset(self, start: Start, appearance: Appearance) -> None:
        """Start anew, at rest, with targets equal to positions."""
        model, data = self._model, self._data
        self._resize({**{box.name: box.size_m for box in self._scene.boxes}, **start.box_sizes_m})
        mujoco.mj_resetData(model, data)
        servo_positions = np.concatenate([start.arm_rad, start.hand])
        for servo, position in zip(self._servos, servo_positions, strict=True):
            for name in servo.joints:
                data.qpos[self._qpos[name]] = position
        for name, pose in start.box_poses.items():
            address = self._qpos[_known(name, self._qpos, "movable box")]
            data.qpos[address : address + 7] = pose
        model.body_pos[:] = self._defaults["body_pos"]
        fixtures = {fixture.name for fixture in self._scene.fixtures}
        for name, position in start.fixture_positions_m.items():
            model.body_pos[model.body(_known(name, fixtures, "fixture")).id] = position
        data.ctrl[self._actuators] = servo_positions
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
        self._check_divergence()

    def follow(self, targets: Floats, num_steps: int) -> None:
        """Set targets [k servos] one after the other, and advance by `num_steps` after each.

        In one call, because ten from the environment would cost as much as a time step.

        Raises:
            RuntimeError: when the physics diverged.
        """
        model, data, actuators = self._model, self._data, self._actuators
        controls = data.ctrl
        for target in targets:
            controls[actuators] = target
            mujoco.mj_step(model, data, num_steps)
        self._check_divergence()

    def _check_divergence(self) -> None:
        # MuJoCo puts a world that diverged back to its default, and counts a warning.
        if any([warning.number for warning in self._divergence]):
            raise RuntimeError("the physics diverged: a position, speed or force is not finite")

    def joints(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """Give positions and velocities, each [names]."""
        key = tuple(names)
        if key not in self._joint_indices:
            self._joint_indices[key] = (
                np.array([self._qpos[_known(name, self._qpos, "joint")] for name in key]),
                np.array([self._dof[name] for name in key]),
            )
        positions, velocities = self._joint_indices[key]
        return self._data.qpos[positions], self._data.qvel[velocities]

    def bodies(self, names: Sequence[str]) -> Floats:
        """Give poses [names 7]: position, then quaternion."""
        # mj_step leaves xpos one step old, so positions are made to fit the joints first.
        mujoco.mj_kinematics(self._model, self._data)
        ids = self._body_ids(names)
        return np.concatenate([self._data.xpos[ids], self._data.xquat[ids]], axis=1)

    def contact_forces(self, names: Sequence[str]) -> Floats:
        """Give the length of the net contact force on each body [names], in newtons."""
        model, data = self._model, self._data
        totals, wrench = np.zeros((model.nbody, 3)), np.zeros(6)
        sides = model.geom_bodyid[data.contact.geom[: data.ncon]]
        asked = np.zeros(model.nbody, dtype=np.bool_)
        asked[self._body_ids(names)] = True
        wanted = asked[sides].any(axis=1) & (sides[:, 0] != sides[:, 1])
        for index in np.flatnonzero(wanted):
            mujoco.mj_contactForce(model, data, index, wrench)
            force = data.contact.frame[index].reshape(3, 3).T @ wrench[:3]
            totals[sides[index, 1]] += force
            totals[sides[index, 0]] -= force
        return np.linalg.norm(totals[self._body_ids(names)], axis=1)

    def push(self, name: str, force_n: Sequence[float]) -> None:
        """Push a body at its centre of mass with [3] newtons, from now until told otherwise."""
        (body,) = self._body_ids((name,))
        self._data.xfrc_applied[body, :3] = force_n

    def displace(self, name: str, offset_m: Sequence[float]) -> None:
        """Move a movable box or a fixture by [3] metres, at once, whatever is in the way."""
        model, data = self._model, self._data
        movable = [box.name for box in self._scene.boxes if box.mass_kg is not None]
        fixtures = [fixture.name for fixture in self._scene.fixtures]
        _known(name, movable + fixtures, "movable box or fixture")
        if name in movable:
            data.qpos[self._qpos[name] : self._qpos[name] + 3] += offset_m
        else:
            model.body_pos[model.body(name).id] += offset_m
        mujoco.mj_forward(model, data)

    def render(
        self, camera: str, height: int, width: int, quality: Quality | None = None
    ) -> NDArray[np.uint8]:
        """Give a picture [h w 3], drawn as quickly as possible unless told otherwise."""
        key = (height, width, quality or _FAST)
        if key not in self._renderers:
            self._renderers[key] = _renderer(self._model, *key)
        renderer = self._renderers[key]
        renderer.update_scene(self._data, camera=camera)
        # MuJoCo gives a view that runs bottom up, which torch cannot wrap.
        return np.ascontiguousarray(renderer.render())

    def positions(self) -> Floats:
        """Give the positions of all joints and movable boxes [q], in the model's order."""
        return self._data.qpos.copy()

    def place(self, positions: Floats) -> None:
        """Put all joints and movable boxes at `positions` [q], at rest, to measure and to draw."""
        if positions.shape != (self._model.nq,):
            raise ValueError(
                f"positions of this scene have shape {(self._model.nq,)}, got {positions.shape}"
            )
        self._data.qpos[:] = positions
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)

    def save(self) -> Floats:
        """Give all that the physics depends on from here [n]."""
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        return state

    def restore(self, state: Floats) -> None:
        """Go back to where `save` was called, to the bit."""
        size = mujoco.mj_stateSize(self._model, _STATE)
        if state.shape != (size,):
            raise ValueError(f"a state of this scene has shape {(size,)}, got {state.shape}")
        mujoco.mj_setState(self._model, self._data, state, _STATE)
        mujoco.mj_forward(self._model, self._data)

    def close(self) -> None:
        """Free graphics memory."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _body_ids(self, names: Sequence[str]) -> NDArray[Any]:
        key = tuple(names)
        if key not in self._body_indices:
            self._body_indices[key] = np.array(
                [self._bodies[_known(name, self._bodies, "body")] for name in key]
            )
        return self._body_indices[key]

    def _resize(self, sizes_m: dict[str, tuple[float, float, float]]) -> None:
        """Give boxes other edges; their density stays."""
        if sizes_m == self._box_sizes:
            return
        model = self._model
        # All is reckoned from what was built, so that no earlier episode leaves a trace.
        for name in (*_SIZED, "body_pos"):
            getattr(model, name)[:] = self._defaults[name]
        for name, size in sizes_m.items():
            geom = model.geom(_known(name, self._box_sizes, "box")).id
            half = np.array(size) / 2
            if np.array_equal(half, model.geom_size[geom]):
                continue
            volume_ratio = np.prod(half) / np.prod(model.geom_size[geom])
            model.geom_size[geom] = half
            model.geom_rbound[geom] = np.linalg.norm(half)
            model.geom_aabb[geom, 3:] = half
            body = int(model.geom_bodyid[geom])
            model.body_mass[body] *= volume_ratio
            x, y, z = np.square(2 * half)
            model.body_inertia[body] = model.body_mass[body] / 12 * np.array([y + z, x + z, x + y])
        mujoco.mj_setConst(model, self._data)
        self._box_sizes = sizes_m

    def _apply(self, appearance: Appearance) -> None:
        model = self._model
        for name in _LOOK:
            getattr(model, name)[:] = self._defaults[name]
        for name, paint in appearance.paints.items():
            if name in self._painted:
                material = model.material(_material_name(name, paint.pattern)).id
                model.geom_matid[self._painted[name]] = material
            else:
                known = (*self._painted, *(name for name in self._materials if "/" not in name))
                material = self._materials[_known(name, known, "paint")]
            model.mat_rgba[material, :3] = paint.rgb
        _apply_lighting(model, appearance.lighting or self._scene.lighting)
        for name, shift in appearance.camera_shifts.items():
            _shift_camera(model.camera(_known(name, self._cameras, "camera")), shift)


def build_spec(scene: Scene, arm: Arm, *, meshes: Meshes | None = None) -> mujoco.MjSpec:
    """Give the model of a scene with an arm, not compiled yet: who simulates may still change it.

    Args:
        scene: all around the arm.
        arm: with its servos as actuators, under their names; joints and bodies as in its file.
        meshes: to wear in place of the arm's light shapes.
    """
    spec = mujoco.MjSpec.from_file(str(arm.model))
    if meshes is not None:
        _wear_meshes(spec, meshes, arm.scale)
    _scale(spec, arm.scale)
    _place_arm(spec, scene, (*arm.servos, *arm.hand_servos))
    _add_world(spec, scene)
    for camera in (*scene.cameras, scene.viewer):
        _add_camera(spec, camera)
    return spec


def _known(name: str, names: Collection[str], what: str) -> str:
    if name not in names:
        raise ValueError(f"there is no {what} {name!r} in the scene; known: {', '.join(names)}")
    return name


def _wear_meshes(spec: mujoco.MjSpec, meshes: Meshes, scale: float) -> None:
    """Hang published meshes on the arm's bodies in place of the light shapes there."""
    for file in meshes.files:
        # The compiled model has its vertices in metres, in the frame of a geom, whatever the file.
        model = mujoco.MjSpec.from_file(str(file)).compile()
        bodies = {model.body(index).name: index for index in range(model.nbody)}
        for ours, theirs in meshes.bodies.items():
            geoms = _mesh_geoms(model, bodies[theirs]) if theirs in bodies else []
            if not geoms:
                continue
            body = spec.body(ours)
            light = [geom for geom in body.geoms if not (geom.contype or geom.conaffinity)]
            material = next((g.material for g in light if g.material != "trim"), "trim")
            for geom in light:
                spec.delete(geom)
            for index in geoms:
                name = f"{ours}/{index}"
                _add_mesh(spec, name, model, int(model.geom_dataid[index]), scale)
                dark = _brightness(model, index) < _DARK
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_MESH,
                    meshname=name,
                    pos=model.geom_pos[index],
                    quat=model.geom_quat[index],
                    material="trim" if dark else material,
                    contype=0,
                    conaffinity=0,
                    density=0.0,
                    group=0,
                )


def _mesh_geoms(model: mujoco.MjModel, body: int) -> list[int]:
    """Give the meshes of a body that are only to be seen; if there are none, all."""
    geoms = np.flatnonzero(
        (model.geom_bodyid == body) & (model.geom_type == int(mujoco.mjtGeom.mjGEOM_MESH))
    )
    seen = [i for i in geoms if not (model.geom_contype[i] or model.geom_conaffinity[i])]
    return [int(index) for index in seen or geoms]


def _brightness(model: mujoco.MjModel, geom: int) -> float:
    material = int(model.geom_matid[geom])
    rgba = model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]
    return float(rgba[:3].max())


def _add_mesh(
    spec: mujoco.MjSpec, name: str, model: mujoco.MjModel, mesh: int, scale: float
) -> None:
    vertices = slice(model.mesh_vertadr[mesh], model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh])
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    added = spec.add_mesh(name=name)
    added.uservert = (model.mesh_vert[vertices].astype(np.float64) * scale).ravel()
    added.userface = model.mesh_face[faces].ravel()
    # It is never used, but a thin shell has no volume to compute it from.
    added.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _scale(spec: mujoco.MjSpec, factor: float) -> None:
    """Make the robot larger or smaller; masses stay, inertias follow the square of lengths."""
    if factor == 1.0:
        return
    for body in spec.bodies:
        body.pos = body.pos * factor
        body.ipos = body.ipos * factor
        body.fullinertia = body.fullinertia * factor**2
        body.inertia = body.inertia * factor**2
    for joint in spec.joints:
        joint.pos = joint.pos * factor
    for geom in spec.geoms:
        geom.pos = geom.pos * factor
        geom.size = geom.size * factor
        geom.fromto = geom.fromto * factor


def _add_world(spec: mujoco.MjSpec, scene: Scene) -> None:
    spec.option.timestep = scene.timestep_s
    spec.option.integrator = _discrete()
    spec.option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    spec.option.impratio = 1.0
    spec.visual.global_.offwidth = 1920
    spec.visual.global_.offheight = 1080
    spec.visual.quality.shadowsize = _SHADOW_MAP_PX
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.visual.map.shadowclip = 1.6
    spec.stat.extent = 1.0
    spec.stat.center = _SCENE_CENTER_M
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
    for name, box in {_paint_name(box): box for box in scene.boxes}.items():
        # On a box geom a 2D texture is stretched over the whole face: count the tiles.
        repeat = [max(1.0, edge / _TILE_M) for edge in box.size_m[:2]]
        _add_materials(spec, name, box.paint, repeat)
    for box in scene.boxes:
        _add_box(spec, box)
    for fixture in scene.fixtures:
        _add_fixture(spec, fixture)


def _discrete() -> mujoco.mjtIntegrator:
    """Return the integrator; another would be another physics, without a word."""
    if not hasattr(mujoco.mjtIntegrator, "mjINT_DISCRETE"):
        raise RuntimeError(
            f"the scenes of envs need MuJoCo >= 3.13, the first with the integrator mjINT_DISCRETE;"
            f" found {mujoco.__version__}: pip install -U mujoco, where nothing pins it (policies "
            "and toto_robot run beside any MuJoCo, on environments of your own)"
        )
    return mujoco.mjtIntegrator.mjINT_DISCRETE


def _add_materials(spec: mujoco.MjSpec, name: str, paint: Paint, repeat: list[float]) -> None:
    """Add a paint in every pattern."""
    for pattern in PATTERNS:
        material = spec.add_material(name=_material_name(name, pattern), rgba=[*paint.rgb, 1.0])
        material.specular, material.shininess = 0.2, 0.3
        if pattern != "plain":
            material.texrepeat = repeat
            material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = f"pattern/{pattern}"


def _add_box(spec: mujoco.MjSpec, box: Box) -> None:
    body = spec.worldbody.add_body(name=box.name, pos=box.position_m)
    geom = body.add_geom(
        name=box.name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[edge / 2 for edge in box.size_m],
        material=_material_name(_paint_name(box), box.paint.pattern),
        contype=_BOX_CONTYPE,
        conaffinity=_SCENE_CONAFFINITY,
        friction=_GRIP_FRICTION,
        condim=4,
    )
    if box.mass_kg is not None:
        body.add_freejoint(name=box.name)
        geom.mass = box.mass_kg
        geom.solref = [0.01, 1.0, *geom.solref[2:]]
        geom.solimp = [0.95, 0.99, 0.001, 0.5, 2.0]


def _add_fixture(spec: mujoco.MjSpec, fixture: Fixture) -> None:
    for name, paint in fixture.paints.items():
        _add_materials(spec, name, paint, [1.0, 1.0])
    root = spec.worldbody.add_body(name=fixture.name, pos=fixture.position_m)
    for part in fixture.parts:
        body = root.add_body(name=part.name, pos=part.position_m)
        if part.joint is not None:
            _add_passive_joint(body, part)
        for index, shape in enumerate(part.shapes):
            _add_shape(body, f"{part.name}/{index}", shape, fixture.paints[shape.paint])


def _add_passive_joint(body: Any, part: Part) -> None:
    assert part.joint is not None
    joint = body.add_joint(name=part.name, axis=part.joint.axis)
    slides = part.joint.kind == "slide"
    joint.type = mujoco.mjtJoint.mjJNT_SLIDE if slides else mujoco.mjtJoint.mjJNT_HINGE
    joint.range = [part.joint.lower, part.joint.upper]
    joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
    joint.damping[0] = part.joint.damping
    joint.armature = part.joint.armature
    joint.frictionloss = part.joint.friction


def _add_shape(body: Any, name: str, shape: Shape, paint: Paint) -> None:
    x, y, z = shape.size_m
    geom = body.add_geom(
        name=name,
        type=_GEOM_TYPES[shape.kind],
        size=[x / 2, y / 2, z / 2] if shape.kind == "box" else [x / 2, z / 2, 0.0],
        pos=shape.position_m,
        quat=shape.quaternion,
        mass=shape.mass_kg,
        material=_material_name(shape.paint, paint.pattern),
        contype=_FIXTURE_CONTYPE if shape.solid else 0,
        conaffinity=_SCENE_CONAFFINITY if shape.solid else 0,
    )
    if shape.grippable:
        geom.friction, geom.condim = _GRIP_FRICTION, 4
        geom.solref = [0.01, 1.0, *geom.solref[2:]]


def _painted_geoms(model: mujoco.MjModel, scene: Scene) -> dict[str, list[int]]:
    """Give the geoms that wear each paint of the scene."""
    painted: dict[str, list[int]] = {}
    for box in scene.boxes:
        painted.setdefault(_paint_name(box), []).append(model.geom(box.name).id)
    for fixture in scene.fixtures:
        for part in fixture.parts:
            for index, shape in enumerate(part.shapes):
                geom = model.geom(f"{part.name}/{index}").id
                painted.setdefault(shape.paint, []).append(geom)
    return painted


def _paint_name(box: Box) -> str:
    return box.paint_name or box.name


def _material_name(paint: str, pattern: str) -> str:
    return f"{paint}/{pattern}"


def _place_arm(spec: mujoco.MjSpec, scene: Scene, servos: Sequence[Servo]) -> None:
    base = spec.worldbody.first_body()
    base.pos = scene.base_position_m
    base.quat = [np.cos(scene.base_yaw_rad / 2), 0, 0, np.sin(scene.base_yaw_rad / 2)]
    for servo in servos:
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
    direction = np.array(lighting.direction) / np.linalg.norm(lighting.direction)
    light.dir[:] = direction
    light.pos[:] = (
        _SCENE_CENTER_M - _LIGHT_DISTANCE_M * direction
    )  # it is far, but shadows begin there
    light.diffuse[:] = lighting.diffuse
    light.ambient[:] = 0.0
    light.specular[:] = 0.2
    model.vis.headlight.ambient[:] = lighting.ambient
    model.vis.headlight.diffuse[:] = lighting.head
    model.vis.headlight.specular[:] = 0.0


def _renderer(model: mujoco.MjModel, height: int, width: int, quality: Quality) -> mujoco.Renderer:
    if _ROUTE == NONE:
        raise RuntimeError(remedy())
    # This is read when the context is made, so it is set just for that moment. Vertices are most
    # of the cost of a small picture in software: with 12 faces around a capsule and one square a
    # side, 3.5 ms became 2.0.
    settings = model.vis.quality
    settings.offsamples, settings.numslices = quality.samples, quality.round_faces
    settings.numstacks, settings.numquads = quality.round_faces // 2, 1
    renderer = mujoco.Renderer(model, height, width)
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_SHADOW)] = quality.shadows
    renderer.scene.flags[int(mujoco.mjtRndFlag.mjRND_REFLECTION)] = False
    return renderer
