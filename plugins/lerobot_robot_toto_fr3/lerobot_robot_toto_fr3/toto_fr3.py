"""The robot `toto_fr3`: the driver, cameras and safety layer of toto-robot behind LeRobot's class.

Positions are absolute: `joint1.pos` to `joint7.pos` in rad, and `gripper.pos`, the distance between
the fingers in m. Every target passes the safety layer, which limits or refuses it. The rate of
LeRobot's loop must be the station's `rate_hz`.
"""

from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from .config_toto_fr3 import TotoFr3Config

_GRIPPER = "gripper.pos"
_CAMERA_S, _REST_S = 10.0, 5.0  # longest time to wait for the first images, and for rest


class TotoFr3(Robot):
    """A Franka FR3 with its hand and cameras, or its digital twin."""

    config_class = TotoFr3Config
    name = "toto_fr3"

    def __init__(self, config: TotoFr3Config) -> None:
        super().__init__(config)
        self.config = config
        try:
            from real_robot.station import StationConfig
            from toto_robot.cli import compose
            from toto_robot.config import from_dict
        except ImportError as error:
            raise ValueError(
                f"the robot toto_fr3 needs a checkout of toto-robot on PYTHONPATH: {error}"
            ) from error
        data, _ = compose("record", [f"station={config.station}", *config.overrides])
        self._station_config: Any = from_dict(StationConfig, data["station"])
        self._stack: ExitStack | None = None

    @cached_property
    def _positions(self) -> tuple[str, ...]:
        from envs.arms.franka import FRANKA_FR3

        names = FRANKA_FR3.joint_names
        return (*(f"joint{index}.pos" for index in range(1, len(names) + 1)), _GRIPPER)

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        """Names of the positions and of the cameras, with the shapes of the images."""
        cameras = self._station_config.camera_specs
        shapes = {camera.name: (camera.height, camera.width, 3) for camera in cameras}
        return {**self.action_features, **shapes}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        """Names of the target positions."""
        return dict.fromkeys(self._positions, float)

    @property
    def is_connected(self) -> bool:
        """Whether the arm and its cameras are connected."""
        return self._stack is not None

    @property
    def is_calibrated(self) -> bool:
        """Always true: a Franka is calibrated by its manufacturer."""
        return True

    def calibrate(self) -> None:
        """Do nothing: see `is_calibrated`."""

    def configure(self) -> None:
        """Do nothing: `connect` applies the station's settings."""

    def connect(self, calibrate: bool = True) -> None:
        """Connect the arm and its cameras; the arm does not move.

        Raises:
            DeviceAlreadyConnectedError: the robot is connected.
            RobotError: the arm does not answer, or is not supported.
            CameraError: a camera delivers no images.
        """
        from real_robot.control.clock import MonotonicClock
        from real_robot.control.driving import Driver
        from real_robot.station import open_station

        del calibrate
        if self._stack is not None:
            raise DeviceAlreadyConnectedError(f"{self} is already connected")
        with ExitStack() as stack:
            self._station = stack.enter_context(
                open_station(self._station_config, self.config.address)
            )
            for camera in self._station.cameras:
                camera.wait(_CAMERA_S)
            self._clock = MonotonicClock()
            self._translator = self._station.translator(self._station.interface)
            self._driver = Driver(
                self._station.robot,
                self._station.cameras,
                self._station.layer,
                self._translator,
                self._clock,
                num_targets=1,
                rehearsal=False,
            )
            self._seen_s = self._sent_s = -np.inf
            self._is_moving = False
            self._stack = stack.pop_all()

    def get_observation(self) -> dict[str, Any]:
        """Return measured positions and the newest image of each camera, uint8 RGB [h w 3]."""
        self._require_connection()
        self._seen_s = self._clock.now_s()
        state = self._driver.state()
        width_m = np.nan if state.gripper is None else state.gripper.width_m
        values = (*state.joint_positions_rad.tolist(), float(width_m))
        images = {camera.name: camera.read(np.inf).image.copy() for camera in self._station.cameras}
        return {**dict(zip(self._positions, values, strict=True)), **images}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Move towards target positions, and return the targets after the safety layer.

        A first action, and an action after a pause, starts the safety layer at the measured pose.

        Raises:
            RuntimeError: the safety layer stopped the arm or does not let it start, or the arm
                refuses the command; the message has the causes.
        """
        self._require_connection()
        now_s = self._clock.now_s()
        is_pause = now_s - self._sent_s > self._station_config.safety.action.stop_after_s
        if is_pause or not self._is_moving:
            self._is_moving = False
            from real_robot.control.episode_end import EpisodeEnd

            try:
                self._driver.begin(None)
            except EpisodeEnd as end:
                raise RuntimeError(end.message) from end
            self._is_moving = True
        joints = np.array([float(action[name]) for name in self._positions[:-1]])
        wanted = self._translator.action_of(joints, float(action[_GRIPPER]))
        # An action is as old as the observation before it. Without one, as in `lerobot-replay`, it
        # was computed now; the ages of the images are checked in either case.
        acted_s = self._seen_s if self._seen_s > self._sent_s else now_s
        requested, state = self._translator.target(wanted), self._driver.state()
        decision, self._sent_s = self._driver.decide(requested, state, acted_s=acted_s)
        try:
            self._driver.send(decision)
        except RuntimeError:
            self._rest()
            raise
        if decision.verdict in ("stop", "end"):
            self._rest()
            raise RuntimeError(f"the safety layer stopped the arm: {'; '.join(decision.causes)}")
        width_m = self._max_width_m * (self._translator.gripper_command + 1) / 2
        sent = (*self._translator.joint_targets_rad.tolist(), width_m)
        return dict(zip(self._positions, sent, strict=True))

    def disconnect(self) -> None:
        """Bring the arm to rest, and disconnect.

        Raises:
            DeviceNotConnectedError: the robot is not connected.
        """
        self._require_connection()
        stack, self._stack = self._stack, None
        assert stack is not None
        with stack:
            self._rest()

    def _rest(self) -> None:
        """Brake on the line that the safety layer has checked, unless the arm is at rest."""
        if self._is_moving:
            self._is_moving = False
            self._driver.rest(_REST_S)

    @property
    def _max_width_m(self) -> float:
        (servo,) = self._station.arm.hand_servos
        return servo.upper * len(servo.joints)

    def _require_connection(self) -> None:
        if self._stack is None:
            raise DeviceNotConnectedError(f"{self} is not connected: call connect()")
