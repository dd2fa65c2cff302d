"""Prepare an episode, and recover after it: open the policy, move home, place the object."""

from typing import Any

import numpy as np
from tqdm import tqdm

from toto_robot.moved import moved_names

from .agents.fitting import unknown_task
from .agents.opening import PolicyConfig, find_policy
from .agents.remote import RemoteAgent
from .agents.student import StudentAgent
from .control.home import NotHomeError, PersonNeededError
from .episode import EpisodeRecord, Reason, Step
from .operator import Ask, NoPersonError, ask_person, ask_yes_no
from .robot import CommandRefusedError, RobotError
from .station import Station, TwinStation
from .trials.poses import Pose, PoseArea

_TWIN_ATTEMPTS = 3
# Reasons after which no further episode begins: a person has stopped it, or must check the cause.
_FINAL: tuple[Reason, ...] = ("interrupted", "connection", "policy", "error")


# Errors of a command that are not bugs; each message says what is wrong and what to do.
EXPECTED = (RobotError, NotHomeError, NoPersonError, ImportError, OSError, ValueError)


def open_policy(policy: str, acting: PolicyConfig, station: Station) -> StudentAgent | RemoteAgent:
    """Load a policy for a station, or connect to its server; print its name, notes and warnings.

    Args:
        policy: folder of a checkpoint or run, or `server:HOST:PORT`.
        acting: settings of the computation.
        station: the open station.

    Raises:
        ValueError: the policy needs other actions or observations than the station has, or
            `acting`, the checkpoint or the key file is invalid.
        FileNotFoundError: a file of the checkpoint or of its encoder, or the key file, is missing.
        ConnectionError: there is no policy server at the address, or it does not accept this
            client.
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
    """Return a random pose of the object for the episode with this number.

    The pose depends only on `area`, `seed` and `number`.
    """
    rng = np.random.default_rng((seed, number))
    x_m, y_m = np.array(area.center_m) + rng.uniform(-1, 1, 2) * area.half_m
    yaw_rad = rng.uniform(-1, 1) * area.yaw_rad
    return Pose(x_m=float(x_m), y_m=float(y_m), yaw_rad=float(yaw_rad))


def bring_home(station: Station, ask: Ask = ask_person) -> None:
    """Move the arm to its start pose, and repeat this until the arm is there.

    On a real arm, a person is asked before each further attempt. After a user stop or a reflex, the
    robot recovers if the person permits it. A twin is reset instead, up to two times.

    Args:
        station: the open station.
        ask: function that asks the person a question and waits for the answer.

    Raises:
        PersonNeededError: the person did not permit the recovery.
        NotHomeError: the arm of the twin did not reach its start pose.
        RobotError: the twin refused a command, or the connection was lost.
        NoPersonError: a person is needed, but there is no terminal.
    """
    num_attempts = 0
    while True:
        try:
            station.go_home()
            return
        except (NotHomeError, CommandRefusedError) as error:
            num_attempts += 1
            if station.twin is None:
                _let_person_help(station, error, ask)
            elif num_attempts == _TWIN_ATTEMPTS:
                raise
            else:
                tqdm.write(f"{error}; the twin is reset")
                station.recover("reflex", lambda _: True)
                station.twin.reset()


def _let_person_help(station: Station, error: RuntimeError, ask: Ask) -> None:
    """Wait until a person has corrected the cause of an error, and recover the robot if necessary.

    Raises:
        PersonNeededError: `error`, because the person did not permit the recovery.
    """
    try:
        if isinstance(error, PersonNeededError):
            if not station.recover("user_stop", lambda question: ask_yes_no(question, ask)):
                raise error
            return
    except CommandRefusedError as refused:  # for example, the user stop is still pressed
        error = refused
    ask(f"{error}\nstep back, and press Enter to try again: ")


def ask_before_motion(station: Station, ask: Ask = ask_person) -> None:
    """At a real arm, wait until a person permits the motion to the start pose."""
    if station.scene is None:
        ask(
            "next, the gripper opens and the arm moves to its start pose: if the gripper holds the "
            "object, take it; step back, and press Enter: "
        )


def prepare(station: Station, pose: Pose, ask: Ask = ask_person) -> None:
    """Move the arm to its start pose and place the object.

    At a real arm, a person is asked before the arm moves, and then places the object.

    Args:
        station: the open station.
        pose: pose of the object.
        ask: function that asks the person a question and waits for the answer.

    Raises:
        NotHomeError, RobotError, NoPersonError: see `bring_home`.
    """
    ask_before_motion(station, ask)
    bring_home(station, ask)
    if station.scene is not None:
        station.scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        return
    ask(f"put the object at {pose} (from the arm's base), step back, and press Enter: ")


def pose_notes(pose: Pose) -> dict[str, Any]:
    """Return the pose of the object as a dictionary, for the notes of an episode."""
    return {"pose": {"x_m": pose.x_m, "y_m": pose.y_m, "yaw_rad": pose.yaw_rad}}


def may_go_on(station: Station, record: EpisodeRecord, ask: Ask = ask_person) -> bool:
    """Recover the robot after an episode, and return whether the next episode may begin.

    After a user stop, a person is asked. After a reflex, a person is asked unless the settings of
    the safety layer allow the robot to continue (`max_recoveries`). After some reasons, for example
    a fault of a real camera, the result is always False.
    """
    if record.reason in _FINAL:
        return False
    # Cameras of a twin recover when other programs use the CPUs less. Real cameras must be
    # checked by a person.
    if record.reason == "camera" and station.twin is None:
        return False

    def confirm(question: str) -> bool:
        if station.twin is not None:
            return True  # no person can be in reach of a twin
        try:
            return ask_yes_no(question, ask)
        except NoPersonError as error:
            tqdm.write(str(error))
            return False

    return station.recover(record.reason, confirm)


class StepPrinter:
    """Listener that prints actions and the decisions of the safety layer.

    It prints every time step, or only the time steps whose verdict is not `move`.
    """

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def begin(self, task: str, agent: str) -> None:
        """Print nothing: the command has printed the task."""

    def step(self, step: Step) -> None:
        """Print one line for a time step."""
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
        """Print how the episode ended."""
        print(outcome(record), flush=True)


def outcome(record: EpisodeRecord) -> str:
    """Return a text of one line with the reason of an episode's end, and its result."""
    word = {True: "success", False: "no success", None: "outcome unknown"}[record.success]
    return f"{word}, {len(record.steps)} steps, ended by {record.reason}: {record.message}"


__getattr__ = moved_names(__name__, {"Show": "real_robot.session:StepPrinter"})
