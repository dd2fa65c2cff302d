"""A place to work: an arm with cameras, its safety layer, its start pose, and perhaps a scene.

    with open_station(config, "twin") as station:             # or the arm's address
        station.go_home()
        record = station.run(agent, translator, loop, notes={})

`robot` says which arm: `twin` starts one, `127.a.b.c` is a twin that runs already, any other
address is a Franka.
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
from .episode import Agent, EpisodeRecord, Listener, Reason, Scene
from .franka import FrankaConfig, FrankaRobot
from .robot import Robot
from .safety.config import SafetyConfig
from .safety.layer import RecoveryRefusedError, SafetyLayer
from .scheduling import avoid_cpu, realtime_priority
from .translator import GripperSwitch, Translator
from .twin.client import TwinCameraSource, TwinClient
from .twin.config import TwinConfig
from .twin.launch import start_twin

TWIN = "twin"
# An arm follows its target some ticks later, and a policy that adds to a target without knowing it
# adds again what the arm has not done yet. As a number of its own, and not as the target: the
# small difference of two large numbers is what a clone does not learn from few demonstrations.
_PROPRIO = ("position", "velocity", "tracking_error")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyStation:
    """What a twin's place to work and an arm's have in common.

    Attributes:
        franka: how the arm is driven; its address is the one that the command says, or the twin's.
        safety: what the arm may do.
        home: how it goes to its start pose.
        home_rad: the start pose.
        home_gripper_m: how far the gripper is open there; null to leave it.
        rate_hz: control steps per second.
        increment_rad: what an action of 1 adds to a joint's target.
        gripper_switch: how a policy's openings become orders to the hand; null: it is told each.
        task: what is to be done, in words.
        priority: real-time priority of the loop and its cameras, 1 to 99, below that of the
            robot's own thread; 0 for none. The agent has none. Where the system does not allow it
            they run without, and that is said.
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
    """A twin: its cameras and its objects come with it.

    Attributes:
        twin: what it is made of.
        cameras: which of its cameras are used, in the policy's order.
        frozen_after_s: a camera that shows the same for longer is frozen; null, since a simulated
            camera has no noise, and nothing need move before the arm.
    """

    kind: ClassVar[str] = "twin"
    twin: TwinConfig
    cameras: tuple[str, ...]
    frozen_after_s: float | None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def camera_specs(self) -> tuple[CameraSpec, ...]:
        """What its cameras give, in the policy's order."""
        size = self.twin.image_size
        return tuple(CameraSpec(name=name, height=size, width=size) for name in self.cameras)

    @contextmanager
    def open(self, robot: str) -> Iterator["Station"]:
        """Start a twin, or connect to one that runs; see `open_station`."""
        if not _is_twin(robot):
            raise ValueError(
                f"robot={robot} is an arm, and this station is a twin: say station=table"
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
        """Return what a camera of the twin gives."""
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
    """A Franka on a table, with cameras of its own; nobody but a person knows where objects are.

    Attributes:
        cameras: in the policy's order.
    """

    kind: ClassVar[str] = "table"
    cameras: tuple[CameraConfig, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def camera_specs(self) -> tuple[CameraSpec, ...]:
        """What its cameras give, in the policy's order."""
        return tuple(
            CameraSpec(name=each.name, height=each.height, width=each.width)
            for each in (camera.settings for camera in self.cameras)
        )

    @contextmanager
    def open(self, robot: str) -> Iterator["Station"]:
        """Connect to an arm and its cameras; see `open_station`."""
        if _is_twin(robot):
            raise ValueError(
                f"robot={robot} is a twin, and this station is a table: say station=twin"
            )
        cameras = [build_camera(camera) for camera in self.cameras]
        with _connected(self, robot, cameras, None) as station:
            yield station


StationConfig = TwinStation | TableStation


class Station:
    """Arm, cameras, safety and scene, open and connected: `open_station` gives it.

    Attributes:
        config: what it was made of.
        robot: the arm's driver.
        cameras: in the interface's order.
        layer: the arm's safety layer; one for all episodes, since it remembers what a person must
            look at.
        arm: kinematics.
        interface: what a policy sees and commands here.
        scene: the objects; None where only a person knows them.
        twin: what a twin offers beside the arm; None at a table, where people may be in reach.
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
        """Return the translator of a policy with this interface; see `fit_interface`."""
        return Translator(interface, self.arm, self.robot.limits, self.config.gripper_switch)

    def go_home(self) -> None:
        """Bring the arm to the start pose; see `real_robot.control.home.go_home`.

        Raises:
            PersonNeededError: a person must acknowledge a user stop or a reflex first: `recover`.
            NotHomeError: it did not get there.
            RobotError: the robot refused or was lost.
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
        """Run an episode from the start pose; a rehearsal from any."""
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
        """Make ready for the next episode after one that ended so; say whether it is.

        A reflex is recovered from without a person only as often as the safety config allows.

        Args:
            reason: of the episode's end.
            confirm: asks a person, who says whether to go on; only a person's word may be a yes.

        Raises:
            RobotError: the robot refuses to recover.
        """
        if reason == "connection":
            return False
        state = self.robot.state()
        self.layer.notice(state)
        follows = state.mode in ("idle", "moving") and not state.errors
        is_free = self.layer.attention.cause is None
        if follows and is_free and reason not in ("reflex", "user_stop"):
            return True
        try:
            self.layer.allow_recovery()
        except RecoveryRefusedError as error:
            if not confirm(f"{error}. Is the arm free, and may it go on?"):
                return False
            self.layer.acknowledge()
        self.robot.recover()
        return True


def open_station(config: StationConfig, robot: str) -> AbstractContextManager[Station]:
    """Return a context manager that connects to everything, and at the end leaves the arm at rest.

    Args:
        config: which robot, cameras and scene there are.
        robot: `twin`, or an address.

    Raises:
        ValueError: a twin was asked for where an arm is described, or the other way round.
        RobotError: the arm is not there.
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
        # after the twin, which is a process of its own and sets its own
        stack.enter_context(realtime_priority(config.priority))
        for camera in cameras:
            stack.enter_context(camera)
        driver = stack.enter_context(FrankaRobot(replace(config.franka, address=address)))
        yield Station(config, driver, cameras, twin)


def interface_of(config: StationConfig) -> Interface:
    """Return what a policy sees and commands at a station: that of the `robot` protocol's tasks."""
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
        raise ValueError("a station needs a camera at least")
    if len(config.home_rad) != len(FRANKA_FR3.servos):
        raise ValueError(f"home_rad needs {len(FRANKA_FR3.servos)} joints: {config.home_rad}")
    if not 0 <= config.priority <= 99:
        raise ValueError(f"priority must be 0 (none) to 99, got {config.priority}")
    if not config.rate_hz > 0 or not config.increment_rad > 0:
        raise ValueError("rate_hz and increment_rad must be positive")
    period_s = config.safety.motion.period_s
    if abs(period_s * config.rate_hz - 1) > 1e-3:
        raise ValueError(
            f"safety.motion.period_s is {period_s}, at rate_hz {config.rate_hz} it must be "
            f"{1 / config.rate_hz:.6g}; max_step_rad is per period, too"
        )
