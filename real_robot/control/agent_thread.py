"""Thread in which an agent computes its actions, so that the control loop does not wait for it."""

import math
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cameras.camera import Frame
from ..episode import Agent, Observation, Proposal
from .chunks import Chunks
from .episode_end import EpisodeEnd
from .worker import Worker

_POLL_S = 0.05
_OLDEST_S = 3600.0  # an answer to an older observation cannot belong to this episode

Wait = Callable[[threading.Event | None, float], bool]


class AgentThread:
    """Background thread that calls an agent and stores the actions until the loop sends them."""

    def __init__(
        self,
        agent: Agent,
        *,
        num_actions: int,
        period_s: float,
        ensemble_decay: float | None,
        notes: dict[str, Any],
    ) -> None:
        """Start the thread.

        Args:
            agent: the agent that chooses the actions.
            num_actions: number of elements of an action.
            period_s: time between two time steps, s.
            ensemble_decay: decay of the weights with which overlapping action chunks are averaged;
                None uses the newest chunk only. See `Chunks`.
            notes: notes of the episode. If the agent fails, its traceback is added to this
                dictionary.
        """
        self._agent, self._action_shape, self._notes = agent, (num_actions,), notes
        self._chunks = Chunks(period_s, ensemble_decay)
        self._proposal: Proposal | None = None
        self._newest_asked_s = -math.inf
        self._transport_fault: str | None = None
        # by camera: the newest frame, and the copy of it that the agent receives
        self._copies: dict[str, tuple[Frame, Frame]] = {}
        self._worker = Worker(self._answer, f"agent {agent.name}")

    @property
    def newest_s(self) -> float | None:
        """Return the observation time of the agent's newest actions, s; None before the first."""
        return self._chunks.newest_s

    def begin(self, observation: Observation, timeout_s: float, poll: Callable[[], object]) -> None:
        """Reset the agent, and wait until it is ready.

        Args:
            observation: the first observation of the episode.
            timeout_s: the longest time to wait, s.
            poll: function that is called repeatedly while waiting. If it raises an exception, the
                waiting ends, and the exception is passed on to the caller.

        Raises:
            EpisodeEnd: the agent failed, or was not ready in time.
        """
        until_s = time.monotonic() + timeout_s
        self._worker.ask((True, observation))
        while not self._worker.news.wait(min(_POLL_S, max(0.0, until_s - time.monotonic()))):
            poll()
            if time.monotonic() >= until_s:
                raise EpisodeEnd(
                    "policy", f"{self._agent.name} was not ready to begin within {timeout_s} s"
                )
        try:
            self._worker.take()
        except Exception as error:
            raise EpisodeEnd("policy", self._failed(error)) from error

    def ask(self, observation: Observation) -> None:
        """Pass an observation to the agent, without waiting for its answer."""
        self._newest_asked_s = observation.stamp_s
        self._worker.ask((False, observation))

    def listen(self, stamp_s: float, until_s: float, wait: Wait) -> str | None:
        """Collect the agent's answers until the time at which the action is sent.

        Return a message if the agent has failed, else None.

        Args:
            stamp_s: timestamp of the newest observation, s.
            until_s: time at which the action is sent, s.
            wait: `Clock.wait`, or a function with the same arguments and result.
        """
        while True:
            came = wait(self._worker.news, until_s)
            try:
                proposals = [self._checked(answer) for answer in self._worker.take()]
            except Exception as error:
                return self._failed(error)
            for proposal in proposals:
                self._chunks.add(proposal)
                self._proposal = proposal
                if proposal.end is not None:
                    return None
                if proposal.observed_s >= stamp_s:
                    wait(None, until_s)
                    return None
            # after an answer to an older observation, the newest answer may still come in time
            if not came:
                return None

    def take(self) -> Proposal | None:
        """Return the agent's newest answer; None if there is none since the previous call."""
        proposal, self._proposal = self._proposal, None
        return proposal

    def action(self, stamp_s: float) -> NDArray[np.float32] | None:
        """Return the action [a] for the time step that began at `stamp_s`; None if there is none.

        The action comes from the action chunks of the agent, see `Chunks.action`.
        """
        return self._chunks.action(stamp_s)

    def transport_fault(self) -> str | None:
        """Return a message about a fault of the connection to a remote agent, else None.

        A request without an answer counts as a fault, because a slow connection may be its cause.
        """
        if self._transport_fault is not None:
            return self._transport_fault
        unanswered: str | None = getattr(self._agent, "unanswered", None)
        return unanswered

    def close(self, timeout_s: float) -> bool:
        """End the thread, and return whether it ended within `timeout_s`."""
        return self._worker.close(timeout_s)

    def _answer(self, question: tuple[bool, Observation]) -> Proposal | None:
        """Call the agent's `reset` or `act`; this method runs in the background thread.

        Args:
            question: a pair: True for `reset` or False for `act`, and the observation.
        """
        is_first, observation = question
        observation = self._copied(observation)
        if is_first:
            self._agent.reset(observation)
            return None
        answer = self._agent.act(observation)
        if not isinstance(answer, Proposal):
            raise ValueError(f"an answer must be a Proposal, got {type(answer).__name__}")
        if not observation.stamp_s - _OLDEST_S <= answer.observed_s <= observation.stamp_s:
            raise ValueError(
                f"an answer has observed_s={answer.observed_s} s, its observation has the "
                f"timestamp {observation.stamp_s} s: observed_s must be that timestamp"
            )
        # Copy the arrays, because the agent may write into them later.
        label = None if answer.label is None else np.array(answer.label, dtype=np.float32)
        return replace(answer, actions=np.array(answer.actions), label=label)

    def _copied(self, observation: Observation) -> Observation:
        """Return a copy of an observation, because the agent may write into its arrays.

        The original observation is recorded. If a camera has no new frame, the copy contains the
        same frame object as the previous copy. The agent can then recognise the frame.
        """
        frames = {}
        for name, frame in observation.frames.items():
            if name not in self._copies or self._copies[name][0] is not frame:
                self._copies[name] = (frame, replace(frame, image=frame.image.copy()))
            frames[name] = self._copies[name][1]
        return replace(
            observation,
            frames=frames,
            state=replace(observation.state),
            proprio=observation.proprio.copy(),
        )

    def _checked(self, answer: Proposal | None) -> Proposal:
        assert answer is not None  # `begin` has taken the answer to the reset, which is None
        if answer.observed_s > self._newest_asked_s:
            raise ValueError(
                f"an answer has observed_s={answer.observed_s} s, the newest observation has the "
                f"timestamp {self._newest_asked_s} s: observed_s must be the timestamp of the "
                "answered observation"
            )
        shape, expected = answer.actions.shape[1:], self._action_shape
        if shape != expected:
            raise ValueError(f"an action must have shape {expected}, got {shape}")
        if answer.label is not None and answer.label.shape != expected:
            raise ValueError(f"a label must have shape {expected}, got {answer.label.shape}")
        return answer

    def _failed(self, error: BaseException) -> str:
        if isinstance(error, ConnectionError):
            self._transport_fault = str(error)
        self._notes["traceback"] = "".join(traceback.format_exception(error))
        return f"{self._agent.name} failed: {type(error).__name__}: {error}"
