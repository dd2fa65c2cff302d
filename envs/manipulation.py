"""The Gymnasium environment `ManipulationEnv`: a simulator, an arm, a controller and a task."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from .arms.arm import Arm
from .design import VIEWER_PX, VIEWER_QUALITY, EnvDesign, check_render_mode, noise_rng
from .geometry import Floats
from .protocols import Protocol
from .simulation.mujoco_backend import MujocoSimulator
from .simulation.simulator import Simulator
from .tasks.task import Task
from .variation import Variation

Observation = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EnvState:
    """The complete state of an episode, returned by `ManipulationEnv.save`.

    The state can be pickled, and restored in another environment with the same options.

    Attributes:
        variation: start and randomisation that were drawn for the episode.
        simulator: [n] state of the physics, as returned by `Simulator.save`.
        arm_targets: [j] stored targets of the arm's joints, rad.
        hand_targets: [h] stored targets of the hand's servos, rad or m.
        hand_command: [h] newest action elements for the hand's servos, in [-1, 1].
        waiting: delayed actions [a] that have not been executed yet, oldest first.
        num_steps: number of control steps since the reset.
        num_held: number of consecutive control steps at the goal, up to now.
        success: whether the episode has succeeded so far.
    """

    variation: Variation
    simulator: Floats
    arm_targets: Floats
    hand_targets: Floats
    hand_command: Floats
    waiting: tuple[Floats, ...]
    num_steps: int
    num_held: int
    success: bool


class ManipulationEnv(gymnasium.Env[Any, Any]):
    """A manipulation task with an arm that is controlled by joint increments.

    An observation is a dictionary. It contains one image `image_<camera>`, uint8 [h w 3], for each
    camera, and the proprioception `proprio`, float32 [p]. With `privileged=True` it also contains
    `state`, float32 [s]. `interface.proprio` names the elements of `proprio`, and `state_names`
    names those of `state`.

    Actions are float32 [a] in [-1, 1]; `interface.action` names the elements. The first elements
    move the arm. They are scaled and added to stored joint targets (not to the measured positions),
    and the targets are clipped to the joint limits. The other elements move the hand. Depending on
    the protocol they are absolute targets (for a gripper: 1 fully open, -1 fully closed) or
    increments.

    An episode does not end on success. `info["success"]` becomes true when the goal has been held
    long enough, and stays true. The episode is terminated when the task can no longer succeed, or
    when the contact force on the arm is larger than the protocol allows. It is truncated after
    `num_steps` control steps. The reward is the sum of the values of `info["reward_terms"]`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        arm: Arm,
        task: Task,
        protocol: Protocol,
        render_mode: str | None = None,
        simulator: Simulator | None = None,
        **options: Any,
    ) -> None:
        """Build the environment.

        Args:
            arm: the robot arm with its hand.
            task: the scene, the rewards and the success condition.
            protocol: control rate, actions and observations.
            render_mode: `rgb_array`: `render` returns an image. None: `render` returns None.
            simulator: a `Simulator` on which `build` has not been called yet; None: a new
                `MujocoSimulator`.
            options: cameras, image_size, privileged, visuals, meshes, shadows, samples, randomise
                and num_steps, which `envs.design.EnvDesign` documents.

        Raises:
            TypeError: an option is unknown.
            ValueError: the value of an option is invalid (the message says what is valid), or
                `visuals="mesh"` is combined with a simulator.
        """
        if simulator is not None and options.get("visuals") == "mesh":
            raise ValueError('visuals="mesh" cannot be combined with a simulator of your own')
        self.design = EnvDesign(arm=arm, task=task, protocol=protocol, **options)
        self.render_mode = check_render_mode(render_mode)
        self.metadata = {**self.metadata, "render_fps": protocol.rate_hz}
        self.arm, self.task, self.protocol = arm, task, protocol
        self.scene, self.interface = self.design.scene, self.design.interface
        self.num_steps, self.state_names = self.design.num_steps, self.design.state_names
        self.action_space = self.design.action_space
        self.observation_space = self.design.observation_space
        self._controller, self._delay = self.design.new_controller(), self.design.new_delay()
        self.simulator: Simulator = (
            MujocoSimulator(meshes=self.design.meshes) if simulator is None else simulator
        )
        self.simulator.build(self.scene, arm)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same seed draws a bit-identical start and randomisation.

        Raises:
            ValueError: `options` are given; no options are supported.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"reset takes no options, got {', '.join(sorted(options))}")
        self._variation = self.design.draw_variation(self.np_random)
        self._begin(self._variation)
        self._measured = self.task.measure(self.simulator, self.arm)
        return self._observe(), {"success": False, "reward_terms": {}}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one control step.

        Raises:
            ValueError: the action has the wrong shape or is not finite.
            RuntimeError: the physics diverged.
        """
        clipped = self.design.checked_action(action)
        executed = self._delay(clipped, lambda: noise_rng(self._variation, self._num_steps, 0))
        targets = self._controller.targets(executed, self.simulator)
        self.simulator.follow(targets, self.design.num_substeps)
        self._measured = self.task.measure(self.simulator, self.arm)
        self._num_steps += 1
        self._num_held = self._num_held + 1 if self.task.at_goal(self._measured) else 0
        self._success |= self._num_held >= self.design.num_hold_steps
        terms = {
            name: float(term) for name, term in self.task.rewards(self._measured, clipped).items()
        }
        terminated = bool(self.design.failed(self._measured, self.simulator))
        truncated = self._num_steps >= self.num_steps
        info = {"success": self._success, "reward_terms": terms}
        return self._observe(), sum(terms.values()), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image [480 480 3] of the viewer camera, or None without a render mode."""
        if self.render_mode is None:
            return None
        viewer = self.scene.viewer.name
        return self.simulator.render(viewer, VIEWER_PX, VIEWER_PX, VIEWER_QUALITY)

    def displace(self, offset_m: Sequence[float]) -> None:
        """Move the objects of the task instantly by `offset_m` [3], m, as a disturbance.

        The next observation shows the new positions.
        """
        start = self._variation.start
        fixtures = dict(start.fixture_positions_m)
        for name in self.task.things:
            self.simulator.displace(name, offset_m)
            if name in fixtures:
                fixtures[name] = fixtures[name] + np.asarray(offset_m, dtype=np.float64)
        start = replace(start, fixture_positions_m=fixtures)
        self._variation = replace(self._variation, start=start)

    def save(self) -> EnvState:
        """Return the complete state of the episode.

        After `restore`, the same actions lead to bit-identical observations.
        """
        return EnvState(
            variation=self._variation,
            simulator=self.simulator.save(),
            arm_targets=self._controller.arm_targets.copy(),
            hand_targets=self._controller.hand_targets.copy(),
            hand_command=self._controller.hand_command.copy(),
            waiting=tuple(self._delay.waiting),
            num_steps=self._num_steps,
            num_held=self._num_held,
            success=self._success,
        )

    def restore(self, state: EnvState) -> Observation:
        """Restore a state that `save` returned; return the observation of this state.

        Raises:
            ValueError: the state belongs to another scene or arm.
        """
        self._variation = state.variation
        self._begin(state.variation)
        self.simulator.restore(state.simulator)
        self._controller.arm_targets = state.arm_targets.copy()
        self._controller.hand_targets = state.hand_targets.copy()
        self._controller.hand_command = state.hand_command.copy()
        self._delay.waiting = deque(state.waiting)
        self._num_steps, self._num_held = state.num_steps, state.num_held
        self._success = state.success
        self._measured = self.task.measure(self.simulator, self.arm)
        return self._observe()

    def close(self) -> None:
        """Free graphics memory."""
        self.simulator.close()

    @property
    def holding_action(self) -> NDArray[np.float32]:
        """The action [a] without a new command: increments of 0.

        If the hand's action elements are absolute, they are those of the newest hand command.
        """
        return self._controller.holding.astype(np.float32)

    def _begin(self, variation: Variation) -> None:
        """Reset simulator, controller, action delay and counters to the start of an episode."""
        self.simulator.reset(variation.start, variation.appearance)
        self._controller.reset(variation.start.arm_rad, variation.start.hand)
        self._delay.reset(self._controller.holding, variation.latency_steps)
        self._num_steps = self._num_held = 0
        self._success = False

    def _observe(self) -> Observation:
        observation: Observation = {
            f"image_{camera.name}": self.simulator.render(
                camera.name, camera.height, camera.width, self.design.quality
            )
            for camera in self.interface.cameras
        }
        draws = None
        if self.design.has_proprio_noise:
            draws = self.design.draw_proprio_noise(self._variation, self._num_steps)
        vectors = self.design.vectors(self.simulator, self._controller, self._measured, draws)
        return observation | vectors
