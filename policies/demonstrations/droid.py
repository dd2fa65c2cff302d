"""Export recordings of a Franka in the format of DROID (Khazatsky et al., arXiv 2403.12945).

The result is a LeRobotDataset v3.0 at 15 Hz with the names and units of `lerobot/droid_1.0.1`. The
columns are, with the number of elements per step:

    observation.state.joint_position    [7] measured joint positions, rad
    observation.state.gripper_position  [1] measured gripper position, from 0 (open) to 1 (closed)
    observation.state                   [8] both of the above
    action.joint_position               [7] desired joint positions of the next step, rad
    action.joint_velocity               [7] (desired - measured joint positions) / 0.2 rad
    action.gripper_position             [1] gripper command, from 0 (open) to 1 (closed)
    action                              [8] action.joint_position and action.gripper_position
    is_episode_successful               [1] whether the episode succeeded
    observation.images.<camera>         for example `wrist_left` and `exterior_1_left`

The actions of the models pi0-DROID and pi0.5-DROID of openpi are `action.joint_velocity` and
`action.gripper_position`.

The recordings are resampled to 15 Hz. Joint positions between two recorded steps are interpolated
linearly. Each exported step has the image and the gripper command of the newest step that was
recorded at or before its time, so at a recorded rate of 10 Hz every second recorded image is
exported twice. If the recording contains desired joint positions (in the
column `command.after.joints`, or as targets in the column `state`), they are used; otherwise the
measured joint positions are used instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from envs.arms.franka import FRANKA_PANDA
from envs.interface import OWN, CameraSpec, Interface

from .joint_paths import MAX_WIDTH_M
from .lerobot.demonstration import Array, Demonstration
from .lerobot.layout import ACTION, STATE, Column
from .lerobot.reader import DatasetReader
from .lerobot.writer import DatasetWriter
from .tokenised import Which, choose

RATE_HZ = 15.0
UNIT_RAD = 0.2  # an action of 1 per step, DROID's `max_joint_delta`
_JOINTS = tuple(f"joint_{index}" for index in range(len(FRANKA_PANDA.joint_names)))
_AXES = (*_JOINTS, "gripper")
_DESIRED, _PRIVILEGED = "command.after.joints", "state"
_WIDTH = f"{FRANKA_PANDA.hand_servos[0].name}_width"
_COLUMNS = (
    *(
        Column(name=f"{group}.{name}", dtype="float32", names=names, used_by_policies=True)
        for group, name, names in (
            (STATE, "joint_position", _JOINTS),
            (STATE, "gripper_position", ("gripper",)),
            (ACTION, "joint_position", _JOINTS),
            (ACTION, "joint_velocity", _JOINTS),
            (ACTION, "gripper_position", ("gripper",)),
        )
    ),
    Column(name="is_episode_successful", dtype="bool", names=("successful",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DroidView:
    """Recordings of this project, which `export` converts to the format of DROID.

    Attributes:
        path: folder of a LeRobot data set that this project wrote.
        data_episodes: which episodes are exported: `successful`, `complete` or `all`.
        cameras: a dictionary from the name of a camera in the recordings to its name in DROID.
            Other cameras are not exported.
    """

    kind: ClassVar[str] = "droid"
    path: Path
    data_episodes: Which
    cameras: dict[str, str]

    def export(self, number: int | None, out: Path) -> None:
        """Export the episodes that `out` does not contain yet.

        Args:
            number: number of episodes to export, beginning with the first; None: all.
            out: folder of the exported data set.

        Raises:
            FileNotFoundError: `path` has no data set.
            ValueError: the data set does not contain joint positions of a Franka, a camera is
                missing, an episode is too short, or `out` contains other episodes.
        """
        reader = DatasetReader(self.path)
        chosen = choose(reader, self.data_episodes)[:number]
        interface = self.interface(reader)
        with DatasetWriter(out, interface, _COLUMNS) as writer:
            written = DatasetReader(out)
            done = [written.facts(index).get("source") for index in range(len(written))]
            names = [f"{self.path}: episode {index}" for index in chosen]
            if done != names[: len(done)]:
                raise ValueError(f"{out} contains other episodes, choose another out: {done}")
            rest = list(zip(chosen, names, strict=True))[len(done) :]
            found = [column.names for column in reader.columns if column.name == _PRIVILEGED]
            for index, name in tqdm(rest, desc="convert", unit="episode"):
                episode = reader[index]
                path = _resampled(episode, found[0] if found else ())
                writer.append(self._episode(episode, path, interface, name))
        written = DatasetReader(out)
        scaled = sum(
            int(written.facts(index).get("scaled_down", 0)) for index in range(len(written))
        )
        if scaled:
            print(f"{scaled} actions beyond 1 were scaled down, as the controller of DROID does")
        print(f"{len(chosen)} episodes at {RATE_HZ:g} steps per second: {out}")

    def interface(self, reader: DatasetReader) -> Interface:
        """Return the action and observation spec of the exported data.

        Raises:
            ValueError: the recordings do not contain joint positions of a Franka, or a camera is
                missing.
        """
        found = reader.interface
        cameras = {camera.name: camera for camera in found.cameras}
        if missing := [name for name in self.cameras if name not in cameras]:
            raise ValueError(
                f"{reader.folder} has no camera {', '.join(missing)}; it has "
                f"{', '.join(cameras) or 'none'}; set layout.cameras={{<camera>: <DROID's name>}}"
            )
        needed = (*_names("position"), _WIDTH)
        if lacking := [name for name in needed if name not in found.proprio]:
            raise ValueError(
                f"{reader.folder} is not a recording of a Franka with a gripper: its states lack "
                f"{', '.join(lacking)}"
            )
        return Interface(
            arm=found.arm,
            cameras=tuple(
                CameraSpec(name=new, height=cameras[old].height, width=cameras[old].width)
                for old, new in self.cameras.items()
            ),
            proprio=_AXES,
            action_kind=OWN,
            action=_AXES,
            action_scale=(1.0,) * len(_AXES),
            rate_hz=RATE_HZ,
        )

    def _episode(
        self,
        episode: Demonstration,
        path: Mapping[str, NDArray[Any]],
        interface: Interface,
        name: str,
    ) -> Demonstration:
        """Return an episode in the format of DROID.

        Args:
            episode: the recorded episode.
            path: the resampled positions and commands, from `_resampled`.
            interface: action and observation spec of the exported data.
            name: name of the recorded episode, which is stored with the result.
        """
        # DROID's controller scales actions beyond 1 down in the same way
        lead = (path["desired"] - path["joints"]) / UNIT_RAD
        largest = np.abs(lead).max(axis=1, keepdims=True).clip(min=1.0)
        velocity = lead / largest
        desired = path["joints"] + UNIT_RAD * velocity
        state = np.column_stack([path["joints"], path["closed"]])
        action = np.column_stack([desired, path["command"]])
        successful = np.full(len(state), bool(episode.facts.get("success")))
        values: Mapping[str, Array] = {
            f"{STATE}.joint_position": path["joints"],
            f"{STATE}.gripper_position": path["closed"],
            f"{ACTION}.joint_position": desired,
            f"{ACTION}.joint_velocity": velocity,
            f"{ACTION}.gripper_position": path["command"],
        }
        return Demonstration(
            interface=interface,
            images={new: episode.images[old][path["rows"]] for old, new in self.cameras.items()},
            proprio=state.astype(np.float32),
            actions=action.astype(np.float32),
            labelled=np.ones(len(state), np.bool_),
            columns={**values, "is_episode_successful": successful},
            task=episode.task,
            facts={
                "source": name,
                "scaled_down": int((largest > 1).sum()),
                **{key: episode.facts.get(key) for key in ("complete", "success", "seed")},
            },
        )


def _resampled(episode: Demonstration, privileged: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Resample the positions and commands of an episode to the rate of DROID.

    The last recorded step has no next step, so the result ends before it.

    Args:
        episode: an episode of this project.
        privileged: one name per element of the column `state`; empty if there is no such column.

    Returns:
        Arrays by name, for t exported steps. `joints` [t 7]: measured joint positions, rad.
        `desired` [t 7]: desired joint positions of the next exported step, rad. `closed` [t] and
        `command` [t]: gripper position and gripper command, from 0 (open) to 1 (closed). `rows`
        [t]: index of the recorded step whose image is used.

    Raises:
        ValueError: the episode is too short to export one step.
    """
    interface = episode.interface
    recorded_s = np.arange(episode.num_steps) / interface.rate_hz
    number = int(np.floor(recorded_s[-1] * RATE_HZ + 1e-9))
    if number < 1:
        raise ValueError(f"an episode of {episode.num_steps} steps is too short for {RATE_HZ:g} Hz")
    times_s = np.arange(number + 1) / RATE_HZ
    rows = np.floor(times_s[:-1] * interface.rate_hz + 1e-9).astype(int)

    def at(values: Array, when_s: NDArray[Any]) -> NDArray[Any]:
        return np.column_stack([np.interp(when_s, recorded_s, column) for column in values.T])

    columns = [interface.proprio.index(name) for name in _names("position")]
    joints = episode.proprio[:, columns].astype(np.float64)
    width = episode.proprio[:, [interface.proprio.index(_WIDTH)]]
    command = np.asarray(episode.columns.get("executed", episode.actions))[:, -1]
    command = np.where(np.isfinite(command), command, episode.actions[:, -1])
    return {
        "joints": at(joints, times_s[:-1]),
        "desired": at(_desired(episode, joints, privileged), times_s[1:]),
        "closed": np.clip(1 - at(width, times_s[:-1])[:, 0] / MAX_WIDTH_M, 0, 1),
        "command": (1 - np.clip(command[rows], -1, 1)) / 2,
        "rows": rows,
    }


def _desired(
    episode: Demonstration, joints: NDArray[Any], privileged: tuple[str, ...]
) -> NDArray[Any]:
    """Return the desired joint positions [t 7], rad, at each recorded step."""
    if (sent := episode.columns.get(_DESIRED)) is not None:
        # the arm should reach the target of a step at the next step
        found = np.concatenate([joints[:1], sent[:-1]])
    elif set(_names("target")) <= set(privileged):
        columns = [privileged.index(name) for name in _names("target")]
        found = episode.columns[_PRIVILEGED][:, columns]
    else:
        return joints
    return np.where(np.isfinite(found), found, joints)


def _names(what: str) -> tuple[str, ...]:
    return tuple(f"{joint}_{what}" for joint in FRANKA_PANDA.joint_names)
