"""An adapter from Gymnasium vector environments to Stable-Baselines3's `VecEnv`."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    _Base = VecEnv
else:
    VecEnv, _Base = Any, object  # an optional dependency, imported on use

Observation = Any


def as_sb3(envs: VectorEnv[Any, Any, Any]) -> VecEnv:
    """Return a Gymnasium vector environment as a `VecEnv` of Stable-Baselines3.

    When the episode of environment i ends, the environment is reset in the same step. `infos[i]`
    then contains the info of the last step of the ended episode, its last observation
    (`terminal_observation`), and `TimeLimit.truncated`, which is true if the episode was truncated
    and not terminated.

    Some operations raise a `ValueError`, because Gymnasium's vector environments do not support
    them: calling a method or setting an attribute of only some of the environments, and resetting
    with options that differ between environments. `env_is_wrapped` always returns False. For
    episode statistics, wrap the result in SB3's `VecMonitor`.

    Args:
        envs: a vector environment, wrapped or not. Its autoreset mode must be `SAME_STEP` or
            `DISABLED`; with `DISABLED`, this adapter resets the environments whose episodes ended.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        ValueError: the autoreset mode is another one. In the mode `NEXT_STEP`, the step after the
            end of an episode ignores the action, so Stable-Baselines3 would learn from wrong data.
    """
    return _sb3_class()(envs)


@cache
def _sb3_class() -> Any:
    try:
        from stable_baselines3.common.vec_env import VecEnv
    except ImportError as error:
        raise ImportError(
            "as_sb3 needs Stable-Baselines3: pip install 'toto-robot[sb3]'"
        ) from error

    class GymnasiumVecEnv(_GymnasiumVecEnv, VecEnv):
        """The adapter; Stable-Baselines3 accepts only subclasses of `VecEnv`."""

    return GymnasiumVecEnv


class _GymnasiumVecEnv(_Base):
    """The methods of the adapter, without the base class `VecEnv` (SB3 may not be installed)."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise ValueError(
                "the vector environment must be made with autoreset_mode="
                f"AutoresetMode.SAME_STEP (or DISABLED), got {mode}"
            )
        self.envs = envs
        self._resets_itself = mode == AutoresetMode.SAME_STEP
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Observation:
        if any(options != self._options[0] for options in self._options):
            raise ValueError("options must be the same for all environments")
        observations, infos = self.envs.reset(
            seed=self._seeds[0],  # SB3 and Gymnasium derive the other seeds in the same way
            options=self._options[0] or None,
        )
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = _infos_of_each(infos, self.num_envs)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Observation, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        observations, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        dones = terminations | truncations
        each = _infos_of_each(infos, self.num_envs)
        if self._resets_itself and dones.any():
            self._take_last(infos, each, np.flatnonzero(dones).tolist())
        elif dones.any():
            observations = self._reset_ended(observations, each, dones)
        for row, info in enumerate(each):
            info["TimeLimit.truncated"] = bool(truncations[row] and not terminations[row])
        return observations, rewards.astype(np.float32), dones, each

    def _take_last(
        self, infos: dict[str, Any], each: list[dict[str, Any]], ended: list[int]
    ) -> None:
        """Replace the infos of the ended environments by the infos of their last step.

        In the mode `SAME_STEP`, the infos that Gymnasium returns for an ended environment are those
        of the reset. This method stores the infos of the reset in `reset_infos`.

        Args:
            infos: batched infos, as Gymnasium returned them.
            each: one info dict per environment, changed in place.
            ended: indices of the environments whose episode ended.
        """
        finals = _infos_of_each(infos.get("final_info", {}), self.num_envs)
        last = infos["final_obs"]
        one_each = isinstance(last, np.ndarray) and last.dtype.hasobject
        for row in ended:
            self.reset_infos[row] = {
                key: value
                for key, value in each[row].items()
                if key not in ("final_obs", "final_info")
            }
            space = self.envs.single_observation_space
            terminal = last[row] if one_each else _row(space, last, row)
            each[row] = finals[row] | {"terminal_observation": terminal}

    def _reset_ended(
        self, observations: Observation, each: list[dict[str, Any]], dones: NDArray[np.bool_]
    ) -> Observation:
        """Reset the ended environments, and return the observations after the reset.

        Args:
            observations: batched observations of the last step.
            each: one info dict per environment; the last observations are stored in these dicts.
            dones: bool [n] whether the episode of each of the n environments ended.
        """
        ended = np.flatnonzero(dones).tolist()
        for row in ended:
            terminal = _row(self.envs.single_observation_space, observations, row)
            each[row]["terminal_observation"] = terminal
        observations, infos = self.envs.reset(options={"reset_mask": dones})
        begun = _infos_of_each(infos, self.num_envs)
        for row in ended:
            self.reset_infos[row] = begun[row]
        return observations

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        frames: Any = self.envs.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":  # not all vector environments have `get_attr` for it
            values = [self.envs.render_mode] * self.num_envs
        else:
            values = self.envs.unwrapped.get_attr(attr_name)  # pyrefly: ignore  # not in the base class
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self._check_all(indices)
        inner = self._with("set_attr")
        inner.set_attr(attr_name, [value] * self.num_envs)

    def _with(self, method: str) -> Any:
        """Return the vector environment, which must have a method."""
        inner: Any = self.envs.unwrapped
        if not hasattr(inner, method):
            raise ValueError(
                f"{type(inner).__name__} simulates all worlds together and has no {method}(): "
                "use backend='mujoco' with worker processes to reach single environments"
            )
        return inner

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        self._check_all(indices)
        inner = self._with("call")
        return list(inner.call(method_name, *args, **kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _check_all(self, indices: Any) -> None:
        wanted = set(self._get_indices(indices))
        if wanted != set(range(self.num_envs)):
            raise ValueError(
                "a gymnasium vector environment supports this only for all environments together, "
                f"got indices={sorted(wanted)} of {self.num_envs}"
            )


def _infos_of_each(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Return one info dict per environment from Gymnasium's batched infos."""
    each: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        has = infos.get(f"_{key}")
        if has is None:  # the key is a mask
            continue
        if isinstance(values, dict):
            values = _infos_of_each(values, num_envs)
        for row in np.flatnonzero(has).tolist():
            each[row][key] = values[row]
    return each


def _row(space: spaces.Space[Any], observations: Observation, row: int) -> Observation:
    """Return a copy of the observation of environment `row` from a batch of observations."""
    if isinstance(space, spaces.Dict):
        return {key: _row(one, observations[key], row) for key, one in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_row(one, observations[i], row) for i, one in enumerate(space))
    return np.copy(observations[row])
