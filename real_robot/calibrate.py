"""Command `python -m real_robot.calibrate`: calibrate a camera with images of a printed board.

python -m real_robot.calibrate step=board                               # write a board to print
python -m real_robot.calibrate step=lens camera=uvc                     # compute the intrinsics
python -m real_robot.calibrate step=mounting camera=realsense parent=hand robot=172.16.0.2
python -m real_robot.calibrate step=lens images=runs/calibrate/lens     # use saved images again

The step `mounting` computes the pose of the camera. A person guides the arm by hand; the command
commands no motion: it only reads the joints. If the camera is on the hand, the board must not
move. If the camera is fixed, the gripper holds the board. The images are saved, so the calibration
can be computed again. Images in which the board is not found are listed.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from envs.arms.franka import FRANKA_FR3
from envs.arms.kinematics import forward_kinematics
from envs.geometry import Floats
from toto_robot.cli import command

from .calibration.board import Board, View
from .calibration.board_images import (
    POSES,
    Shot,
    draw_residuals,
    read_poses,
    read_shots,
    take_shots,
)
from .calibration.board_page import PageConfig, write_board
from .calibration.calibration import Calibration, Intrinsics, Parent, load, project, save
from .calibration.solving import (
    board_pose,
    calibrate_lens,
    calibrate_mounting,
    mean_pose,
    place_boards,
)
from .cameras.camera import CameraError
from .cameras.config import CameraConfig, build_camera
from .cameras.png import write_png
from .franka import FrankaConfig, FrankaRobot
from .operator import NoPersonError
from .robot import RobotError


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateConfig:
    """Settings of a camera calibration.

    Attributes:
        step: `board` writes a board to print. `lens` computes the intrinsics. `mounting` computes
            the pose of the camera, and needs the intrinsics.
        board: size of the board, as measured on the print.
        page: size of the paper for the board, and resolution of the print.
        camera: settings of the camera. Images are taken in its full capture size.
        parent: where the camera is mounted, for `step=mounting`: `hand`, or `base` for a fixed
            camera.
        robot: address of the arm, for `step=mounting` with new images.
        franka: settings of the arm's driver.
        images: folder of saved images that are used; null takes new images.
        views: number of images to take.
        folder: folder where the calibration is saved, as `<camera>.json`.
        max_residual_px: largest accepted reprojection error of the intrinsics, pixels.
        max_focal_deviation: largest accepted standard deviation of the focal length, as a share
            of the focal length.
        max_residual_m: largest accepted position error of the mounting, m.
        max_residual_rad: largest accepted orientation error of the mounting, rad.
    """

    OLD_NAMES: ClassVar[dict[str, str]] = {"pictures": "images"}
    step: Literal["board", "lens", "mounting"]
    board: Board
    page: PageConfig
    camera: CameraConfig
    parent: Parent
    robot: str | None
    franka: FrankaConfig
    images: Path | None
    views: int
    folder: Path
    max_residual_px: float
    max_focal_deviation: float
    max_residual_m: float
    max_residual_rad: float

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
        if self.step == "mounting" and self.images is None and self.robot is None:
            raise ValueError("mounting needs the arm's poses: set robot=<address> or images=")


def calibrate(config: CalibrateConfig, out: Path) -> None:
    """Take or read images, compute the calibration, and write it with its residual errors."""
    try:
        if config.step == "board":
            _print_board(config, out)
        elif config.step == "lens":
            _lens(config, out)
        else:
            _mounting(config, out)
    except (ValueError, ImportError, CameraError, RobotError, NoPersonError) as error:
        sys.exit(f"calibrate: {error}")


def solve_lens(
    shots: Sequence[Shot], refused: Mapping[str, str], *, max_px: float, max_deviation: float
) -> tuple[Intrinsics, dict[str, float]]:
    """Compute the intrinsics of a camera.

    Args:
        shots: images in which the board was found.
        refused: reason why an image is not used, by the name of the image; for messages.
        max_px: largest accepted reprojection error, pixels.
        max_deviation: largest accepted standard deviation of the focal length, as a share of it.

    Returns:
        The intrinsics, and the reprojection error of each image, pixels, by the name of the image.

    Raises:
        ValueError: there are too few images, the reprojection error is too large (the message
            names the worst images), or the standard deviation of the focal length is too large.
    """
    if not shots:
        raise ValueError(f"the board is in none of the images{_listed(refused)}")
    height, width = shots[0].image.shape[:2]
    try:
        lens = calibrate_lens([shot.view for shot in shots], height=height, width=width)
    except ValueError as error:
        raise ValueError(f"{error}{_listed(refused)}") from error
    errors = {
        shot.name: _residual_px(shot.view, board_pose(shot.view, lens), lens) for shot in shots
    }
    if lens.residual_px > max_px:
        raise ValueError(
            f"the residual of the corners is {lens.residual_px:.2f} px (at most {max_px}); worst: "
            f"{_worst(errors, 'px')}: are they blurred, is the board bent, or are its settings "
            "wrong? Remove these images and solve again"
        )
    share = lens.focal_deviation_px / lens.focal_px[0]
    if share > max_deviation:
        raise ValueError(
            f"the focal length is known to {share:.1%} only (at most {max_deviation:.1%}): the "
            "views are too alike; tilt the board by 20 to 40 degrees each way, near and far, and "
            "bring it into every corner of the image"
        )
    return lens, errors


def solve_mounting(
    shots: Sequence[Shot],
    refused: Mapping[str, str],
    joints_rad: Mapping[str, Sequence[float]],
    calibration: Calibration,
    *,
    parent: Parent,
    max_m: float,
    max_rad: float,
) -> tuple[Calibration, dict[str, float], dict[str, Floats]]:
    """Compute the pose of a camera on the hand, or beside the arm.

    Args:
        shots: images in which the board was found.
        refused: reason why an image is not used, by the name of the image; for messages.
        joints_rad: joint positions [7] of the arm, rad, by the name of the image.
        calibration: the camera's calibration, with its intrinsics.
        parent: where the camera is mounted: `hand` or `base`.
        max_m: largest accepted position error, m.
        max_rad: largest accepted orientation error, rad.

    Returns:
        Three values. First, the calibration with the mounting. Second, by the name of the image,
        the distance between the board's position in this image and its mean position, m. Third, by
        the name of the image, the pose `T_camera_board` [4 4] that follows from the board's mean
        pose.

    Raises:
        ValueError: joint positions are missing, the intrinsics are for another image size, there
            are too few images, the hand rotates about one axis only, or the error is too large
            (the message names the worst images).
    """
    lens = calibration.intrinsics
    if missing := [shot.name for shot in shots if shot.name not in joints_rad]:
        raise ValueError(f"{POSES} has no joint positions for {', '.join(missing)}")
    _require_same_images(shots, lens)
    hands = [forward_kinematics(FRANKA_FR3, joints_rad[shot.name]) for shot in shots]
    boards = [board_pose(shot.view, lens) for shot in shots]
    try:
        mounting = calibrate_mounting(hands, boards, parent=parent)
    except ValueError as error:
        raise ValueError(f"{error}{_listed(refused)}") from error
    found = place_boards(hands, boards, np.array(mounting.T_parent_camera), parent)
    mean = mean_pose(found)
    errors = {
        shot.name: float(np.linalg.norm(pose[:3, 3] - mean[:3, 3]))
        for shot, pose in zip(shots, found, strict=True)
    }
    if mounting.residual_m > max_m or mounting.residual_rad > max_rad:
        raise ValueError(
            f"the board's pose differs between the images by {mounting.residual_m:.4f} m and "
            f"{mounting.residual_rad:.4f} rad (at most {max_m} m, {max_rad} rad); worst: "
            f"{_worst(errors, 'm')}: did the board or the camera move? Is parent={parent} right, "
            "and board.square_m as measured?"
        )
    expected = {
        shot.name: seen @ np.linalg.inv(pose) @ mean
        for shot, seen, pose in zip(shots, boards, found, strict=True)
    }
    return replace(calibration, mounting=mounting), errors, expected


def _require_same_images(shots: Sequence[Shot], lens: Intrinsics) -> None:
    for shot in shots:
        if shot.image.shape[:2] != (lens.height, lens.width):
            raise ValueError(
                f"{shot.name} is {shot.image.shape[0]} x {shot.image.shape[1]}, but the lens was "
                f"calibrated at {lens.height} x {lens.width}: is it the same camera at full size?"
            )


def _print_board(config: CalibrateConfig, out: Path) -> None:
    path, square_m = write_board(config.board, config.page, out)
    print(f"board: {path} ({out / 'board.png'} is the same)")
    print(
        f"print it at 100 %, glue it onto a flat plate and measure: 5 squares must be "
        f"{5000 * square_m:.1f} mm; if they are not, set board.square_m and board.marker_m to the "
        "measured lengths"
    )


def _lens(config: CalibrateConfig, out: Path) -> None:
    name = config.camera.settings.name
    out = out / name
    folder = _images(config, out / "lens", robot=None)
    shots, refused = read_shots(config.board, folder)
    lens, errors = solve_lens(
        shots,
        refused,
        max_px=config.max_residual_px,
        max_deviation=config.max_focal_deviation,
    )
    poses = {shot.name: board_pose(shot.view, lens) for shot in shots}
    _draw(shots, poses, lens, out / "lens_residuals")
    _print_errors(errors, refused, "px")
    print(
        f"focal length {lens.focal_px[0]:.1f} and {lens.focal_px[1]:.1f} px (deviation "
        f"{lens.focal_deviation_px:.1f}), centre {lens.centre_px[0]:.1f}, {lens.centre_px[1]:.1f} "
        f"px, residual {lens.residual_px:.2f} px over {lens.num_views} images"
    )
    _save(Calibration(camera=name, intrinsics=lens, mounting=None), config, out / "lens_residuals")


def _mounting(config: CalibrateConfig, out: Path) -> None:
    name = config.camera.settings.name
    out = out / name
    known = load(config.folder / f"{name}.json")
    folder = _images(config, out / "mounting", robot=config.robot)
    shots, refused = read_shots(config.board, folder)
    found, errors, expected = solve_mounting(
        shots,
        refused,
        read_poses(folder),
        known,
        parent=config.parent,
        max_m=config.max_residual_m,
        max_rad=config.max_residual_rad,
    )
    _draw(shots, expected, known.intrinsics, out / "mounting_residuals")
    _print_errors(errors, refused, "m")
    mounting = found.mounting
    assert mounting is not None
    position = [row[3] for row in mounting.T_parent_camera[:3]]
    print(
        f"the camera is at x {position[0]:.4f}, y {position[1]:.4f}, z {position[2]:.4f} m in the "
        f"frame of the {config.parent}; residual {1000 * mounting.residual_m:.1f} mm and "
        f"{1000 * mounting.residual_rad:.1f} mrad"
    )
    _save(found, config, out / "mounting_residuals")


def _images(config: CalibrateConfig, folder: Path, *, robot: str | None) -> Path:
    """Return the folder of the images.

    This is the folder in the config. If the config has none, new images are taken into `folder`.
    """
    if config.images is not None:
        return config.images
    settings = config.camera.settings
    # Use the full capture size; `Intrinsics.fitted` computes the intrinsics of the cropped images.
    whole = replace(settings, height=settings.capture_height, width=settings.capture_width)
    with ExitStack() as stack:
        camera = stack.enter_context(build_camera(replace(config.camera, settings=whole)))
        driver = None
        if robot is not None:
            driver = stack.enter_context(FrankaRobot(replace(config.franka, address=robot)))
            print(f"robot: {driver.description}; guide it by hand, no motion is commanded")
        take_shots(camera, config.board, config.views, folder, robot=driver)
    return folder


def _draw(
    shots: Sequence[Shot], poses: Mapping[str, Floats], lens: Intrinsics, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shot in shots:
        path = folder / f"{Path(shot.name).stem}.png"
        write_png(path, draw_residuals(shot, poses[shot.name], lens))


def _save(calibration: Calibration, config: CalibrateConfig, drawn: Path) -> None:
    path = config.folder / f"{calibration.camera}.json"
    save(calibration, path)
    print(f"images with detected and projected corners: {drawn}")
    print(f"calibration: {path}")


def _print_errors(errors: Mapping[str, float], refused: Mapping[str, str], unit: str) -> None:
    for name, reason in refused.items():
        print(f"left out: {name}: {reason}")
    print(f"worst images: {_worst(errors, unit)}")


def _worst(errors: Mapping[str, float], unit: str) -> str:
    worst = sorted(errors.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} ({value:.4f} {unit})" for name, value in worst)


def _listed(refused: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in refused.items())


def _residual_px(view: View, T_camera_board: Floats, lens: Intrinsics) -> float:
    differences = project(view.corners_m, T_camera_board, lens) - view.pixels
    return float(np.sqrt((differences**2).sum(axis=1).mean()))


main = command("calibrate", CalibrateConfig, CalibrateConfig.OLD_NAMES)(calibrate)

if __name__ == "__main__":
    main()
