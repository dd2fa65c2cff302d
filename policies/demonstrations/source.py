"""Open the demonstrations for a training run: a demonstration store or a LeRobot data set.

The actions of another project's data set can be kept unchanged. No environment of this project can
execute them.
"""

from dataclasses import dataclass
from pathlib import Path

from envs.interface import Interface
from toto_robot import FrameEncoder
from toto_robot.data.lerobot import INFO, LeRobotFolder, read_json

from .lerobot.others import LerobotLayout
from .lerobot.reader import DatasetReader, is_dataset
from .store import DemoStore, StoreHeader, open_store, read_header
from .tokenised import Which, tokenised


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrations:
    """The location and the selection of demonstrations.

    Attributes:
        folder: folder of a `DemoStore` or of a LeRobot data set with images.
        which: which episodes of a data set are used, see `tokenised`; of a store, all are used.
        layout: the columns to use of another project's data set, whose own actions are learned;
            None: this project wrote the data set.
    """

    folder: Path
    which: Which
    layout: LerobotLayout | None = None

    def check(self) -> None:
        """Check that the demonstrations exist and can be opened.

        Raises:
            FileNotFoundError: the folder has no demonstrations.
            ValueError: the folder cannot be read, or lacks a column of `layout`.
        """
        if self._reader() is None:
            read_header(self.folder)

    def origin(self) -> dict[str, list[str]]:
        """Return the `tasks` of a data set in words, and the ids of its `envs`.

        Only episodes of a digital twin contain an environment id. For a store, both are empty.
        """
        tasks, envs = set[str](), set[str]()
        if is_dataset(self.folder):
            tasks.update(LeRobotFolder(self.folder).tasks().values())
            for path in sorted((self.folder / "records").glob("*.json")):
                env = read_json(path).get("notes", {}).get("env_id")
                envs.update([] if env is None else [str(env)])
        return {"tasks": sorted(tasks), "envs": sorted(envs)}

    def open(
        self,
        encoder: FrameEncoder | None,
        copy: Path,
        env: str | None = None,
        interface: Interface | None = None,
    ) -> DemoStore:
        """Open the demonstrations as a store; a data set is tokenised once, into a new store.

        Args:
            encoder: the encoder that compresses the frames; None without vision.
            copy: folder of the store that is made from a data set.
            env: id of the environment where the student will act; None: no environment.
            interface: interface of that environment; None: the interface of the demonstrations.

        Raises:
            FileNotFoundError: the folder has no demonstrations.
            ValueError: environment, interface or tokenizer of the demonstrations differ.
        """
        if (reader := self._reader()) is not None:
            lines = reader.interface.differences(interface) if interface is not None else []
            if lines:
                raise ValueError(
                    f"{self.folder} and {env} have different interfaces (data != environment):\n  "
                    + "\n  ".join(lines)
                    + "\nto train on the data without an environment: method=bc env=none"
                )
            header = StoreHeader.of(env, reader.interface, encoder)
            return tokenised(reader, copy, header, encoder, self.which)
        if interface is None:
            found = read_header(self.folder)
            env, interface = found.env, found.interface
        return open_store(self.folder, StoreHeader.of(env, interface, encoder))

    def _reader(self) -> DatasetReader | None:
        """Return a reader if the folder is a data set, else None."""
        if is_dataset(self.folder):
            return DatasetReader(self.folder, others=self.layout)
        if self.layout is not None:
            raise FileNotFoundError(
                f"layout=lerobot, but {self.folder} is no LeRobot data set: {INFO} is missing"
            )
        return None
