"""Take and read images of a calibration board, and draw the residual errors into them.

<folder>/000.png      an image
<folder>/poses.json   joint positions of the arm at each image, rad; only if there is an arm
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
    """Image in which the board was found.

    Attributes:
        name: name of the image file.
        image: image [h w 3], uint8 RGB.
        view: corners of the board in the image.
    """

    name: str
    image: Image
    view: View


def read_shots(board: Board, folder: Path) -> tuple[list[Shot], dict[str, str]]:
    """Read the images of a folder, and find the board in them.

    Return the images that show the board, and the reasons why other images are refused, by the
    name of the image file.

    Raises:
        ValueError: there are no images, or their sizes differ.
    """
    opencv("boards")  # fail early if OpenCV is not installed
    from toto_robot.data.images import IMAGE_SUFFIXES, read_image
    from toto_robot.data.walk import walk

    paths = walk(folder, IMAGE_SUFFIXES, deep=False)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
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
        listed = "; ".join(
            f"{height} x {width}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for (height, width), names in sizes.items()
        )
        raise ValueError(f"the images in {folder} have different sizes ({listed})")
    return shots, refused


def take_shots(
    camera: Camera,
    board: Board,
    num: int,
    folder: Path,
    *,
    robot: Robot | None,
    ask: Callable[[str], str] = ask_person,
    report: Callable[[str], object] = print,
) -> None:
    """Take an image each time a person presses Enter, until `folder` contains `num` images.

    Images that are already in `folder` count. The answer `q` ends the function earlier.
    Each image is written together with the joint positions of the arm, if there is a robot. Images
    without the board, and images during which the arm moved, are discarded.

    Args:
        camera: the open camera.
        board: the board.
        num: number of images, together with those that are already in `folder`.
        folder: folder for the images.
        robot: the connected robot; None to save no joint positions.
        ask: function that asks the person a question and waits for the answer.
        report: function that prints a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    poses_path = folder / POSES
    poses = read_poses(folder) if poses_path.is_file() else {}
    numbers = [int(path.stem) for path in folder.glob("*.png") if path.stem.isdecimal()]
    count = len(list(folder.glob("*.png")))
    index = max(numbers, default=-1) + 1
    report(f"{count} of {num} images are in {folder}")
    if count >= num:
        report(
            "no image is taken; for a new calibration, move the images away or choose another out="
        )
    while count < num:
        answer = ask(f"image {count + 1} of {num}: Enter to take it, q to end: ").strip()
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
                    raise ValueError(f"the arm moved by {moved:.4f} rad during the capture")
        except ValueError as error:
            report(f"not taken: {error}")
            continue
        name = f"{index:03d}.png"
        if after is not None:
            poses[name] = [float(value) for value in after]
            write_json(poses_path, poses)
        write_png(folder / name, frame.image)
        total = (board.columns - 1) * (board.rows - 1)
        report(f"{name}: {len(view.pixels)} of {total} corners")
        count, index = count + 1, index + 1


def read_poses(folder: Path) -> dict[str, list[float]]:
    """Load the joint positions [7] of the arm at each image, rad, by the name of the image.

    Raises:
        ValueError: the file is missing, or its content is invalid.
    """
    path = folder / POSES
    try:
        data = json.loads(path.read_text())
        poses = {str(name): [float(value) for value in joints] for name, joints in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must have the joints of each image, {{'000.png': [7 numbers, rad]}}: {error}"
        ) from error
    for name, joints in poses.items():
        if len(joints) != 7 or not np.isfinite(joints).all():
            raise ValueError(f"{path}: {name} needs 7 finite numbers, got {joints}")
    return poses


def draw_residuals(shot: Shot, T_camera_board: Floats, lens: Intrinsics) -> Image:
    """Return the image with two marks for each corner: detected (green) and computed (red).

    The computed position follows from the board's pose and the intrinsics.
    """
    cv2 = opencv("boards")
    drawn = shot.image.copy()
    expected = project(shot.view.corners_m, T_camera_board, lens)
    for detected, projected in zip(shot.view.pixels, expected, strict=True):
        # coordinates in sixteenths of a pixel: the last argument is 4 fractional bits
        start = tuple(int(value) for value in np.round(16 * detected))
        cv2.circle(drawn, start, 16 * 5, (40, 200, 60), 1, cv2.LINE_AA, 4)
        if np.isfinite(projected).all():
            end = tuple(int(value) for value in np.round(16 * projected))
            cv2.circle(drawn, end, 16 * 2, (230, 40, 40), -1, cv2.LINE_AA, 4)
            cv2.line(drawn, start, end, (230, 40, 40), 1, cv2.LINE_AA, 4)
    return drawn


def _still_joints(robot: Robot) -> Floats:
    state = robot.state()
    speed = float(np.abs(state.joint_velocities_rad_s).max())
    if speed > _STILL_RAD_S:
        raise ValueError(
            f"the arm moves at {speed:.3f} rad/s (at most {_STILL_RAD_S}): hold it still"
        )
    return np.array(state.joint_positions_rad)
