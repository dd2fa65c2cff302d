"""A data set with pictures as a store of tokens: each frame is decoded and tokenised once.

In the folder:

    chosen.json    which episodes of the data set, fixed when the run began
    left_out.json  those of a data set of others that cannot be used, and why
    store.json, episodes/, features-*/    a `DemoStore` of them, in this order
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot import FrameEncoder
from toto_robot.encoders.contract import Codes, compress_each
from toto_robot.files import write_aside, write_json

from .episode import Episode
from .lerobot.demonstration import Demonstration
from .lerobot.reader import DatasetReader
from .store import DemoStore, StoreHeader, create_store

Which = Literal["successful", "complete", "all"]

# Frames tokenised in one call, which bounds the memory.
_BATCH = 64


def tokenised(
    reader: DatasetReader,
    folder: Path,
    header: StoreHeader,
    encoder: FrameEncoder | None,
    which: Which,
) -> DemoStore:
    """Return a store of a data set's episodes, making what is not yet there.

    Args:
        reader: the data set.
        folder: where the store is, or will be.
        header: of the store; its interface must be the data set's.
        encoder: whose tokenizer; None for the blind.
        which: `successful`: that ran to their end, and of which nobody said that they failed;
            `complete`: that ran to their end; `all`: also those that were cut short.

    Raises:
        ValueError: another interface, nothing to learn from, or numbers that are none. An episode
            of a data set of others that cannot be used is named and left out.
    """
    header.interface.require_equal(reader.interface, "this run", str(reader.folder))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chosen.json"
    if not path.exists():
        found = choose(reader, which)
        write_aside(path, (json.dumps(found) + "\n").encode())
    chosen: list[int] = json.loads(path.read_text())
    store = create_store(folder, header)
    left = chosen[len(store) :]
    for index in tqdm(left, desc="tokenise", unit="episode", disable=not left, leave=False):
        try:
            store.append(tokenise_episode(reader[index], encoder, index))
        except ValueError as error:
            if not reader.is_others:
                raise ValueError(f"episode {index} of {reader.folder}: {error}") from error
            chosen.remove(index)
            _leave_out(folder, index, str(error), chosen)
    if not chosen:
        reasons = (folder / "left_out.json").read_text()
        raise ValueError(f"no episode of {reader.folder} can be used: {reasons}")
    return store


def _leave_out(folder: Path, index: int, reason: str, chosen: list[int]) -> None:
    """Write down that an episode is not used, and why; a stopped run goes on without it."""
    path = folder / "left_out.json"
    reasons = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, reasons | {str(index): reason})
    write_aside(folder / "chosen.json", (json.dumps(chosen) + "\n").encode())
    tqdm.write(f"left out: episode {index}: {reason}")


def choose(reader: DatasetReader, which: Which) -> list[int]:
    """Return the numbers of the episodes to learn from.

    Raises:
        ValueError: there is none.
    """
    found, reasons = list[int](), list[str]()
    for index in range(len(reader)):
        facts = reader.facts(index)
        wanted = which == "all" or facts.get("complete", True)
        if which == "successful":
            wanted = wanted and facts.get("success") is not False
        # an action counts when what came of it was seen: two observations at least
        if wanted and reader.num_steps(index) > 1:
            found.append(index)
        else:
            reasons.append(f"{facts.get('reason', 'too short')}")
    if not found:
        told = ", ".join(f"{reasons.count(one)} {one}" for one in dict.fromkeys(reasons))
        raise ValueError(
            f"{reader.folder} has no episode to learn from with data_episodes={which}"
            + (f"; left out: {told}" if told else "")
        )
    return found


def tokenise_episode(
    demonstration: Demonstration, encoder: FrameEncoder | None, number: int
) -> Episode:
    """Return an episode of tokens: the longest stretch that has labels, and the frame after it.

    Without a frame after it the last action is left out.

    Raises:
        ValueError: there is no such stretch, or a number of it is not finite.
    """
    first, last = _longest(demonstration.labelled)
    last = min(last, demonstration.num_steps - 1)
    if last <= first:
        raise ValueError("no action has a frame before and after it")
    labels = demonstration.actions[first:last]
    executed = demonstration.columns.get("executed", demonstration.actions)[first:last]
    executed = np.where(np.isfinite(executed), executed, labels).astype(np.float32)
    same = (executed == labels).all(axis=1)
    by_expert = demonstration.columns.get("acted_by_expert")
    facts = demonstration.facts
    seed = facts.get("seed")
    return Episode(
        tokens=_tokens(demonstration, encoder, slice(first, last + 1)),
        proprio=demonstration.proprio[first : last + 1],
        labels=labels,
        executed=executed,
        acted_by_expert=same if by_expert is None else by_expert[first:last].astype(np.bool_),
        success=facts.get("success") is True,
        seed=seed if isinstance(seed, int) else number,
        round=int(facts.get("round", 0)),
    )


def _tokens(demonstration: Demonstration, encoder: FrameEncoder | None, rows: slice) -> Codes:
    """Return the tokens [t c n] of these frames."""
    if encoder is None:
        return np.zeros((rows.stop - rows.start, 0, 0), np.uint16)
    cameras = []
    for name in demonstration.interface.camera_names:
        frames = list(demonstration.pictures[name][rows])
        parts = [
            compress_each(encoder, frames[first : first + _BATCH])
            for first in range(0, len(frames), _BATCH)
        ]
        cameras.append(np.concatenate(parts))
    return np.stack(cameras, axis=1)


def _longest(labelled: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the bounds of the longest stretch of True; the first of equal ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labelled.astype(np.int8), [0]])))
    stretches = [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
    return max(stretches, key=lambda stretch: stretch[1] - stretch[0], default=(0, 0))
