"""The description of observations and actions that environments, data and robots share.

An environment, a demonstration store (a folder of tokenised episodes), a policy checkpoint and a
real robot each have an `Interface`. When two of them are combined, their interfaces must be equal;
otherwise the policy would misinterpret an input or an output.
"""

from dataclasses import dataclass
from typing import Any, Self

from toto_robot.config import differences, from_dict, to_dict

OWN = "own"
ACTION_KINDS = ("joint_increment", "joint_and_hand_increment", OWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """The name of a camera and the size of its images, pixels."""

    name: str
    height: int
    width: int

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a camera needs a name")
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"camera {self.name!r}: height and width must be positive, "
                f"got {self.height} x {self.width}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """A description of each element of observations and actions.

    Attributes:
        arm: name of the arm, for example `franka_panda`.
        cameras: the policy's cameras, in order.
        proprio: one name per element of the `proprio` vector.
        action_kind: meaning of an action. `joint_increment`: the elements of the arm are scaled and
            added to stored joint targets (rad); the elements of the hand are absolute, from the
            lowest (-1) to the highest (1) target. `joint_and_hand_increment`: all elements are
            scaled and added to stored targets. `own`: the units of a third-party data set; no arm
            and no environment here accepts such actions.
        action: one name per element of the action vector.
        action_scale: scale of an action of 1, per element: rad (m for a sliding finger) per control
            step for an increment, 1 for an absolute element.
        rate_hz: control steps per second.
    """

    arm: str
    cameras: tuple[CameraSpec, ...]
    proprio: tuple[str, ...]
    action_kind: str
    action: tuple[str, ...]
    action_scale: tuple[float, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        if self.action_kind not in ACTION_KINDS:
            raise ValueError(
                f"unknown action kind {self.action_kind!r}; known: {', '.join(ACTION_KINDS)}"
            )
        if len(self.action) != len(self.action_scale):
            raise ValueError(
                f"{len(self.action)} action names but {len(self.action_scale)} action scales"
            )
        if self.rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive, got {self.rate_hz}")
        for what, names in (
            ("camera", [camera.name for camera in self.cameras]),
            ("proprio", self.proprio),
            ("action", self.action),
        ):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise ValueError(f"{what} names must be distinct, repeated: {', '.join(twice)}")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(camera.name for camera in self.cameras)

    def differences(self, other: "Interface") -> list[str]:
        """Return the fields in which `other` differs, one readable line each; empty if equal."""
        return differences(self._in_words(), other._in_words())

    def require_equal(self, other: "Interface", here: str = "here", there: str = "there") -> None:
        """Raise unless `other` is equal.

        Raises:
            ValueError: the interfaces differ; the message lists every differing field, this one's
                value first.
        """
        for one, here_, two, there_ in ((self, here, other, there), (other, there, self, here)):
            if one.action_kind == OWN != two.action_kind:
                raise ValueError(
                    f"the actions of {here_} are in the units of a third-party data set "
                    f"({', '.join(one.action)}); {there_} needs {two.action_kind}. Such a policy "
                    "can be trained and queried, but it cannot control an environment, a twin or "
                    "an arm here"
                )
        lines = self.differences(other)
        if lines:
            raise ValueError(
                f"the interface of {here} differs from that of {there} "
                f"({here} != {there}):\n  " + "\n  ".join(lines)
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary that can be written as JSON."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Return the interface of a dictionary from `to_dict`.

        Raises:
            ValueError: a field is missing, unknown or of the wrong type; the message names it.
        """
        return from_dict(cls, data, at="interface")

    def _in_words(self) -> dict[str, Any]:
        cameras = [f"{camera.name} {camera.height}x{camera.width}" for camera in self.cameras]
        return self.to_dict() | {"cameras": cameras}
