"""What a policy sees and commands, as data: the contract between env, demos, policy and robot.

An environment, a demonstration store, a policy checkpoint and a real robot each carry one
`Interface`. Wherever two of them meet they must be equal; otherwise the policy would read a
number as something that it is not.
"""

from dataclasses import dataclass
from typing import Any, Self

from toto_robot.config import differences, from_dict, to_dict

OWN = "own"
ACTION_KINDS = ("joint_increment", "joint_and_hand_increment", OWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """Name a camera and the size of its pictures in pixels."""

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
    """Describe observations and actions element by element.

    Attributes:
        arm: name of the arm, for example `franka_panda`.
        cameras: the policy's cameras, in order.
        proprio: one name per element of the `proprio` vector.
        action_kind: how an action is read; `joint_increment` adds the scaled arm part to a stored
            joint target (rad) and takes the hand part as absolute, from the least (-1) to the
            greatest (1) target; `joint_and_hand_increment` adds all of it; `own` is what others'
            demonstrations say, in their units, which no arm and no environment here takes.
        action: one name per element of the action vector.
        action_scale: what an action of 1 means, per element: rad (m for a finger that slides) per
            control step for an increment, 1 for what is absolute.
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
                raise ValueError(f"{what} names must differ, twice: {', '.join(twice)}")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the cameras' names in order."""
        return tuple(camera.name for camera in self.cameras)

    def differences(self, other: "Interface") -> list[str]:
        """List the fields in which `other` differs, one readable line each; empty when equal."""
        return differences(self._in_words(), other._in_words())

    def require_equal(self, other: "Interface", here: str = "here", there: str = "there") -> None:
        """Do nothing when `other` is equal.

        Raises:
            ValueError: naming every field that differs, this one's value first.
        """
        for one, here_, two, there_ in ((self, here, other, there), (other, there, self, here)):
            if one.action_kind == OWN != two.action_kind:
                raise ValueError(
                    f"the actions of {here_} are those of a data set of others, in its own units "
                    f"({', '.join(one.action)}); {there_} takes {two.action_kind}. Such a policy "
                    "can be trained and asked, but no environment, twin or arm here is run with it"
                )
        lines = self.differences(other)
        if lines:
            raise ValueError(
                f"the interface of {here} differs from that of {there} "
                f"({here} != {there}):\n  " + "\n  ".join(lines)
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary that JSON can hold."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: naming the field that is missing, unknown or of the wrong type.
        """
        return from_dict(cls, data, at="interface")

    def _in_words(self) -> dict[str, Any]:
        cameras = [f"{camera.name} {camera.height}x{camera.width}" for camera in self.cameras]
        return self.to_dict() | {"cameras": cameras}
