"""Build the worlds of a plan in Isaac Gym, in the order that its manual prescribes.

Simulation, assets, then for each world its actors and cameras, and `prepare_sim` last: after it,
no actor and no camera can be added. `envs.simulation.isaacgym.plan` documents the plan.
"""

from __future__ import annotations

import math
import os
from typing import Any, Sequence

from isaacgym import gymapi

Plan = Any  # the content of the JSON file

# The contact settings of PixMC, the benchmark of MVP (arXiv 2203.06173).
_PHYSX = {
    "solver_type": 1,
    "num_position_iterations": 12,
    "num_velocity_iterations": 1,
    "contact_offset": 0.005,
    "rest_offset": 0.0,
    "bounce_threshold_velocity": 0.2,
    "max_depenetration_velocity": 1000.0,
    "default_buffer_size_multiplier": 5.0,
    "max_gpu_contact_pairs": 8 * 1024 * 1024,
}
_NEAR_M, _FAR_M = 0.01, 10.0
_DRIVES = {"position": "DOF_MODE_POS", "damper": "DOF_MODE_VEL"}


class Built:
    """The handles of the simulation, its worlds, actors and cameras.

    Attributes:
        gym: the interface of Isaac Gym.
        sim: the simulation.
        envs: [n] handle of each world.
        actors: [n] handles of each world's actors, in the order of the plan.
        cameras: [n] handles of each world's cameras, in the order of the plan.
    """

    def __init__(self, plan: Plan) -> None:
        """Build the worlds.

        Raises:
            RuntimeError: Isaac Gym cannot create the simulation, load an asset or find a name.
        """
        self.gym = gymapi.acquire_gym()
        self.sim = _create_sim(self.gym, plan)
        self.envs: list[Any] = []
        self.actors: list[list[int]] = []
        self.cameras: list[list[int]] = []
        assets = [_load(self.gym, self.sim, actor) for actor in plan["actors"]]
        bodies = sum(self.gym.get_asset_rigid_body_count(asset) for asset in assets)
        shapes = sum(self.gym.get_asset_rigid_shape_count(asset) for asset in assets)
        per_row = math.ceil(math.sqrt(plan["num_worlds"]))
        # All worlds have the same origin, so that positions in a world and in the simulation are
        # equal. Worlds do not collide with each other, and a camera sees only its own world.
        origin = gymapi.Vec3(0.0, 0.0, 0.0)
        for index in range(plan["num_worlds"]):
            env = self.gym.create_env(self.sim, origin, origin, per_row)
            self.gym.begin_aggregate(env, bodies, shapes, True)
            self.envs.append(env)
            self.actors.append(
                [
                    self._add_actor(env, index, actor, asset)
                    for actor, asset in zip(plan["actors"], assets)
                ]
            )
            self.gym.end_aggregate(env)
            self.cameras.append([self._add_camera(index, one, plan) for one in plan["cameras"]])
        if plan["lighting"] is not None:
            light = plan["lighting"]
            colors = (_vector(light["diffuse"]), _vector(light["ambient"]))
            self.gym.set_light_parameters(self.sim, 0, *colors, _vector(light["direction"]))
        if not self.gym.prepare_sim(self.sim):
            raise RuntimeError("Isaac Gym could not prepare the simulation (prepare_sim)")

    def _add_actor(self, env: Any, group: int, actor: Plan, asset: Any) -> int:
        """Add an actor to a world; set its gains, collision filters, friction and colours."""
        handle = self.gym.create_actor(
            env, asset, _transform(actor["pose"]), actor["name"], group, 0, 0
        )
        if actor["dofs"]:
            properties = self.gym.get_asset_dof_properties(asset)
            for index, name in enumerate(self.gym.get_asset_dof_names(asset)):
                dof = actor["dofs"][name]
                properties["driveMode"][index] = int(getattr(gymapi, _DRIVES[dof["drive"]]))
                for key in ("stiffness", "damping", "effort", "velocity", "friction", "armature"):
                    properties[key][index] = dof[key]
            self.gym.set_actor_dof_properties(env, handle, properties)
        shapes = self.gym.get_actor_rigid_shape_properties(env, handle)
        ranges = self.gym.get_asset_rigid_body_shape_indices(asset)
        for name, span in zip(self.gym.get_asset_rigid_body_names(asset), ranges):
            for index in range(span.start, span.start + span.count):
                shapes[index].filter = actor["filters"].get(self._body(actor, name), 0)
                shapes[index].friction = actor["friction"]
        self.gym.set_actor_rigid_shape_properties(env, handle, shapes)
        self.paint(env, handle, actor, actor["colors"])
        return handle

    @staticmethod
    def _body(actor: Plan, name: str) -> str:
        """Return our name of a body; Isaac Gym gives the body of a box a name of its own."""
        return actor["name"] if actor["asset"]["kind"] == "box" else name

    def paint(self, env: Any, handle: int, actor: Plan, colors: dict[str, Any]) -> None:
        """Set the colours (red, green and blue in [0, 1]) of bodies of an actor, by body name."""
        names = self.gym.get_actor_rigid_body_names(env, handle)
        for index, name in enumerate(names):
            color = colors.get(self._body(actor, name))
            if color is not None:
                visual = gymapi.MESH_VISUAL
                self.gym.set_rigid_body_color(env, handle, index, visual, _vector(color))

    def _add_camera(self, index: int, camera: Plan, plan: Plan) -> int:
        """Add a camera to a world: fixed in the world, or fixed to a body."""
        env = self.envs[index]
        properties = gymapi.CameraProperties()
        properties.width, properties.height = camera["width"], camera["height"]
        properties.horizontal_fov = camera["fov_x_deg"]
        properties.near_plane, properties.far_plane = _NEAR_M, _FAR_M
        properties.supersampling_horizontal = camera["supersampling"]
        properties.supersampling_vertical = camera["supersampling"]
        properties.enable_tensors = True
        handle = self.gym.create_camera_sensor(env, properties)
        if handle < 0:
            raise RuntimeError("Isaac Gym could not create the camera " + camera["name"])
        if camera["body"] is None:
            eye, target = _vector(camera["position"]), _vector(camera["target"])
            self.gym.set_camera_location(handle, env, eye, target)
        else:
            actor, body = camera["body"]
            found = self.gym.find_actor_rigid_body_handle(env, self.actors[index][actor], body)
            if found < 0:
                raise RuntimeError("Isaac Gym did not find the body " + body)
            pose = _transform([*camera["position"], *camera["quaternion"]])
            follow = gymapi.FOLLOW_TRANSFORM
            self.gym.attach_camera_to_body(handle, env, found, pose, follow)
        return handle

    def dof_index(self, actor: int, name: str) -> int:
        """Return the index of a joint in the part of the joint tensor of one world.

        Raises:
            RuntimeError: the actor has no such joint.
        """
        first = 0
        for handle in self.actors[0][:actor]:
            first += len(self.gym.get_actor_dof_names(self.envs[0], handle))
        names = self.gym.get_actor_dof_names(self.envs[0], self.actors[0][actor])
        if name not in names:
            raise RuntimeError(f"Isaac Gym did not find the joint {name} among {names}")
        return first + names.index(name)

    def body_index(self, actor: int, name: str, *, is_box: bool) -> int:
        """Return the index of a body in the part of the body tensor of one world.

        Raises:
            RuntimeError: the actor has no such body.
        """
        env, handle = self.envs[0], self.actors[0][actor]
        if is_box:
            name = self.gym.get_actor_rigid_body_names(env, handle)[0]
        found = self.gym.find_actor_rigid_body_index(env, handle, name, gymapi.DOMAIN_ENV)
        if found < 0:  # Isaac Gym returns -1 instead of raising an error
            raise RuntimeError("Isaac Gym did not find the body " + name)
        return found

    def actor_indices(self) -> list[list[int]]:
        """Return the index of each actor in the whole simulation [n actors]."""
        return [
            [self.gym.get_actor_index(env, handle, gymapi.DOMAIN_SIM) for handle in handles]
            for env, handles in zip(self.envs, self.actors)
        ]


def _create_sim(gym: Any, plan: Plan) -> Any:
    parameters = gymapi.SimParams()
    parameters.dt, parameters.substeps = plan["timestep_s"], 1
    parameters.up_axis = gymapi.UP_AXIS_Z
    parameters.gravity = gymapi.Vec3(0.0, 0.0, -9.81)
    on_gpu = plan["device"] != "cpu"
    parameters.use_gpu_pipeline = parameters.physx.use_gpu = on_gpu
    for key, value in _PHYSX.items():
        setattr(parameters.physx, key, value)
    device = int(plan["device"].partition(":")[2] or 0)
    graphics = plan["graphics_device"] if plan["cameras"] else -1
    sim = gym.create_sim(device, graphics, gymapi.SIM_PHYSX, parameters)
    if sim is None:
        raise RuntimeError(
            f"Isaac Gym could not create the simulation on {plan['device']} (create_sim)"
        )
    return sim


def _load(gym: Any, sim: Any, actor: Plan) -> Any:
    """Return the asset of an actor."""
    options = gymapi.AssetOptions()  # a new one each time: an asset keeps a reference
    options.fix_base_link = actor["fixed"]
    options.disable_gravity = actor["disable_gravity"]
    options.collapse_fixed_joints = False  # otherwise bodies on fixed joints disappear
    options.flip_visual_attachments = False
    options.thickness = 0.001
    options.linear_damping = options.angular_damping = 0.0
    options.use_physx_armature = True
    source = actor["asset"]
    if source["kind"] == "box":
        options.density = actor["density"]
        asset = gym.create_box(sim, *source["size"], options)
    else:
        folder, name = os.path.split(source["file"])
        asset = gym.load_asset(sim, folder, name, options)
    if asset is None:
        raise RuntimeError("Isaac Gym could not load the asset of " + actor["name"])
    return asset


def _vector(values: Sequence[float]) -> Any:
    return gymapi.Vec3(*values)


def _transform(pose: Sequence[float]) -> Any:
    """Return a pose [7] (position, then quaternion, w first) as Isaac Gym's transform."""
    x, y, z, qw, qx, qy, qz = pose
    return gymapi.Transform(gymapi.Vec3(x, y, z), gymapi.Quat(qx, qy, qz, qw))
