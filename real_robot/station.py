"""A station: one robot setup with arm, cameras, safety limits, start pose and task.

A config in `configs/station/` describes a station. The station of a digital twin also has a scene
with an object, whose pose is known.

    with open_station(config, "twin") as station:             # or the arm's address
        station.go_home()
        record = station.run(agent, translator, loop, notes={})

The second argument selects the arm: `twin` starts a twin, an address `127.a.b.c` connects to a
running twin, and any other address connects to a Franka arm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from envs.arms.arm import Arm
from envs.arms.franka import FRANKA_FR3
from envs.interface import CameraSpec, Interface

from .cameras.config import CameraConfig, build_camera
from .cameras.threaded import CameraSettings, ThreadedCamera
from .control.config import LoopConfig
from .control.home import HomeConfig, go_home
from .control.loop import Operator, run_episode
from .control.signals import interruptible
from .episode import Agent, EpisodeRecord, Listener, Reason, Scene
from .franka import FrankaConfig, FrankaRobot
from .operator import Ask, ask_person
from .robot import MODES, CommandRefusedError, Robot, RobotState
from .safety.config import SafetyConfig
from .safety.layer import RecoveryRefusedError, SafetyLayer
from .scheduling import avoid_cpu, realtime_priority
from .translator import GripperSwitch, Translator
from .twin.client import TwinCameraSource, TwinClient
from .twin.config import TwinConfig
from .twin.launch import start_twin

TWIN = "twin"
# The arm reaches its target some time steps later. A policy that does not observe this delay
# requests the missing motion a second time. The inputs therefore contain the tracking error (target
# minus measured position). They do not contain the target: from few demonstrations, a policy does
# not learn the small difference of two large numbers.
_PROPRIO = ("position", "velocity", "tracking_error")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyStation:
    """Settings that the station of a digital twin and the station of an arm have in common.

    Attributes:
        franka: settings of the arm's driver; the address in `robot` replaces its address.
        safety: settings of the safety layer.
        home: settings of the motion to the start pose.
        home_rad: joint positions of the start pose, rad.
        home_gripper_m: width of the gripper at the start pose, m; null leaves it unchanged.
        rate_hz: control steps per second.
        increment_rad: an action of 1 changes the target of a joint by this angle, rad.
        gripper_switch: thresholds that convert a policy's requested opening to a command: open or
            close; null sends every requested width to the hand.
        task: description of the task, as text.
        priority: real-time priority of the control loop and the cameras, 1 to 99; 0: no real-time
            priority. It must be below the priority of the driver's threads. The agent has no
            real-time priority. If the system does not allow the priority, loop and cameras run
            without it, and a note is printed.
    """

    franka: FrankaConfig
    safety: SafetyConfig
    home: HomeConfig
    home_rad: tuple[float, ...]
    home_gripper_m: float | None
    rate_hz: float
    increment_rad: float
    gripper_switch: GripperSwitch | None
    task: str
    priority: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinStation(AnyStation):
    """Settings of the station of a digital twin, with simulated cameras and objects.

    Attributes:
        twin: settings of the twin.
        cameras: names of the cameras that are used, in the order of the policy's inputs.
        frozen_after_s: images may be identical for this time, s; after it the camera counts as
            frozen. null switches the check off, because images of a simulated scene at rest are
            identical.
    """

    kind: ClassVar[str] = "twin"
    twin: TwinConfig
    cameras: tuple[str, ...]
    frozen_after_s: float | None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def camera_specs(self) -> tuple[CameraSpec, ...]:
        """Names and image sizes of the cameras, in the policy's order."""
        size = self.twin.image_size
        return tuple(CameraSpec(name=name, height=size, width=size) for name in self.cameras)

    @contextmanager
    def open(self, robot: str) -> Iterator["Station"]:
        """Start a twin or connect to a running one; see `open_station`."""
        if not _is_twin(robot):
            raise ValueError(
                f"robot={robot} is an arm, but this station is for a twin: set station=table"
            )
        with ExitStack() as stack:
            address = robot
            if robot == TWIN:
                address = stack.enter_context(start_twin(self.twin)).address
                stack.enter_context(avoid_cpu(self.twin.cpu(address)))
            twin = stack.enter_context(TwinClient(address))
            cameras = [
                ThreadedCamera(self.camera_settings(name), TwinCameraSource(address, name))
                for name in self.cameras
            ]
            yield stack.enter_context(_connected(self, address, cameras, twin))

    def camera_settings(self, name: str) -> CameraSettings:
        """Return the settings of a camera of the twin."""
        size = self.twin.image_size
        return CameraSettings(
            name=name,
            capture_height=size,
            capture_width=size,
            height=size,
            width=size,
            frozen_after_s=self.frozen_after_s,
            first_retry_s=0.2,
            max_retry_s=1.0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TableStation(AnyStation):
    """Settings of a station with a Franka arm on a table and real cameras.

    The pose of the object is not known to the program.

    Attributes:
        cameras: settings of the cameras, in the order of the policy's inputs.
    """

    kind: ClassVar[str] = "table"
    cameras: tuple[CameraConfig, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def camera_specs(self) -> tuple[CameraSpec, ...]:
        """Names and image sizes of the cameras, in the policy's order."""
        return tuple(
            CameraSpec(name=each.name, height=each.height, width=each.width)
            for each in (camera.settings for camera in self.cameras)
        )

    def camera_settings(self, name: str) -> CameraSettings:
        """Return the settings of the camera with this name."""
        (settings,) = (each.settings for each in self.cameras if each.settings.name == name)
        return settings

    @contextmanager
    def open(self, robot: str) -> Iterator["Station"]:
        """Connect to an arm and its cameras; see `open_station`."""
        if _is_twin(robot):
            raise ValueError(
                f"robot={robot} is a twin, but this station is for an arm: set station=twin"
            )
        cameras = [build_camera(camera) for camera in self.cameras]
        with _connected(self, robot, cameras, None) as station:
            yield station


StationConfig = TwinStation | TableStation


class Station:
    """Open station, whose arm and cameras are connected; `open_station` returns it.

    Attributes:
        config: settings of the station.
        robot: driver of the arm.
        cameras: the open cameras, in the order of `interface.cameras`.
        layer: safety layer of the arm. All episodes use the same object, because it stores which
            events a person must acknowledge.
        arm: kinematics of the arm.
        interface: action and observation spec of a policy at this station.
        scene: scene in which the pose of the object can be set and read; None on a real arm.
        twin: client of the digital twin; None on a real arm, where people may be near the arm.
    """

    def __init__(
        self,
        config: StationConfig,
        robot: Robot,
        cameras: Sequence[ThreadedCamera],
        twin: TwinClient | None,
    ) -> None:
        self.config, self.robot, self.cameras = config, robot, cameras
        self.scene: Scene | None = twin
        self.twin = twin
        self.arm: Arm = FRANKA_FR3
        self.interface = interface_of(config)
        self.layer = SafetyLayer(config.safety, robot.limits, self.arm)

    def translator(self, interface: Interface) -> Translator:
        """Return the converter between this robot and a policy.

        Args:
            interface: the policy's action and observation spec, as `fit_interface` returns it.
        """
        return Translator(interface, self.arm, self.robot.limits, self.config.gripper_switch)

    def go_home(self) -> None:
        """Move the arm to the start pose; see `real_robot.control.home.go_home`.

        Raises:
            PersonNeededError: a person must first acknowledge a user stop or a reflex, which
                `recover` asks for.
            NotHomeError: the arm did not reach the start pose.
            RobotError: the robot refused, or the connection was lost.
        """
        config = self.config
        go_home(
            self.robot,
            config.safety,
            self.arm,
            config.home_rad,
            config.home,
            gripper_width_m=config.home_gripper_m,
            attention=self.layer.attention,
        )

    def run(
        self,
        agent: Agent,
        translator: Translator,
        loop: LoopConfig,
        *,
        task: str | None = None,
        operator: Operator | None = None,
        listeners: Sequence[Listener] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> EpisodeRecord:
        """Run an episode and return its record; `run_episode` explains the arguments.

        The arm must be at the start pose. A rehearsal may begin at any pose.
        """
        pose = None if self.scene is None else self.scene.object_pose()
        found: dict[str, Any] = {} if pose is None else {"object_pose": list(pose)}
        if isinstance(self.config, TwinStation):
            found["env_id"] = self.config.twin.env_id
        return run_episode(
            self.robot,
            self.cameras,
            self.layer,
            translator,
            agent,
            loop,
            task=self.config.task if task is None else task,
            start=None if loop.rehearsal else np.array(self.config.home_rad),
            check=None if self.scene is None else self.scene.succeeded,
            operator=operator,
            listeners=listeners,
            notes={**found, **(notes or {})},
        )

    def recover(self, reason: Reason, confirm: Callable[[str], bool]) -> bool:
        """Prepare the robot for the next episode, and return whether the robot is ready.

        `max_recoveries` in the settings of the safety layer limits how often the robot continues
        after a reflex without a person's confirmation.

        Args:
            reason: why the previous episode ended.
            confirm: function that asks a person whether to continue. It must return True only if a
                person has answered yes.

        Raises:
            RobotError: the robot refuses to recover.
        """
        if reason == "connection":
            return False
        state = self._noticed()
        while state.mode in ("guiding", "other") and not state.errors:
            if not confirm(f"the robot {MODES[state.mode]}. Has this been ended?"):
                return False
            state = self._noticed()
        follows = state.mode in ("idle", "moving") and not state.errors
        is_free = self.layer.attention.cause is None
        if follows and is_free and reason not in ("reflex", "user_stop"):
            return True
        try:
            self.layer.allow_recovery()
        except RecoveryRefusedError as error:
            if not confirm(f"{error}. Is the arm free, and may it continue?"):
                return False
            self.layer.acknowledge()
        self.robot.recover()
        return True

    def _noticed(self) -> RobotState:
        state = self.robot.state()
        self.layer.notice(state)
        return state


def open_station(config: StationConfig, robot: str) -> AbstractContextManager[Station]:
    """Return a context manager that opens a station.

    The context manager connects arm and cameras when it is entered; all errors below are raised
    then. At the end, it stops the arm and disconnects; this includes SIGTERM and a closed terminal
    (SIGHUP), which raise KeyboardInterrupt.

    Args:
        config: settings of the station.
        robot: `twin` to start a twin, or the address of a running twin or of an arm.

    Raises:
        ValueError: the station is for an arm and `robot` is a twin, or the reverse.
        RobotError: the arm does not answer, or the driver does not support it.
        NoPersonError: a person must end the mode of the arm, but there is no terminal.
    """
    return config.open(robot)


@contextmanager
def _connected(
    config: StationConfig,
    address: str,
    cameras: Sequence[ThreadedCamera],
    twin: TwinClient | None,
) -> Iterator[Station]:
    with ExitStack() as stack:
        # After the start of the twin, whose process would otherwise inherit the priority.
        stack.enter_context(realtime_priority(config.priority))
        for camera in cameras:
            stack.enter_context(camera)
        stack.enter_context(interruptible())
        driver = FrankaRobot(replace(config.franka, address=address))
        stack.callback(driver.close)
        _connect(driver, ask_person if twin is None else None)
        yield Station(config, driver, cameras, twin)


def _connect(driver: Robot, ask: Ask | None) -> None:
    """Connect to the arm; if its mode does not permit this, ask a person and try again.

    Raises:
        CommandRefusedError: the mode does not permit it, and `ask` is None.
    """
    while True:
        try:
            driver.connect()
            return
        except CommandRefusedError as error:
            if ask is None:
                raise
            ask(f"{error}\npress Enter to try again: ")


def interface_of(config: StationConfig) -> Interface:
    """Return the action and observation spec of a policy at a station."""
    joints = FRANKA_FR3.joint_names
    (gripper,) = (servo.name for servo in FRANKA_FR3.hand_servos)
    return Interface(
        arm=FRANKA_FR3.name,
        cameras=config.camera_specs,
        proprio=(
            *(f"{joint}_{reading}" for reading in _PROPRIO for joint in joints),
            f"{gripper}_width",
            f"{gripper}_command",
        ),
        action_kind="joint_increment",
        action=(*(f"{joint}_increment" for joint in joints), f"{gripper}_opening"),
        action_scale=(*[config.increment_rad] * len(joints), 1.0),
        rate_hz=config.rate_hz,
    )


def _is_twin(robot: str) -> bool:
    return robot == TWIN or robot.startswith("127.")


def _check(config: "TwinStation | TableStation") -> None:
    if not config.cameras:
        raise ValueError("a station needs at least one camera")
    if len(config.home_rad) != len(FRANKA_FR3.servos):
        raise ValueError(f"home_rad needs {len(FRANKA_FR3.servos)} joints, got {config.home_rad}")
    if not 0 <= config.priority <= 99:
        raise ValueError(f"priority must be 0 (none) to 99, got {config.priority}")
    if not config.rate_hz > 0 or not config.increment_rad > 0:
        raise ValueError(
            f"rate_hz and increment_rad must be positive, got {config.rate_hz} and "
            f"{config.increment_rad}"
        )
    period_s = config.safety.motion.period_s
    if abs(period_s * config.rate_hz - 1) > 1e-3:
        raise ValueError(
            f"safety.motion.period_s is {period_s}, at rate_hz {config.rate_hz} it must be "
            f"{1 / config.rate_hz:.6g}; adapt safety.motion.max_step_rad, which is per period"
        )
