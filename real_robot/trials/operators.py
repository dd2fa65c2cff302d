"""Who places the object and judges: a person at the terminal, or a simulated scene by itself."""

import os
import re
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..cameras.camera import Image
from ..cameras.png import write_png
from ..episode import EpisodeRecord, Reason, Scene
from .plan import PolicyKey, Trial
from .poses import Pose
from .results import Judgement

# How an episode ends when what failed was not the policy: such a trial is done again.
SPOILT: tuple[Reason, ...] = ("connection", "camera", "error")
# A reflex of this name is the control PC's or the network's doing.
_LATE = "communication_constraints_violation"

Draw = Callable[[Pose, str], Image | None]


class SceneOperator:
    """Place by `Scene.place` and judge by the automatic check; for a twin.

    What cut an episode short decides where the check does not: a lost connection or camera, late
    commands and a bug spoil the trial, everything else is the policy's failure.
    """

    def __init__(self, scene: Scene, draw: Draw) -> None:
        """Use a scene; `draw` gives the picture that an operator would be shown."""
        self._scene = scene
        self._draw = draw

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Put the object there and keep the picture."""
        pose = trial.pose
        self._scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        picture = self._draw(pose, f"{number} of {total}: {pose}")
        if picture is not None:
            write_png(overlay, picture)

    def judge(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Take the loop's word, or ask the scene."""
        success = record.success
        if success is None and (record.reason in SPOILT or _LATE in record.message):
            return Judgement(success=None, note=f"{record.reason}: {record.message}", by="check")
        if success is None:
            success = self._scene.succeeded()
        if success is None and record.reason in ("time", "operator"):
            raise ValueError("nothing checks whether the task was done here: take verdict=operator")
        return Judgement(success=success is True, note="", by="check")


class TerminalOperator:
    """Tell a person where the object goes, and ask how it went."""

    def __init__(
        self,
        draw: Draw,
        *,
        scene: Scene | None = None,
        automatic: bool = False,
        ask: Callable[[str], str] = input,
        tell: Callable[[str], object] = print,
        show: Callable[[Image], object] | None = None,
        names: Mapping[PolicyKey, str] | None = None,
    ) -> None:
        """Use a terminal.

        Args:
            draw: gives the picture with the outline; None where there is no calibration.
            scene: places the object where something can; None for a person to do it.
            automatic: take the automatic check's word where it has one, and ask where it has none.
            ask: prints a question and waits for a line.
            tell: prints a line.
            show: shows the picture on a screen; None where there is none.
            names: of the policies, to tell which comes; None to keep that from the person.
        """
        self._names = names
        self._draw, self._scene, self._automatic = draw, scene, automatic
        self._ask, self._tell, self._show = ask, tell, show

    def place(self, trial: Trial, number: int, total: int, overlay: Path) -> None:
        """Return where the object goes and wait for Enter."""
        pose = trial.pose
        who = "" if self._names is None else f" ({self._names[trial.policy]})"
        self._tell(f"\ntrial {number} of {total}{who}: {pose}, from the arm's base")
        if self._scene is not None:
            self._scene.place(pose.x_m, pose.y_m, pose.yaw_rad)
        while True:
            picture = self._draw(pose, f"{number} of {total}: {pose}")
            if picture is not None:
                write_png(overlay, picture)
                self._tell(f"where it goes: {overlay}")
                if self._show is not None:
                    self._show(picture)
            if self._scene is not None:
                return
            words = "Enter when it lies there and nobody is in reach of the arm"
            again = "" if picture is None else ", p for a new picture"
            if self._ask(f"{words}{again}: ").strip().lower() != "p" or picture is None:
                return

    def judge(self, trial: Trial, record: EpisodeRecord) -> Judgement:
        """Ask for y, n or again; `again` needs a reason."""
        # a policy that failed is named in its message
        hidden = self._names is None and record.reason == "policy"
        self._tell(f"it ended by {record.reason}" + ("" if hidden else f": {record.message}"))
        if self._automatic and record.success is not None:
            self._tell("the check says: " + ("success" if record.success else "failure"))
            return Judgement(success=record.success, note="", by="check")
        while True:
            answer = self._ask("success? y, n, or again if something spoilt the trial: ").strip()
            if answer.lower() in ("y", "yes", "n", "no"):
                note = self._ask("a note, or Enter: ").strip()
                return Judgement(success=answer.lower().startswith("y"), note=note, by="operator")
            if answer.lower() in ("a", "again"):
                # What the policy did is no reason: such trials would be left out of its rate.
                note = self._ask("what spoilt it, that was not the policy's doing? ").strip()
                if note:
                    return Judgement(success=None, note=note, by="operator")
                self._tell("a trial is only done again for a reason that is written down")
            else:
                self._tell(f"{answer!r} is none of y, n, again")


def enter_ends(descriptor: int) -> Callable[[], tuple[Reason, str] | None]:
    """Return what ends an episode when a person presses Enter; lines from before do not count.

    Args:
        descriptor: of the terminal's file.
    """

    def pressed() -> bool:
        there = bool(select.select([descriptor], [], [], 0.0)[0])
        return there and bool(os.read(descriptor, 4096))  # nothing to read: the file is at its end

    while pressed():
        pass
    return lambda: ("operator", "the operator pressed Enter") if pressed() else None


def screen() -> Callable[[Image], object] | None:
    """Return what shows a picture in a window; None without a display or OpenCV's windows."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return None
    try:
        import cv2
    except ImportError:
        return None
    # the headless build of OpenCV has no windows, and says so here
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        return None

    def show(picture: Image) -> None:
        cv2.imshow("where the object goes", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        cv2.waitKey(100)

    return show
