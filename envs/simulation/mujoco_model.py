"""Build the MuJoCo model of a scene with an arm.

The settings of the physics are the `discrete` integrator, pyramidal friction cones and impratio 1.
With these settings and a time step of 2 ms, the scripted expert succeeded in 100 of 100 picks on
held-out seeds. The scene contains the time step. The floor is a box, because software rendering of
an infinite plane takes 3 to 6 ms per image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toto_robot.rendering import configure

from ..arms.arm import Arm, Servo
from ..arms.meshes import Meshes
from ..geometry import Floats
from .patterns import PATTERNS, draw_pattern
from .scene import Box, Camera, Fixture, Paint, Part, Scene, Shape

ROUTE = configure()  # MuJoCo reads MUJOCO_GL when it is imported
import mujoco  # noqa: E402

SCENE_CENTER_M = np.array([0.5, 0.0, 0.5])
# Bits of contype and conaffinity. A robot has contype 1 and conaffinity 2, or 3 with
# self-collision. Boxes collide with everything; a fixture collides with everything but itself.
_BOX_CONTYPE, _FIXTURE_CONTYPE, _SCENE_CONAFFINITY = 2, 4, 3
_TILE_M = 0.5  # edge of one repeat of a pattern
_SHADOW_MAP_PX = 1024
_DARK = 0.3  # darker geoms of a published model get our colour of dark parts
_GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
}
_GRIP_FRICTION = [1.0, 0.01, 0.001]


def build_spec(scene: Scene, arm: Arm, *, meshes: Meshes | None = None) -> mujoco.MjSpec:
    """Return the MuJoCo spec of a scene with an arm; the caller can change and compile it.

    Args:
        scene: the scene around the arm.
        arm: the arm. Each servo becomes an actuator with the servo's name. Joints and bodies keep
            their names from the arm's MJCF file.
        meshes: meshes that replace the arm's primitive shapes in images; None: show these shapes.
    """
    spec = mujoco.MjSpec.from_file(str(arm.model))
    if meshes is not None:
        _add_meshes(spec, meshes, arm.scale)
    _scale(spec, arm.scale)
    _place_arm(spec, scene, (*arm.servos, *arm.hand_servos))
    _add_world(spec, scene)
    for camera in (*scene.cameras, scene.viewer):
        _add_camera(spec, camera)
    return spec


def _add_meshes(spec: mujoco.MjSpec, meshes: Meshes, scale: float) -> None:
    """Replace the visible shapes of the arm by published meshes; collision shapes do not change."""
    for file in meshes.files:
        # A compiled model always has its vertices in metres, in the frame of a geom.
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
    """Return the ids of those mesh geoms of a body that never collide and are only for images.

    If the body has no such geom, return the ids of all its mesh geoms.
    """
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
    # The inertia is not used, but must be valid. `SHELL` is valid for a mesh without volume, too.
    added.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _scale(spec: mujoco.MjSpec, factor: float) -> None:
    """Multiply all lengths of the robot by `factor`, and all inertias by the square of `factor`.

    Masses do not change.
    """
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
    spec.stat.center = SCENE_CENTER_M
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
    for name, box in {paint_name(box): box for box in scene.boxes}.items():
        # A 2D texture is stretched over the whole face of a box geom, so set the number of tiles.
        repeat = [max(1.0, edge / _TILE_M) for edge in box.size_m[:2]]
        _add_materials(spec, name, box.paint, repeat)
    for box in scene.boxes:
        _add_box(spec, box)
    for fixture in scene.fixtures:
        _add_fixture(spec, fixture)


def _discrete() -> mujoco.mjtIntegrator:
    """Return MuJoCo's `discrete` integrator.

    Raises:
        RuntimeError: this version of MuJoCo does not have the integrator. With another integrator
            the physics would differ.
    """
    if not hasattr(mujoco.mjtIntegrator, "mjINT_DISCRETE"):
        raise RuntimeError(
            f"the scenes of envs need MuJoCo >= 3.13, the first with the integrator mjINT_DISCRETE;"
            f" found {mujoco.__version__}: pip install -U mujoco, if no other package pins it "
            "(policies and toto_robot work with any MuJoCo, on environments of your own)"
        )
    return mujoco.mjtIntegrator.mjINT_DISCRETE


def _add_materials(spec: mujoco.MjSpec, name: str, paint: Paint, repeat: list[float]) -> None:
    """Add one material for each pattern, all with the colour of a paint.

    Args:
        spec: the model.
        name: name of the paint.
        paint: the colour.
        repeat: number of repetitions of the pattern along the two axes of a surface.
    """
    for pattern in PATTERNS:
        material = spec.add_material(name=material_name(name, pattern), rgba=[*paint.rgb, 1.0])
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
        material=material_name(paint_name(box), box.paint.pattern),
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
        material=material_name(shape.paint, paint.pattern),
        contype=_FIXTURE_CONTYPE if shape.solid else 0,
        conaffinity=_SCENE_CONAFFINITY if shape.solid else 0,
    )
    if shape.grippable:
        geom.friction, geom.condim = _GRIP_FRICTION, 4
        geom.solref = [0.01, 1.0, *geom.solref[2:]]


def paint_name(box: Box) -> str:
    """Return the name under which an `Appearance` changes the colour of a box."""
    return box.paint_name or box.name


def material_name(paint: str, pattern: str) -> str:
    """Return the name of the MuJoCo material for a paint with a pattern."""
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
            same.data[:2] = [0.0, 1.0]  # second = 0 + 1 * first
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
        quat=camera_quaternion(camera.position_m, camera.target_m, camera.up),
        fovy=camera.fov_y_deg,
    )


def camera_quaternion(
    position: Sequence[float], target: Sequence[float], up: Sequence[float]
) -> Floats:
    """Return the orientation of a camera as a quaternion, w first.

    In MuJoCo, -z is the viewing direction and y is upwards in the image.

    Args:
        position: [3] position of the camera, m.
        target: [3] a point that is at the centre of the image, m.
        up: [3] direction that is upwards in the image.
    """
    backward = np.subtract(position, target)
    backward = backward / np.linalg.norm(backward)
    right = np.cross(up, backward)
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion
