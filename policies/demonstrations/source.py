"""Open the demonstrations that a training begins with: a store, or a LeRobot data set.

Of a data set of others the actions may stay as they are; such demonstrations fit no environment.
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
    """Return where demonstrations are, and which of them are wanted.

    Attributes:
        folder: a `DemoStore`, or a LeRobot data set with images.
        which: of a data set, see `tokenised`; of a store all.
        layout: what is used of a data set of others, whose own actions are learned; None: it says
            itself what its actions mean.
    """

    folder: Path
    which: Which
    layout: LerobotLayout | None = None

    def check(self) -> None:
        """Check that they are there.

        Raises:
            FileNotFoundError: there are none.
            ValueError: what is there cannot be read, or lacks what `layout` names.
        """
        if self._reader() is None:
            read_header(self.folder)

    def origin(self) -> dict[str, list[str]]:
        """Return what a data set says of where it was recorded: `tasks` in words, and `envs`.

        A twin's episodes say which environment it had. A store says neither.
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
        """Open them as a store; a data set is tokenised once, into a store of its own.

        Args:
            encoder: whose compressed frames are wanted; None without vision.
            copy: where the store of a data set is, or will be.
            env: the environment where the student will act; None: they are learned from alone.
            interface: of that environment; None: theirs, whatever it is.

        Raises:
            FileNotFoundError: there are none.
            ValueError: they are of another environment, interface or tokenizer.
        """
        if (reader := self._reader()) is not None:
            lines = reader.interface.differences(interface) if interface is not None else []
            if lines:
                raise ValueError(
                    f"{self.folder} has another interface than {env} (there != here):\n  "
                    + "\n  ".join(lines)
                    + "\nto learn from it alone, without an environment: method=bc env=none"
                )
            header = StoreHeader.of(env, reader.interface, encoder)
            return tokenised(reader, copy, header, encoder, self.which)
        if interface is None:
            found = read_header(self.folder)
            env, interface = found.env, found.interface
        return open_store(self.folder, StoreHeader.of(env, interface, encoder))

    def _reader(self) -> DatasetReader | None:
        """Open a data set; None of what is none."""
        if is_dataset(self.folder):
            return DatasetReader(self.folder, others=self.layout)
        if self.layout is not None:
            raise FileNotFoundError(
                f"layout=lerobot: no data set in {self.folder}: {INFO} is missing"
            )
        return None
