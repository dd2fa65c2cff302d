"""Send the targets of an episode to the arm, after the safety layer has checked each of them."""

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
    """Part of the control loop that checks targets with the safety layer, and sends them.

    At the end of an episode, it stops the arm.

    `Robot` is the driver of the hardware; this class uses it during one episode.
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
        """Return whether targets may be sent to the arm.

        They may be sent after `begin`, except in a rehearsal.
        """
        return self._sender is not None

    def state(self) -> RobotState:
        """Return the robot's newest state, and pass it to the safety layer.

        Raises:
            ConnectionLostError: the connection to the robot is lost.
        """
        state = self._robot.state()
        self._layer.notice(state)
        return state

    def begin(self, start: Floats | None) -> None:
        """Start the safety layer, the translator and the sending of targets at the measured pose.

        Args:
            start: pose [j] at which the arm must be, rad, one value per joint; None accepts any
                pose.

        Raises:
            EpisodeEnd: the safety layer refuses to begin in the arm's state.
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
        """Return the decision of the safety layer on a target, and the time of the decision, s.

        Args:
            requested: the requested target.
            state: the newest state of the robot.
            acted_s: timestamp of the observation from which the action was computed. None if the
                agent has failed or ended; the age of the action is then infinite.
        """
        sender = self._sender
        if sender is not None and sender.share < 1:
            self._layer.note_partial_send(sender.goal_rad, sender.share)
        now_s = self._decided_s = self._clock.now_s()
        if self._rehearsal:
            # Nothing moves: at each time step, the layer begins again at the measured pose.
            self._begin_layer(state, None, now_s)
        ages = Ages(
            # the timestamp of another clock gives a negative age, which the layer rejects
            action_s=math.inf if acted_s is None else now_s - acted_s,
            cameras_s={camera.name: camera.age_s() for camera in self._cameras},
        )
        return self._layer.command(requested, state, ages, now_s), now_s

    def send(self, decision: Decision) -> Floats | None:
        """Send the target of a decision.

        Return the positions [j] that the robot's driver sent, rad, one per joint. Return None if
        nothing was sent.
        """
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
        """Wait until the event `news` is set or until `until_s`; return whether the event is set.

        Steps of the target that become due in this time are sent.
        """
        waits = self._clock if self._sender is None else self._sender
        return waits.wait(news, until_s)

    def refused(self, error: CommandRefusedError) -> tuple[Reason, str]:
        """Return the reason and the message of the episode's end, after a command was refused."""
        try:
            state = self.state()
        except ConnectionLostError as lost:
            return "connection", f"{error}; then: {lost}"
        causes = [f"the robot reports {name}" for name in state.errors]
        # The layer decides on the new state, so that it records a reflex or a user stop.
        if self.may_move:
            hold = Target(joint_positions_rad=state.joint_positions_rad, gripper_width_m=None)
            self.decide(hold, state, acted_s=None)
        return halted(state) or "reflex", "; ".join([str(error), *causes])

    def rest(self, timeout_s: float) -> dict[str, Any] | None:
        """Bring the arm to rest.

        Return the data of `bring_to_rest` for the record, or None if no target may be sent
        (see `may_move`).
        """
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
        """Stop the arm at once; do nothing if no target may be sent (see `may_move`)."""
        if self.may_move:
            self._robot.stop()

    def _begin_layer(self, state: RobotState, start: Floats | None, now_s: float) -> None:
        try:
            self._layer.begin(state, start=start, now_s=now_s)
        except UnsafeStartError as error:
            raise EpisodeEnd(halted(state) or "safety", str(error)) from error
