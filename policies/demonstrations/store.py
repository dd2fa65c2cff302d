"""The demonstration store: a folder of tokenised episodes, to which episodes are only appended.

    <folder>/store.json                        format, environment, Interface, tokenizer hash
    <folder>/episodes/000000.safetensors       one episode; `seed`, `success`, `round` as metadata
    <folder>/features-<fingerprint>/000000.npy cached embeddings, can be deleted: see `features`

Frames are stored as the encoder compresses them, not as pixels. With a Toto encoder, a frame is
stored as token ids, which take 512 bytes. So a store can be used only with the tokenizer that wrote
it, and `store.json` contains the hash of this tokenizer. Each file is written under a temporary
name and then renamed, so that after a crash all episodes are complete. Only one process may append
at a time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from envs.interface import Interface
from toto_robot import FrameEncoder
from toto_robot.config import from_dict, to_dict
from toto_robot.files import write_aside, write_json

from .episode import Episode

FORMAT = 1
_ARRAYS = ("tokens", "proprio", "labels", "executed", "acted_by_expert")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """The properties that all episodes of a demonstration store share.

    Attributes:
        env: id of the environment in which the episodes were recorded; None: on a real arm.
        interface: action and observation spec: cameras, `proprio` and actions.
        tokenizer_hash: hash of the method that compressed the frames (`FrameEncoder.codes`); for a
            Toto encoder, of the tokenizer's weights. None: there are no cameras.
        tokens_per_frame: number of stored elements per frame; 0 without cameras.
    """

    env: str | None
    interface: Interface
    tokenizer_hash: str | None
    tokens_per_frame: int

    @classmethod
    def of(
        cls, env: str | None, interface: Interface, encoder: FrameEncoder | None
    ) -> "StoreHeader":
        """Return the header of a demonstration store whose frames are compressed by this encoder.

        Args:
            env: environment id; None: no environment.
            interface: action and observation spec.
            encoder: the encoder; None: frames are not stored.
        """
        codes = None if encoder is None else encoder.codes
        return cls(
            env=env,
            interface=interface,
            tokenizer_hash=None if codes is None else codes.fingerprint,
            tokens_per_frame=0 if codes is None else codes.size,
        )


class DemoStore:
    """A demonstration store: a folder of tokenised episodes, to read from and to append to."""

    def __init__(self, folder: Path, header: StoreHeader) -> None:
        """Find the episodes in a folder. Call `open_store` or `create_store`, not this method.

        Raises:
            ValueError: the numbers of the episodes in the folder have a gap.
        """
        self.folder = folder
        self.header = header
        self._episodes = folder / "episodes"
        names = {path.stem for path in self._episodes.glob("[0-9]*.safetensors")}
        self._length = len(names)
        missing = {_name(index) for index in range(self._length)} - names
        if missing:
            raise ValueError(
                f"{self._episodes}: episodes are missing: {', '.join(sorted(missing))}"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            IndexError: the index is out of range.
            ValueError: the file is damaged; the message names the file.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"episode {index} of {self._length}")
        path = self._episodes / f"{_name(index)}.safetensors"
        try:
            with safe_open(path, framework="numpy") as opened:
                metadata = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in _ARRAYS}
            facts = json.loads(metadata["episode"])
            return Episode(**arrays, **facts)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def __iter__(self) -> Iterator[Episode]:
        for index in range(self._length):
            yield self[index]

    def append(self, episode: Episode) -> int:
        """Write an episode to disk and return its index.

        Raises:
            ValueError: the shapes of the episode do not match the interface of the store.
        """
        self._check(episode)
        index = self._length
        facts = {"success": episode.success, "seed": episode.seed, "round": episode.round}
        data = save(_arrays(episode), metadata={"episode": json.dumps(facts)})
        write_aside(self._episodes / f"{_name(index)}.safetensors", data)
        self._length += 1
        return index

    def _check(self, episode: Episode) -> None:
        interface, tokens_per_frame = self.header.interface, self.header.tokens_per_frame
        for name, found, expected in (
            (
                "tokens",
                episode.tokens.shape[1:],
                (len(interface.cameras) if self.header.tokenizer_hash else 0, tokens_per_frame),
            ),
            ("proprio", episode.proprio.shape[1:], (len(interface.proprio),)),
            ("labels", episode.labels.shape[1:], (len(interface.action),)),
        ):
            if found != expected:
                raise ValueError(f"{name} per step must have shape {expected}, got {found}")


def create_store(folder: Path, header: StoreHeader) -> DemoStore:
    """Open the demonstration store in `folder`; create it if it does not exist.

    Raises:
        ValueError: the folder contains a demonstration store with another header.
    """
    if not (folder / "store.json").exists():
        (folder / "episodes").mkdir(parents=True, exist_ok=True)
        data = {"format": FORMAT, "kind": "demonstrations", **to_dict(header)}
        write_json(folder / "store.json", data)
    return open_store(folder, header)


def open_store(folder: Path, header: StoreHeader) -> DemoStore:
    """Open the demonstration store in `folder`.

    Raises:
        FileNotFoundError: the folder has no demonstration store.
        ValueError: environment, interface or tokenizer of the store differ from `header`.
    """
    found = read_header(folder)
    here, there = "this run", str(folder)
    if found.env != header.env:
        raise ValueError(
            f"{folder} was recorded in {found.env or 'no environment'}, but this run uses "
            f"{header.env or 'none'}"
        )
    header.interface.require_equal(found.interface, here, there)
    if found.tokenizer_hash != header.tokenizer_hash:
        raise ValueError(
            f"{folder} was recorded with another tokenizer (its hash: {_short(found)}, this run's: "
            f"{_short(header)}); record again, or use the encoder of the store (CHANGELOG.md says "
            "where the weights of earlier versions are)"
        )
    return DemoStore(folder, found)


def read_header(folder: Path) -> StoreHeader:
    """Read the header of the demonstration store in `folder`.

    Raises:
        FileNotFoundError: the folder has no demonstration store.
        ValueError: the header cannot be read, or has another format.
    """
    path = folder / "store.json"
    if not path.is_file():
        raise FileNotFoundError(f"no demonstrations in {folder}: store.json is missing")
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if data.pop("kind", None) != "demonstrations" or (form := data.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} is no store of format {FORMAT}: {form!r}")
    return from_dict(StoreHeader, data, at=str(path))


def digest(folder: Path) -> str:
    """Return the sha256 of the header and of all episodes of a demonstration store."""
    found = sha256((folder / "store.json").read_bytes())
    for path in sorted((folder / "episodes").glob("[0-9]*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _arrays(episode: Episode) -> dict[str, NDArray[Any]]:
    return {
        "tokens": np.ascontiguousarray(episode.tokens),
        "proprio": np.ascontiguousarray(episode.proprio),
        "labels": np.ascontiguousarray(episode.labels),
        "executed": np.ascontiguousarray(episode.executed),
        "acted_by_expert": np.ascontiguousarray(episode.acted_by_expert),
    }


def _name(index: int) -> str:
    return f"{index:06d}"


def _short(header: StoreHeader) -> str:
    return header.tokenizer_hash[:12] if header.tokenizer_hash else "none"
