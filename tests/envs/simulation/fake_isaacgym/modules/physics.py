"""The physics of the stand-in: one MuJoCo model for all worlds, and one state per world."""

from xml.etree import ElementTree as ET

import mujoco
import numpy as np

_VISUAL, _COLLISION = 2, 3  # groups of geoms


class Asset:
    """A URDF file or a box, as links, joints and shapes; depth first, the last name first."""

    def __init__(self, options, path=None, size=None):
        self.options = options
        if path is None:
            box = ("box", {"size": size}, "0 0 0", "0 0 0", None)
            mass = options.density * float(np.prod(size))
            inertia = (
                mass
                / 12
                * np.array(
                    [
                        size[1] ** 2 + size[2] ** 2,
                        size[0] ** 2 + size[2] ** 2,
                        size[0] ** 2 + size[1] ** 2,
                    ]
                )
            )
            self.links = {"box": ([box], [box], (mass, "0 0 0", "0 0 0", inertia))}
            self.joints, self.root = {}, "box"
        else:
            self._read(ET.parse(path).getroot())
        self.body_names = list(self._depth_first(self.root))
        self.dof_names = [
            self.joints[name]["name"]
            for name in self.body_names
            if name in self.joints and self.joints[name]["type"] != "fixed"
        ]

    def _read(self, robot):
        self.links, self.joints = {}, {}
        for link in robot.iter("link"):
            self.links[link.get("name")] = (
                [_shape(one) for one in link.findall("visual")],
                [_shape(one) for one in link.findall("collision")],
                _inertial(link.find("inertial")),
            )
        for joint in robot.findall("joint"):
            limit, axis = joint.find("limit"), joint.find("axis")
            self.joints[joint.find("child").get("link")] = {
                "name": joint.get("name"),
                "type": joint.get("type"),
                "parent": joint.find("parent").get("link"),
                "xyz": joint.find("origin").get("xyz"),
                "rpy": joint.find("origin").get("rpy"),
                "axis": None if axis is None else axis.get("xyz"),
                "range": None if limit is None else (limit.get("lower"), limit.get("upper")),
            }
        (self.root,) = [name for name in self.links if name not in self.joints]

    def _depth_first(self, name):
        yield name
        below = [child for child, joint in self.joints.items() if joint["parent"] == name]
        for child in sorted(below, reverse=True):
            yield from self._depth_first(child)

    def num_shapes(self, body):
        return len(self.links[body][1])


class Actor:
    """An actor: an asset with a pose, drives, collision filters and colours."""

    def __init__(self, name, asset, pose):
        self.name, self.asset, self.pose = name, asset, np.array(pose, dtype=float)
        self.drives, self.filters, self.frictions, self.colors = None, None, None, {}

    @property
    def fixed(self):
        return self.asset.options.fix_base_link


class Physics:
    """All worlds; the actors of all worlds are equal up to their poses and colours."""

    def __init__(self, worlds, timestep_s, gravity):
        self.worlds = worlds
        xml = _model(worlds[0], timestep_s, gravity)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = [mujoco.MjData(self.model) for _ in worlds]
        model = self.model
        self.bodies = [
            model.body(f"{actor.name}/{body}").id
            for actor in worlds[0]
            for body in actor.asset.body_names
        ]
        self.dofs = [
            model.joint(f"{actor.name}/{name}").id
            for actor in worlds[0]
            for name in actor.asset.dof_names
        ]
        self.modes = [
            drive["driveMode"]
            for actor in worlds[0]
            if actor.drives is not None
            for drive in actor.drives
        ]
        for data, world in zip(self.data, worlds):
            for actor in world:
                self.set_root(data, actor, np.concatenate([actor.pose, np.zeros(6)]))
            mujoco.mj_forward(model, data)

    def set_root(self, data, actor, state):
        """Set the root [13] of an actor: position, quaternion (x, y, z, w), velocities."""
        name = f"{actor.name}/{actor.asset.root}"
        wxyz = state[[6, 3, 4, 5]]
        if actor.fixed:
            mocap = int(self.model.body(name).mocapid[0])
            data.mocap_pos[mocap], data.mocap_quat[mocap] = state[:3], wxyz
            return
        joint = self.model.joint(name).id
        place, speed = self.model.jnt_qposadr[joint], self.model.jnt_dofadr[joint]
        data.qpos[place : place + 7] = [*state[:3], *wxyz]
        data.qvel[speed : speed + 3] = state[7:10]
        local, conjugate = np.zeros(3), np.zeros(4)
        mujoco.mju_negQuat(conjugate, wxyz)
        mujoco.mju_rotVecQuat(local, state[10:13], conjugate)
        data.qvel[speed + 3 : speed + 6] = local

    def set_dof(self, data, index, position, velocity):
        joint = self.dofs[index]
        data.qpos[self.model.jnt_qposadr[joint]] = position
        data.qvel[self.model.jnt_dofadr[joint]] = velocity

    def step(self, row, targets, forces):
        """Simulate one time step of a world, with targets [dofs] and forces [bodies 3]."""
        data = self.data[row]
        for index, mode in enumerate(self.modes):
            data.ctrl[index] = targets[index] if mode == 1 else 0.0
        data.xfrc_applied[:] = 0.0
        data.xfrc_applied[self.bodies, :3] = forces
        mujoco.mj_step(self.model, data)
        mujoco.mj_kinematics(self.model, data)

    def dof_state(self, row):
        joints, data = self.dofs, self.data[row]
        places, speeds = self.model.jnt_qposadr[joints], self.model.jnt_dofadr[joints]
        return np.stack([data.qpos[places], data.qvel[speeds]], axis=1)

    def body_state(self, row):
        data, bodies = self.data[row], self.bodies
        state = np.zeros((len(bodies), 13))
        state[:, :3], state[:, 3:7] = data.xpos[bodies], data.xquat[bodies][:, [1, 2, 3, 0]]
        velocity = np.zeros(6)
        for index, body in enumerate(bodies):
            kind = mujoco.mjtObj.mjOBJ_BODY
            mujoco.mj_objectVelocity(self.model, data, kind, body, velocity, 0)
            state[index, 7:10], state[index, 10:13] = velocity[3:], velocity[:3]
        return state

    def root_state(self, row):
        state, first, roots = self.body_state(row), 0, []
        for actor in self.worlds[row]:
            roots.append(state[first])
            first += len(actor.asset.body_names)
        return np.stack(roots)

    def contact_forces(self, row):
        model, data = self.model, self.data[row]
        totals, wrench = np.zeros((model.nbody, 3)), np.zeros(6)
        for index in range(data.ncon):
            mujoco.mj_contactForce(model, data, index, wrench)
            force = data.contact.frame[index].reshape(3, 3).T @ wrench[:3]
            first, second = model.geom_bodyid[data.contact.geom[index]]
            totals[second] += force
            totals[first] -= force
        return totals[self.bodies]

    def draw(self, row, eye, rotation, width, height, fov_x):
        """Return an image [h w 4] without shading: the colour of what each ray hits first."""
        x = np.tan(fov_x / 2) * (1 - (2 * np.arange(width) + 1) / width)
        y = np.tan(fov_x / 2) * height / width * (1 - (2 * np.arange(height) + 1) / height)
        rays = np.stack(
            np.broadcast_arrays(np.ones((height, width)), x[None, :], y[:, None]), axis=-1
        ).reshape(-1, 3)
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True) @ rotation.T
        count = len(rays)
        hit, distance = np.full(count, -1, np.int32), np.zeros(count)
        group = np.array([0, 0, 1, 0, 0, 0], np.uint8)
        model, data = self.model, self.data[row]
        start, flat = np.asarray(eye, dtype=float), np.ascontiguousarray(rays).ravel()
        arguments = [model, data, start, flat, group, 1, -1, hit, distance]
        try:
            mujoco.mj_multiRay(*arguments, None, count, 10.0)  # MuJoCo 3.4 also returns normals
        except TypeError:
            mujoco.mj_multiRay(*arguments, count, 10.0)
        colors = self._colors(row)
        return np.where(hit[:, None] < 0, 0, colors[hit]).reshape(height, width, 4).astype(np.uint8)

    def _colors(self, row):
        colors = np.round(255 * self.model.geom_rgba).astype(int)
        for actor in self.worlds[row]:
            for index, color in actor.colors.items():
                body = self.model.body(f"{actor.name}/{actor.asset.body_names[index]}").id
                colors[self.model.geom_bodyid == body, :3] = np.round(255 * np.array(color))
        return colors


def _shape(element):
    ((kind,),) = (list(element.find("geometry")),)
    origin, color = element.find("origin"), element.find("material/color")
    rgba = None if color is None else color.get("rgba")
    sizes = {key: [float(one) for one in text.split()] for key, text in kind.attrib.items()}
    return kind.tag, sizes, origin.get("xyz"), origin.get("rpy"), rgba


def _inertial(element):
    inertia, origin = element.find("inertia").attrib, element.find("origin")
    if any(float(inertia[key]) for key in ("ixy", "ixz", "iyz")):
        raise ValueError("the stand-in reads only diagonal inertias")
    diagonal = np.array([float(inertia[key]) for key in ("ixx", "iyy", "izz")])
    mass = float(element.find("mass").get("value"))
    return mass, origin.get("xyz"), origin.get("rpy"), diagonal


def _model(actors, timestep_s, gravity):
    """Return the MuJoCo model of one world as XML text."""
    root = ET.Element("mujoco")
    # eulerseq XYZ: rotations about fixed axes x, y and z, as in URDF
    ET.SubElement(root, "compiler", angle="radian", eulerseq="XYZ", autolimits="true")
    ET.SubElement(
        root, "option", timestep=str(timestep_s), gravity=_text(gravity), integrator="implicitfast"
    )
    world, contact = ET.SubElement(root, "worldbody"), ET.SubElement(root, "contact")
    actuator, filters = ET.SubElement(root, "actuator"), {}
    for actor in actors:
        shape = 0
        elements = {}
        for body in actor.asset.body_names:
            visual, collision, inertial = actor.asset.links[body]
            name = f"{actor.name}/{body}"
            joint = actor.asset.joints.get(body)
            if joint is None:
                element = ET.SubElement(world, "body", name=name)
                if actor.fixed:
                    element.set("mocap", "true")
                else:
                    ET.SubElement(element, "freejoint", name=name)
            else:
                parent = elements[joint["parent"]]
                element = ET.SubElement(
                    parent, "body", name=name, pos=joint["xyz"], euler=joint["rpy"]
                )
                if joint["type"] != "fixed":
                    _add_joint(element, actuator, actor, joint)
            elements[body] = element
            if actor.asset.options.disable_gravity:
                element.set("gravcomp", "1")
            mass, xyz, rpy, inertia = inertial
            ET.SubElement(
                element, "inertial", mass=str(mass), pos=xyz, euler=rpy, diaginertia=_text(inertia)
            )
            for one in visual:
                _add_geom(element, one, group=str(_VISUAL), contype="0", conaffinity="0")
            for one in collision:
                _add_geom(
                    element,
                    one,
                    group=str(_COLLISION),
                    condim="4",
                    solref="0.01 1",
                    solimp="0.95 0.99 0.001 0.5 2",
                    friction=f"{actor.frictions[shape]} 0.01 0.001",
                )
                filters.setdefault(name, set()).add(actor.filters[shape])
                shape += 1
    names = list(filters)
    for index, first in enumerate(names):
        for second in names[:index]:
            if all(a & b for a in filters[first] for b in filters[second]):
                ET.SubElement(contact, "exclude", body1=first, body2=second)
    return ET.tostring(root, encoding="unicode")


def _add_joint(element, actuator, actor, joint):
    drive = actor.drives[actor.asset.dof_names.index(joint["name"])]
    name = f"{actor.name}/{joint['name']}"
    kind = "hinge" if joint["type"] == "revolute" else "slide"
    ET.SubElement(
        element,
        "joint",
        name=name,
        type=kind,
        axis=joint["axis"],
        range=" ".join(joint["range"]),
        armature=str(drive["armature"]),
    )
    most, stiffness, damping = drive["effort"], drive["stiffness"], drive["damping"]
    ET.SubElement(
        actuator,
        "general",
        name=name,
        joint=name,
        biastype="affine",
        gainprm=str(stiffness),
        biasprm=f"0 {-stiffness} {-damping}",
        forcerange=f"{-most} {most}",
    )


def _add_geom(element, shape, **settings):
    kind, sizes, xyz, rpy, rgba = shape
    if kind == "box":
        size = [edge / 2 for edge in sizes["size"]]
    else:
        size = [*sizes["radius"], *(length / 2 for length in sizes.get("length", []))]
    if rgba is not None:
        settings["rgba"] = rgba
    ET.SubElement(
        element, "geom", type=kind, size=_text(size), pos=xyz, euler=rpy, mass="0", **settings
    )


def _text(values):
    return " ".join(str(float(value)) for value in values)
