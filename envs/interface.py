"""The action and observation spec (`Interface`) that environments, data and robots share.

An environment, a demonstration store (a folder of tokenised episodes), a policy checkpoint and a
real robot each have an `Interface`. When two of them are combined, for example a policy and a
robot, their interfaces must be equal. Otherwise the policy would misinterpret inputs or outputs.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from toto_robot.config import OMITTED, differences, from_dict, to_dict

OWN = "own"
LIMITS = "limits"
ACTION_KINDS = ("joint_increment", "joint_and_hand_increment", LIMITS, OWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """The name of a camera, and the height and width of its images in pixels."""

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
    """An action and observation spec: cameras, and the meaning of each number in the vectors.

    Attributes:
        arm: name of the arm, for example `franka_panda`.
        cameras: the cameras that the policy uses, in order.
        proprio: one name per element of the proprioception vector `proprio`.
        action_kind: how an action is executed. `joint_increment`: the elements of the arm are
            scaled and added to stored joint targets (rad). The elements of the hand are absolute:
            -1 is the lowest target of a servo, 1 the highest. `joint_and_hand_increment`: all
            elements are scaled and added to stored targets. `limits`: -1 is the lowest and 1 the
            highest value that a third-party environment accepts. `own`: actions in the units of a
            third-party data set, which no robot and no environment of this project can execute.
        action: one name per element of the action vector.
        action_scale: one factor per element of the action. An increment of 1 changes the stored
            target by this factor per control step, rad (m for a sliding finger). The factor of an
            absolute element is 1. For `limits`, it is half of the difference between the highest
            and the lowest value.
        rate_hz: control steps per second.
        image_reading: how the images of a third-party environment are read: the order of the colour
            channels, and the operation that makes the images upright, for example
            `bgr, flip vertical`. None: not recorded, and not compared.
        action_middle: for `limits`, the value that an action of 0 stands for, one per element.
            None: not recorded, and not compared.
    """

    arm: str
    cameras: tuple[CameraSpec, ...]
    proprio: tuple[str, ...]
    action_kind: str
    action: tuple[str, ...]
    action_scale: tuple[float, ...]
    rate_hz: float
    image_reading: str | None = field(default=None, metadata={OMITTED: True})
    action_middle: tuple[float, ...] | None = field(default=None, metadata={OMITTED: True})

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
        """Return one line of text per field in which `other` differs; an empty list if equal."""
        here, there = self._in_words(), other._in_words()
        both = here.keys() & there.keys()  # all fields that both have recorded
        return differences({key: here[key] for key in both}, {key: there[key] for key in both})

    def require_equal(self, other: "Interface", here: str = "here", there: str = "there") -> None:
        """Check that `other` is equal to this interface.

        Args:
            other: the interface to compare with.
            here: name of this interface in the message, for example `the policy`.
            there: name of `other` in the message.

        Raises:
            ValueError: the interfaces differ. The message lists every differing field with both
                values, the value of this interface first. If only one of the two has the action
                kind `own`, the message explains only this difference.
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
        """Return the interface that `to_dict` converted to this dictionary.

        Raises:
            ValueError: a field is missing or unknown, or its value is invalid or has the wrong
                type.
        """
        return from_dict(cls, data, at="interface")

    def _in_words(self) -> dict[str, Any]:
        cameras = [f"{camera.name} {camera.height}x{camera.width}" for camera in self.cameras]
        return self.to_dict() | {"cameras": cameras}
