"""Save the episodes of an arm as a LeRobotDataset v3.0, with all data of each time step.

    with Recorder(Path("runs/demos"), interface) as recorder:
        recorder.save(record)

An episode is written after its end, not while the control loop runs. Truncated episodes are also
saved, with `complete: false`. For an episode without time steps, only the file in `records/` is
written. If the process is killed, the saved episodes remain valid, and the next `Recorder` of the
folder appends to them.

LeRobot's columns are `observation.state`, `observation.images.<camera>` and `action`. The column
`action` contains the label of the time step: the action that a policy should learn. `columns_of`
lists the additional columns. The folder `records/` contains the data of whole episodes: reason of
the end, agent, notes, and each change by the safety layer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from envs.interface import Interface
from policies.demonstrations.lerobot.demonstration import Array, Demonstration
from policies.demonstrations.lerobot.layout import Column
from policies.demonstrations.lerobot.reader import DatasetReader
from policies.demonstrations.lerobot.video import LOSSLESS, Codec
from policies.demonstrations.lerobot.writer import DatasetWriter
from toto_robot.moved import moved_names

from .episode import COMPLETE, EpisodeRecord, Step

# Stages of a time step whose durations have a column. Other durations are in `records/` only.
PHASES = ("observe", "tokenizer", "encoder", "surprise", "policy", "wait", "safety", "send", "age")
_NAN = float("nan")
_INCREMENT = "_increment"


class Recorder:
    """Writer that saves episodes into a data set; it locks the folder against other processes."""

    def __init__(self, folder: Path, interface: Interface, codec: Codec = LOSSLESS) -> None:
        """Open the data set in a folder, or create it.

        Args:
            folder: folder of the data set.
            interface: action and observation spec of the episodes.
            codec: compression of the videos.

        Raises:
            ValueError: another process writes into the folder, or the folder contains other data.
        """
        self._interface = interface
        self._writer = DatasetWriter(folder, interface, columns_of(interface), codec)

    @property
    def folder(self) -> Path:
        """Return the folder of the data set."""
        return self._writer.folder

    @property
    def num_episodes(self) -> int:
        """Return the number of saved episodes with time steps, including earlier runs."""
        return len(self._writer)

    def records(self) -> list[dict[str, Any]]:
        """Return the data of each saved episode with time steps, in order.

        They contain `reason`, `success`, `complete`, `notes` and more; see `facts_of`.
        """
        reader = DatasetReader(self.folder)
        return [reader.facts(index) for index in range(len(reader))]

    def save(self, record: EpisodeRecord) -> int | None:
        """Write an episode to disk.

        Returns:
            The index of the episode in the data set; None for an episode without time steps, of
            which only the file in `records/` is written.

        Raises:
            ValueError: the images or states do not match the action and observation spec.
        """
        facts = facts_of(record)
        if not record.steps:
            self._writer.append_empty({"task": record.task, **facts})
            return None
        return self._writer.append(demonstration_of(record, self._interface))

    def close(self) -> None:
        """Release the lock of the folder; repeated calls are allowed."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def object_positions(dataset: Path) -> list[tuple[float, float]]:
    """Return the positions x, y of the object, m, at the beginning of a data set's episodes.

    Without a measured position, the planned position counts. Episodes with neither are left out.

    Raises:
        ValueError: no episode contains the position of the object.
    """
    reader = DatasetReader(dataset)
    places = []
    for index in range(len(reader)):
        notes = reader.facts(index).get("notes", {})
        if (found := notes.get("object_pose")) is not None:
            places.append((float(found[0]), float(found[1])))
        elif (planned := notes.get("pose")) is not None:
            places.append((float(planned["x_m"]), float(planned["y_m"])))
    if not places:
        raise ValueError(
            f"{dataset}: none of {len(reader)} episodes contains the pose of the object, so trials "
            "cannot avoid these poses; remove the data set from `demonstrations`"
        )
    return places


def columns_of(interface: Interface) -> tuple[Column, ...]:
    """Return the columns that are saved in addition to LeRobot's columns.

    A value that does not exist is NaN. Times are in seconds, from the monotonic clock of the
    machine that records.
    """
    joints = _joints(interface)

    def one(name: str) -> Column:
        return Column(name=name, dtype="float64", names=(name.rpartition(".")[2],))

    def each(name: str) -> Column:
        return Column(name=name, dtype="float64", names=joints)

    return (
        # the executed action; the column `action` contains the label
        Column(name="executed", dtype="float32", names=interface.action),
        each("command.before.joints"),
        one("command.before.gripper"),
        each("command.after.joints"),
        one("command.after.gripper"),
        each("command.sent.joints"),
        Column(name="verdict", dtype="string", names=("verdict",)),
        each("robot.positions"),
        each("robot.velocities"),
        each("robot.torques"),
        each("robot.external_torques"),
        one("robot.gripper_width"),
        Column(name="robot.mode", dtype="string", names=("mode",)),
        one("robot.success_rate"),
        one("stamp.tick"),
        one("stamp.robot"),
        one("stamp.gripper"),
        *(one(f"stamp.camera.{name}") for name in interface.camera_names),
        *(
            Column(name=f"sequence.camera.{name}", dtype="int64", names=("sequence",))
            for name in interface.camera_names
        ),
        one("surprise"),
        one("late"),
        Column(name="timings", dtype="float64", names=PHASES),
    )


def demonstration_of(record: EpisodeRecord, interface: Interface) -> Demonstration:
    """Convert an episode with time steps to a demonstration, the type that is saved.

    If the agent's answer was not in time, the time step has no label. The element of this time step
    in `labelled` is then False, and its action does not move the arm: the increments are 0, and the
    gripper keeps its command.
    """
    steps = record.steps
    labels = np.stack([_action(step.label, interface) for step in steps])
    labelled = np.array([bool(np.isfinite(label).all()) for label in labels])
    return Demonstration(
        interface=interface,
        images={
            camera.name: np.stack(
                [_image(step, camera.name, (camera.height, camera.width, 3)) for step in steps]
            )
            for camera in interface.cameras
        },
        proprio=np.stack([step.observation.proprio for step in steps]),
        actions=_held(labels, labelled, interface, steps[0]),
        labelled=labelled,
        columns=_values(steps, interface),
        task=record.task,
        facts=facts_of(record),
    )


def facts_of(record: EpisodeRecord) -> dict[str, Any]:
    """Return the data of a whole episode for `records/`, as data that JSON can represent."""
    return {
        "agent": record.agent,
        "weights_hash": record.weights_hash,
        "reason": record.reason,
        "message": record.message,
        "complete": record.reason in COMPLETE,
        "success": record.success,
        "started": record.started,
        "num_steps": len(record.steps),
        "notes": dict(record.notes),
        "interventions": [
            {
                "step": step.index,
                "name": one.name,
                "amount": one.amount,
                "unit": one.unit,
                "detail": one.detail,
            }
            for step in record.steps
            for one in step.decision.interventions
        ],
        "causes": [
            {"step": step.index, "verdict": step.decision.verdict, "causes": step.decision.causes}
            for step in record.steps
            if step.decision.causes
        ],
        "errors": [
            {"step": step.index, "errors": step.observation.state.errors}
            for step in record.steps
            if step.observation.state.errors
        ],
        "other_timings_s": [
            {"step": step.index, **other}
            for step in record.steps
            if (other := {k: v for k, v in step.timings_s.items() if k not in PHASES})
        ],
    }


def _values(steps: Sequence[Step], interface: Interface) -> dict[str, Array]:
    """Return the values of the columns that `columns_of` lists, by name."""
    num_joints = len(_joints(interface))
    missing = np.full(num_joints, _NAN)

    def gather(read: Callable[[Step], Any]) -> Array:
        return np.array([read(step) for step in steps], dtype=np.float64)

    def joints(read: Callable[[Step], Any]) -> NDArray[np.float64]:
        rows = [read(step) for step in steps]
        # a target of a wrong shape has ended the episode; the episode is recorded nevertheless
        return np.stack(
            [missing if row is None or np.shape(row) != missing.shape else row for row in rows]
        ).astype(np.float64)

    found: dict[str, Array] = {
        "executed": np.stack([_action(step.action, interface) for step in steps]),
        "command.before.joints": joints(lambda s: s.requested.joint_positions_rad),
        "command.before.gripper": gather(lambda s: _number(s.requested.gripper_width_m)),
        "command.after.joints": joints(
            lambda s: None if s.decision.target is None else s.decision.target.joint_positions_rad
        ),
        "command.after.gripper": gather(
            lambda s: (
                _NAN if s.decision.target is None else _number(s.decision.target.gripper_width_m)
            )
        ),
        "command.sent.joints": joints(lambda s: s.sent_rad),
        "verdict": np.array([step.decision.verdict for step in steps], dtype=object),
        "robot.positions": joints(lambda s: s.observation.state.joint_positions_rad),
        "robot.velocities": joints(lambda s: s.observation.state.joint_velocities_rad_s),
        "robot.torques": joints(lambda s: s.observation.state.joint_torques_nm),
        "robot.external_torques": joints(lambda s: s.observation.state.external_torques_nm),
        "robot.gripper_width": gather(lambda s: _gripper(s, "width_m")),
        "robot.mode": np.array([step.observation.state.mode for step in steps], dtype=object),
        "robot.success_rate": gather(lambda s: s.observation.state.command_success_rate),
        "stamp.tick": gather(lambda s: s.observation.stamp_s),
        "stamp.robot": gather(lambda s: s.observation.state.stamp_s),
        "stamp.gripper": gather(lambda s: _gripper(s, "stamp_s")),
        "surprise": gather(lambda s: _number(s.surprise)),
        "late": gather(lambda s: s.late_s),
        "timings": gather(lambda s: [s.timings_s.get(stage, _NAN) for stage in PHASES]),
    }
    for name in interface.camera_names:
        frames = [step.observation.frames.get(name) for step in steps]
        found[f"stamp.camera.{name}"] = np.array(
            [_NAN if frame is None else frame.stamp_s for frame in frames]
        )
        found[f"sequence.camera.{name}"] = np.array(
            [-1 if frame is None else frame.sequence for frame in frames], dtype=np.int64
        )
    return found


def _held(
    labels: NDArray[np.float32], labelled: NDArray[np.bool_], interface: Interface, first: Step
) -> NDArray[np.float32]:
    """Return the labels, with an action that moves nothing instead of each missing label."""
    found = labels.copy()
    hold = np.zeros(labels.shape[1], np.float32)
    absolute = [i for i, name in enumerate(interface.action) if not name.endswith(_INCREMENT)]
    gripper = first.observation.state.gripper
    if gripper is not None and gripper.max_width_m > 0:
        hold[absolute] = np.clip(2 * gripper.width_m / gripper.max_width_m - 1, -1, 1)
    for row in range(len(found)):
        if labelled[row]:
            hold[absolute] = found[row, absolute]
        else:
            found[row] = hold
    return found


def _image(step: Step, camera: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the image of a camera at a time step; a black image if there is none."""
    frame = step.observation.frames.get(camera)
    return np.zeros(shape, np.uint8) if frame is None else frame.image


def _action(action: NDArray[np.float32], interface: Interface) -> NDArray[np.float32]:
    shape = (len(interface.action),)
    return action if action.shape == shape else np.full(shape, _NAN, np.float32)


def _gripper(step: Step, name: str) -> float:
    gripper = step.observation.state.gripper
    if gripper is None:
        return _NAN
    return gripper.width_m if name == "width_m" else gripper.stamp_s


def _number(value: float | None) -> float:
    return _NAN if value is None else value


def _joints(interface: Interface) -> tuple[str, ...]:
    """Return the names of the joints that actions move."""
    found = tuple(
        name.removesuffix(_INCREMENT) for name in interface.action if name.endswith(_INCREMENT)
    )
    if not found:
        raise ValueError(f"the actions have no joint increments: {', '.join(interface.action)}")
    return found


__getattr__ = moved_names(__name__, {"places_of": "real_robot.recording:object_positions"})
