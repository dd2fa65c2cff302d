"""Render the images of a recorded episode again, in the environment in which it was recorded.

There are two ways. The states of the simulator are set one after the other, if the recording
contains them. Or the actions are executed, from a reset with the recorded seed and options. In both
ways every observation is compared with the recorded one.

States are found in these places:

- `qpos` and `qvel` (and further arrays that `set_env_state` needs) in `infos` or another group, for
  an environment with `set_env_state` (Adroit) or `set_state` (the environments of Gymnasium with
  MuJoCo).
- Franka Kitchen: in `observations/observation`, which has the positions and velocities of all
  joints. They contain noise of at most 0.001 rad.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toto_robot.wrappers.images import read_entry

from ..gymnasium_env import AdaptedEnv, leaves
from .minari_files import RecordedEpisode, Tree

__all__ = ["Redrawn", "difference", "redraw", "row"]

SetState = Callable[[int], Any]  # sets the state of a frame, and returns the observation there
_KITCHEN_JOINTS = 9  # of the Franka: their positions and velocities come first in the observation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Redrawn:
    """The rendered images of an episode.

    Attributes:
        frames: uint8 [t h w 3], upright.
        way: `states` or `actions`: how the environment was brought to each frame.
        difference: largest difference of an observation from the recorded one, see `difference`.
    """

    frames: NDArray[np.uint8]
    way: str
    difference: float


def redraw(env: AdaptedEnv, episode: RecordedEpisode, tolerance: float) -> Redrawn:
    """Render the image of `render()` at each frame of an episode.

    Raises:
        ValueError: in neither way, the observations are equal to the recorded ones within the
            tolerance, or an observation has another form than those of the environment.
    """
    reasons = []
    for way, observations in _ways(env, episode):
        frames, largest = list[NDArray[np.uint8]](), 0.0
        try:
            for step, seen in enumerate(observations):
                found = difference(env, row(episode.observations, step), seen)
                largest = max(largest, found)
                if not found <= tolerance:
                    raise ValueError(f"the observation of frame {step} differs by {found:.2g}")
                frames.append(env.image_of(env.images[0], seen))
        except (ValueError, AssertionError) as error:
            text = str(error).splitlines()
            reasons.append(f"{way}: {text[0] if text else 'the environment refuses the state'}")
            continue
        return Redrawn(frames=np.stack(frames), way=way, difference=largest)
    raise ValueError(
        f"the images cannot be rendered again (layout.tolerance={tolerance:g}): "
        + "; ".join(reasons)
    )


def difference(env: AdaptedEnv, recorded: Any, seen: Any) -> float:
    """Return the largest difference between two observations, over all numbers that are not images.

    The difference of a number above 1 is divided by this number.

    Raises:
        ValueError: an entry is missing, or has another shape than in the observation space.
    """
    largest = 0.0
    images = {entry.path for entry in env.images if not env.is_rendered}
    for path, space in leaves(env.env.observation_space):
        if path in images:
            continue
        one, two = (np.asarray(read_entry(raw, path)) for raw in (recorded, seen))
        if one.shape != (space.shape or ()):
            raise ValueError(
                f"the observation {'/'.join(map(str, path)) or 'state'!r} has the shape "
                f"{one.shape}, that of the environment {space.shape}"
            )
        if one.dtype.kind in "fiub":
            away = np.abs(one.astype(np.float64) - two) / np.maximum(1, np.abs(one))
            largest = max(largest, float(away.max(initial=0)))
    return largest


def row(tree: Tree, step: int) -> Any:
    """Return the observation of one frame.

    Raises:
        ValueError: the frame was not recorded.
    """
    if isinstance(tree, Mapping):
        return {name: row(one, step) for name, one in tree.items()}
    if isinstance(tree, tuple):
        return tuple(row(one, step) for one in tree)
    if np.ndim(tree) == 0 or step >= len(tree):
        raise ValueError(f"frame {step} was not recorded")
    return tree[step]


def _ways(env: AdaptedEnv, episode: RecordedEpisode) -> Iterator[tuple[str, Iterator[Any]]]:
    """Return each way to bring the environment to the frames, with the observations there."""
    if (set_state := _states(env.unwrapped, episode)) is not None:
        yield "states", _by_states(env, episode, set_state)
    yield "actions", _by_actions(env, episode)


def _by_states(env: AdaptedEnv, episode: RecordedEpisode, set_state: SetState) -> Iterator[Any]:
    _reset(env, episode)
    for step in range(len(episode.actions) + 1):
        yield set_state(step)


def _by_actions(env: AdaptedEnv, episode: RecordedEpisode) -> Iterator[Any]:
    yield _reset(env, episode)
    for action in episode.actions:
        yield env.env.step(action)[0]


def _reset(env: AdaptedEnv, episode: RecordedEpisode) -> Any:
    options = {} if episode.options is None else {"options": episode.options}
    return env.env.reset(seed=episode.seed, **options)[0]


def _states(env: Any, episode: RecordedEpisode) -> SetState | None:
    """Return a function that sets the recorded states; None if there are none.

    Args:
        env: the environment without wrappers.
        episode: the recording.
    """
    frames = len(episode.actions) + 1
    found = _group_with({"observations": episode.observations, **episode.others}, frames) or {}
    if found and hasattr(env, "set_env_state"):
        # gymnasium-robotics accepts exactly these arrays, and has no public name for them
        names = list(getattr(env, "_state_space", None) or env.get_env_state())
        if set(names) <= set(found):

            def set_adroit(step: int) -> Any:
                env.set_env_state({name: np.asarray(found[name][step]) for name in names})
                return env._get_obs()

            return set_adroit
    elif found and hasattr(env, "set_state"):

        def set_mujoco(step: int) -> Any:
            env.set_state(found["qpos"][step], found["qvel"][step])
            return env._get_obs()

        return set_mujoco
    elif hasattr(env, "robot_env") and isinstance(episode.observations, dict):
        return _kitchen(env, np.asarray(episode.observations.get("observation")))
    return None


def _kitchen(env: Any, observed: NDArray[Any]) -> SetState | None:
    model = env.robot_env.model
    if observed.ndim != 2 or observed.shape[1] != model.nq + model.nv:
        return None
    joints = _KITCHEN_JOINTS
    arm, arm_velocity, objects, velocity = np.split(
        observed, [joints, 2 * joints, joints + model.nq], axis=1
    )
    qpos, qvel = np.hstack([arm, objects]), np.hstack([arm_velocity, velocity])

    def set_kitchen(step: int) -> Any:
        env.robot_env.set_state(qpos[step], qvel[step])
        return env._get_obs(env.robot_env._get_obs())

    return set_kitchen


def _group_with(tree: Tree, frames: int) -> Mapping[str, Any] | None:
    """Return the first group that has `qpos` and `qvel` of all frames; None if there is none."""
    if not isinstance(tree, Mapping):
        return None
    states = [np.asarray(tree[name]) for name in ("qpos", "qvel") if name in tree]
    if len(states) == 2 and all(one.ndim == 2 and len(one) == frames for one in states):
        return tree
    groups = (_group_with(one, frames) for one in tree.values())
    return next((group for group in groups if group is not None), None)
