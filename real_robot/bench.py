"""Run the episodes of an evaluation at an open station, and prepare the arm between them."""

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
from .control.home import PersonNeededError
from .episode import Agent, EpisodeRecord, Listener, Step
from .operator import ask_person, ask_yes_no
from .session import ask_before_motion, bring_home, pose_notes
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
    """Settings of the image that shows the operator where to place the object.

    Attributes:
        camera: name of the camera. The outline of the object is drawn into its image.
        calibration: file with the calibration of the camera, which `python -m
            real_robot.calibrate` writes. null: a twin uses its exact calibration, and on an arm no
            outline is drawn.
        size_m: length of the edge of the object (a cube), m.
    """

    camera: str
    calibration: Path | None
    size_m: float

    def __post_init__(self) -> None:
        if not 0 < self.size_m < 1:
            raise ValueError(
                f"size_m, the edge of the object, must be between 0 and 1 m: {self.size_m}"
            )


class Masked:
    """Wrapper that hides the name of the policy from a listener, for blind evaluations."""

    def __init__(self, listener: Listener) -> None:
        """Wrap a listener."""
        self._listener = listener

    def begin(self, task: str, agent: str) -> None:
        """Pass the beginning of an episode to the listener, without the name of the agent."""
        self._listener.begin(task, "a policy (name hidden)")

    def step(self, step: Step) -> None:
        """Pass a step to the listener."""
        self._listener.step(step)

    def end(self, record: EpisodeRecord) -> None:
        """Pass the end of the episode to the listener."""
        self._listener.end(record)


class Bench:
    """Test bench of an evaluation: it runs the episodes of the trials at a station."""

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
        """Create the test bench.

        Args:
            station: the open station of the trials.
            agents: for each policy, by its key `a` or `b`, a function that creates the agent of an
                episode.
            loop: settings of an episode.
            overlay: settings of the image for the operator.
            checked: True if the simulated scene determines success, False if a person does.
            names: names of the policies, by the same keys; None hides them, for a blind evaluation.
            viewers: listeners of the episodes.
            seed: seed of the evaluation, which is written into the notes of each episode.
        """
        self.station = station
        self._agents, self._loop, self._overlay = agents, loop, overlay
        self._unattended, self._names, self._seed = checked, names, seed
        hidden = names is None and not checked
        self._viewers = [Masked(viewer) for viewer in viewers] if hidden else viewers
        self._last: EpisodeRecord | None = None

    def prepare(self) -> None:
        """Recover the robot after the previous episode, and move the arm to its start pose.

        At a real arm, a person is asked before the arm moves.

        Raises:
            TrialsStoppedError: no further episode may begin.
            NotHomeError, RobotError, NoPersonError: see `bring_home`.
        """
        if self._last is not None and not self.station.recover(self._last.reason, self._confirm):
            raise TrialsStoppedError(
                f"the arm cannot continue after {self._last.reason}: {self._last.message}; correct "
                "the cause, then the same command resumes"
            )
        ask_before_motion(self.station, ask_person)
        try:
            bring_home(self.station, ask_person)
        except PersonNeededError as error:
            raise TrialsStoppedError(f"{error}; the same command resumes") from error

    def run(self, pose: Pose, policy: PolicyKey) -> EpisodeRecord:
        """Run an episode with a policy, and return the record, whose notes contain the pose."""
        station = self.station
        translator = station.translator(station.interface)
        ends = None
        if not self._unattended and sys.stdin.isatty():
            tqdm.write("the episode runs; Enter ends it, Ctrl-C ends it and all trials")
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
        if self._unattended:  # a digital twin, where no person can be near the arm
            return True
        return ask_yes_no(question, ask_person)

    def operator(self) -> Operator:
        """Return the operator, which places the object and reports the result of each trial."""
        scene = self.station.scene
        if self._unattended:
            assert scene is not None
            return SceneOperator(scene, self.draw)
        return TerminalOperator(
            self.draw,
            scene=scene,
            ask=ask_person,
            write=tqdm.write,
            show=screen(),
            names=self._names,
        )

    def draw(self, pose: Pose, text: str) -> Image | None:
        """Return an image that shows where to place the object.

        If there is no image, print the reason and return None.
        """
        station, overlay = self.station, self._overlay
        calibration = self._calibration()
        if calibration is None:
            return None
        (camera,) = (camera for camera in station.cameras if camera.name == overlay.camera)
        try:
            before = camera.wait(_FRAME_S)
            # wait for a frame that was captured after arm and object came to rest
            frame = camera.wait(_FRAME_S, sequence=before.sequence + 2)
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
            tqdm.write(f"no image of the object's pose: {error}")
            return None

    def _calibration(self) -> Calibration | None:
        overlay, station = self._overlay, self.station.config
        if overlay.calibration is not None:
            found = load(overlay.calibration)
            if found.camera != overlay.camera:
                raise ValueError(
                    f"{overlay.calibration} is the calibration of camera {found.camera!r}, "
                    f"not of {overlay.camera!r}"
                )
            camera, lens = station.camera_settings(overlay.camera), found.intrinsics
            if (lens.height, lens.width) != (camera.capture_height, camera.capture_width):
                raise ValueError(
                    f"{overlay.calibration} was calibrated at {lens.height} x {lens.width}, but "
                    f"the station's camera {overlay.camera!r} captures {camera.capture_height} x "
                    f"{camera.capture_width}: calibrate it again at this size, or change "
                    "capture_height and capture_width"
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
