"""Simulate, reset and render the worlds; one method per command of the client.

The rules of the tensor API that the order of the calls follows:

- a setter is called at most once between two calls of `simulate`, so resets are collected and
  submitted together at the beginning of the next step;
- tensors are refreshed after `simulate` and before any setter;
- index tensors are int32, on the device, and stay referenced until `simulate` has used them;
- a gripper has one servo but two joints, and Isaac Gym cannot couple joints: in each time step, the
  targets of such joints are corrected by their distance from the mean;
- images: `fetch_results`, `step_graphics`, `render_all_camera_sensors`, and a copy between
  `start_access_image_tensors` and `end_access_image_tensors`.

All tensors are created from Isaac Gym's own tensors, so they are on its device.
"""

from __future__ import annotations

from typing import Any

from isaacgym import gymapi, gymtorch  # before torch: otherwise Isaac Gym refuses
import numpy as np
import torch

from .build import Built, Plan

Arrays = Any  # numpy arrays in the shared memory, by name

# How stiff the joints of one servo are coupled, as a multiple of the stiffness of their drives.
_COUPLING = 4.0


class Worlds:
    """All worlds of one simulation."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._built = built = Built(plan)
        self._gym, self._sim = built.gym, built.sim
        n = plan["num_worlds"]
        self._on_gpu = plan["device"] != "cpu"
        wrap, gym, sim = gymtorch.wrap_tensor, self._gym, self._sim
        self._dof = wrap(gym.acquire_dof_state_tensor(sim)).view(n, -1, 2)
        self._root = wrap(gym.acquire_actor_root_state_tensor(sim)).view(n, -1, 13)
        self._bodies = wrap(gym.acquire_rigid_body_state_tensor(sim)).view(n, -1, 13)
        self._contacts = wrap(gym.acquire_net_contact_force_tensor(sim)).view(n, -1, 3)
        kinds = [actor["asset"]["kind"] for actor in plan["actors"]]
        joints = [built.dof_index(*joint) for joint in plan["joints"]]
        bodies = [
            built.body_index(*body, is_box=kinds[body[0]] == "box") for body in plan["bodies"]
        ]
        self._dof_order = _to_device(self._dof, np.array(joints, np.int64))
        self._body_order = _to_device(self._dof, np.array(bodies, np.int64))
        self._actor_ids = _to_device(self._dof, np.array(built.actor_indices(), np.int32))
        self._coupled = [
            _to_device(self._dof, np.array([joints[index] for index in group], np.int64))
            for group in plan["coupled"]
        ]
        self._targets = self._dof.new_zeros(n, self._dof.shape[1])
        self._refresh()  # the contents of the tensors are undefined before
        self._forces = self._bodies.new_zeros(n, self._bodies.shape[1], 3)
        self._held: list[Any] = []
        self._drawn = False
        self._views = [
            [
                wrap(gym.get_camera_image_gpu_tensor(sim, env, handle, gymapi.IMAGE_COLOR))
                for env, handle in zip(built.envs, handles)
            ]
            for handles in zip(*built.cameras)
        ]
        self._images = [views[0].new_zeros(n, *views[0].shape[:2], 3) for views in self._views]

    def attach(self, arrays: Arrays) -> None:
        """Store the arrays in the shared memory."""
        self._host = arrays

    def follow(self, num_targets: int, num_steps: int) -> list[int]:
        """Set `num_targets` targets in sequence, with `num_steps` time steps after each.

        Returns:
            The indices of the worlds with a position or a speed that is not finite.
        """
        for index in range(num_targets):
            targets = self._ordered(self._host["targets"][index])
            self._submit()
            for step in range(num_steps):
                self._set_targets(targets, changed=step == 0)
                self._simulate()
        self._gym.fetch_results(self._sim, True)
        self._drawn = False
        self._refresh()
        host, dof = self._host, self._dof.index_select(1, self._dof_order)
        _to_host(host["dof"], dof)
        _to_host(host["root"], self._root)
        _to_host(host["bodies"], self._bodies[..., :7].index_select(1, self._body_order))
        _to_host(host["contacts"], self._contacts.index_select(1, self._body_order))
        finite = torch.isfinite(dof).all(2).all(1) & torch.isfinite(self._root).all(2).all(1)
        return [row for row, good in enumerate(finite.cpu().tolist()) if not good]

    def draw(self) -> None:
        """Render all cameras, if the worlds have changed, and copy the images once to the host."""
        if self._staged():
            self._show_staged()
        if not self._drawn:
            self._gym.step_graphics(self._sim)
            self._gym.render_all_camera_sensors(self._sim)
            self._gym.start_access_image_tensors(self._sim)
            for views, images in zip(self._views, self._images):
                torch.stack([view[..., :3] for view in views], out=images)
            self._gym.end_access_image_tensors(self._sim)
            self._drawn = True
        if self._plan["share_images"]:
            torch.cuda.synchronize()
        else:
            for camera, images in zip(self._plan["cameras"], self._images):
                _to_host(self._host["image_" + camera["name"]], images)

    def paint(self, rows: list[int], colors: list[dict[str, Any]]) -> None:
        """Change the colours of bodies.

        Args:
            rows: indices of worlds.
            colors: for each of these worlds, the colours (red, green, blue) by body name.
        """
        built = self._built
        for row, chosen in zip(rows, colors):
            for actor, handle in zip(self._plan["actors"], built.actors[row]):
                built.paint(built.envs[row], handle, actor, chosen)
        self._drawn = False

    def share(self) -> dict[str, Any]:
        """Return the CUDA IPC handle of each camera's image buffer, by camera name."""
        from .cuda_ipc import allocate

        handles, device = {}, self._dof.device.index or 0
        for index, camera in enumerate(self._plan["cameras"]):
            shape = self._images[index].shape
            self._images[index], handles[camera["name"]] = allocate(shape, device)
        return handles

    def _ordered(self, targets: Any) -> Any:
        """Return targets [n joints] of the client's joints in the order of Isaac Gym."""
        ordered = self._targets.new_zeros(self._targets.shape)
        ordered[:, self._dof_order] = _to_device(self._dof, targets)
        return ordered

    def _set_targets(self, targets: Any, *, changed: bool) -> None:
        """Set the targets [n joints] of all joints, and keep coupled joints together.

        Args:
            targets: targets in the order of Isaac Gym.
            changed: whether the targets have changed; otherwise only coupled joints need new ones.
        """
        if not (changed or self._coupled):
            return
        self._targets.copy_(targets)
        for group in self._coupled:
            positions = self._dof[..., 0].index_select(1, group)
            apart = positions - positions.mean(1, keepdim=True)
            self._targets[:, group] = targets.index_select(1, group) - _COUPLING * apart
        handle = gymtorch.unwrap_tensor(self._targets)
        self._gym.set_dof_position_target_tensor(self._sim, handle)

    def _staged(self) -> bool:
        return bool(self._host["stage_dof"].any() or self._host["stage_root"].any())

    def _submit(self) -> None:
        """Submit the staged states: joints and roots of the actors that the client marked."""
        host = self._host
        if host["stage_dof"].any():
            rows = _to_device(self._dof, np.flatnonzero(host["stage_dof"].any(axis=1)))
            staged = _to_device(self._dof, host["state_dof"]).index_select(0, rows)
            order = self._dof_order
            current = self._dof.index_select(0, rows)
            current[:, order] = staged
            self._dof[rows] = current
            self._set_indexed(self._gym.set_dof_state_tensor_indexed, self._dof, host["stage_dof"])
        if host["stage_root"].any():
            mask = _to_device(self._root, host["stage_root"]).bool()
            self._root[mask] = _to_device(self._root, host["state_root"])[mask]
            setter = self._gym.set_actor_root_state_tensor_indexed
            self._set_indexed(setter, self._root, host["stage_root"])
        host["stage_dof"][:], host["stage_root"][:] = 0, 0

    def _set_indexed(self, setter: Any, state: Any, mask: Any) -> None:
        """Call a setter for the actors [n actors] in a mask on the host."""
        ids = self._actor_ids[_to_device(state, mask).bool()].contiguous()
        self._held = [*self._held, ids]  # Isaac Gym keeps only an address
        unwrap = gymtorch.unwrap_tensor
        setter(self._sim, unwrap(state), unwrap(ids), len(ids))

    def _simulate(self) -> None:
        """Simulate one time step, with the constant forces of the client."""
        host = self._host["forces"]
        if host.any():
            self._forces[:, self._body_order] = _to_device(self._forces, host)
            forces = gymtorch.unwrap_tensor(self._forces)
            space = gymapi.ENV_SPACE
            self._gym.apply_rigid_body_force_tensors(self._sim, forces, None, space)
        self._gym.simulate(self._sim)
        if not self._on_gpu:
            self._gym.fetch_results(self._sim, True)
        if self._coupled:
            self._gym.refresh_dof_state_tensor(self._sim)
        self._held = []

    def _refresh(self) -> None:
        gym, sim = self._gym, self._sim
        gym.refresh_dof_state_tensor(sim)
        gym.refresh_actor_root_state_tensor(sim)
        gym.refresh_rigid_body_state_tensor(sim)
        gym.refresh_net_contact_force_tensor(sim)

    def _show_staged(self) -> None:
        """Make images show the staged states: simulate one time step, then stage all states again.

        Isaac Gym uses a submitted state only in `simulate`, which moves all worlds. The next step
        therefore begins by restoring the state of all worlds.
        """
        host = self._host
        self._submit()
        self._set_targets(self._ordered(host["targets"][0]), changed=True)
        dof = self._dof.index_select(1, self._dof_order).cpu().numpy().copy()
        root = self._root.cpu().numpy().copy()
        self._gym.simulate(self._sim)
        self._gym.fetch_results(self._sim, True)
        self._held = []
        host["state_dof"][:], host["state_root"][:] = dof, root
        actors = self._plan["actors"]
        host["stage_dof"][:] = [bool(actor["dofs"]) for actor in actors]
        host["stage_root"][:] = [actor["movable"] for actor in actors]
        self._drawn = False


def _to_host(array: Any, tensor: Any) -> None:
    """Copy a tensor into an array in the shared memory: the only copy on the host."""
    torch.from_numpy(array).copy_(tensor)


def _to_device(like: Any, array: Any) -> Any:
    """Return a copy of an array on the device of the tensor `like`."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return like.new_empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
