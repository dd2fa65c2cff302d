"""Keep episodes of an arm as a LeRobotDataset v3.0, with all that is known of each step.

    with Recorder(Path("runs/demos"), interface) as recorder:
        recorder.save(record)

Writing comes after the episode, not in its loop. Episodes that were cut short are kept, too, and
marked by `complete`; one that ended before its first step has its record alone. What is saved is
whole after a kill at any moment, and the next `Recorder` of the folder goes on.

Beside what LeRobot knows (`observation.state`, `action`, `observation.images.<camera>`, where the
action is the step's label) there are the columns of `columns_of`. `records/` has what belongs to an
episode as a whole: how it ended, who acted, notes, and each intervention of the safety layer.
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

from .episode import COMPLETE, EpisodeRecord, Step

# Stages with a column; the record has the others.
PHASES = ("observe", "tokenizer", "encoder", "surprise", "policy", "wait", "safety", "send", "age")
_NAN = float("nan")
_INCREMENT = "_increment"


class Recorder:
    """Write episodes of one interface into one folder; nobody else writes there meanwhile."""

    def __init__(self, folder: Path, interface: Interface, codec: Codec = LOSSLESS) -> None:
        """Open the folder, making the data set if there is none.

        Raises:
            ValueError: another process writes there, or it holds something else.
        """
        self._interface = interface
        self._writer = DatasetWriter(folder, interface, columns_of(interface), codec)

    @property
    def folder(self) -> Path:
        """Where the data set is."""
        return self._writer.folder

    @property
    def num_episodes(self) -> int:
        """Return the number of episodes with steps that are there, also of earlier runs."""
        return len(self._writer)

    def records(self) -> list[dict[str, Any]]:
        """Return what is known of each episode with steps as a whole, in order, as `save` wrote it.

        For who resumes: `reason`, `success`, `complete`, `notes` and so on.
        """
        reader = DatasetReader(self.folder)
        return [reader.facts(index) for index in range(len(reader))]

    def save(self, record: EpisodeRecord) -> int | None:
        """Write an episode; when this returns, it is on disk.

        Returns:
            The index of the episode; None of one without steps, whose record alone is kept.

        Raises:
            ValueError: its pictures or states are not those of the interface.
        """
        facts = facts_of(record)
        if not record.steps:
            self._writer.append_empty({"task": record.task, **facts})
            return None
        return self._writer.append(demonstration_of(record, self._interface))

    def close(self) -> None:
        """Let others write; more than once is fine."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def places_of(dataset: Path) -> list[tuple[float, float]]:
    """Return x and y of the object, m, at the beginning of each episode of a data set.

    Raises:
        ValueError: no episode says it.
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
            f"{dataset}: none of {len(reader)} episodes says where the object was, so poses cannot "
            "be kept away from theirs; leave it out of `demonstrations`"
        )
    return places


def columns_of(interface: Interface) -> tuple[Column, ...]:
    """Return what is kept of each step of an arm; numbers that were not there are NaN.

    Times are seconds of the recording machine's monotonic clock.
    """
    joints = _joints(interface)

    def one(name: str) -> Column:
        return Column(name=name, dtype="float64", names=(name.rpartition(".")[2],))

    def each(name: str) -> Column:
        return Column(name=name, dtype="float64", names=joints)

    return (
        # what the agent did, where the label is what is to be learned
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
    """Return an episode with steps as what is stored.

    A step without a label, because no answer came in time, is marked by `labelled`; its action is
    to hold: no increment, and the hand as it was.
    """
    steps = record.steps
    labels = np.stack([_action(step.label, interface) for step in steps])
    labelled = np.array([bool(np.isfinite(label).all()) for label in labels])
    return Demonstration(
        interface=interface,
        images={
            camera.name: np.stack(
                [_picture(step, camera.name, (camera.height, camera.width, 3)) for step in steps]
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
    """Return what belongs to an episode as a whole, as plain data."""
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
    """Return the columns of `columns_of`."""
    num_joints = len(_joints(interface))
    missing = np.full(num_joints, _NAN)

    def gather(read: Callable[[Step], Any]) -> Array:
        return np.array([read(step) for step in steps], dtype=np.float64)

    def joints(read: Callable[[Step], Any]) -> NDArray[np.float64]:
        rows = [read(step) for step in steps]
        # a wish of a wrong shape ends the episode, and is no reason to lose it
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
    """Return labels where each that is missing holds the arm and leaves the hand as it was."""
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


def _picture(step: Step, camera: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a step's picture; black where the camera gave none."""
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
    """Return the joints that actions move."""
    found = tuple(
        name.removesuffix(_INCREMENT) for name in interface.action if name.endswith(_INCREMENT)
    )
    if not found:
        raise ValueError(f"no joint increments among the actions {', '.join(interface.action)}")
    return found
