"""What comes before and after an episode: home, the object's place, a person's word."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from .agents.fitting import unknown_task
from .agents.opening import PolicyConfig, find_policy
from .agents.remote import RemoteAgent
from .agents.student import StudentAgent
from .control.home import NotHomeError
from .episode import EpisodeRecord, Reason, Step
from .operator import NoPersonError, ask_person
from .robot import CommandRefusedError, RobotError
from .station import Station, TwinStation
from .trials.poses import Pose, PoseArea

Ask = Callable[[str], str]

_TWIN_ATTEMPTS = 3
# After these nothing goes on by itself: somebody must look, or wanted an end.
_FINAL: tuple[Reason, ...] = ("interrupted", "connection", "policy", "error")


# What may go wrong in a command without a bug; each says what, and what to do.
EXPECTED = (RobotError, NotHomeError, NoPersonError, ImportError, OSError, ValueError)


def open_policy(policy: str, acting: PolicyConfig, station: Station) -> StudentAgent | RemoteAgent:
    """Open a policy for a station, and say what a person should know.

    Raises:
        ValueError: it does not fit the robot.
        FileNotFoundError: no policy there.
        ConnectionError: no policy server there.
    """
    agent = find_policy(policy, acting).open(station.interface)
    print(f"agent: {agent.name}, weights {(agent.weights_hash or 'none')[:12]}")
    if agent.note is not None:
        print(f"note: {agent.note}")
    config = station.config
    env_id = config.twin.env_id if isinstance(config, TwinStation) else None
    if (warning := unknown_task(agent.origin, env_id, config.task)) is not None:
        print(f"warning: {warning}", flush=True)
    return agent


def draw_pose(area: PoseArea, seed: int, number: int) -> Pose:
    """Draw the pose of an episode; the same for the same seed and number."""
    rng = np.random.default_rng((seed, number))
    x_m, y_m = np.array(area.center_m) + rng.uniform(-1, 1, 2) * area.half_m
    yaw_rad = rng.uniform(-1, 1) * area.yaw_rad
    return Pose(x_m=float(x_m), y_m=float(y_m), yaw_rad=float(yaw_rad))


def bring_home(station: Station) -> None:
    """Bring the arm to its start pose.

    Nobody is in reach of a twin: one that did not get home is put there, a few times.

    Raises:
        NotHomeError: the arm did not get home.
        RobotError: the robot refused, or was lost.
    """
    for attempts_left in reversed(range(_TWIN_ATTEMPTS)):
        try:
            station.go_home()
            return
        except (NotHomeError, CommandRefusedError) as error:
            if station.twin is None or not attempts_left:
                raise
            tqdm.write(f"{error}; the twin is put back")
            station.recover("reflex", lambda _: True)
            station.twin.reset()


def prepare(station: Station, pose: Pose, ask: Ask = ask_person) -> None:
    """Bring the arm home and the object to its place; a person does it where no scene can.

    Raises:
        NotHomeError: the arm did not get home.
        RobotError: the robot refused, or was lost.
        NoPersonError: a person is needed and there is none.
    """
    bring_home(station)
    if station.scene is not None:
        station.scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        return
    ask(f"put the object at {pose} (from the arm's base), step back, and press Enter: ")


def pose_notes(pose: Pose) -> dict[str, Any]:
    """Return an episode's pose as plain data, for its notes."""
    return {"pose": {"x_m": pose.x_m, "y_m": pose.y_m, "yaw_rad": pose.yaw_rad}}


def may_go_on(station: Station, record: EpisodeRecord, ask: Ask = ask_person) -> bool:
    """Make the robot ready for the next episode, and say whether there may be one.

    After a user stop or a reflex a person is asked, unless the safety config lets a reflex pass.
    """
    if record.reason in _FINAL:
        return False
    # A twin's cameras come back when the machine has time for them; an arm's need a look.
    if record.reason == "camera" and station.twin is None:
        return False

    def confirm(question: str) -> bool:
        if station.twin is not None:
            return True  # nobody is in reach of a twin
        try:
            return ask(f"{question} yes or no: ").lower() in ("y", "yes")
        except NoPersonError as error:
            tqdm.write(str(error))
            return False

    return station.recover(record.reason, confirm)


class Show:
    """Print what is wished and what becomes of it: every step, or those that were changed."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def begin(self, task: str, agent: str) -> None:
        """Print nothing: the command did."""

    def step(self, step: Step) -> None:
        """Print a line."""
        decision = step.decision
        if not self._every and decision.verdict == "move":
            return
        changes = ", ".join(
            f"{change.name} {change.amount:.3f} {change.unit}" for change in decision.interventions
        )
        action = " ".join(f"{value:+.2f}" for value in step.action)
        surprise = "" if step.surprise is None else f"  surprise {step.surprise:.2f}"
        causes = "; ".join(decision.causes)
        print(
            f"{step.index:4d}  {decision.verdict:4}  [{action}]{surprise}  {changes or causes}",
            flush=True,
        )

    def end(self, record: EpisodeRecord) -> None:
        """Print how it ended."""
        print(outcome(record), flush=True)


def outcome(record: EpisodeRecord) -> str:
    """Say in a line how an episode ended."""
    word = {True: "success", False: "no success", None: "not judged"}[record.success]
    return f"{word}, {len(record.steps)} steps, ended by {record.reason}: {record.message}"
