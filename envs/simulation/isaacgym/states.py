"""The newest known states of all worlds, and which of them Isaac Gym does not have yet.

Isaac Gym uses a new state only in its next time step. Until then a state is *staged*: this process
knows it already, and sends it with the next step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...geometry import Floats
from .plan import Plan

_WXYZ = [0, 1, 2, 6, 3, 4, 5]  # positions of our pose elements in a pose of Isaac Gym
_XYZW = [0, 1, 2, 4, 5, 6, 3]


class States:
    """The newest known states of n worlds, with float64 arrays in the order of the plan.

    Attributes:
        dof: [n joints 2] positions and velocities.
        poses: [n bodies 7] position in m, then quaternion, w first.
        contacts: [n bodies 3] total contact forces, N.
        forces: [n bodies 3] constant forces on bodies, N.
        root: [n actors 13] poses and velocities of the actors' roots, quaternion x, y, z, w.
        targets: [n joints] targets of the joints.
    """

    def __init__(self, plan: Plan, num_worlds: int) -> None:
        n, joints, bodies = num_worlds, len(plan["joints"]), len(plan["bodies"])
        self._movable = np.array([one["movable"] for one in plan["actors"]])
        self._jointed = np.array([bool(one["dofs"]) for one in plan["actors"]])
        names = [name for _, name in plan["bodies"]]
        self._roots = [names.index(one["bodies"][0]) for one in plan["actors"]]
        self._bodies = [[names.index(name) for name in one["bodies"]] for one in plan["actors"]]
        self.dof = np.zeros((n, joints, 2))
        self.poses = np.zeros((n, bodies, 7))
        self.contacts = np.zeros((n, bodies, 3))
        self.forces = np.zeros((n, bodies, 3))
        self.root = np.zeros((n, len(plan["actors"]), 13))
        self.targets = np.zeros((n, joints))
        self._stage_dof = np.zeros((n, len(plan["actors"])), np.uint8)
        self._stage_root = np.zeros_like(self._stage_dof)

    @property
    def layout(self) -> dict[str, Any]:
        """Shape and dtype of the arrays that `send` writes and `receive` reads, by name."""
        staged = (self._stage_dof.shape, "uint8")
        return {
            "forces": (self.forces.shape, "float32"),
            "state_dof": (self.dof.shape, "float32"),
            "state_root": (self.root.shape, "float32"),
            "stage_dof": staged,
            "stage_root": staged,
            "dof": (self.dof.shape, "float32"),
            "root": (self.root.shape, "float32"),
            "bodies": (self.poses.shape, "float32"),
            "contacts": (self.contacts.shape, "float32"),
        }

    def place(self, row: int, positions: Floats, poses: Floats, targets: Floats) -> None:
        """Set a world to a start: joint positions, poses of bodies, targets, and no speed."""
        self.dof[row, :, 0], self.dof[row, :, 1] = positions, 0.0
        self.poses[row], self.targets[row] = poses, targets
        self.root[row] = 0.0
        self.root[row, :, :7] = poses[self._roots][:, _XYZW]
        self.contacts[row] = self.forces[row] = 0.0
        self._stage_dof[row], self._stage_root[row] = self._jointed, self._movable

    def displace(self, rows: Sequence[int], actor: int, offset_m: Sequence[float]) -> None:
        """Move an actor with all its bodies by `offset_m` [3], m, in the worlds `rows`."""
        self.root[rows, actor, :3] += offset_m
        self.poses[np.ix_(rows, self._bodies[actor], range(3))] += offset_m
        self._stage_root[rows, actor] = 1

    def stage_all(self) -> None:
        """Stage the states of all worlds."""
        self._stage_dof[:], self._stage_root[:] = self._jointed, self._movable

    def pack(self) -> Floats:
        """Return all states as one array [n s]."""
        return np.concatenate([part.reshape(len(part), -1) for part in self._parts], axis=1)

    def unpack(self, packed: Floats) -> None:
        """Set and stage the states that `pack` returned.

        Raises:
            ValueError: the array has the wrong shape.
        """
        sizes = [part[0].size for part in self._parts]
        expected = (len(self.dof), sum(sizes))
        if np.shape(packed) != expected:
            raise ValueError(f"a state of this scene has shape {expected}, got {np.shape(packed)}")
        columns = np.split(packed, np.cumsum(sizes)[:-1], axis=1)
        for part, values in zip(self._parts, columns, strict=True):
            part[:] = values.reshape(part.shape)
        self.stage_all()

    def send(self, host: Mapping[str, NDArray[Any]]) -> None:
        """Write forces and staged states into the shared memory."""
        host["forces"][:] = self.forces
        rows = np.flatnonzero((self._stage_dof | self._stage_root).any(axis=1))
        if len(rows):
            host["state_dof"][rows], host["state_root"][rows] = self.dof[rows], self.root[rows]
            host["stage_dof"][:] |= self._stage_dof
            host["stage_root"][:] |= self._stage_root
            self._stage_dof[:], self._stage_root[:] = 0, 0

    def receive(self, host: Mapping[str, NDArray[Any]]) -> None:
        """Read the states after a step from the shared memory."""
        self.dof[:], self.root[:] = host["dof"], host["root"]
        self.poses[:] = host["bodies"][..., _WXYZ]
        self.contacts[:] = host["contacts"]

    @property
    def _parts(self) -> tuple[Floats, ...]:
        return (self.dof, self.root, self.poses, self.contacts, self.targets, self.forces)
