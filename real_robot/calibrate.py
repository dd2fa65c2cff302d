"""`python -m real_robot.calibrate`: a camera's lens and place, from pictures of a printed board.

python -m real_robot.calibrate step=board                                       # print it
python -m real_robot.calibrate step=lens camera=uvc                             # a dozen views
python -m real_robot.calibrate step=mounting camera=realsense parent=hand robot=172.16.0.2
python -m real_robot.calibrate step=lens pictures=runs/calibrate/lens           # once more

For the mounting the arm is led by hand: nothing is sent to it, only its joints are read. A camera
on the hand looks at a board that lies still; one that stands looks at a board in the gripper.
Pictures are kept, so a folder of them can be solved again. Bad ones are named and refused.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
    """Say what is calibrated.

    Attributes:
        step: `board` writes one to print; `lens` finds what the lens does; `mounting` where the
            camera is, of which the lens is known already.
        board: as it was printed and measured.
        page: the paper.
        camera: which one; its full picture is looked at, whatever a policy gets of it.
        parent: what carries it, for `mounting`: `hand`, or `base` for one that stands.
        robot: the arm's address, for `mounting` with pictures that are taken now.
        franka: how it is connected.
        pictures: a folder of pictures that were taken before; None to take them now.
        views: how many pictures to take.
        folder: where calibrations are: `<camera>.json`.
        max_residual_px: a lens that is worse is refused.
        max_focal_deviation: likewise, the focal length's standard deviation over its length.
        max_residual_m: a mounting that is worse is refused.
        max_residual_rad: likewise.
    """

    step: Literal["board", "lens", "mounting"]
    board: Board
    page: PageConfig
    camera: CameraConfig
    parent: Parent
    robot: str | None
    franka: FrankaConfig
    pictures: Path | None
    views: int
    folder: Path
    max_residual_px: float
    max_focal_deviation: float
    max_residual_m: float
    max_residual_rad: float

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
        if self.step == "mounting" and self.pictures is None and self.robot is None:
            raise ValueError("mounting needs the arm's poses: say robot=<address>, or pictures=")


def calibrate(config: CalibrateConfig, out: Path) -> None:
    """Take or read the pictures, solve, and write the calibration with its residuals."""
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
    """Find what the lens does, and how far each picture's corners are off, px.

    Raises:
        ValueError: too few pictures, or a result that is not good enough; naming the worst.
    """
    if not shots:
        raise ValueError(f"the board is in none of the pictures{_listed(refused)}")
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
            f"the corners are {lens.residual_px:.2f} px from where they should be (most: {max_px})"
            f"; worst: {_worst(errors, 'px')}: blurred, the board bent, or another board than was "
            "said? Take these out and solve again"
        )
    share = lens.focal_deviation_px / lens.focal_px[0]
    if share > max_deviation:
        raise ValueError(
            f"the focal length is known to {share:.1%} only (most: {max_deviation:.1%}): the views "
            "are too alike; tilt the board by 20 to 40 degrees each way, near and far, and bring "
            "it into every corner of the picture"
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
    """Find where the camera is.

    Args:
        shots: pictures with the board.
        refused: those without, for messages.
        joints_rad: where the arm was in each, [7] by the picture's name.
        calibration: of the lens.
        parent: what carries the camera.
        max_m: a worse result is refused.
        max_rad: likewise.

    Returns:
        The calibration with its mounting; by picture, how far the board is from where all others
        put it, m; and by picture, `T_camera_board` as all of them together say.

    Raises:
        ValueError: poses are missing, the lens is that of other pictures, or the result is not
            good enough; naming the worst.
    """
    lens = calibration.intrinsics
    if missing := [shot.name for shot in shots if shot.name not in joints_rad]:
        raise ValueError(f"{POSES} has no pose of the arm for {', '.join(missing)}")
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
            f"the pictures disagree on where the board is by {mounting.residual_m:.4f} m and "
            f"{mounting.residual_rad:.4f} rad (most: {max_m} m, {max_rad} rad); worst: "
            f"{_worst(errors, 'm')}: did the board or the camera move, is parent={parent} right, "
            "is the square's edge as measured?"
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
                f"{shot.name} is {shot.image.shape[0]} x {shot.image.shape[1]}, and the lens was "
                f"calibrated at {lens.height} x {lens.width}: the same camera, full pictures?"
            )


def _print_board(config: CalibrateConfig, out: Path) -> None:
    path, square_m = write_board(config.board, config.page, out)
    print(f"board: {path} ({out / 'board.png'} is the same)")
    print(
        f"print it at 100 %, glue it onto something flat, measure: 5 squares must be "
        f"{5000 * square_m:.1f} mm; if they are not, say board.square_m and board.marker_m as "
        "measured"
    )


def _lens(config: CalibrateConfig, out: Path) -> None:
    folder = _pictures(config, out / "lens", robot=None)
    shots, refused = read_shots(config.board, folder)
    lens, errors = solve_lens(
        shots,
        refused,
        max_px=config.max_residual_px,
        max_deviation=config.max_focal_deviation,
    )
    poses = {shot.name: board_pose(shot.view, lens) for shot in shots}
    _draw(shots, poses, lens, out / "lens_residuals")
    name = config.camera.settings.name
    _tell(errors, refused, "px")
    print(
        f"focal length {lens.focal_px[0]:.1f} and {lens.focal_px[1]:.1f} px (deviation "
        f"{lens.focal_deviation_px:.1f}), centre {lens.centre_px[0]:.1f}, {lens.centre_px[1]:.1f} "
        f"px, residual {lens.residual_px:.2f} px over {lens.num_views} pictures"
    )
    _save(Calibration(camera=name, intrinsics=lens, mounting=None), config, out / "lens_residuals")


def _mounting(config: CalibrateConfig, out: Path) -> None:
    name = config.camera.settings.name
    known = load(config.folder / f"{name}.json")
    folder = _pictures(config, out / "mounting", robot=config.robot)
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
    _tell(errors, refused, "m")
    mounting = found.mounting
    assert mounting is not None
    place = [row[3] for row in mounting.T_parent_camera[:3]]
    print(
        f"the camera is at x {place[0]:.4f}, y {place[1]:.4f}, z {place[2]:.4f} m of the "
        f"{config.parent}; the pictures disagree by {1000 * mounting.residual_m:.1f} mm and "
        f"{1000 * mounting.residual_rad:.1f} mrad"
    )
    _save(found, config, out / "mounting_residuals")


def _pictures(config: CalibrateConfig, folder: Path, *, robot: str | None) -> Path:
    """Return a folder of pictures, taking them now unless there is one."""
    if config.pictures is not None:
        return config.pictures
    settings = config.camera.settings
    # the whole picture: what a policy gets is cut out of it, and `fitted` knows how
    whole = replace(settings, height=settings.capture_height, width=settings.capture_width)
    with ExitStack() as stack:
        camera = stack.enter_context(build_camera(replace(config.camera, settings=whole)))
        driver = None
        if robot is not None:
            driver = stack.enter_context(FrankaRobot(replace(config.franka, address=robot)))
            print(f"robot: {driver.description}; lead it by hand, nothing is sent to it")
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
    print(f"corners as seen and as they should be: {drawn}")
    print(f"calibration: {path}")


def _tell(errors: Mapping[str, float], refused: Mapping[str, str], unit: str) -> None:
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    print(f"worst pictures: {_worst(errors, unit)}")


def _worst(errors: Mapping[str, float], unit: str) -> str:
    worst = sorted(errors.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} ({value:.4f} {unit})" for name, value in worst)


def _listed(refused: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {why}" for name, why in refused.items())


def _residual_px(view: View, T_camera_board: Floats, lens: Intrinsics) -> float:
    apart = project(view.corners_m, T_camera_board, lens) - view.pixels
    return float(np.sqrt((apart**2).sum(axis=1).mean()))


main = command("calibrate", CalibrateConfig)(calibrate)

if __name__ == "__main__":
    main()
