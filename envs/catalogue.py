"""The list of all environments, with the arm, task and protocol of each.

Both protocols use the sizes, colours, masses, goals and reward weights of PixMC, the benchmark of
MVP (arXiv 2203.06173). In PixMC the hand starts beside the object. In the `robot` protocol the hand
starts above or in front of the object, so that the hand camera normally shows the object. The
`robot` protocol also randomises the yaw of the cube.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from .arms.arm import Arm
from .arms.franka import FRANKA_PANDA, FRANKA_PANDA_PIXMC
from .arms.kuka import KUKA_ALLEGRO, KUKA_ALLEGRO_PIXMC, OPEN_HAND
from .batch_manipulation import BatchManipulationEnv
from .manipulation import ManipulationEnv
from .protocols import ROBOT, Protocol, pixmc
from .simulation.scene import Camera
from .tasks.cabinet import CabinetTask
from .tasks.pick import PickTask
from .tasks.room import pixmc_hand_camera
from .tasks.task import Task

PROTOCOLS = ("robot", "pixmc")

T = TypeVar("T", bound=Task, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant(Generic[T]):
    """An arm, a task and a protocol, which together define an environment."""

    arm: Arm
    task: T
    protocol: Protocol


# PixMC's position on the hand. The field of view is wider than that of common cameras, so that the
# cube is normally in the image at the start.
_FRANKA_HAND_CAMERA = Camera(
    name="hand",
    body=FRANKA_PANDA.hand_body,
    position_m=(0.07, 0.0, 0.04),
    target_m=(0.05, 0.0, 0.20),
    up=(1.0, 0.0, 0.0),
    fov_y_deg=90.0,
)
# As close as possible with the whole workspace and the lift in view: the cube is 7 to 9 pixels wide
# in an image of 128 pixels, so a token of 8 x 8 pixels can encode its position.
_TABLE_FRONT_CAMERA = Camera(
    name="front",
    body=None,
    position_m=(-0.20, 0.0, 1.15),
    target_m=(0.57, 0.0, 0.615),
    up=(0.0, 0.0, 1.0),
    fov_y_deg=41.0,
)
_TABLE_VIEWER = Camera(
    name="viewer",
    body=None,
    position_m=(-0.35, -0.95, 1.25),
    target_m=(0.68, 0.0, 0.50),
    up=(0.0, 0.0, 1.0),
    fov_y_deg=45.0,
)

# The cabinet is seen from the side and above, so that the arm never hides hand and handle.
_CABINET_FRONT_CAMERA = Camera(
    name="front",
    body=None,
    position_m=(0.95, -0.85, 1.25),
    target_m=(0.64, 0.0, 0.78),
    up=(0.0, 0.0, 1.0),
    fov_y_deg=43.0,
)
_CABINET_VIEWER = Camera(
    name="viewer",
    body=None,
    position_m=(1.15, -1.55, 1.35),
    target_m=(0.50, 0.0, 0.55),
    up=(0.0, 0.0, 1.0),
    fov_y_deg=45.0,
)

_ROBOT_TIMESTEP_S = 0.002
_PIXMC_TIMESTEP_S = 1 / 240
_PIXMC_NOISE = 0.125

_FRANKA_PIXMC_START_RAD = (1.157, -1.066, -0.155, -2.239, -1.841, 1.003, 0.469)

_ROBOT_CABINET_STATE = ("handle_position", "opening", "tool_position", "tool_quaternion")
_ROBOT_PICK_STATE = ("cube_position", "cube_quaternion", "tool_position", "tool_quaternion")


def _pixmc_state(arm: Arm, thing: str, rest: str, *, palm: bool) -> tuple[str, ...]:
    """Return the names of the quantities in PixMC's `state`, in order.

    First the positions of the palm (only if `palm`), the fingertips and the object, then the vector
    from each fingertip to the object, and last the quantity named `rest`.
    """
    tips = [tip.name for tip in arm.fingertips]
    return (
        *(["palm_position"] if palm else []),
        *(f"{tip}_position" for tip in tips),
        f"{thing}_position",
        *(f"{tip}_to_{thing}" for tip in tips),
        rest,
    )


_FRANKA_PICK = Variant(
    arm=FRANKA_PANDA,
    protocol=ROBOT,
    task=PickTask(
        start_arm_rad=(0.0, -0.22, 0.0, -1.62, 0.0, 1.40, 0.785),
        start_hand=(0.04,),
        arm_noise_rad=0.1,
        hand_noise=0.0,
        cube_size_m=0.045,
        cube_mass_kg=0.0911,
        cube_yaw_rad=math.pi,
        fall_m=0.04,
        reach_m=(0.08, 0.08),
        reach_margin_m=0.02,
        lifted_m=0.015,
        goal_bonus_m=0.04,
        state=_ROBOT_PICK_STATE,
        cameras=(_FRANKA_HAND_CAMERA, _TABLE_FRONT_CAMERA),
        viewer=_TABLE_VIEWER,
        timestep_s=_ROBOT_TIMESTEP_S,
    ),
)
_FRANKA_PICK_PIXMC = Variant(
    arm=FRANKA_PANDA_PIXMC,
    protocol=pixmc(hand_increment=0.1 * 7.5 / 60),
    task=replace(
        _FRANKA_PICK.task,
        start_arm_rad=_FRANKA_PIXMC_START_RAD,
        start_hand=(0.035, 0.035),
        arm_noise_rad=_PIXMC_NOISE,
        hand_noise=_PIXMC_NOISE,
        cube_yaw_rad=0.0,
        state=_pixmc_state(FRANKA_PANDA_PIXMC, "cube", "height_left", palm=False),
        cameras=(
            pixmc_hand_camera(FRANKA_PANDA_PIXMC, (0.04, 0.0, 0.045), up=1.0),
            _TABLE_FRONT_CAMERA,
        ),
        timestep_s=_PIXMC_TIMESTEP_S,
    ),
)

_FRANKA_CABINET = Variant(
    arm=FRANKA_PANDA,
    protocol=ROBOT,
    task=CabinetTask(
        # The gripper is in front of the handle, points 25 degrees below the horizontal, and opens
        # vertically.
        start_arm_rad=(0.0, -0.81, 0.0, -2.09, 0.0, 2.415, -0.785),
        start_hand=(0.04,),
        arm_noise_rad=0.1,
        hand_noise=0.0,
        goal_distance_m=0.04,
        reach_m=(0.06, 0.06),
        around_bonus=0.5,
        held_weight=3.0,
        state=_ROBOT_CABINET_STATE,
        # The pick task's hand camera, rotated to be upright when the fingers open vertically.
        cameras=(replace(_FRANKA_HAND_CAMERA, up=(0.0, 1.0, 0.0)), _CABINET_FRONT_CAMERA),
        viewer=_CABINET_VIEWER,
        timestep_s=_ROBOT_TIMESTEP_S,
    ),
)
_FRANKA_CABINET_PIXMC = Variant(
    arm=FRANKA_PANDA_PIXMC,
    protocol=_FRANKA_PICK_PIXMC.protocol,
    task=replace(
        _FRANKA_CABINET.task,
        start_arm_rad=_FRANKA_PIXMC_START_RAD,
        start_hand=(0.035, 0.035),
        arm_noise_rad=_PIXMC_NOISE,
        hand_noise=_PIXMC_NOISE,
        state=_pixmc_state(FRANKA_PANDA_PIXMC, "handle", "opening_left", palm=False),
        cameras=(_FRANKA_PICK_PIXMC.task.cameras[0], _CABINET_FRONT_CAMERA),
        timestep_s=_PIXMC_TIMESTEP_S,
    ),
)

# Beside the palm, so that the thumb does not hide the cube.
_KUKA_HAND_CAMERA = Camera(
    name="hand",
    body=KUKA_ALLEGRO.hand_body,
    position_m=(0.06, 0.07, 0.0),
    target_m=(0.11, -0.005, 0.1328),
    up=(-1.0, 0.0, 0.0),
    fov_y_deg=100.0,
)
_KUKA_PIXMC_START_RAD = (0.0, -0.4, 0.0, -1.0, 0.0, 1.0, 0.0)

_KUKA_PICK = Variant(
    arm=KUKA_ALLEGRO,
    protocol=ROBOT,
    task=PickTask(
        start_arm_rad=(0.0, -0.12, 0.0, -1.29, 0.0, 0.92, 0.0),
        start_hand=OPEN_HAND,
        arm_noise_rad=0.1,
        hand_noise=0.0,
        cube_size_m=0.06,
        cube_mass_kg=0.216,
        cube_yaw_rad=math.pi,
        fall_m=0.06,
        reach_m=(0.04, 0.04, 0.04, 0.08),
        reach_margin_m=0.03,
        lifted_m=0.02,
        goal_bonus_m=0.06,
        state=_ROBOT_PICK_STATE,
        cameras=(_KUKA_HAND_CAMERA, _TABLE_FRONT_CAMERA),
        viewer=_TABLE_VIEWER,
        timestep_s=_ROBOT_TIMESTEP_S,
    ),
)
_KUKA_PICK_PIXMC = Variant(
    arm=KUKA_ALLEGRO_PIXMC,
    protocol=pixmc(hand_increment=7.5 / 60),
    task=replace(
        _KUKA_PICK.task,
        start_arm_rad=_KUKA_PIXMC_START_RAD,
        start_hand=(0.0,) * 16,
        arm_noise_rad=_PIXMC_NOISE,
        hand_noise=_PIXMC_NOISE,
        cube_yaw_rad=0.0,
        state=_pixmc_state(KUKA_ALLEGRO_PIXMC, "cube", "height_left", palm=True),
        cameras=(
            pixmc_hand_camera(KUKA_ALLEGRO_PIXMC, (0.05, 0.0, 0.02), up=-1.0),
            _TABLE_FRONT_CAMERA,
        ),
        timestep_s=_PIXMC_TIMESTEP_S,
    ),
)

# The last phalanges of the fingers are bent at a right angle: a hook for the handle's bar.
_HOOK = (*(0.0, 0.0, 0.0, 1.6) * 3, 0.28, 0.0, 0.0, 0.0)

_KUKA_CABINET = Variant(
    arm=KUKA_ALLEGRO,
    protocol=ROBOT,
    task=CabinetTask(
        # The hand is in front of the handle, palm down, and its fingers point at the cabinet.
        start_arm_rad=(0.0, -0.63, 0.0, -1.40, 0.0, 0.80, 0.0),
        start_hand=_HOOK,
        arm_noise_rad=0.1,
        hand_noise=0.0,
        goal_distance_m=None,
        reach_m=(0.04, 0.04, 0.04, 0.08),
        around_bonus=0.0,
        held_weight=0.0,
        state=_ROBOT_CABINET_STATE,
        cameras=(_KUKA_HAND_CAMERA, _CABINET_FRONT_CAMERA),
        viewer=_CABINET_VIEWER,
        timestep_s=_ROBOT_TIMESTEP_S,
    ),
)
_KUKA_CABINET_PIXMC = Variant(
    arm=KUKA_ALLEGRO_PIXMC,
    protocol=_KUKA_PICK_PIXMC.protocol,
    task=replace(
        _KUKA_CABINET.task,
        start_arm_rad=_KUKA_PIXMC_START_RAD,
        start_hand=(0.0,) * 16,
        arm_noise_rad=_PIXMC_NOISE,
        hand_noise=_PIXMC_NOISE,
        state=_pixmc_state(KUKA_ALLEGRO_PIXMC, "handle", "opening_left", palm=True),
        cameras=(_KUKA_PICK_PIXMC.task.cameras[0], _CABINET_FRONT_CAMERA),
        timestep_s=_PIXMC_TIMESTEP_S,
    ),
)

_VARIANTS: dict[str, dict[str, Variant[Any]]] = {
    "toto/FrankaPick-v0": {"robot": _FRANKA_PICK, "pixmc": _FRANKA_PICK_PIXMC},
    "toto/KukaPick-v0": {"robot": _KUKA_PICK, "pixmc": _KUKA_PICK_PIXMC},
    "toto/FrankaCabinet-v0": {"robot": _FRANKA_CABINET, "pixmc": _FRANKA_CABINET_PIXMC},
    "toto/KukaCabinet-v0": {"robot": _KUKA_CABINET, "pixmc": _KUKA_CABINET_PIXMC},
}


def variant(env_id: str, protocol: str = "robot") -> Variant[Any]:
    """Return the arm, the task and the protocol of an environment.

    Raises:
        ValueError: the id or the protocol is unknown; the message lists the known ones.
    """
    if env_id not in _VARIANTS:
        raise ValueError(f"unknown environment {env_id!r}; known: {', '.join(_VARIANTS)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    return _VARIANTS[env_id][protocol]


def make(*, env_id: str, protocol: str = "robot", **options: Any) -> ManipulationEnv:
    """Return an environment; `options` are passed to `ManipulationEnv`, which documents them."""
    chosen = variant(env_id, protocol)
    return ManipulationEnv(arm=chosen.arm, task=chosen.task, protocol=chosen.protocol, **options)


def make_vec(
    *,
    env_id: str,
    num_envs: int,
    protocol: str = "robot",
    worker_python: str | Path | None = None,
    **options: Any,
) -> BatchManipulationEnv:
    """Return a vector environment whose worlds run in one simulator.

    Args:
        env_id: id of the environment.
        num_envs: number of worlds.
        protocol: `robot` or `pixmc`.
        worker_python: the Python in which Isaac Gym is installed, for `backend="isaacgym"`; the
            same as `backend_options={"worker_python": ...}`.
        options: passed to `BatchManipulationEnv`, which documents them.
    """
    chosen = variant(env_id, protocol)
    if worker_python is not None:
        engine = options.get("backend_options") or {}
        options["backend_options"] = {**engine, "worker_python": worker_python}
    return BatchManipulationEnv(
        num_envs, arm=chosen.arm, task=chosen.task, protocol=chosen.protocol, **options
    )
