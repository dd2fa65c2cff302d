"""The arm's side of an episode: every target goes through the safety layer, and then to the arm."""

import math
import threading
from collections.abc import Sequence
from typing import Any

from envs.geometry import Floats

from ..cameras.camera import Camera
from ..episode import Reason
from ..robot import CommandRefusedError, ConnectionLostError, Robot, RobotState, Target
from ..safety.layer import Ages, Decision, SafetyLayer, UnsafeStartError
from ..translator import Translator
from .clock import Clock
from .episode_end import EpisodeEnd, halted
from .sending import Sender, bring_to_rest


class Driver:
    """Decide what an arm does, send it, and bring the arm to rest.

    Attributes:
        may_move: whether targets are sent: from `begin` on, and never in a rehearsal.
    """

    def __init__(
        self,
        robot: Robot,
        cameras: Sequence[Camera],
        layer: SafetyLayer,
        translator: Translator,
        clock: Clock,
        *,
        num_targets: int,
        rehearsal: bool,
    ) -> None:
        self._robot, self._cameras, self._layer = robot, cameras, layer
        self._translator, self._clock = translator, clock
        self._num_targets, self._rehearsal = num_targets, rehearsal
        self._period_s = 1 / translator.interface.rate_hz
        self._sender: Sender | None = None
        self._decided_s = clock.now_s()

    @property
    def may_move(self) -> bool:
        """Return whether the arm may have been moved."""
        return self._sender is not None

    def state(self) -> RobotState:
        """Return the robot's newest state; the safety layer sees it, too.

        Raises:
            ConnectionLostError: the robot is gone.
        """
        state = self._robot.state()
        self._layer.notice(state)
        return state

    def begin(self, start: Floats | None) -> None:
        """Have the safety layer look at where the arm is.

        Raises:
            EpisodeEnd: the episode must not begin there.
        """
        state = self.state()
        self._begin_layer(state, start, self._clock.now_s())
        self._translator.begin(state)
        if not self._rehearsal:
            self._sender = Sender(
                self._robot,
                self._clock,
                state.joint_positions_rad,
                self._period_s,
                self._num_targets,
            )

    def decide(
        self, requested: Target, state: RobotState, *, acted_s: float | None
    ) -> tuple[Decision, float]:
        """Return what the safety layer makes of a target, and when it was asked.

        Args:
            requested: the target.
            state: the robot's newest.
            acted_s: stamp of the observation that the target answers; None when nobody acts any
                more: to the safety layer the action is then as old as can be.
        """
        sender = self._sender
        if sender is not None and sender.share < 1:
            self._layer.fell_short(sender.goal_rad, sender.share)
        now_s = self._decided_s = self._clock.now_s()
        if self._rehearsal:
            # Nothing moves, so each tick is the first one from where the arm is.
            self._begin_layer(state, None, now_s)
        ages = Ages(
            # an agent that stamps with another clock has a negative age, which is no age
            action_s=math.inf if acted_s is None else now_s - acted_s,
            cameras_s={camera.name: camera.age_s() for camera in self._cameras},
        )
        return self._layer.command(requested, state, ages, now_s), now_s

    def send(self, decision: Decision) -> Floats | None:
        """Send what was decided; return what the driver says that it sent, None for nothing."""
        target = decision.target
        if target is None or self._sender is None:
            if self._sender is None:
                self._translator.begin(self.state())
            return None
        sent = self._sender.send(target.joint_positions_rad)
        if target.gripper_width_m is not None:
            self._robot.move_gripper(target.gripper_width_m)
        self._translator.sent(target)
        return sent

    def wait(self, news: threading.Event | None, until_s: float) -> bool:
        """Wait as `Clock.wait` does, and send what is due meanwhile."""
        waits = self._clock if self._sender is None else self._sender
        return waits.wait(news, until_s)

    def refused(self, error: CommandRefusedError) -> tuple[Reason, str]:
        """Return why the robot does not take a command, as its state tells."""
        try:
            state = self.state()
        except ConnectionLostError as lost:
            return "connection", f"{error}; then: {lost}"
        causes = [f"the robot reports {name}" for name in state.errors]
        # A second look through the layer, so that it knows what it must ask a person about.
        if self.may_move:
            hold = Target(joint_positions_rad=state.joint_positions_rad, gripper_width_m=None)
            self.decide(hold, state, acted_s=None)
        return halted(state) or "reflex", "; ".join([str(error), *causes])

    def rest(self, timeout_s: float) -> dict[str, Any] | None:
        """Bring the arm to rest; return how that went, or None where it was never moved."""
        if self._sender is None:
            return None
        stay = Target(joint_positions_rad=self._translator.joint_targets_rad, gripper_width_m=None)
        return bring_to_rest(
            self._robot,
            self.state,
            self._sender,
            self._clock,
            lambda: self.decide(stay, self.state(), acted_s=None)[0],
            decided_s=self._decided_s,
            period_s=self._period_s,
            timeout_s=timeout_s,
        )

    def stop(self) -> None:
        """Stop the arm at once, if it may have been moved."""
        if self.may_move:
            self._robot.stop()

    def _begin_layer(self, state: RobotState, start: Floats | None, now_s: float) -> None:
        try:
            self._layer.begin(state, start=start, now_s=now_s)
        except UnsafeStartError as error:
            raise EpisodeEnd(halted(state) or "safety", str(error)) from error
