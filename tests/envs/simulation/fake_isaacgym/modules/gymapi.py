"""The stand-in of `isaacgym.gymapi`: the names that our worker uses, and the rules of their use."""

import os
import signal
import sys
import time
from types import SimpleNamespace

if "torch" in sys.modules:  # P1
    raise ImportError(
        "PyTorch was imported before isaacgym modules.  Please import torch after isaacgym modules."
    )

import numpy as np
import torch

from .device import Stale
from .gymtorch import Descriptor
from .physics import Actor, Asset, Physics
from .structures import (  # noqa: F401  # names of this module, for the worker
    AssetOptions,
    CameraProperties,
    PhysXParams,
    Quat,
    RigidShapeProperties,
    SimParams,
    Transform,
    Vec3,
)

__fake__ = True

UP_AXIS_Z, SIM_PHYSX, IMAGE_COLOR, FOLLOW_TRANSFORM = 1, 1, 0, 1
MESH_VISUAL, DOMAIN_ENV, DOMAIN_SIM, ENV_SPACE = 1, 1, 2, 0
DOF_MODE_NONE, DOF_MODE_POS, DOF_MODE_VEL = 0, 1, 2
_DOF = [("hasLimits", "?"), ("lower", "f4"), ("upper", "f4"), ("driveMode", "i4")]
_DOF += [(k, "f4") for k in ("velocity", "effort", "stiffness", "damping", "friction", "armature")]


def acquire_gym():
    return _GYM


class Gym:
    """The functions of Isaac Gym that our worker calls."""

    def __init__(self):
        self.calls, self.sim = {}, None

    def create_sim(self, compute, graphics, engine, parameters):
        _rule(self.sim is None, "a process can have one simulation only (P4)")
        _rule(engine == SIM_PHYSX, "the tensor API needs PhysX (B2)")
        on_gpu = parameters.use_gpu_pipeline
        _rule(parameters.physx.use_gpu or not on_gpu, "the GPU pipeline needs GPU PhysX (B2)")
        _rule(parameters.gravity.z < 0, "gravity does not point down, with z as the up axis (B2)")
        self.sim = Sim(parameters, graphics)
        return None if compute > 7 else self.sim  # None: no such device

    def load_asset(self, sim, folder, name, options):
        _rule(os.path.isfile(os.path.join(folder, name)), f"there is no asset {name} (B5)")
        return sim.add_asset(Asset(options, path=os.path.join(folder, name)))

    def create_box(self, sim, x, y, z, options):
        return sim.add_asset(Asset(options, size=[x, y, z]))

    def get_asset_rigid_body_count(self, asset):
        return len(asset.body_names)

    def get_asset_rigid_shape_count(self, asset):
        return sum(asset.num_shapes(body) for body in asset.body_names)

    def get_asset_rigid_body_names(self, asset):
        return list(asset.body_names)

    def get_asset_rigid_body_shape_indices(self, asset):
        first, ranges = 0, []
        for body in asset.body_names:
            ranges.append(SimpleNamespace(start=first, count=asset.num_shapes(body)))
            first += asset.num_shapes(body)
        return ranges

    def get_asset_dof_names(self, asset):
        return list(asset.dof_names)

    def get_asset_dof_properties(self, asset):
        return np.zeros(len(asset.dof_names), _DOF)

    def create_env(self, sim, lower, upper, per_row):
        sim.unprepared("create_env")
        sim.envs.append(Env(sim, len(sim.envs)))
        return sim.envs[-1]

    def begin_aggregate(self, env, bodies, shapes, self_collisions):
        env.room = [bodies, shapes]
        return True

    def end_aggregate(self, env):
        env.room = None
        return True

    def create_actor(self, env, asset, pose, name, group, filters, segmentation):
        env.sim.unprepared("create_actor")
        _rule(group == env.index, "the collision group must be the index of the world (B7)")
        if env.room is not None:
            env.room[0] -= len(asset.body_names)
            env.room[1] -= self.get_asset_rigid_shape_count(asset)
            _rule(min(env.room) >= 0, "the aggregate is too small for its actors (B7)")
        actor = Actor(name, asset, [*_xyz(pose.p), *_xyz(pose.r), pose.r.w])
        count = self.get_asset_rigid_shape_count(asset)
        actor.filters, actor.frictions = [filters] * count, [1.0] * count
        actor.drives = self.get_asset_dof_properties(asset)
        env.actors.append(actor)
        return len(env.actors) - 1

    def set_actor_dof_properties(self, env, handle, properties):
        env.sim.unprepared("set_actor_dof_properties")
        env.actors[handle].drives = properties.copy()
        return True

    def get_actor_rigid_shape_properties(self, env, handle):
        actor = env.actors[handle]
        pairs = zip(actor.filters, actor.frictions)
        return [RigidShapeProperties(*pair) for pair in pairs]

    def set_actor_rigid_shape_properties(self, env, handle, properties):
        env.sim.unprepared("set_actor_rigid_shape_properties")
        actor = env.actors[handle]
        actor.filters = [one.filter for one in properties]
        actor.frictions = [one.friction for one in properties]
        return True

    def get_actor_rigid_body_names(self, env, handle):
        return list(env.actors[handle].asset.body_names)

    def get_actor_dof_names(self, env, handle):
        return list(env.actors[handle].asset.dof_names)

    def set_rigid_body_color(self, env, handle, body, mesh, color):
        _rule(mesh == MESH_VISUAL, "the colour of what is visible (B7)")
        env.actors[handle].colors[body] = _xyz(color)
        env.sim.rendered = -1  # an image with the new colour needs a new rendering

    def find_actor_rigid_body_handle(self, env, handle, name):
        return self.find_actor_rigid_body_index(env, handle, name, DOMAIN_ENV)

    def find_actor_rigid_body_index(self, env, handle, name, domain):
        names = env.actors[handle].asset.body_names
        if name not in names:
            return -1  # B8: no exception
        first = sum(len(one.asset.body_names) for one in env.actors[:handle])
        return first + names.index(name) + (env.index * env.num_bodies if domain == 2 else 0)

    def get_actor_index(self, env, handle, domain):
        return handle + (env.index * len(env.actors) if domain == DOMAIN_SIM else 0)

    def create_camera_sensor(self, env, properties):
        env.sim.unprepared("create_camera_sensor")
        _rule(env.sim.graphics >= 0, "a camera needs a graphics device (B3)")
        shape = (properties.height, properties.width, 4)
        camera = SimpleNamespace(
            properties=properties, pixels=torch.full(shape, 255, dtype=torch.uint8), pose=None
        )
        env.cameras.append(camera)
        return len(env.cameras) - 1

    def attach_camera_to_body(self, camera, env, body, pose, mode):
        _rule(0 <= body < env.num_bodies, "a camera on a body that does not exist (B8)")
        _rule(mode == FOLLOW_TRANSFORM, "a camera on a hand follows its whole pose (C)")
        env.cameras[camera].pose = (body, _xyz(pose.p), [pose.r.w, *_xyz(pose.r)])

    def set_camera_location(self, camera, env, eye, target):
        env.cameras[camera].pose = (None, _xyz(eye), _xyz(target))

    def get_camera_image_gpu_tensor(self, sim, env, camera, kind):
        camera = env.cameras[camera]
        _rule(camera.properties.enable_tensors, "a camera without enable_tensors (C)")
        return sim.describe(camera.pixels)

    def set_light_parameters(self, sim, index, intensity, ambient, direction):
        for color in (intensity, ambient):
            _rule(0 <= min(_xyz(color)) <= max(_xyz(color)) <= 1, "a strength is not in [0, 1]")

    def prepare_sim(self, sim):
        sim.unprepared("prepare_sim")
        sim.prepare()
        return True

    def acquire_dof_state_tensor(self, sim):
        return sim.acquire("dof")

    def acquire_actor_root_state_tensor(self, sim):
        return sim.acquire("root")

    def acquire_rigid_body_state_tensor(self, sim):
        return sim.acquire("bodies")

    def acquire_net_contact_force_tensor(self, sim):
        return sim.acquire("contacts")

    def refresh_dof_state_tensor(self, sim):
        return sim.refresh("dof")

    def refresh_actor_root_state_tensor(self, sim):
        return sim.refresh("root")

    def refresh_rigid_body_state_tensor(self, sim):
        return sim.refresh("bodies")

    def refresh_net_contact_force_tensor(self, sim):
        return sim.refresh("contacts")

    def set_dof_position_target_tensor(self, sim, targets):
        sim.submit("targets", targets)
        return True

    def set_dof_state_tensor_indexed(self, sim, state, indices, count):
        sim.submit("dof", state, indices, count)
        return True

    def set_actor_root_state_tensor_indexed(self, sim, state, indices, count):
        sim.submit("root", state, indices, count)
        return True

    def apply_rigid_body_force_tensors(self, sim, forces, torques, space):
        _rule(space == ENV_SPACE and torques is None, "forces in the frame of the world")
        sim.submit("forces", forces)
        return True

    def simulate(self, sim):
        sim.simulate()

    def fetch_results(self, sim, wait):
        sim.fetched = sim.steps

    def step_graphics(self, sim):
        _rule(sim.fetched == sim.steps, "step_graphics without fetch_results (S5)")
        sim.synchronised = sim.steps

    def render_all_camera_sensors(self, sim):
        _rule(not sim.access, "rendering between start and end of the access can block (C)")
        _rule(sim.synchronised == sim.steps, "rendering before step_graphics (C)")
        sim.rendered = sim.steps

    def start_access_image_tensors(self, sim):
        _rule(sim.rendered == sim.steps, "access to images that were not rendered (C)")
        sim.access = True
        sim.draw()

    def end_access_image_tensors(self, sim):
        _rule(sim.access, "the end of an access that did not start (C)")
        sim.access = False
        for env in sim.envs:
            for camera in env.cameras:
                camera.pixels.fill_(255)  # a late read shows (C)


class Env:
    """One world."""

    def __init__(self, sim, index):
        self.sim, self.index, self.actors, self.cameras, self.room = sim, index, [], [], None

    @property
    def num_bodies(self):
        return sum(len(actor.asset.body_names) for actor in self.actors)


class Sim:
    """The state of the simulation, and what was called since the last time step."""

    def __init__(self, parameters, graphics):
        self.parameters, self.graphics, self.envs, self.physics = parameters, graphics, [], None
        self.steps = self.fetched = self.synchronised = 0
        self.rendered, self.access, self.pending = -1, False, {}

    def add_asset(self, asset):
        self.unprepared("an asset")
        return asset

    def unprepared(self, what):
        _rule(self.physics is None, f"{what} after prepare_sim (B10)")

    def describe(self, tensor):
        self.prepared("a tensor")
        return Descriptor(tensor, on_gpu=self.parameters.use_gpu_pipeline, owner=tensor)

    def prepared(self, what):
        _rule(self.physics is not None, f"{what} before prepare_sim (B11)")

    def prepare(self):
        gravity = _xyz(self.parameters.gravity)
        self.physics = Physics([env.actors for env in self.envs], self.parameters.dt, gravity)
        n, physics = len(self.envs), self.physics
        counts = {"dof": len(physics.dofs), "bodies": len(physics.bodies)}
        self.actors = len(self.envs[0].actors)
        shapes = {
            "dof": (n * counts["dof"], 2),
            "root": (n * self.actors, 13),
            "bodies": (n * counts["bodies"], 13),
            "contacts": (n * counts["bodies"], 3),
        }
        # B11: the contents are undefined before the first refresh
        self.buffers = {key: torch.full(shape, float("nan")) for key, shape in shapes.items()}
        self.targets = np.zeros((n, counts["dof"]))
        self.forces = np.zeros((n, counts["bodies"], 3))

    def acquire(self, name):
        self.prepared(f"acquire {name}")
        return self.describe(self.buffers[name])

    def refresh(self, name):
        self.prepared(f"refresh {name}")
        _rule(not self.pending, f"refresh after {sorted(self.pending)} without simulate (L2)")
        on_gpu = self.parameters.use_gpu_pipeline
        _rule(on_gpu or self.fetched == self.steps, "refresh before fetch_results on the CPU (S5)")
        read = {
            "dof": self.physics.dof_state,
            "root": self.physics.root_state,
            "bodies": self.physics.body_state,
            "contacts": self.physics.contact_forces,
        }[name]
        rows = np.concatenate([read(row) for row in range(len(self.envs))])
        if _fault("nan", "simulate"):
            rows[0] = np.nan
        self.buffers[name].copy_(torch.from_numpy(rows))
        return True

    def submit(self, name, state, indices=None, count=None):
        """Record a state for the next time step; check the tensors and the actors (L1, L4, L5)."""
        self.prepared(f"set {name}")
        _rule(name not in self.pending, f"set {name} twice between two time steps (L1)")
        on_gpu = self.parameters.use_gpu_pipeline
        for tensor in (state, indices):
            _rule(tensor is None or tensor.on_gpu == on_gpu, f"{name} on the wrong device (L4)")
        values = state.read()
        _rule(values.dtype == torch.float32, f"{name} must be float32 (S2)")
        size = {"targets": self.targets.size, "forces": self.forces.size}.get(name)
        size = self.buffers[name].numel() if size is None else size
        _rule(values.numel() == size, f"{name} must have all rows of the simulation (L5)")
        if indices is not None:
            ids = indices.read()
            _rule(ids.dtype == torch.int32, f"indices must be int32, not {ids.dtype} (L4)")
            _rule(ids.numel() == count > 0, "the number of indices is wrong (L5)")
            _rule(len(set(ids.tolist())) == count, "an index appears twice (L5)")
            total = len(self.envs) * self.actors
            _rule(0 <= int(ids.min()) <= int(ids.max()) < total, "indices of the simulation (L5)")
        self.pending[name] = (state, indices)

    def simulate(self):
        self.prepared("simulate")
        _rule(not self.access, "simulate between start and end of the access to images (C)")
        pending, self.pending = self.pending, {}
        self.forces[:] = 0.0
        for name, (state, indices) in pending.items():
            values = state.read().numpy()  # L4: still referenced
            if name == "targets":
                self.targets[:] = values.reshape(self.targets.shape)
            elif name == "forces":
                self.forces[:] = values.reshape(self.forces.shape)
            else:
                for index in indices.read().tolist():
                    self._apply(name, values, *divmod(index, self.actors))
        for row in range(len(self.envs)):
            self.physics.step(row, self.targets[row], self.forces[row])
        self.steps += 1

    def _apply(self, name, values, row, actor_index):
        actors = self.envs[row].actors
        actor, data = actors[actor_index], self.physics.data[row]
        if name == "root":
            state = values.reshape(len(self.envs), self.actors, 13)[row, actor_index]
            self.physics.set_root(data, actor, state.astype(float))
            return
        _rule(bool(actor.asset.dof_names), "set the joints of an actor without joints (L5)")
        first = sum(len(one.asset.dof_names) for one in actors[:actor_index])
        for index in range(first, first + len(actor.asset.dof_names)):
            state = values.reshape(len(self.envs), -1, 2)[row, index]
            self.physics.set_dof(data, index, *state.astype(float))

    def draw(self):
        for env in self.envs:
            data = self.physics.data[env.index]
            for camera in env.cameras:
                body, eye, how = camera.pose
                if body is None:
                    forward = np.subtract(how, eye)
                    rotation = _looking(forward / np.linalg.norm(forward))
                else:
                    eye, rotation = _carried(data, self.physics.bodies[body], eye, how)
                one = camera.properties
                size, fov = (one.width, one.height), np.deg2rad(one.horizontal_fov)
                pixels = self.physics.draw(env.index, eye, rotation, *size, fov)
                camera.pixels.copy_(torch.from_numpy(pixels))


def _looking(forward):
    left = np.cross([0.0, 0.0, 1.0], forward)
    left = left / np.linalg.norm(left)
    return np.stack([forward, left, np.cross(forward, left)], axis=1)


def _carried(data, body, position, quaternion):
    import mujoco

    local, frame = np.zeros(9), data.xmat[body].reshape(3, 3)
    mujoco.mju_quat2Mat(local, np.array(quaternion))
    return data.xpos[body] + frame @ position, frame @ local.reshape(3, 3)


def _xyz(vector):
    return [vector.x, vector.y, vector.z]


def _rule(kept, message):
    if not kept:
        raise Stale(message)


def _fault(kind, name):
    """Return whether FAKE_ISAACGYM asks for a fault in this call of a function."""
    for one in os.environ.get("FAKE_ISAACGYM", "").split():
        what, _, where = one.partition("=")
        function, _, number = where.partition(":")
        if (what, function) == (kind, name) and _GYM.calls.get(name, 0) >= int(number):
            return True
    return False


def _counted(name, function):
    def call(self, *args):  # as in the compiled module, arguments have no names
        self.calls[name] = self.calls.get(name, 0) + 1
        if _fault("crash", name):
            os.kill(os.getpid(), signal.SIGKILL)
        while _fault("hang", name):
            time.sleep(1.0)
        if _fault("refuse", name):
            return None
        return function(self, *args)

    return call


for _name, _function in list(vars(Gym).items()):
    if not _name.startswith("_"):
        setattr(Gym, _name, _counted(_name, _function))
_GYM = Gym()
