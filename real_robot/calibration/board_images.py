"""Pictures of a calibration board: taken by a person, kept in a folder, and drawn into.

<folder>/000.png      a picture
<folder>/poses.json   where the arm was in each, rad, if there is an arm
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.geometry import Floats
from toto_robot.files import write_json

from ..cameras.camera import Camera, Image
from ..cameras.opencv import opencv
from ..cameras.png import write_png
from ..operator import ask_person
from ..robot import Robot
from .board import Board, View, find_board
from .calibration import Intrinsics, project

POSES = "poses.json"
_STILL_RAD_S = 0.01
_STILL_RAD = 0.001
_FRAME_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shot:
    """A picture in which the board was found.

    Attributes:
        name: the file's.
        image: [h w 3].
        view: the board's corners in it.
    """

    name: str
    image: Image
    view: View


def read_shots(board: Board, folder: Path) -> tuple[list[Shot], dict[str, str]]:
    """Read a folder's pictures; give those that show the board, and what is wrong with others.

    Raises:
        ValueError: no pictures, or of different sizes; naming them.
    """
    opencv("boards")  # says what to install where it is not
    from toto_robot.data.images import IMAGE_SUFFIXES, read_image
    from toto_robot.data.walk import walk

    paths = walk(folder, IMAGE_SUFFIXES, deep=False)
    if not paths:
        raise ValueError(f"{folder} has no pictures ({', '.join(IMAGE_SUFFIXES)})")
    shots, refused, sizes = [], {}, {}
    for path in paths:
        try:
            image = read_image(path)
        except ValueError as error:
            refused[path.name] = str(error).removeprefix(f"{path}: ")
            continue
        sizes.setdefault(image.shape[:2], []).append(path.name)
        try:
            shots.append(Shot(name=path.name, image=image, view=find_board(board, image)))
        except ValueError as error:
            refused[path.name] = str(error)
    if len(sizes) > 1:
        told = "; ".join(
            f"{height} x {width}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for (height, width), names in sizes.items()
        )
        raise ValueError(f"the pictures in {folder} are not of one size ({told})")
    return shots, refused


def take_shots(
    camera: Camera,
    board: Board,
    num: int,
    folder: Path,
    *,
    robot: Robot | None,
    ask: Callable[[str], str] = ask_person,
    tell: Callable[[str], object] = print,
) -> None:
    """Let a person take pictures until there are enough; each is written with the arm's pose.

    Pictures without the board, and those in which the arm moved, are not taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    poses_path = folder / POSES
    poses = read_poses(folder) if poses_path.is_file() else {}
    index = len(list(folder.glob("*.png")))
    tell(f"{index} of {num} pictures are in {folder}")
    while index < num:
        answer = ask(f"picture {index + 1} of {num}: Enter to take it, q to end: ").strip()
        if answer.lower() == "q":
            return
        try:
            before = None if robot is None else _still_joints(robot)
            newest = camera.wait(_FRAME_S)
            frame = camera.wait(_FRAME_S, sequence=newest.sequence + 2)
            view = find_board(board, frame.image)
            after = None if robot is None else _still_joints(robot)
            if before is not None and after is not None:
                moved = float(np.abs(after - before).max())
                if moved > _STILL_RAD:
                    raise ValueError(f"the arm moved by {moved:.4f} rad meanwhile")
        except ValueError as error:
            tell(f"not taken: {error}")
            continue
        name = f"{index:03d}.png"
        if after is not None:
            poses[name] = [float(value) for value in after]
            write_json(poses_path, poses)
        write_png(folder / name, frame.image)
        total = (board.columns - 1) * (board.rows - 1)
        tell(f"{name}: {len(view.pixels)} of {total} corners")
        index += 1


def read_poses(folder: Path) -> dict[str, list[float]]:
    """Read where the arm was in each picture, rad.

    Raises:
        ValueError: the file is not there, or is something else.
    """
    path = folder / POSES
    try:
        data = json.loads(path.read_text())
        poses = {str(name): [float(value) for value in joints] for name, joints in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must have the joints of each picture, {{'000.png': [7 numbers, rad]}}: {error}"
        ) from error
    for name, joints in poses.items():
        if len(joints) != 7 or not np.isfinite(joints).all():
            raise ValueError(f"{path}: {name} needs 7 finite numbers, got {joints}")
    return poses


def draw_residuals(shot: Shot, T_camera_board: Floats, lens: Intrinsics) -> Image:
    """Return the picture with the corners as they were seen (green) and as they should be (red)."""
    cv2 = opencv("boards")
    drawn = shot.image.copy()
    expected = project(shot.view.corners_m, T_camera_board, lens)
    for seen, wanted in zip(shot.view.pixels, expected, strict=True):
        # sixteenths of a pixel
        there = tuple(int(value) for value in np.round(16 * seen))
        cv2.circle(drawn, there, 16 * 5, (40, 200, 60), 1, cv2.LINE_AA, 4)
        if np.isfinite(wanted).all():
            here = tuple(int(value) for value in np.round(16 * wanted))
            cv2.circle(drawn, here, 16 * 2, (230, 40, 40), -1, cv2.LINE_AA, 4)
            cv2.line(drawn, there, here, (230, 40, 40), 1, cv2.LINE_AA, 4)
    return drawn


def _still_joints(robot: Robot) -> Floats:
    state = robot.state()
    speed = float(np.abs(state.joint_velocities_rad_s).max())
    if speed > _STILL_RAD_S:
        raise ValueError(
            f"the arm moves at {speed:.3f} rad/s (most: {_STILL_RAD_S}): hold it still"
        )
    return np.array(state.joint_positions_rad)
