"""Readings: the measured quantities, such as joint positions, that form `proprio` and `state`."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from .arms.arm import Arm
from .controller import Controller, servo_means
from .geometry import Floats
from .protocols import Reading
from .randomisation import ProprioNoise
from .simulation.simulator import Measurable
from .tasks.task import Task, state_names

# Bounds of the observation vectors; readings beyond them are clipped.
_POSITION_MARGIN = 0.1  # rad
_GRIPPER_MARGIN_M = 0.01
_MAX_REPORTED_SPEED = 10.0
_MAX_REPORTED_STATE = 10.0


class Readings:
    """A reader of measured quantities from the simulator, with the names and bounds of each.

    In the shapes of arrays, `*b` is the number of worlds; it is missing for a single world.
    """

    def __init__(self, arm: Arm, task: Task) -> None:
        self._task, self._sizes = task, task.sizes(arm)
        self._joints = arm.joint_names + arm.hand_joint_names
        self._num_arm = len(arm.servos)
        # For a gripper the width is reported: the sum over its two fingers.
        counts = np.array([len(servo.joints) for servo in arm.hand_servos])
        self._sum = servo_means(arm.hand_servos) * counts[:, None]
        servos = [servo for servo in (*arm.servos, *arm.hand_servos) for _ in servo.joints]
        self._lower = np.array([servo.lower for servo in servos])
        self._upper = np.array([servo.upper for servo in servos])
        self._middle, self._range = (self._lower + self._upper) / 2, self._upper - self._lower
        widths = [
            f"{servo.name}_{'width' if len(servo.joints) > 1 else 'position'}"
            for servo in arm.hand_servos
        ]
        self._names: dict[Reading, list[str]] = {
            "arm_position": [f"{name}_position" for name in arm.joint_names],
            "arm_velocity": [f"{name}_velocity" for name in arm.joint_names],
            "arm_target": [f"{name}_target" for name in arm.joint_names],
            "hand_position": widths,
            "hand_command": [f"{servo.name}_command" for servo in arm.hand_servos],
            "scaled_position": [f"{name}_scaled_position" for name in self._joints],
            "scaled_velocity": [f"{name}_scaled_velocity" for name in self._joints],
            "task": list(state_names(task, arm)),
        }
        margin = np.where(counts > 1, _GRIPPER_MARGIN_M, _POSITION_MARGIN)
        hand_lower = self._sum @ self._lower[self._num_arm :] - margin
        hand_upper = self._sum @ self._upper[self._num_arm :] + margin
        lower = self._lower[: self._num_arm] - _POSITION_MARGIN
        upper = self._upper[: self._num_arm] + _POSITION_MARGIN
        bounds: dict[Reading, tuple[Any, Any]] = {
            "arm_position": (lower, upper),
            "arm_velocity": (-_MAX_REPORTED_SPEED, _MAX_REPORTED_SPEED),
            "arm_target": (lower, upper),
            "hand_position": (hand_lower, hand_upper),
            "hand_command": (-1.0, 1.0),
            "scaled_position": (-_MAX_REPORTED_STATE, _MAX_REPORTED_STATE),
            "scaled_velocity": (-_MAX_REPORTED_STATE, _MAX_REPORTED_STATE),
            "task": (-_MAX_REPORTED_STATE, _MAX_REPORTED_STATE),
        }
        self._bounds = {
            part: np.stack([np.broadcast_to(bound, len(self._names[part])) for bound in pair])
            for part, pair in bounds.items()
        }

    def names(self, parts: Sequence[Reading]) -> tuple[str, ...]:
        """Return one name per element of a vector that consists of the readings `parts`."""
        return tuple(name for part in parts for name in self._names[part])

    def box(self, parts: Sequence[Reading], clip: float | None) -> spaces.Box:
        """Return the Gymnasium space of a vector that consists of the readings `parts`.

        Args:
            parts: names of the readings.
            clip: bound of all elements in both directions; None: the bounds of each reading.
        """
        low, high = np.concatenate([self._bounds[part] for part in parts], axis=1)
        if clip is not None:
            low, high = np.full_like(low, -clip), np.full_like(high, clip)
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def read(
        self,
        simulator: Measurable,
        controller: Controller,
        measured: Any,
        wanted: Collection[Reading],
        noise: ProprioNoise | None = None,
        draws: Floats | None = None,
    ) -> dict[Reading, Floats]:
        """Return the measured quantities [*b m] of simulator and controller, by name.

        Args:
            simulator: the simulator.
            controller: the controller, which stores the targets.
            measured: quantities that `Task.measure` returned.
            wanted: names of the required readings; the result may contain others too.
            noise: standard deviations of noise on joint positions and velocities; None: no noise.
            draws: [*b 2 joints] numbers that `draw` returned, for the noise; None: no noise.
        """
        positions, velocities = simulator.joints(self._joints)
        num_arm = self._num_arm
        if noise is not None and draws is not None:
            deviation = np.full(positions.shape[-1], noise.hand_position)
            deviation[:num_arm] = noise.position_rad
            positions = positions + deviation * draws[..., 0, :]
            velocities = velocities + noise.velocity_rad_s * draws[..., 1, :]
        read: dict[Reading, Floats] = {
            "arm_position": positions[..., :num_arm],
            "arm_velocity": velocities[..., :num_arm],
            "arm_target": controller.arm_targets,
            "hand_position": positions[..., num_arm:] @ self._sum.T,
            "hand_command": controller.hand_command,
        }
        # Expensive readings are computed only on request.
        if "scaled_position" in wanted:
            read["scaled_position"] = 2 * (positions - self._middle) / self._range
            read["scaled_velocity"] = 0.1 * velocities
        if "task" in wanted:
            task = [
                np.asarray(measured[name])[..., None] if self._sizes[name] == 1 else measured[name]
                for name in self._task.state
            ]
            read["task"] = np.concatenate(task, axis=-1)
        return read

    def draw(self, rng: np.random.Generator) -> Floats:
        """Draw standard normal numbers [2 joints], for the noise of positions and velocities."""
        return rng.normal(size=(2, len(self._joints)))
