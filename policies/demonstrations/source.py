"""Open the demonstrations for a training run: a demonstration store or a LeRobot data set.

A demonstration store is a folder of tokenised episodes. A LeRobot data set of another project can
be used with its actions unchanged, but no environment of this project can execute such actions.
"""

from dataclasses import dataclass
from pathlib import Path

from envs.interface import Interface
from toto_robot import FrameEncoder
from toto_robot.data.lerobot import INFO, LeRobotFolder, read_json

from .lerobot.others import LerobotLayout
from .lerobot.reader import DatasetReader, is_dataset
from .store import DemoStore, StoreHeader, digest, open_store, read_header
from .tokenised import Which, choose, chosen_before, tokenised


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrations:
    """The folder of demonstrations, and which episodes and columns of it are used.

    Attributes:
        folder: folder of a demonstration store (`DemoStore`) or of a LeRobot data set with images.
        which: which episodes of a LeRobot data set are used: `successful`, `complete` or `all`, as
            the function `tokenised` describes. Of a demonstration store, all are used.
        layout: the columns to use of another project's data set, whose actions are kept unchanged;
            None: this project wrote the data.
    """

    folder: Path
    which: Which
    layout: LerobotLayout | None = None

    def check(self) -> None:
        """Check that the demonstrations exist and can be opened.

        Raises:
            FileNotFoundError: the folder has no demonstrations.
            ValueError: the folder cannot be read, or a column of `layout` is missing.
        """
        if self._reader() is None:
            read_header(self.folder)

    def origin(self) -> dict[str, list[str]]:
        """Return where the episodes of a data set come from.

        Returns:
            `tasks`: the tasks in words. `envs`: environment ids, which only episodes from a digital
            twin contain. For a demonstration store, both lists are empty.
        """
        tasks, envs = set[str](), set[str]()
        if is_dataset(self.folder):
            tasks.update(LeRobotFolder(self.folder).tasks().values())
            for path in sorted((self.folder / "records").glob("*.json")):
                env = read_json(path).get("notes", {}).get("env_id")
                envs.update([] if env is None else [str(env)])
        return {"tasks": sorted(tasks), "envs": sorted(envs)}

    def inputs(self) -> dict[str, str]:
        """Return the hash of a demonstration store, by its path.

        A missing store and a data set have no hash: the episodes of a data set are chosen once, and
        `num_new` finds later ones.
        """
        is_store = (self.folder / "store.json").is_file()
        return {str(self.folder): digest(self.folder)} if is_store else {}

    def open(
        self,
        encoder: FrameEncoder | None,
        copy: Path,
        env: str | None = None,
        interface: Interface | None = None,
    ) -> DemoStore:
        """Open the demonstrations as a demonstration store.

        A LeRobot data set is first converted: each frame is tokenised once, and the result is
        written to `copy`.

        Args:
            encoder: the encoder that compresses the frames; None: the student has no vision.
            copy: folder of the new demonstration store if a data set is converted.
            env: id of the environment where the student will act; None: no environment.
            interface: action and observation spec of this environment; None: use that of the
                demonstrations.

        Raises:
            FileNotFoundError: the folder has no demonstrations.
            ValueError: the environment, the interface or the tokenizer of the demonstrations
                differs from that of the run, or no episode can be used.
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

    def num_new(self, copy: Path) -> int:
        """Return how many usable episodes a data set has that were not there at its conversion.

        Args:
            copy: folder of the demonstration store into which `open` converted the data set.

        Raises:
            ValueError: the data set cannot be read, or it has no usable episode.
        """
        if (reader := self._reader()) is None:
            return 0
        return len(set(choose(reader, self.which)) - set(chosen_before(copy)))

    def _reader(self) -> DatasetReader | None:
        """Return a reader if the folder is a LeRobot data set, otherwise None."""
        if is_dataset(self.folder):
            return DatasetReader(self.folder, others=self.layout)
        if self.layout is not None:
            raise FileNotFoundError(
                f"layout=lerobot, but {self.folder} is no LeRobot data set: {INFO} is missing"
            )
        return None
