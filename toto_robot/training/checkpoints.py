"""Write and read training checkpoints, with any number of ranks.

The folder ``checkpoints/step-0001000/`` holds the files of `torch.distributed.checkpoint`, in which
each rank writes a part of the weights and of the optimizer state. It also holds ``state.json``,
with the step, the number of tokens, the state of the guard, and the sum of the losses since the
last line of the log. The folder has a temporary name until all ranks are done and all files are on
the disk, so a checkpoint is complete or does not exist. If a disk loses a file later, training
resumes from the newest complete checkpoint. The index of the files is a pickle of torch. It is read
without running code from it (see `checkpoint_index`).
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import Optimizer

from ..checkpoint import newest_whole
from ..files import synchronise, write_json
from .checkpoint_index import DataPlanner, DataReader, read_whole
from .parallel import Ranks

__all__ = ["Checkpoints"]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: Optimizer,
        ranks: Ranks,
        *,
        background: bool,
        most: int,
    ) -> None:
        self._folder, self._model, self._optimizer = folder, model, optimizer
        self._ranks, self._background, self._most = ranks, background, most
        self._pending: tuple[Future[Any], Path] | None = None
        # A separate process group: the messages of a background write do not mix with training's.
        self._group: Any = None if ranks.mesh is None else dist.new_group(backend="gloo")

    def resume(self) -> dict[str, Any] | None:
        """Load the newest complete checkpoint into the model and the optimizer.

        Returns:
            The content of its ``state.json``. None if there is no checkpoint.

        Raises:
            ValueError: checkpoints exist, but none is complete.
        """
        folders = sorted(self._folder.glob("step-*"))
        self._ranks.wait()  # all ranks list the folders before the first rank renames damaged ones
        newest = newest_whole(folders, self._load, sets_aside=self._ranks.first)
        return None if newest is None else newest[1]

    def _load(self, folder: Path) -> dict[str, Any]:
        state = read_whole(folder)
        weights, moments = get_state_dict(self._model, self._optimizer)
        untrained = _pop_untrained(moments, folder)
        parts: dict[str, Any] = {"model": weights, "optimizer": moments}
        try:
            with _quietly():
                dcp.load(
                    parts,
                    storage_reader=DataReader(folder),
                    planner=DataPlanner(),
                    process_group=self._group,
                    no_dist=self._group is None,
                )
        except (
            CheckpointException
        ) as error:  # raised in all ranks if one rank fails; not a subclass of Exception
            (first, *_) = error.failures.values()
            raise ValueError(str(first[0]).partition("\n")[0]) from error
        parts["optimizer"]["state"] |= untrained
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=parts["model"],
            optim_state_dict=parts["optimizer"],
        )
        return state

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of ``step``, with ``state`` in its ``state.json``.

        With several ranks and `background`, training continues while the files are written. The
        checkpoint is complete after `finish`, which is called when no rank is `writing`.
        """
        self.finish()
        folder = self._folder / f"step-{step:07d}"
        aside = folder.with_name(f".{folder.name}.part")
        if self._ranks.first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            write_json(aside / "state.json", {"step": step, **state})
        self._ranks.wait()
        weights, moments = get_state_dict(self._model, self._optimizer)
        parts: dict[str, Any] = {"model": weights, "optimizer": moments}
        if self._background and self._group is not None:
            future = dcp.async_save(parts, checkpoint_id=aside, process_group=self._group)
            assert isinstance(future, Future)
            self._pending = (future, folder)
            return
        with _quietly():
            dcp.save(
                parts, checkpoint_id=aside, process_group=self._group, no_dist=self._group is None
            )
        self._publish(folder)

    @property
    def writing(self) -> bool:
        """Whether this rank still writes files of a checkpoint in the background."""
        return self._pending is not None and not self._pending[0].done()

    def finish(self) -> None:
        """Wait until a background write is complete, and give the checkpoint its name.

        All ranks must call this method. Without a background write, it does nothing.
        """
        if self._pending is not None:
            future, folder = self._pending
            self._pending = None
            future.result()
            self._publish(folder)

    def _publish(self, folder: Path) -> None:
        self._ranks.wait()
        if self._ranks.first:
            aside = folder.with_name(f".{folder.name}.part")
            for file in (*aside.iterdir(), aside):
                synchronise(file)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(aside, folder)
            synchronise(self._folder)
            for old in sorted(self._folder.glob("step-*"))[: -self._most]:
                shutil.rmtree(old)
        self._ranks.wait()


def _pop_untrained(moments: Any, folder: Path) -> dict[str, Any]:
    """Remove the state of the parameters for which a checkpoint has none, and return it as zeros.

    These parameters had no gradient yet, for example because the weight of their loss is 0.
    """
    stored = DataReader(folder).read_metadata().state_dict_metadata
    untrained = {
        name: state
        for name, state in moments["state"].items()
        if not any(f"optimizer.state.{name}.{part}" in stored for part in state)
    }
    for name, state in untrained.items():
        del moments["state"][name]
        for part in state.values():
            if isinstance(part, Tensor):
                part.zero_()
    return untrained


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warning of torch about checkpoints of a single process, which is expected."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
