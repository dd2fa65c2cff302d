"""`python -m policies.redraw`: render the images of recorded simulation episodes again.

    python -m policies.redraw store=runs/train/store env=franka_pick episodes=60
    python -m toto_robot.sweep data=runs/redraw target=state columns=[cube]
    python -m policies.redraw store=runs/train/store format=lerobot out=runs/dataset

A demonstration store (a folder of tokenised episodes) contains no images. So this command replays
each episode in its environment, with the recorded seed and actions. It writes one file
`<number>.npz` per episode of T actions, which `toto_robot.probing.episodes` reads:

    frames                            uint8 [T+1 c h w 3], the images of c cameras
    proprio, labels, success, seed    the same as in the demonstration store
    state, state_names                the privileged state, and one name per element. If the state
                                      contains the positions of tool and object, the positions of
                                      the object relative to the tool, in m along the world axes,
                                      are added as <object>_from_tool_{x,y,z}

With `format=lerobot` the result is a LeRobotDataset v3.0, which `policies.train` accepts as `data`.
The frame after the last action is a step without a label, and `state` is an additional column. The
videos are lossless, so the encoder computes the same tokens as in the demonstration store.

The command stops with an error if the proprioception of a replayed episode differs from the
recorded one. Then the environment or its options have changed. Options that change only the images,
such as randomised colours, are compared with the settings that `policies.train` and
`policies.study` save beside the demonstration store.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.config import to_dict
from toto_robot.files import written_aside
from toto_robot.runs import claim, read_record

from .demonstrations.episode import Episode
from .demonstrations.lerobot.demonstration import Demonstration
from .demonstrations.lerobot.layout import Column
from .demonstrations.lerobot.reader import DatasetReader
from .demonstrations.lerobot.writer import DatasetWriter
from .demonstrations.store import DemoStore, read_header
from .environment import EnvConfig, interface_of, make_env
from .teacher_policy import STATE, state_names_of

AXES = ("x", "y", "z")
AnyEnv = gymnasium.Env[Any, Any]
_TOLERANCE = 1e-5  # of proprioception, radians and metres


@dataclass(frozen=True, kw_only=True, slots=True)
class RedrawConfig:
    """Settings of the replay.

    Attributes:
        store: folder of a demonstration store, for example `runs/train/store`.
        env: the environment in which the episodes were recorded, with the same options.
        episodes: number of episodes to render, evenly spaced over the demonstration store; None:
            all. Another number needs another `out`, unless its choice contains all episodes that
            are there. An npz file of Franka-pick has 0.2 MB.
        format: `npz`: one file per episode. `lerobot`: a LeRobotDataset v3.0.
    """

    store: Path
    env: EnvConfig
    episodes: int | None
    format: Literal["npz", "lerobot"]


def redraw(config: RedrawConfig, out: Path) -> None:
    """Replay the episodes that `out` does not contain yet, and write them with images.

    Raises:
        FileNotFoundError: the folder has no demonstration store.
        ValueError: the episodes were recorded in another environment or with other options, the
            proprioception of a replayed episode differs from the recorded one, or `out` has
            episodes of another store, or episodes that do not belong to the choice of this run.
    """
    header = read_header(config.store)
    if header.env != config.env.id:
        raise ValueError(f"{config.store} was recorded in {header.env!r}, not in {config.env.id!r}")
    _require_recorded_options(config)
    store = DemoStore(config.store, header)
    number = len(store) if config.episodes is None else min(config.episodes, len(store))
    chosen = np.unique(np.linspace(0, len(store) - 1, number).astype(int)).tolist()
    before = _written(out)
    if not set(before) <= set(chosen) or (
        config.format == "lerobot" and before != chosen[: len(before)]
    ):
        raise ValueError(f"{out} has other episodes of the store, choose another out: {before}")
    claim(out, config)
    env = make_env(config.env, with_images=True, privileged=True)
    header.interface.require_equal(interface_of(env), str(config.store), "the environment")
    if config.format == "npz":
        _write_files(env, store, chosen, out)
    else:
        _write_dataset(env, store, chosen, out)
    env.close()
    print(f"{len(chosen)} episodes: {out}")


def _require_recorded_options(config: RedrawConfig) -> None:
    """Compare the environment's settings with those that are saved beside the store."""
    paths = (config.store.parent / "config.json", config.store / "recorded_with.json")
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        print(
            "note: the settings of the recording are not saved beside the store, so options that "
            "change only the images cannot be checked"
        )
        return
    recorded = (read_record(path, config.store).get("env") or {}).get("options")
    asked = to_dict(config.env).get("options")
    if recorded is not None and recorded != asked:
        raise ValueError(
            f"{config.store} was recorded with env.options={json.dumps(recorded)}, and not "
            f"{json.dumps(asked)}: give the same options"
        )


def _written(out: Path) -> list[int]:
    """Return the numbers, in the store, of the episodes that `out` contains already."""
    try:
        reader = DatasetReader(out)
    except FileNotFoundError:
        return sorted(int(path.stem) for path in out.glob("[0-9]*.npz"))
    return [int(reader.facts(index).get("store_episode", -1)) for index in range(len(reader))]


def _write_files(env: AnyEnv, store: DemoStore, chosen: list[int], out: Path) -> None:
    for index in tqdm(chosen, desc="redraw", unit="episode"):
        path = out / f"{index:06d}.npz"
        if not path.exists():
            arrays = _replay(env, store[index], index)
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez_compressed(file, **arrays)  # pyrefly: ignore  # no array is named `allow_pickle`


def _write_dataset(env: AnyEnv, store: DemoStore, chosen: list[int], out: Path) -> None:
    interface = store.header.interface
    columns = (
        Column(name="executed", dtype="float32", names=interface.action),
        Column(name="acted_by_expert", dtype="bool", names=("acted_by_expert",)),
        Column(name=STATE, dtype="float64", names=_state_names(env)),
    )
    with DatasetWriter(out, interface, columns) as writer:
        for index in tqdm(chosen[len(writer) :], desc="redraw", unit="episode"):
            writer.append(_demonstration(env, store, index))


def _demonstration(env: AnyEnv, store: DemoStore, index: int) -> Demonstration:
    """Replay an episode and return it with images; the frame after the last action has no label."""
    episode, interface = store[index], store.header.interface
    arrays = _replay(env, episode, index)
    after = np.full_like(episode.labels[:1], np.nan)
    return Demonstration(
        interface=interface,
        images={
            name: arrays["frames"][:, camera] for camera, name in enumerate(interface.camera_names)
        },
        proprio=arrays["proprio"],
        actions=np.concatenate([episode.labels, np.zeros_like(after)]),
        labelled=np.append(np.ones(episode.num_steps, np.bool_), False),
        columns={
            "executed": np.concatenate([episode.executed, after]),
            "acted_by_expert": np.append(episode.acted_by_expert, False),
            STATE: arrays[STATE],
        },
        task=f"{store.header.env}",
        facts={
            "complete": True,
            "success": episode.success,
            "seed": episode.seed,
            "round": episode.round,
            "store_episode": index,
        },
    )


def _state_names(env: AnyEnv) -> tuple[str, ...]:
    """Return one name per element of the state, including the positions relative to the tool."""
    names = state_names_of(env)
    return (*names, *_from_tool(np.zeros((1, len(names))), names)[1])


def _replay(env: AnyEnv, episode: Episode, index: int) -> dict[str, NDArray[Any]]:
    """Replay an episode, and return the arrays of its npz file by name.

    Args:
        env: the environment.
        episode: the episode to replay.
        index: number of the episode, for messages.
    """
    cameras = interface_of(env).camera_names
    observation, _ = env.reset(seed=episode.seed)
    seen = [observation]
    seen += [env.step(action)[0] for action in episode.executed]
    proprio = np.stack([one["proprio"] for one in seen])
    distance = np.abs(proprio - episode.proprio).max(axis=1)
    if (distance > _TOLERANCE).any():
        step = int((distance > _TOLERANCE).argmax())
        raise ValueError(
            f"the replay of episode {index} (seed {episode.seed}) differs: proprio of step {step} "
            f"by {distance[step]:.2g}; use the env.options that it was recorded with"
        )
    state = np.stack([one[STATE] for one in seen])
    names = state_names_of(env)
    extra, extra_names = _from_tool(state, names)
    return {
        "frames": np.stack([[one[f"image_{name}"] for name in cameras] for one in seen]),
        "proprio": proprio,
        "labels": episode.labels,
        "success": np.asarray(episode.success),
        "seed": np.asarray(episode.seed),
        STATE: np.concatenate([state, extra], axis=1),
        f"{STATE}_names": np.array([*names, *extra_names]),
    }


def _from_tool(state: NDArray[Any], names: tuple[str, ...]) -> tuple[NDArray[Any], list[str]]:
    """Return the positions of the objects relative to the tool.

    Args:
        state: [t s] the state at t steps.
        names: one name per element of the state.

    Returns:
        [t 3k] positions of k objects, m, along the world axes, and one name per column.
    """
    objects = [
        name.removesuffix("_position_x")
        for name in names
        if name.endswith("_position_x") and not name.startswith(("tool", "joint"))
    ]
    if "tool_position_x" not in names:
        objects = []
    pairs = [(thing, axis) for thing in objects for axis in AXES]
    columns = [
        state[:, names.index(f"{thing}_position_{axis}")]
        - state[:, names.index(f"tool_position_{axis}")]
        for thing, axis in pairs
    ]
    labels = [f"{thing}_from_tool_{axis}" for thing, axis in pairs]
    return np.stack(columns, axis=1) if columns else state[:, :0], labels


main = command("redraw", RedrawConfig)(redraw)

if __name__ == "__main__":
    main()
