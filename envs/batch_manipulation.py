"""The vector environment `BatchManipulationEnv`: many worlds of one task in one simulator.

    envs = gymnasium.make_vec(
        "envs:toto/FrankaPick-v0", 256, vectorization_mode="vector_entry_point", backend="mujoco"
    )

All worlds run in this process, on the threads or the GPU of a backend (`envs.simulation.backends`).
On the backend `mujoco`, the episode of a world is bit-identical to that of `ManipulationEnv` with
the same seed, whatever the number of worlds is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from .arms.arm import Arm
from .design import VIEWER_PX, VIEWER_QUALITY, EnvDesign, check_render_mode, noise_rng
from .geometry import Floats
from .protocols import Protocol
from .simulation.backends import make_backend
from .tasks.task import Task
from .variation import Variation
from .vector import checked_mask, seed_of_each

# A dictionary of arrays [n ...]; images may be torch tensors on the device of the backend.
Observations = dict[str, Any]
StepResult = tuple[Observations, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]

_SHARED = ("arm", "task", "protocol", "scene", "interface", "state_names", "num_steps")


class BatchManipulationEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """A vector environment of one manipulation task, whose worlds one simulator advances together.

    Task, spaces, rewards, success and randomisation are those of `ManipulationEnv`, which documents
    them. Seeds, autoreset, `reset_mask` and the structure of the infos are those of Gymnasium's
    `SyncVectorEnv`. With `AutoresetMode.DISABLED`, `step` raises an error if an episode has ended
    and its world was not reset.

    Images [n h w 3] are numpy arrays, or torch tensors on the device of the backend. Every call
    returns new arrays.

    Attributes:
        design: the parts that the worlds share: scene, spaces, protocol, randomisation.
        simulator: the simulator of all worlds.
        autoreset_mode: when a world is reset after the end of an episode: at the next step, in the
            same step, or only by `reset`.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        arm: Arm,
        task: Task,
        protocol: Protocol,
        backend: str = "mujoco",
        backend_options: dict[str, Any] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Build the worlds.

        Args:
            num_envs: number of worlds.
            arm: the robot arm with its hand.
            task: the scene, the rewards and the success condition.
            protocol: control rate, actions and observations.
            backend: name of a physics engine in `envs.simulation.backends.BACKENDS`.
            backend_options: further arguments of the engine; for `mujoco`: `num_threads`.
            autoreset_mode: one of Gymnasium's three autoreset modes.
            render_mode: `rgb_array`: `render` returns images. None: `render` returns Nones.
            options: cameras, image_size, privileged, visuals, meshes, shadows, samples, randomise
                and num_steps, which `envs.design.EnvDesign` documents.

        Raises:
            TypeError: an option is unknown.
            ValueError: the backend or one of its options is unknown (the message lists the known
                ones), or the value of an option is invalid.
            ImportError: the packages of the backend are not installed.
        """
        self.design = design = EnvDesign(arm=arm, task=task, protocol=protocol, **options)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = check_render_mode(render_mode)
        engine = dict(backend_options or {})
        if design.meshes is not None:
            engine["meshes"] = design.meshes
        self.simulator = make_backend(backend, num_envs, **engine)
        self.num_envs = num_envs
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": protocol.rate_hz,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = design.action_space
        self.single_observation_space = design.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        try:
            self.simulator.build(design.scene, arm)
        except BaseException:
            self.simulator.close()
            raise
        self._controller = design.new_controller((num_envs,))
        self._delays = [design.new_delay() for _ in range(num_envs)]
        self._variations: dict[int, Variation] = {}
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._rng_seeds = [-1] * num_envs
        self._every = np.arange(num_envs)
        self._num_steps = np.zeros(num_envs, np.int64)
        self._num_held = np.zeros(num_envs, np.int64)
        self._success = np.zeros(num_envs, np.bool_)
        self._ended = np.zeros(num_envs, np.bool_)
        self._needs_reset = True  # also after an interrupted step

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyrefly: ignore  # as SyncVectorEnv
        """The random generators of the worlds."""
        return tuple(self._rng(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyrefly: ignore  # as SyncVectorEnv
        """The seeds of the random generators of the worlds."""
        _ = self.np_random  # generators are made when they are needed
        return tuple(self._rng_seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Reset all worlds, or those in `options["reset_mask"]`.

        Args:
            seed: one number: world i gets `seed + i`. A sequence: one seed per world. None: no new
                seeds.
            options: only the entry `reset_mask`, bool [n], is supported. It selects the worlds to
                reset; the observations of the others are those of their current state.

        Raises:
            ValueError: the number of seeds is wrong, the mask has the wrong shape or no true
                element, or there are other options.
            TypeError: the mask is not an array of bools.
            ResetNeeded: all worlds must be reset, but the mask selects only some of them.
        """
        self._check_open()
        seeds = seed_of_each(seed, self.num_envs)
        mask = np.ones(self.num_envs, np.bool_)
        if unknown := sorted(set(options or {}) - {"reset_mask"}):
            raise ValueError(f"reset takes no options but reset_mask, got {', '.join(unknown)}")
        if options:
            mask = checked_mask(options["reset_mask"], self.num_envs)
            if self._needs_reset and not mask.all():
                raise ResetNeeded(f"all environments must be reset, got reset_mask={mask}")
        rows = np.flatnonzero(mask)
        self._begin(rows, [seeds[row] for row in rows])
        return self._observe(self._every), self._infos({}, mask, mask)

    def step(self, actions: Any) -> StepResult:
        """Step every world with its action of `actions` [n a].

        With `AutoresetMode.NEXT_STEP`, a world whose episode has ended is reset and not stepped.

        Raises:
            ResetNeeded: `reset` has not been called, or the previous step raised an error.
            ValueError: the actions have the wrong shape or are not finite. With
                `AutoresetMode.DISABLED` also: an episode has ended and its world was not reset.
            RuntimeError: the physics of a world diverged.
        """
        self._check_open()
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise ValueError(
                f"environments {np.flatnonzero(self._ended).tolist()} have ended: first call "
                'reset(options={"reset_mask": terminations | truncations})'
            )
        every = np.ones(self.num_envs, np.bool_)
        begins = self._ended & (self.autoreset_mode == AutoresetMode.NEXT_STEP)
        stepped = ~begins
        if np.shape(actions) == self.action_space.shape:
            actions = np.where(begins[:, None], 0.0, actions)  # without effect, so never invalid
        terms, terminated, truncated = self._advance(actions, np.flatnonzero(stepped))
        rewards = np.where(stepped, sum(terms.values()), 0.0)
        last: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any():
            begins = self._ended.copy()
            stepped = ~begins
            last = self._last(terms, begins)
        if begins.any():
            rows = np.flatnonzero(begins)
            self._begin(rows, [None] * len(rows))
        infos = self._infos(terms, every, stepped) | last
        observations = self._observe(self._every)
        return observations, rewards, terminated, truncated, infos

    def advance(
        self, actions: Any, rows: NDArray[np.intp]
    ) -> tuple[Observations, Floats, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Step only the worlds `rows`, with their actions [k a]; no world is reset.

        The other worlds must be reset before they are used again.

        Returns:
            For each of these k worlds: observation, reward, terminated, truncated, success.

        Raises:
            ResetNeeded: `reset` has not been called, or the previous step raised an error.
            ValueError: the actions have the wrong shape or are not finite.
            RuntimeError: the physics of one of these worlds diverged.
        """
        whole = np.zeros((self.num_envs, *self.design.action_space.shape))
        whole[rows] = actions
        terms, terminated, truncated = self._advance(whole, rows)
        rewards = np.broadcast_to(sum(terms.values()), self.num_envs)[rows]
        observations = self._observe(rows)
        return observations, rewards, terminated[rows], truncated[rows], self._success[rows]

    def render(self) -> tuple[Any, ...]:
        """Return an image [480 480 3] of the viewer camera of each world; None without a mode."""
        self._check_open()
        if self.render_mode is None:
            return (None,) * self.num_envs
        viewer = self.design.scene.viewer.name
        return tuple(self.simulator.render(viewer, VIEWER_PX, VIEWER_PX, VIEWER_QUALITY))

    def displace(self, offset_m: Sequence[float], rows: Sequence[int] | None = None) -> None:
        """Move the objects of the task instantly by `offset_m` [3], m, in the worlds `rows`.

        The next observation shows the new positions. `rows` None: in all worlds.
        """
        for name in self.design.task.things:
            self.simulator.displace(name, offset_m, rows)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every world, such as `interface` or `np_random`.

        Raises:
            AttributeError: the worlds do not have this attribute; the message lists the known ones.
        """
        if name == "np_random":
            return self.np_random
        if name not in _SHARED:
            known = ", ".join((*_SHARED, "np_random"))
            raise AttributeError(f"the worlds have no attribute {name!r}; known: {known}")
        return (vars(self.design)[name],) * self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        """Free the memory and the threads of the simulator.

        Raises:
            TypeError: options are given; no options are supported.
        """
        if kwargs:
            raise TypeError(f"close() takes no options, got {sorted(kwargs)}")
        self.simulator.close()

    def _rng(self, row: int) -> np.random.Generator:
        rng = self._rngs[row]
        if rng is None:
            rng, self._rng_seeds[row] = seeding.np_random()
            self._rngs[row] = rng
        return rng

    def _begin(self, rows: NDArray[np.intp], seeds: Sequence[int | None]) -> None:
        """Draw and begin an episode in each of the worlds `rows`."""
        self._needs_reset = True
        for row, seed in zip(rows, seeds, strict=True):
            if seed is not None:
                self._rngs[row], self._rng_seeds[row] = seeding.np_random(seed)
        drawn = [self.design.draw_variation(self._rng(row)) for row in rows]
        for row, variation in zip(rows, drawn, strict=True):
            self._variations[row] = variation
        starts = [variation.start for variation in drawn]
        self.simulator.reset(rows, starts, [variation.appearance for variation in drawn])
        self._controller.reset(
            np.stack([start.arm_rad for start in starts]),
            np.stack([start.hand for start in starts]),
            rows,
        )
        holding = self._controller.holding
        for row, variation in zip(rows, drawn, strict=True):
            self._delays[row].reset(holding[row], variation.latency_steps)
        self._num_steps[rows] = self._num_held[rows] = 0
        self._success[rows] = self._ended[rows] = False
        self._measured = self.design.task.measure(self.simulator, self.design.arm)
        self._needs_reset = False

    def _advance(
        self, actions: Any, rows: NDArray[np.intp]
    ) -> tuple[dict[str, Floats], NDArray[np.bool_], NDArray[np.bool_]]:
        """Run one control step in the worlds `rows`, with the actions [n a] of all worlds.

        Returns:
            The reward terms [n], and whether the episodes are terminated [n] and truncated [n];
            false in the other worlds.
        """
        self._check_open()
        if self._needs_reset:
            raise ResetNeeded(
                "call reset() for all environments first: they are new, or a step failed"
            )
        design = self.design
        clipped = design.checked_action(actions, (self.num_envs,))
        self._needs_reset = True
        targets = self._controller.targets(self._delayed(clipped, rows), self.simulator)
        self.simulator.follow(targets, design.num_substeps, rows)
        self._measured = design.task.measure(self.simulator, design.arm)
        self._num_steps += 1
        self._num_held = np.where(design.task.at_goal(self._measured), self._num_held + 1, 0)
        self._success |= self._num_held >= design.num_hold_steps
        stepped = np.zeros(self.num_envs, np.bool_)
        stepped[rows] = True
        terminated = stepped & design.failed(self._measured, self.simulator)
        truncated = stepped & (self._num_steps >= design.num_steps)
        self._ended = terminated | truncated | (self._ended & ~stepped)
        self._needs_reset = False
        return design.task.rewards(self._measured, clipped), terminated, truncated

    def _delayed(self, actions: Floats, rows: NDArray[np.intp]) -> Floats:
        """Return the actions to execute now: delayed, and with noise, if that is randomised."""
        if not (self.design.randomisation.latency or self.design.randomisation.action_noise):
            return actions
        executed = actions.copy()
        for row in rows:
            variation, num_steps = self._variations[row], int(self._num_steps[row])
            executed[row] = self._delays[row](
                actions[row].copy(), lambda v=variation, n=num_steps: noise_rng(v, n, 0)
            )
        return executed

    def _observe(self, rows: NDArray[np.intp]) -> Observations:
        """Return the observations of the worlds `rows`."""
        design, some = self.design, None if np.array_equal(rows, self._every) else rows
        images = {
            f"image_{camera.name}": self.simulator.render(
                camera.name, camera.height, camera.width, design.quality, some
            )
            for camera in design.interface.cameras
        }
        draws = None
        if design.has_proprio_noise:
            draws = np.stack(
                [
                    design.draw_proprio_noise(self._variations[row], int(num_steps))
                    for row, num_steps in enumerate(self._num_steps)
                ]
            )
        vectors = design.vectors(self.simulator, self._controller, self._measured, draws)
        return images | {key: values[rows] for key, values in vectors.items()}

    def _infos(
        self, terms: dict[str, Floats], present: NDArray[np.bool_], stepped: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Return batched infos, as Gymnasium would combine those of `ManipulationEnv`.

        Args:
            terms: the reward terms [n]; empty after `reset`.
            present: [n] whether a world has an info.
            stepped: [n] whether the info is that of a step, not of a reset.
        """
        reward_terms: dict[str, Any] = {}
        if stepped.any():
            for name, term in terms.items():
                reward_terms |= {name: np.where(stepped, term, 0.0), f"_{name}": stepped.copy()}
        return {
            "success": self._success & present,
            "_success": present.copy(),
            "reward_terms": reward_terms,
            "_reward_terms": present.copy(),
        }

    def _last(self, terms: dict[str, Floats], ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the infos of the last step of ended episodes: `final_obs` and `final_info`."""
        rows = np.flatnonzero(ended)
        observations = self._observe(rows)
        final = np.full(self.num_envs, None, dtype=object)
        for index, row in enumerate(rows):
            final[row] = {key: values[index] for key, values in observations.items()}
        return {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": self._infos(terms, ended, ended),
            "_final_info": ended.copy(),
        }

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"this {type(self).__name__} is closed")
