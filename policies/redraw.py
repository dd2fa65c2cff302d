"""`python -m policies.redraw`: render the images of a demonstration store's episodes again.

    python -m policies.redraw store=runs/train/store env=franka_pick episodes=60
    python -m toto_robot.sweep data=runs/redraw target=state columns=[cube]
    python -m policies.redraw store=runs/train/store format=lerobot out=runs/dataset

A demonstration store, the folder of tokenised episodes, contains no images. So the environment
replays each episode from its seed and its executed actions. The result is one file `<number>.npz`
per episode, which `toto_robot.probing.episodes` reads:

    frames                            uint8 [T+1 c h w 3], the images
    proprio, labels, success, seed    as in the store
    state, state_names                the privileged state and the names of its elements; if it has
                                      the positions of tool and object, also
                                      <object>_from_tool_{x,y,z}, m, in world axes

With `format=lerobot` the result is a LeRobotDataset v3.0, which `policies.train` takes as `data`.
The frame after the last action is a step without a label, and the state is a column. The videos are
lossless, so the tokens of the images equal the tokens in the store.

If the proprioception of a replayed episode differs from the store, the command fails: the
environment or its options have changed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.files import written_aside

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
        store: folder of a demonstration store.
        env: the environment of the store, with the options that were used while recording.
        episodes: number of episodes to render, evenly spaced over the store; None: all. An npz file
            of Franka-pick has 0.2 MB.
        format: `npz`: one file per episode; `lerobot`: a LeRobotDataset v3.0.
    """

    store: Path
    env: EnvConfig
    episodes: int | None
    format: Literal["npz", "lerobot"]


def redraw(config: RedrawConfig, out: Path) -> None:
    """Replay the episodes and write those that `out` lacks.

    Raises:
        FileNotFoundError: the folder has no store.
        ValueError: the store was recorded in another environment, or a replayed episode differs.
    """
    header = read_header(config.store)
    if header.env != config.env.id:
        raise ValueError(f"{config.store} was recorded in {header.env!r}, not in {config.env.id!r}")
    env = make_env(config.env, with_images=True, privileged=True)
    header.interface.require_equal(interface_of(env), str(config.store), "the environment")
    store = DemoStore(config.store, header)
    number = len(store) if config.episodes is None else min(config.episodes, len(store))
    chosen = np.unique(np.linspace(0, len(store) - 1, number).astype(int)).tolist()
    if config.format == "npz":
        _write_files(env, store, chosen, out)
    else:
        _write_dataset(env, store, chosen, out)
    env.close()
    print(f"{len(chosen)} episodes: {out}")


def _write_files(env: AnyEnv, store: DemoStore, chosen: list[int], out: Path) -> None:
    for index in tqdm(chosen, desc="redraw", unit="episode"):
        path = out / f"{index:06d}.npz"
        if not path.exists():
            arrays = _replay(env, store[index], index)
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez_compressed(file, **arrays)  # pyrefly: ignore  # none is `allow_pickle`


def _write_dataset(env: AnyEnv, store: DemoStore, chosen: list[int], out: Path) -> None:
    interface = store.header.interface
    columns = (
        Column(name="executed", dtype="float32", names=interface.action),
        Column(name="acted_by_expert", dtype="bool", names=("acted_by_expert",)),
        Column(name=STATE, dtype="float64", names=_state_names(env)),
    )
    with DatasetWriter(out, interface, columns) as writer:
        reader = DatasetReader(out)
        before = [reader.facts(index).get("store_episode") for index in range(len(reader))]
        if before != chosen[: len(before)]:
            raise ValueError(f"{out} has other episodes of the store, choose another out: {before}")
        for index in tqdm(chosen[len(before) :], desc="redraw", unit="episode"):
            writer.append(_demonstration(env, store, index))


def _demonstration(env: AnyEnv, store: DemoStore, index: int) -> Demonstration:
    """Return an episode with its images; the frame after the last action has no label."""
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
    """Return the names of the state's columns, including the positions relative to the tool."""
    names = state_names_of(env)
    return (*names, *_from_tool(np.zeros((1, len(names))), names)[1])


def _replay(env: AnyEnv, episode: Episode, index: int) -> dict[str, NDArray[Any]]:
    """Replay an episode and return its arrays."""
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
    """Return the positions of k objects relative to the tool [t 3k], m, and the column names."""
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
