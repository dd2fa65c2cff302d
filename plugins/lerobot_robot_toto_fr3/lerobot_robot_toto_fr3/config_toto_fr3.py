"""Settings of the robot `toto_fr3`."""

from dataclasses import dataclass, field

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("toto_fr3")
@dataclass(kw_only=True)
class TotoFr3Config(RobotConfig):
    """Settings of the robot; those of arm, cameras and safety layer are in the station's YAML file.

    Attributes:
        address: `twin` to start a digital twin, the address of a running twin (127.a.b.c), or the
            address of an arm.
        station: name of a file in the checkout's `configs/station`, without `.yaml`.
        overrides: changes of its settings, such as `station.rate_hz=15`.
    """

    address: str = "twin"
    station: str = "twin"
    overrides: list[str] = field(default_factory=list)
