"""Small environments like Franka Kitchen and Adroit, and data sets of them as Minari writes them.

The data sets are written with h5py and pyarrow, without the library `minari`.
"""

import json
from types import SimpleNamespace

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

SIDE, STEPS = 32, 6
HERE = "tests.policies.minari_world"
KITCHEN, HAND = f"{HERE}:mini/Kitchen-v0", f"{HERE}:mini/Hand-v0"


def square(x, y, colour):
    image = np.full((SIDE, SIDE, 3), 40, np.uint8)
    row, column = ((np.clip([y, x], -1, 1) + 1) / 2 * (SIDE - 8)).astype(int)
    image[row : row + 8, column : column + 8] = colour
    return image


class Robot:
    """The robot of a kitchen: 9 joints and one door, whose position is the tenth."""

    model = SimpleNamespace(nq=10, nv=10)

    def __init__(self):
        self.qpos, self.qvel, self.rng = np.zeros(10), np.zeros(10), np.random.default_rng(0)

    def set_state(self, qpos, qvel):
        assert qpos.shape == qvel.shape == (10,)
        self.qpos, self.qvel = qpos.copy(), qvel.copy()

    def _get_obs(self):
        noise = self.rng.uniform(-0.001, 0.001, 18)
        return np.concatenate([self.qpos[:9], self.qvel[:9]]) + noise


class Kitchen(gymnasium.Env):
    """Open the door by moving the first joint; observations contain noise, as in Franka Kitchen."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    action_space = spaces.Box(-1.0, 1.0, (9,), np.float64)

    def __init__(self, tasks_to_complete=("door",), render_mode=None):
        self.render_mode, self.robot_env = render_mode, Robot()
        self.goal = {name: np.array([1.0]) for name in tasks_to_complete}
        one = {name: spaces.Box(-np.inf, np.inf, (1,), np.float64) for name in self.goal}
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (20,), np.float64),
                "achieved_goal": spaces.Dict(one),
                "desired_goal": spaces.Dict(one),
            }
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.robot_env = Robot()
        self.robot_env.rng = self.np_random
        self.done = []
        return self._get_obs(self.robot_env._get_obs()), self._info()

    def step(self, action):
        robot = self.robot_env
        robot.qvel[:9] = action
        robot.qpos[:9] = robot.qpos[:9] + 0.3 * action
        robot.qpos[9] = max(robot.qpos[9], robot.qpos[0])
        if robot.qpos[9] > 0.5 and "door" not in self.done:
            self.done.append("door")
        ended = len(self.done) == len(self.goal)
        return self._get_obs(robot._get_obs()), 0.0, ended, False, self._info()

    def render(self):
        return square(self.robot_env.qpos[9], self.robot_env.qpos[0], (250, 200, 60))

    def _get_obs(self, robot):
        door = self.robot_env.qpos[9:]
        return {
            "observation": np.concatenate([robot, door, self.robot_env.qvel[9:]]),
            "achieved_goal": {name: door.copy() for name in self.goal},
            "desired_goal": self.goal,
        }

    def _info(self):
        return {"episode_task_completions": self.done}


class Hand(gymnasium.Env):
    """Reach a place that the seed draws; only the state and the image show it, as in Adroit."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(-2.0, 2.0, (3,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    _state_space = spaces.Dict(
        {
            "qpos": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "qvel": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "place": spaces.Box(-np.inf, np.inf, (1,), np.float64),
        }
    )

    def __init__(self, render_mode=None, drift=0.0):
        self.render_mode, self.drift = render_mode, drift

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.qpos, self.qvel, self.place = (
            np.zeros(3),
            np.zeros(3),
            self.np_random.uniform(-1, 1, 1),
        )
        if options is not None and "initial_state_dict" in options:
            self.set_env_state(options["initial_state_dict"])
        return self._get_obs(), {"success": False}

    def step(self, action):
        self.qvel = np.asarray(action, np.float64)
        self.qpos = self.qpos + 0.2 * self.qvel + self.drift
        return self._get_obs(), 0.0, False, False, {"success": bool(self.qpos[0] > self.place[0])}

    def render(self):
        return square(self.place[0], self.qpos[0], (60, 200, 250))

    def get_env_state(self):
        return {name: getattr(self, name).copy() for name in self._state_space}

    def set_env_state(self, state):
        assert self._state_space.contains(state)
        self.qpos, self.qvel, self.place = (
            state[name].copy() for name in ("qpos", "qvel", "place")
        )

    def _get_obs(self):
        return np.append(self.qpos, self.qpos[0] - self.place[0])


for name, world in (("mini/Kitchen-v0", Kitchen), ("mini/Hand-v0", Hand)):
    if name not in gymnasium.registry:
        gymnasium.register(name, world, max_episode_steps=STEPS)


def record(env_id, seeds, *, images=False, options=None, **kwargs):
    """Return episodes of random actions: observations, actions, infos, states, frames."""
    env = gymnasium.make(env_id, disable_env_checker=True, render_mode="rgb_array", **kwargs)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed, options=options)
        made = {"observations": [observation], "actions": [], "infos": [info], "states": []}
        frames, ended = [env.render()], False
        state = getattr(env.unwrapped, "get_env_state", dict)
        made["states"].append(state())
        while not ended:
            action = rng.uniform(env.action_space.low, env.action_space.high)
            observation, _, terminated, truncated, info = env.step(
                action.astype(env.action_space.dtype)
            )
            ended = terminated or truncated
            for key, value in zip(
                made,
                (observation, action.astype(env.action_space.dtype), info, state()),
                strict=True,
            ):
                made[key].append(value)
            frames.append(env.render())
        if images:
            pairs = zip(made["observations"], frames, strict=True)
            made["observations"] = [
                {**(one if isinstance(one, dict) else {"state": one}), "pixels": frame}
                for one, frame in pairs
            ]
        yield {**made, "frames": np.stack(frames), "seed": seed, "options": options}


def stacked(rows):
    if isinstance(rows[0], dict):
        return {key: stacked([row[key] for row in rows]) for key in rows[0]}
    return np.stack([np.asarray(row) for row in rows])


def described(space):
    """Return the description of a space, as `minari.serialization` writes it."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {key: described(one) for key, one in space.items()}}
    low, high = ([] if space.dtype == np.uint8 else one.tolist() for one in (space.low, space.high))
    shape = list(space.shape)
    return {"type": "Box", "dtype": str(space.dtype), "shape": shape, "low": low, "high": high}


def jpeg(frames):
    """Return the frames as JPEG files, as Minari stores the images of a space."""
    done = [cv2.imencode(".jpg", frame[..., ::-1])[1].reshape(-1) for frame in frames]
    return done


def write(folder, env_id, episodes, *, kept=(), data_format="hdf5", as_jpeg=True, **metadata):
    """Write a data set. `kept`: what the infos contain of `infos` and `states`."""
    episodes = list(episodes)
    env = gymnasium.make(env_id, disable_env_checker=True)
    space = env.observation_space
    if (
        isinstance(episodes[0]["observations"][0], dict)
        and "pixels" in episodes[0]["observations"][0]
    ):
        inner = dict(space) if isinstance(space, spaces.Dict) else {"state": space}
        space = spaces.Dict({**inner, "pixels": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)})
    data = folder / "data"
    data.mkdir(parents=True)
    about = {
        "total_episodes": len(episodes),
        "data_format": data_format,
        "observation_space": json.dumps(described(space)),
        "action_space": json.dumps(described(env.action_space)),
        "env_spec": json.dumps(
            {
                "id": env.spec.id, "entry_point": f"{HERE}:{type(env.unwrapped).__name__}",
                "kwargs": {}, "max_episode_steps": STEPS,
            }
        ),
    }  # fmt: skip
    (data / "metadata.json").write_text(json.dumps({**about, **metadata}))
    for number, episode in enumerate(episodes):
        arrays = {
            "observations": stacked(episode["observations"]),
            "actions": np.stack(episode["actions"]),
        }
        infos = {}
        for name in kept:
            infos |= stacked(episode[name])
        if infos:
            arrays["infos"] = infos
        if (
            isinstance(arrays["observations"], dict)
            and "pixels" in arrays["observations"]
            and as_jpeg
        ):
            arrays["observations"]["pixels"] = jpeg(arrays["observations"]["pixels"])
        steps = len(arrays["actions"])
        for name in ("rewards", "terminations", "truncations"):
            arrays[name] = np.zeros(steps)
        store = in_hdf5 if data_format == "hdf5" else in_table
        store(data, number, arrays, episode["seed"], episode["options"], data_format)
    return folder


def in_hdf5(data, number, arrays, seed, options, _):
    import h5py

    def add(group, tree):
        for key, one in tree.items():
            if isinstance(one, dict):
                add(group.create_group(key), one)
            elif isinstance(one, list):  # JPEG files of unequal lengths
                group.create_dataset(
                    key, data=np.array(one, object), dtype=h5py.vlen_dtype(np.uint8)
                )
            else:
                group.create_dataset(key, data=one)

    with h5py.File(data / "main_data.hdf5", "a") as file:
        group = file.create_group(f"episode_{number}")
        add(group, arrays)
        group.attrs["id"] = number
        if seed is not None:
            group.attrs["seed"] = np.uint64(seed)
        for key, value in (options or {}).get("initial_state_dict", {}).items():
            group.attrs[f"options/initial_state_dict/{key}"] = value


def in_table(data, number, arrays, seed, options, data_format):
    import pyarrow
    from pyarrow import ipc, parquet

    rows = len(arrays["actions"]) + 1

    def column(value):
        if isinstance(value, dict):
            return pyarrow.StructArray.from_arrays(
                [column(one) for one in value.values()], names=list(value)
            )
        if isinstance(value, list):
            return pyarrow.array([one.tobytes() for one in value], pyarrow.binary())
        value = np.concatenate(
            [value, np.zeros((rows - len(value), *value.shape[1:]), value.dtype)]
        )
        if value.ndim == 1:
            return pyarrow.array(value)
        flat = value.reshape(rows, -1)
        kind = pyarrow.list_(pyarrow.from_numpy_dtype(value.dtype), flat.shape[1])
        return pyarrow.FixedSizeListArray.from_arrays(flat.reshape(-1), type=kind)

    columns = {"episode_id": column(np.full(rows, number, np.int32))}
    columns |= {key: column(one) for key, one in arrays.items()}
    table = pyarrow.table(columns)
    folder = data / str(number)
    folder.mkdir()
    if data_format == "parquet":
        parquet.write_table(table, folder / "part-0.parquet")
    else:
        with ipc.new_file(folder / "part-0.arrow", table.schema) as sink:
            sink.write_table(table)
    inner = (options or {}).get("initial_state_dict", {})
    plain = {"initial_state_dict": {key: value.tolist() for key, value in inner.items()}}
    about = {"id": number, "seed": seed} | ({"options": plain} if inner else {})
    (folder / "metadata.json").write_text(json.dumps(about))
