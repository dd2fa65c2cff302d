"""`python -m policies.redraw`: draw a store's pictures again, for what needs pixels or poses.

    python -m policies.redraw store=runs/train/store env=franka_pick episodes=60
    python -m toto_robot.sweep data=runs/redraw target=state columns=[cube]
    python -m policies.redraw store=runs/train/store format=lerobot out=runs/dataset

A store keeps tokens. Its episodes are replayed from their seeds and actions, in the environment
they come from; one file each, `<number>.npz`, of what `toto_robot.probing.episodes` reads:

    frames, proprio, labels, success, seed      as in the store, but pictures
    state, state_names                          the privileged state, and besides
                                                <object>_from_tool_{x,y,z}, metres, in the world's
                                                axes, where it has the positions of both

With `format=lerobot` it is a LeRobotDataset v3.0, which `policies.train` takes as `data`, with the
last frame as a step without a label, and the state as a column. Pictures are kept without losses,
so their tokens are those of the store.

An episode whose proprioception comes out otherwise is an error: the environment, or its options,
are not those of the store.
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
    """Say what is drawn.

    Attributes:
        store: a demonstration store.
        env: where its episodes happened, with the options of then.
        episodes: how many, spread evenly; None: all. One of Franka-pick is 0.2 MB.
        format: `npz`, or `lerobot`.
    """

    store: Path
    env: EnvConfig
    episodes: int | None
    format: Literal["npz", "lerobot"]


def redraw(config: RedrawConfig, out: Path) -> None:
    """Replay the episodes; write a file of each that is not yet there.

    Raises:
        FileNotFoundError: no store there.
        ValueError: it comes from another environment, or an episode does not come out as it was.
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
        there = DatasetReader(out)
        before = [there.facts(index).get("store_episode") for index in range(len(there))]
        if before != chosen[: len(before)]:
            raise ValueError(f"{out} holds other episodes of the store: {before}")
        left = chosen[len(before) :]
        for index in tqdm(left, desc="redraw", unit="episode"):
            writer.append(_demonstration(env, store, index))


def _demonstration(env: AnyEnv, store: DemoStore, index: int) -> Demonstration:
    """Return an episode with its pictures; the frame after the last action has no label."""
    episode, interface = store[index], store.header.interface
    arrays = _replay(env, episode, index)
    after = np.full_like(episode.labels[:1], np.nan)
    return Demonstration(
        interface=interface,
        pictures={
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
    """Return the names of the columns of the state, and of those that are told from the tool."""
    names = state_names_of(env)
    return (*names, *_from_tool(np.zeros((1, len(names))), names)[1])


def _replay(env: AnyEnv, episode: Episode, index: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of one episode."""
    cameras = interface_of(env).camera_names
    observation, _ = env.reset(seed=episode.seed)
    seen = [observation]
    seen += [env.step(action)[0] for action in episode.executed]
    proprio = np.stack([one["proprio"] for one in seen])
    distance = np.abs(proprio - episode.proprio).max(axis=1)
    if (distance > _TOLERANCE).any():
        step = int((distance > _TOLERANCE).argmax())
        raise ValueError(
            f"episode {index} (seed {episode.seed}) comes out otherwise: proprio of step {step} "
            f"differs by {distance[step]:.2g}; are env.options those that it was recorded with?"
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
    """Return where objects are from the tool, [t 3k], and the names of these columns."""
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
