"""An open station as a test bench: it runs episodes for trials, and is made ready in between."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from envs.arms.kinematics import forward_kinematics
from envs.catalogue import variant

from .calibration.calibration import Calibration, load
from .cameras.camera import CameraError, Image
from .control.config import LoopConfig
from .control.home import NotHomeError, PersonNeededError
from .episode import Agent, EpisodeRecord, Listener, Step
from .operator import ask_person
from .session import bring_home, pose_notes
from .station import Station, TwinStation
from .translator import Translator
from .trials.operators import SceneOperator, TerminalOperator, enter_ends, screen
from .trials.overlay import calibration_of_scene, draw_overlay
from .trials.plan import PolicyKey
from .trials.poses import Pose
from .trials.runner import Operator, TrialsStoppedError

_FRAME_S = 5.0

MakeAgent = Callable[[Translator], Agent]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayConfig:
    """Say how the operator is shown where the object goes.

    Attributes:
        camera: into whose picture it is drawn.
        calibration: of that camera, as `python -m real_robot.calibrate` writes it; None on a twin,
            whose cameras are known, and where nothing is to be drawn.
        size_m: edge of the object.
    """

    camera: str
    calibration: Path | None
    size_m: float

    def __post_init__(self) -> None:
        if not 0 < self.size_m < 1:
            raise ValueError(f"size_m must be the edge of an object, m: {self.size_m}")


class Masked:
    """Keep from a listener which policy acts."""

    def __init__(self, listener: Listener) -> None:
        """Pass everything else on to a listener."""
        self._listener = listener

    def begin(self, task: str, agent: str) -> None:
        """Begin, without the name."""
        self._listener.begin(task, "a policy whose name is kept back")

    def step(self, step: Step) -> None:
        """Pass it on."""
        self._listener.step(step)

    def end(self, record: EpisodeRecord) -> None:
        """Pass it on."""
        self._listener.end(record)


class Bench:
    """Run episodes for trials on a station, and make it ready in between."""

    def __init__(
        self,
        station: Station,
        agents: Mapping[PolicyKey, MakeAgent],
        loop: LoopConfig,
        overlay: OverlayConfig,
        *,
        checked: bool,
        names: Mapping[PolicyKey, str] | None,
        viewers: Sequence[Listener] = (),
        seed: int,
    ) -> None:
        """Use an open station.

        Args:
            station: where the trials are done.
            agents: make the agent of an episode, by policy.
            loop: how an episode runs.
            overlay: how the operator is shown where the object goes.
            checked: whether the scene judges, and nobody sits beside it; else a person judges.
            names: of the policies; None to keep from the person which one comes.
            viewers: hear of every step.
            seed: for the notes.
        """
        self.station = station
        self._agents, self._loop, self._overlay = agents, loop, overlay
        self._unattended, self._names, self._seed = checked, names, seed
        hidden = names is None and not checked
        self._viewers = [Masked(viewer) for viewer in viewers] if hidden else viewers
        self._last: EpisodeRecord | None = None

    def prepare(self) -> None:
        """Recover from how the last episode ended, and bring the arm home; a person is warned.

        Raises:
            TrialsStoppedError: the arm cannot go on.
            NotHomeError: it cannot get home by itself, and no person is there to help.
        """
        if self._last is not None and not self.station.recover(self._last.reason, self._confirm):
            raise TrialsStoppedError(
                f"the arm cannot go on after {self._last.reason}: {self._last.message}; the same "
                "command does, when that is mended"
            )
        if self.station.scene is None:
            ask_person(
                "next the gripper opens and the arm goes to its start pose: take the object if it "
                "holds one, step back, and press Enter: "
            )
        while True:
            try:
                if self._unattended:
                    bring_home(self.station)
                else:
                    self.station.go_home()
                return
            except PersonNeededError as error:
                if not self.station.recover("user_stop", self._confirm):
                    raise TrialsStoppedError(f"{error}; the same command goes on") from error
            except NotHomeError as error:
                if self._unattended:
                    raise
                ask_person(f"{error}\nEnter to try again: ")

    def run(self, pose: Pose, policy: PolicyKey) -> EpisodeRecord:
        """Run an episode; its notes say where the object was."""
        station = self.station
        translator = station.translator(station.interface)
        ends = None
        if not self._unattended and sys.stdin.isatty():
            tqdm.write("it runs; Enter ends it, Ctrl-C ends it and all trials")
            ends = enter_ends(sys.stdin.fileno())
        self._last = station.run(
            self._agents[policy](translator),
            translator,
            self._loop,
            operator=ends,
            listeners=self._viewers,
            notes={**pose_notes(pose), "seed": self._seed},
        )
        return self._last

    def _confirm(self, question: str) -> bool:
        if self._unattended:  # a twin: nobody is in reach of it
            return True
        return ask_person(f"{question} yes or no: ").lower() in ("y", "yes")

    def operator(self) -> Operator:
        """Return who places and judges."""
        scene = self.station.scene
        if self._unattended:
            assert scene is not None
            return SceneOperator(scene, self.draw)
        return TerminalOperator(
            self.draw,
            scene=scene,
            ask=ask_person,
            tell=tqdm.write,
            show=screen(),
            names=self._names,
        )

    def draw(self, pose: Pose, text: str) -> Image | None:
        """Return the picture of where the object goes; None, and why, where there can be none."""
        station, overlay = self.station, self._overlay
        calibration = self._calibration()
        if calibration is None:
            return None
        (camera,) = (camera for camera in station.cameras if camera.name == overlay.camera)
        try:
            seen = camera.wait(_FRAME_S)
            # one that was taken after the arm had come to rest, and the object
            frame = camera.wait(_FRAME_S, sequence=seen.sequence + 2)
            return draw_overlay(
                frame.image,
                pose,
                calibration,
                size_m=overlay.size_m,
                table_m=station.config.safety.workspace.table_m,
                T_base_hand=forward_kinematics(
                    station.arm, station.robot.state().joint_positions_rad
                ),
                text=text,
            )
        except (CameraError, ValueError) as error:
            tqdm.write(f"no picture of where the object goes: {error}")
            return None

    def _calibration(self) -> Calibration | None:
        overlay, station = self._overlay, self.station.config
        if overlay.calibration is not None:
            found = load(overlay.calibration)
            if found.camera != overlay.camera:
                raise ValueError(
                    f"{overlay.calibration} is of camera {found.camera!r}, not {overlay.camera!r}"
                )
            return found
        if not isinstance(station, TwinStation):
            return None
        chosen = variant(station.twin.env_id)
        scene = chosen.task.scene(chosen.arm)
        (camera,) = (camera for camera in scene.cameras if camera.name == overlay.camera)
        size = station.twin.image_size
        return calibration_of_scene(
            camera,
            size,
            size,
            base_position_m=scene.base_position_m,
            base_yaw_rad=scene.base_yaw_rad,
        )
