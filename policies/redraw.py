"""`python -m policies.redraw`: draw a store's pictures again, for what needs pixels or poses.

    python -m policies.redraw store=runs/train/store env=franka_pick episodes=60
    python -m toto_robot.sweep data=runs/redraw target=state columns=[cube]

A store keeps tokens. Its episodes are replayed from their seeds and actions, in the environment
they come from; one file each, `<number>.npz`, of what `toto_robot.demonstrations` reads:

    frames, proprio, labels, success, seed      as in the store, but pictures
    state, state_names                          the privileged state, and besides
                                                <object>_from_tool_{x,y,z}, metres, in the world's
                                                axes, where it has the positions of both

An episode whose proprioception comes out otherwise is an error: the environment, or its options,
are not those of the store.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command

from .episode import Episode
from .privileged import STATE, state_names_of
from .store import DemoStore, read_header
from .world import EnvConfig, interface_of, make_env

AXES = ("x", "y", "z")
_TOLERANCE = 1e-5  # of proprioception, radians and metres


@dataclass(frozen=True, kw_only=True, slots=True)
class RedrawConfig:
    """Say what is drawn.

    Attributes:
        store: a demonstration store.
        env: where its episodes happened, with the options of then.
        episodes: how many, spread evenly; None: all. One of Franka-pick is 0.2 MB.
    """

    store: Path
    env: EnvConfig
    episodes: int | None


def redraw(config: RedrawConfig, out: Path) -> None:
    """Replay the episodes; write a file of each that is not yet there.

    Raises:
        FileNotFoundError: no store there.
        ValueError: it comes from another environment, or an episode does not come out as it was.
    """
    header = read_header(config.store)
    if header.env != config.env.id:
        raise ValueError(f"{config.store} was recorded in {header.env!r}, not in {config.env.id!r}")
    env = make_env(config.env, sighted=True, privileged=True)
    header.interface.require_equal(interface_of(env), str(config.store), "the environment")
    store = DemoStore(config.store, header)
    number = len(store) if config.episodes is None else min(config.episodes, len(store))
    out.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(store) - 1, number).astype(int)).tolist()
    for index in tqdm(chosen, desc="redraw", unit="episode"):
        path = out / f"{index:06d}.npz"
        if not path.exists():
            aside = path.with_name(f".{path.name}.part")
            with aside.open("wb") as file:
                arrays = _replay(env, store[index], index)
                np.savez_compressed(file, **arrays)  # pyrefly: ignore  # none is `allow_pickle`
            aside.replace(path)
    env.close()
    print(f"{len(chosen)} episodes: {out}")


def _replay(env: gymnasium.Env[Any, Any], episode: Episode, index: int) -> dict[str, NDArray[Any]]:
    """Give the arrays of one episode."""
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
    """Give where objects are from the tool, [t 3k], and the names of these columns."""
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
