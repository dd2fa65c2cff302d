"""Operators, which place the object and report the result of a trial: a person or the twin."""

import os
import re
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from toto_robot.moved import moved_names

from ..cameras.camera import Image
from ..cameras.png import write_png
from ..episode import EpisodeRecord, Reason, Scene
from .plan import PolicyKey, Trial
from .poses import Pose
from .results import Judgement, TrialResult

# Ends of an episode that are not the policy's fault: the attempt is invalid and is repeated.
INVALID_REASONS: tuple[Reason, ...] = ("connection", "camera", "error")
# The control PC or the network causes the reflex of this name.
_LATE = "communication_constraints_violation"

Draw = Callable[[Pose, str], Image | None]


class SceneOperator:
    """Operator for a digital twin: it places the object in the simulated scene.

    The success check during the episode determines the result. If it has no result, the reason of
    the episode's end is used: after a lost connection, a lost camera, delayed commands or a bug,
    the attempt is invalid. After any other end, the trial is a success if the task is done in the
    scene now, otherwise a failure.
    """

    def __init__(self, scene: Scene, draw: Draw) -> None:
        """Create the operator.

        Args:
            scene: the scene of the twin.
            draw: function that returns the image with the outline of the object, or None if the
                camera is not calibrated.
        """
        self._scene = scene
        self._draw = draw

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Place the object in the scene, and write the image with its outline to `overlay`."""
        pose = trial.pose
        self._scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        image = self._draw(pose, f"{number} of {total}: {pose}")
        if image is not None:
            write_png(overlay, image)

    def assess(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Return the result of the trial, as the class docstring describes.

        Raises:
            ValueError: the scene cannot check whether the task is done.
        """
        success = record.success
        if success is None and (record.reason in INVALID_REASONS or _LATE in record.message):
            return Judgement(success=None, note=f"{record.reason}: {record.message}", by="check")
        if success is None:
            success = self._scene.succeeded()
        if success is None and record.reason in ("time", "operator"):
            raise ValueError(
                "this scene cannot check whether the task was done: use verdict=operator"
            )
        return Judgement(success=success is True, note="", by="check")


class TerminalOperator:
    """Operator at a terminal: it shows a person where to place the object, and asks for results."""

    def __init__(
        self,
        draw: Draw,
        *,
        scene: Scene | None = None,
        automatic: bool = False,
        ask: Callable[[str], str] = input,
        write: Callable[[str], object] = print,
        show: Callable[[Image], object] | None = None,
        names: Mapping[PolicyKey, str] | None = None,
    ) -> None:
        """Create the operator.

        Args:
            draw: function that returns the image with the outline of the object, or None if the
                camera is not calibrated.
            scene: a simulated scene in which the object is placed; None if a person places it.
            automatic: True to use the result of the success check, if there is one, without asking.
            ask: function that prints a question and waits for a line of text.
            write: function that prints a line.
            show: function that shows an image on a screen; None if there is no screen.
            names: names of the policies, by the policy's key (`a` or `b`). The name is printed
                before each trial. None hides the names, for a blind evaluation.
        """
        self._names = names
        self._draw, self._scene, self._automatic = draw, scene, automatic
        self._ask, self._write, self._show = ask, write, show

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Show where the object must be placed, and wait until the person presses Enter.

        With a simulated scene, place the object in it, and do not wait.
        """
        pose = trial.pose
        policy = "" if self._names is None else f" ({self._names[trial.policy]})"
        self._write(f"\ntrial {number} of {total}{policy}: {pose}, from the arm's base")
        if self._scene is not None:
            self._scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        while True:
            image = self._draw(pose, f"{number} of {total}: {pose}")
            if image is not None:
                write_png(overlay, image)
                self._write(f"image of the pose: {overlay}")
                if self._show is not None:
                    self._show(image)
            if self._scene is not None:
                return
            question = "press Enter when the object lies there and no person is in reach of the arm"
            again = "" if image is None else ", or p for a new image"
            if self._ask(f"{question}{again}: ").strip().lower() != "p" or image is None:
                return

    def assess(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Ask the person for the result of the trial, and return it.

        If `automatic` is True and the success check has a result, return that without asking.
        The answers are `y` (success), `n` (failure) and `again` (invalid attempt). After `again`,
        the person must enter a reason.
        """
        self._write(f"ended by {ended_by(record, hidden=self._names is None)}")
        if self._automatic and record.success is not None:
            self._write("result of the check: " + ("success" if record.success else "failure"))
            return Judgement(success=record.success, note="", by="check")
        while True:
            answer = self._ask("success? y, n, or again if the trial was invalid: ").strip()
            if answer.lower() in ("y", "yes", "n", "no"):
                note = self._ask("a note, or Enter: ").strip()
                return Judgement(success=answer.lower().startswith("y"), note=note, by="operator")
            if answer.lower() in ("a", "again"):
                # A fault of the policy is no reason: the trial must count in its success rate.
                note = self._ask("why was it invalid (not because of the policy)? ").strip()
                if note:
                    return Judgement(success=None, note=note, by="operator")
                self._write("an invalid attempt needs a reason")
            else:
                self._write(f"{answer!r} is not y, n or again")


def ended_by(one: EpisodeRecord | TrialResult, *, hidden: bool) -> str:
    """Return why an episode ended, as text.

    Args:
        one: the record or the result of the episode.
        hidden: True in a blind evaluation. The message of a failed policy is then left out, because
            it contains the name of the policy.
    """
    is_named = one.reason == "policy"
    return one.reason if hidden and is_named else f"{one.reason}: {one.message}"


def enter_ends(descriptor: int) -> Callable[[], tuple[Reason, str] | None]:
    """Return a function that ends the episode when a person has pressed Enter.

    The returned function is the argument `operator` of `run_episode`. Input before this call is
    discarded.

    Args:
        descriptor: file descriptor of the terminal.
    """

    def pressed() -> bool:
        is_ready = bool(select.select([descriptor], [], [], 0.0)[0])
        # No bytes mean that the terminal is closed.
        return is_ready and bool(os.read(descriptor, 4096))

    while pressed():
        pass
    return lambda: ("operator", "the operator pressed Enter") if pressed() else None


def screen() -> Callable[[Image], object] | None:
    """Return a function that shows an image in a window.

    Return None if there is no display, or if OpenCV was built without windows.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return None
    try:
        import cv2
    except ImportError:
        return None
    # the headless build of OpenCV has no windows
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        return None

    def show(image: Image) -> None:
        cv2.imshow("pose of the object", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.waitKey(100)

    return show


__getattr__ = moved_names(__name__, {"SPOILT": "real_robot.trials.operators:INVALID_REASONS"})
