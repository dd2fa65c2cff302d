"""The Gymnasium environment `ManipulationEnv`: a simulator, an arm, a controller and a task."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .arms.arm import Arm
from .arms.meshes import find_meshes
from .controller import ActionDelay, Controller, clip_to
from .geometry import Floats
from .interface import CameraSpec, Interface
from .protocols import Protocol
from .randomisation import Randomise, parse
from .readings import Readings
from .simulation.mujoco_backend import MujocoSimulator
from .simulation.scene import Quality
from .simulation.simulator import Simulator
from .tasks.task import Task, num_hold_steps
from .variation import Variation, draw, populate

Observation = dict[str, NDArray[Any]]

_VIEWER_PX = 480
_VIEWER_QUALITY = Quality(shadows=True, samples=4, round_faces=20)
_VISUALS = ("light", "mesh")


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
        cameras: Sequence[str] | None = None,
        image_size: int | None = None,
        privileged: bool = False,
        visuals: str = "light",
        meshes: str | Path | None = None,
        shadows: bool = False,
        samples: int = 0,
        randomise: Randomise = (),
        num_steps: int | None = None,
        render_mode: str | None = None,
        simulator: Simulator | None = None,
    ) -> None:
        """Build the environment.

        Args:
            arm: the robot arm with its hand.
            task: the scene, the rewards and the success condition.
            protocol: control rate, actions and observations.
            cameras: names of the cameras in the observation. An empty tuple renders no images, so
                that steps are fastest. None: the default cameras of the protocol.
            image_size: height and width of the images, pixels; None: the default of the protocol.
            privileged: whether observations contain `state`, which a real robot cannot measure.
            visuals: appearance of the arm: `light` (primitive shapes) or `mesh` (published meshes,
                which are realistic but slow with software rendering). The physics is bit-identical
                for both.
            meshes: folder with the published meshes (see `envs.arms.meshes`); None: the meshes of
                an installed package.
            shadows: whether the images in observations have shadows, which are slow with software
                rendering.
            samples: samples per pixel in the images of observations (anti-aliasing); 0: one sample.
            randomise: groups of `envs.randomisation.GROUPS` that are randomised in each episode.
                Either a sequence of names, or a mapping from names to ranges that replace the
                default ranges.
            num_steps: number of control steps of an episode; None: the default of the protocol.
            render_mode: `rgb_array`: `render` returns an image. None: `render` returns None.
            simulator: a `Simulator` on which `build` has not been called yet; None: a new
                `MujocoSimulator`.

        Raises:
            ValueError: a camera, group, visual or render mode is unknown (the message lists the
                known ones), a number is too small, the meshes are not found, or `visuals` cannot be
                combined with `meshes` or `simulator`.
        """
        self._randomisation = parse(randomise)
        self.scene = populate(task.scene(arm), self._randomisation)
        cameras = protocol.cameras if cameras is None else cameras
        image_size = protocol.image_size if image_size is None else image_size
        num_steps = protocol.num_steps if num_steps is None else num_steps
        _check_cameras(cameras, [camera.name for camera in self.scene.cameras])
        _check_numbers(image_size, samples, num_steps)
        _check_visuals(visuals, meshes, simulator)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}; known: rgb_array, None")
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": protocol.rate_hz}
        self.arm, self.task, self.protocol, self.num_steps = arm, task, protocol, num_steps
        self._quality = Quality(shadows=shadows, samples=samples)
        self._controller = Controller(arm, protocol)
        self._readings = Readings(arm, task)
        self.interface = self._describe(cameras, image_size)
        self.state_names = self._readings.names(protocol.state)
        self._vectors = {"proprio": protocol.proprio} | (
            {"state": protocol.state} if privileged else {}
        )
        self._wanted = {part for parts in self._vectors.values() for part in parts}
        self._make_spaces()
        noise = self._randomisation.action_noise
        self._delay = ActionDelay(noise, len(arm.servos), len(self.interface.action))
        timestep_s = self.scene.timestep_s
        self._num_substeps = round(1 / (protocol.rate_hz * timestep_s * protocol.num_targets))
        self._num_hold_steps = num_hold_steps(task, protocol.rate_hz)
        if simulator is None:
            found_meshes = find_meshes(arm.name, meshes) if visuals == "mesh" else None
            simulator = MujocoSimulator(meshes=found_meshes)
        self.simulator: Simulator = simulator
        self.simulator.build(self.scene, arm)

    def _describe(self, cameras: Sequence[str], image_size: int) -> Interface:
        """Return the action and observation spec of this environment."""
        return Interface(
            arm=self.arm.name,
            cameras=tuple(
                CameraSpec(name=name, height=image_size, width=image_size) for name in cameras
            ),
            proprio=self._readings.names(self.protocol.proprio),
            action_kind=self._controller.action_kind,
            action=self._controller.action_names,
            action_scale=self._controller.action_scale,
            rate_hz=self.protocol.rate_hz,
        )

    def _make_spaces(self) -> None:
        """Set the spaces of actions and observations."""
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.interface.action),), np.float32)
        self._vector_boxes = {
            key: self._readings.box(parts, self.protocol.clip)
            for key, parts in self._vectors.items()
        }
        image_boxes = {
            f"image_{camera.name}": spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in self.interface.cameras
        }
        self.observation_space = spaces.Dict({**image_boxes, **self._vector_boxes})

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
        # Both numbers are always drawn, so that randomised appearance does not change the start.
        start_rng, look_rng = (
            np.random.default_rng(int(number)) for number in self.np_random.integers(2**63, size=2)
        )
        start = self.task.sample_start(self.arm, start_rng)
        self._variation = draw(self.scene, self.task, start, self._randomisation, look_rng)
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
        clipped = self._check_action(action)
        executed = self._delay(clipped, lambda: self._noise(0))
        targets = self._controller.targets(executed, self.simulator)
        self.simulator.follow(targets, self._num_substeps)
        self._measured = self.task.measure(self.simulator, self.arm)
        self._num_steps += 1
        self._num_held = self._num_held + 1 if self.task.at_goal(self._measured) else 0
        self._success |= self._num_held >= self._num_hold_steps
        terms = {
            name: float(term) for name, term in self.task.rewards(self._measured, clipped).items()
        }
        terminated = bool(self.task.failed(self._measured)) or self._arm_touches()
        truncated = self._num_steps >= self.num_steps
        info = {"success": self._success, "reward_terms": terms}
        return self._observe(), sum(terms.values()), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image [480 480 3] of the viewer camera, or None without a render mode."""
        if self.render_mode is None:
            return None
        viewer = self.scene.viewer.name
        return self.simulator.render(viewer, _VIEWER_PX, _VIEWER_PX, _VIEWER_QUALITY)

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
        self._controller.reset(variation.start)
        self._delay.reset(self._controller.holding, variation.latency_steps)
        self._num_steps = self._num_held = 0
        self._success = False

    def _noise(self, kind: int) -> np.random.Generator:
        """Return the random generator of the noise in this control step.

        Args:
            kind: 0 for action noise, 1 for proprioception noise.
        """
        return np.random.default_rng((self._variation.noise_seed, self._num_steps, kind))

    def _check_action(self, action: NDArray[Any]) -> Floats:
        """Check shape and values of an action; return it clipped to [-1, 1].

        Raises:
            ValueError: the action has the wrong shape or is not finite.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape:
            raise ValueError(
                f"an action must have shape {self.action_space.shape} "
                f"({', '.join(self.interface.action)}), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"an action must be finite, got {values}")
        return clip_to(values, -1.0, 1.0)

    def _arm_touches(self) -> bool:
        most_n = self.protocol.max_arm_contact_n
        if most_n is None:
            return False
        return bool((self.simulator.contact_forces(self.arm.arm_bodies) > most_n).any())

    def _observe(self) -> Observation:
        observation: Observation = {
            f"image_{camera.name}": self.simulator.render(
                camera.name, camera.height, camera.width, self._quality
            )
            for camera in self.interface.cameras
        }
        seen = (self.simulator, self._controller, self._measured, self._wanted)
        exact = self._readings.read(*seen)
        read = {"proprio": exact, "state": exact}
        if (noise := self._randomisation.proprio_noise) is not None:
            read["proprio"] = self._readings.read(*seen, noise, self._noise(1))
        for key, parts in self._vectors.items():
            box = self._vector_boxes[key]
            values = np.concatenate([read[key][part] for part in parts]).astype(np.float32)
            observation[key] = clip_to(values, box.low, box.high)
        return observation


def _check_cameras(cameras: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(cameras, str):
        raise ValueError(f"cameras takes a sequence of names, such as ({cameras!r},)")
    if unknown := [name for name in cameras if name not in known]:
        raise ValueError(
            f"unknown camera {', '.join(map(repr, unknown))}; known: {', '.join(known)}"
        )


def _check_numbers(image_size: int, samples: int, num_steps: int) -> None:
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 pixels, got {image_size}")
    if samples < 0:
        raise ValueError(f"samples must not be negative, got {samples}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")


def _check_visuals(visuals: str, meshes: str | Path | None, simulator: Simulator | None) -> None:
    if visuals not in _VISUALS:
        raise ValueError(f"unknown visuals {visuals!r}; known: {', '.join(_VISUALS)}")
    if visuals == "light" and meshes is not None:
        raise ValueError('meshes needs visuals="mesh"')
    if visuals == "mesh" and simulator is not None:
        raise ValueError('visuals="mesh" cannot be combined with a simulator of your own')
