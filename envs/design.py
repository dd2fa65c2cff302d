"""The parts of a manipulation environment that do not change between its episodes.

`ManipulationEnv` (one world) and `BatchManipulationEnv` (many worlds) share them, so that both have
the same spaces, controllers, observations, rewards and random episodes. In the shapes of arrays,
`*b` is the number of worlds; it is missing for a single world.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from .simulation.scene import Quality
from .simulation.simulator import Measurable
from .tasks.task import Measured, Task, num_hold_steps
from .variation import Variation, draw, populate

VIEWER_PX = 480
VIEWER_QUALITY = Quality(shadows=True, samples=4, round_faces=20)
_VISUALS = ("light", "mesh")


class EnvDesign:
    """The scene, the spaces, the protocol and the randomisation of an environment.

    Attributes:
        scene: the scene, with the distractors that an episode can use.
        interface: the action and observation spec.
        state_names: one name per element of the privileged `state`.
        action_space: the actions of one world.
        observation_space: the observations of one world.
        quality: the quality of the images in observations.
        meshes: the meshes of the arm; None: the arm has primitive shapes.
        num_steps: number of control steps of an episode.
        num_substeps: number of physics time steps after each target that is sent to the servos.
        num_hold_steps: number of consecutive control steps at the goal until success.
    """

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
    ) -> None:
        """Check the options, and compute everything that does not need a simulator.

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

        Raises:
            ValueError: a camera, group or visual is unknown (the message lists the known ones), a
                number is too small, the meshes are not found, or `meshes` is given without
                `visuals="mesh"`.
        """
        self.arm, self.task, self.protocol = arm, task, protocol
        self.randomisation = parse(randomise)
        self.scene = populate(task.scene(arm), self.randomisation)
        cameras = protocol.cameras if cameras is None else cameras
        image_size = protocol.image_size if image_size is None else image_size
        self.num_steps = protocol.num_steps if num_steps is None else num_steps
        _check_cameras(cameras, [camera.name for camera in self.scene.cameras])
        _check_numbers(image_size, samples, self.num_steps)
        _check_visuals(visuals, meshes)
        self.meshes = find_meshes(arm.name, meshes) if visuals == "mesh" else None
        self.quality = Quality(shadows=shadows, samples=samples)
        self._readings = Readings(arm, task)
        self.interface = self._describe(cameras, image_size)
        self.state_names = self._readings.names(protocol.state)
        self._vectors = {"proprio": protocol.proprio} | (
            {"state": protocol.state} if privileged else {}
        )
        self._wanted = {part for parts in self._vectors.values() for part in parts}
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.interface.action),), np.float32)
        self._vector_boxes = {
            key: self._readings.box(parts, protocol.clip) for key, parts in self._vectors.items()
        }
        image_boxes = {
            f"image_{camera.name}": spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in self.interface.cameras
        }
        self.observation_space = spaces.Dict({**image_boxes, **self._vector_boxes})
        timestep_s = self.scene.timestep_s
        self.num_substeps = _num_substeps(protocol, timestep_s)
        self.num_hold_steps = num_hold_steps(task, protocol.rate_hz)

    def _describe(self, cameras: Sequence[str], image_size: int) -> Interface:
        """Return the action and observation spec of this environment."""
        controller = self.new_controller()
        return Interface(
            arm=self.arm.name,
            cameras=tuple(
                CameraSpec(name=name, height=image_size, width=image_size) for name in cameras
            ),
            proprio=self._readings.names(self.protocol.proprio),
            action_kind=controller.action_kind,
            action=controller.action_names,
            action_scale=controller.action_scale,
            rate_hz=self.protocol.rate_hz,
        )

    def new_controller(self, batch: tuple[int, ...] = ()) -> Controller:
        """Return a controller of one world (batch `()`) or of n worlds (batch `(n,)`)."""
        return Controller(self.arm, self.protocol, batch)

    def new_delay(self) -> ActionDelay:
        """Return the action delay of one world."""
        noise = self.randomisation.action_noise
        return ActionDelay(noise, len(self.arm.servos), len(self.interface.action))

    def draw_variation(self, rng: np.random.Generator) -> Variation:
        """Draw the start and the randomisation of an episode."""
        # Both numbers are always drawn, so that randomised appearance does not change the start.
        start_rng, look_rng = (
            np.random.default_rng(int(number)) for number in rng.integers(2**63, size=2)
        )
        start = self.task.sample_start(self.arm, start_rng)
        return draw(self.scene, self.task, start, self.randomisation, look_rng)

    def checked_action(self, action: Any, batch: tuple[int, ...] = ()) -> Floats:
        """Check shape and values of an action [*b a]; return it clipped to [-1, 1].

        Raises:
            ValueError: the action has the wrong shape or is not finite.
        """
        values = np.asarray(action, dtype=np.float64)
        shape = (*batch, *(self.action_space.shape or ()))
        if values.shape != shape:
            raise ValueError(
                f"{'actions' if batch else 'an action'} must have shape {shape} "
                f"({', '.join(self.interface.action)}), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"an action must be finite, got {values}")
        return clip_to(values, -1.0, 1.0)

    def failed(self, measured: Measured, simulator: Measurable) -> NDArray[np.bool_]:
        """Return whether the episodes of the worlds [*b] have failed.

        An episode has failed if the task can no longer succeed, or if the contact force on the arm
        is larger than the protocol allows.
        """
        failed = self.task.failed(measured)
        if (most_n := self.protocol.max_arm_contact_n) is not None:
            forces_n = simulator.contact_forces(self.arm.arm_bodies)
            failed = failed | (forces_n > most_n).any(axis=-1)
        return failed

    @property
    def has_proprio_noise(self) -> bool:
        """Whether `proprio` has noise, so that `vectors` needs draws."""
        return self.randomisation.proprio_noise is not None

    def draw_proprio_noise(self, variation: Variation, num_steps: int) -> Floats:
        """Draw the noise of `proprio` [2 joints] after `num_steps` control steps of an episode."""
        return self._readings.draw(noise_rng(variation, num_steps, 1))

    def vectors(
        self,
        simulator: Measurable,
        controller: Controller,
        measured: Measured,
        draws: Floats | None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the vectors [*b m] of an observation: `proprio`, and `state` if it is privileged.

        Args:
            simulator: the simulator.
            controller: the controller, which stores the targets.
            measured: quantities that `Task.measure` returned.
            draws: [*b 2 joints] as drawn by `draw_proprio_noise`; None: without noise.
        """
        seen = (simulator, controller, measured, self._wanted)
        exact = self._readings.read(*seen)
        read = {"proprio": exact, "state": exact}
        if draws is not None:
            noise = self.randomisation.proprio_noise
            read["proprio"] = self._readings.read(*seen, noise, draws)
        vectors = {}
        for key, parts in self._vectors.items():
            box = self._vector_boxes[key]
            values = np.concatenate([read[key][part] for part in parts], axis=-1)
            vectors[key] = clip_to(values.astype(np.float32), box.low, box.high)
        return vectors


def noise_rng(variation: Variation, num_steps: int, kind: int) -> np.random.Generator:
    """Return the random generator of the noise in one control step.

    Args:
        variation: the random choices of the episode.
        num_steps: number of control steps since the reset.
        kind: 0 for action noise, 1 for proprioception noise.
    """
    return np.random.default_rng((variation.noise_seed, num_steps, kind))


def check_render_mode(render_mode: str | None) -> str | None:
    """Return the render mode.

    Raises:
        ValueError: the render mode is unknown.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"unknown render_mode {render_mode!r}; known: rgb_array, None")
    return render_mode


def _num_substeps(protocol: Protocol, timestep_s: float) -> int:
    """Return the number of physics steps for each target of a control step."""
    exact = 1 / (protocol.rate_hz * timestep_s * protocol.num_targets)
    number = round(exact)
    if number < 1 or abs(exact - number) > 1e-6:
        raise ValueError(
            f"protocol: {protocol.num_targets} targets in a control step of 1/{protocol.rate_hz:g} "
            f"s need a whole number of physics steps of {timestep_s:g} s each, but {exact:g} "
            "result: change rate_hz or num_targets"
        )
    return number


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


def _check_visuals(visuals: str, meshes: str | Path | None) -> None:
    if visuals not in _VISUALS:
        raise ValueError(f"unknown visuals {visuals!r}; known: {', '.join(_VISUALS)}")
    if visuals == "light" and meshes is not None:
        raise ValueError('meshes needs visuals="mesh"')
