"""Make a demonstration store from a LeRobot data set with images; each frame is tokenised once.

Files in the folder of the store:

    chosen.json    indices of the episodes to use, chosen when the run began
    left_out.json  episodes of another project's data set that cannot be used, with the reasons
    store.json, episodes/, features-*/    a `DemoStore` of the episodes in chosen.json
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
    """Return a demonstration store of the episodes of a data set.

    Episodes that are not in `folder` yet are tokenised and appended. Episodes of another project's
    data set that cannot be used are skipped, with a message.

    Args:
        reader: the data set.
        folder: folder of the demonstration store.
        header: header of the store. Its interface must be equal to that of the data set.
        encoder: the encoder that compresses the frames; None: frames are not stored.
        which: which episodes to use. `successful`: complete episodes that are not marked as failed.
            `complete`: episodes that are not marked as cut short. `all`: also episodes that were
            cut short.

    Raises:
        ValueError: the interfaces differ, no episode can be used, or an episode that this project
            wrote has values that are not finite.
    """
    header.interface.require_equal(reader.interface, "this run", str(reader.folder))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chosen.json"
    if not path.exists():
        found = choose(reader, which)
        write_aside(path, (json.dumps(found) + "\n").encode())
    chosen: list[int] = json.loads(path.read_text())
    store = create_store(folder, header)
    rest = chosen[len(store) :]
    for index in tqdm(rest, desc="tokenise", unit="episode", disable=not rest, leave=False):
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
    """Record that an episode cannot be used, so that a resumed run skips the episode, too.

    Args:
        folder: folder of the demonstration store.
        index: index of the episode in the data set.
        reason: why the episode cannot be used.
        chosen: indices of the episodes that remain to be used, without this episode.
    """
    write_json(folder / "left_out.json", _reasons(folder) | {str(index): reason})
    write_aside(folder / "chosen.json", (json.dumps(chosen) + "\n").encode())
    tqdm.write(f"skipped: episode {index}: {reason}")


def _reasons(folder: Path) -> dict[str, str]:
    """Return why episodes were left out, by their index in the data set."""
    path = folder / "left_out.json"
    return json.loads(path.read_text()) if path.exists() else {}


def chosen_before(folder: Path) -> list[int]:
    """Return the indices of the episodes that `tokenised` has chosen or left out."""
    return json.loads((folder / "chosen.json").read_text()) + [
        int(index) for index in _reasons(folder)
    ]


def choose(reader: DatasetReader, which: Which) -> list[int]:
    """Return the indices of the episodes to learn from; `tokenised` describes `which`.

    Episodes with only one step are not used.

    Raises:
        ValueError: no episode can be used.
    """
    found, reasons = list[int](), list[str]()
    for index in range(len(reader)):
        facts = reader.facts(index)
        wanted = which == "all" or facts.get("complete", True)
        if which == "successful":
            wanted = wanted and facts.get("success") is not False
        # an action is used only if the observation after it exists
        if wanted and reader.num_steps(index) > 1:
            found.append(index)
        else:
            reasons.append(f"{facts.get('reason', 'too short')}")
    if not found:
        counts = ", ".join(f"{reasons.count(one)} {one}" for one in dict.fromkeys(reasons))
        raise ValueError(
            f"{reader.folder} has no episode to learn from with data_episodes={which}"
            + (f"; skipped: {counts}" if counts else "")
        )
    return found


def tokenise_episode(
    demonstration: Demonstration, encoder: FrameEncoder | None, number: int
) -> Episode:
    """Tokenise the frames of a demonstration, and return it as an `Episode`.

    Only the longest sequence of consecutive labelled steps is used, with the frame after it. If the
    demonstration has no frame after this sequence, the last action is dropped.

    Args:
        demonstration: the demonstration with images.
        encoder: the encoder that compresses the frames; None: frames are not stored.
        number: number of the episode, which is stored as its seed if it has no seed.

    Raises:
        ValueError: there is no labelled step with a frame after it, or a value is not finite.
    """
    first, last = _longest(demonstration.labelled)
    last = min(last, demonstration.num_steps - 1)
    if last <= first:
        raise ValueError("no labelled action is followed by a frame")
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
    """Return the tokens [t c n] of the frames `rows`: t frames, c cameras, n tokens per frame."""
    if encoder is None:
        return np.zeros((rows.stop - rows.start, 0, 0), np.uint16)
    cameras = []
    for name in demonstration.interface.camera_names:
        frames = list(demonstration.images[name][rows])
        parts = [
            compress_each(encoder, frames[first : first + _BATCH])
            for first in range(0, len(frames), _BATCH)
        ]
        cameras.append(np.concatenate(parts))
    return np.stack(cameras, axis=1)


def _longest(labelled: NDArray[np.bool_]) -> tuple[int, int]:
    """Return where the longest sequence of True begins and ends (exclusive).

    Of several sequences of equal length, the first is chosen.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labelled.astype(np.int8), [0]])))
    stretches = [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
    return max(stretches, key=lambda stretch: stretch[1] - stretch[0], default=(0, 0))
