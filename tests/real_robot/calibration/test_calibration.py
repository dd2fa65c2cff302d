"""Known intrinsics and a known mounting are computed from rendered images of the board."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from envs.geometry import rotation_vector
from real_robot.calibration.board import Board, find_board
from real_robot.calibration.calibration import Calibration, load, save
from real_robot.calibration.solving import board_pose, calibrate_lens, calibrate_mounting
from real_robot.cameras.fit import fit

BOARD = Board(columns=8, rows=6, square_m=0.03, marker_m=0.022, dictionary="DICT_5X5_100")
HEIGHT, WIDTH = 480, 640
MATRIX = np.array([[610.0, 0.0, 315.0], [0.0, 612.0, 243.0], [0.0, 0.0, 1.0]])
PX_PER_M = 4000


def pose(turn, place):
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array(turn, dtype=np.float64))[0]
    T[:3, 3] = place
    return T


def draw(T_camera_board):
    """Draw the board as a camera without distortion sees it."""
    size = (round(BOARD.columns * 0.03 * PX_PER_M), round(BOARD.rows * 0.03 * PX_PER_M))
    flat = BOARD.build().generateImage(size, marginSize=0)
    # the middle of a drawn pixel is half a pixel's width from the board's edge
    to_board = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, PX_PER_M]]) / PX_PER_M
    to_camera = MATRIX @ T_camera_board[:3, [0, 1, 3]] @ to_board
    flat = cv2.GaussianBlur(flat, (0, 0), 2.5)  # a lens blurs, too; and no aliasing
    grey = cv2.warpPerspective(flat, to_camera, (WIDTH, HEIGHT), borderValue=128)
    return np.repeat(grey[..., None], 3, axis=-1)


def camera_poses(num):
    """Return `T_camera_board` of several views: tilted, and in every corner."""
    rng = np.random.default_rng(1)
    middle = pose([0, 0, 0], [-0.12, -0.09, 0])
    return [
        pose(
            [rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4)],
            [rng.uniform(-0.06, 0.06), rng.uniform(-0.04, 0.04), rng.uniform(0.33, 0.5)],
        )
        @ middle
        for _ in range(num)
    ]


@pytest.fixture(scope="module")
def truth():
    return camera_poses(10)


@pytest.fixture(scope="module")
def views(truth):
    return [find_board(BOARD, draw(T)) for T in truth]


@pytest.fixture(scope="module")
def lens(views):
    return calibrate_lens(views, height=HEIGHT, width=WIDTH)


def apart(one, other):
    """Return distance in m and angle in rad between two poses."""
    one, other = np.asarray(one), np.asarray(other)
    angle = np.linalg.norm(rotation_vector(one[:3, :3].T @ other[:3, :3]))
    return np.linalg.norm(one[:3, 3] - other[:3, 3]), angle


def test_the_lens_is_found(lens) -> None:
    assert np.abs(np.array(lens.focal_px) - [610.0, 612.0]).max() < 3.0  # px
    assert np.abs(np.array(lens.centre_px) - [315.0, 243.0]).max() < 3.0  # px
    assert lens.residual_px < 0.2
    assert 0 < lens.focal_deviation_px < 3.0
    assert lens.num_views == 10


def test_the_board_is_where_it_was_drawn(views, lens, truth) -> None:
    known = replace(lens, focal_px=(610.0, 612.0), centre_px=(315.0, 243.0), distortion=(0.0,) * 5)
    for view, wanted in zip(views, truth, strict=True):
        metres, radians = apart(board_pose(view, known), wanted)
        assert metres < 0.001
        assert radians < 0.01


@pytest.mark.parametrize("parent", ["hand", "base"])
def test_the_camera_is_where_it_is(parent, views, lens, truth) -> None:
    wanted = pose([0.1, -0.2, 1.5], [0.05, -0.03, 0.06])  # T_parent_camera
    fixed = pose([3.0, 0.1, 0.2], [0.5, 0.1, 0.02])  # of the board, in what it rests in
    others = [fixed @ np.linalg.inv(wanted @ T) for T in truth]
    hands = [T if parent == "hand" else np.linalg.inv(T) for T in others]
    exact = calibrate_mounting(hands, truth, parent=parent)
    assert apart(exact.T_parent_camera, wanted) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert exact.residual_m < 1e-6
    seen = calibrate_mounting(hands, [board_pose(view, lens) for view in views], parent=parent)
    metres, radians = apart(seen.T_parent_camera, wanted)
    assert metres < 0.003
    assert radians < 0.01
    assert seen.residual_m < 0.003
    assert seen.residual_rad < 0.01
    assert (seen.parent, seen.num_views) == (parent, 10)
    wrong = [hands[1], hands[0], *hands[2:]]  # poses and images mixed up
    assert calibrate_mounting(wrong, truth, parent=parent).residual_m > 0.01


def test_what_cannot_be_found_is_said(truth, views) -> None:
    turned = [pose([0, 0, 0.3 * index], [0.1 * index, 0, 0]) for index in range(10)]
    with pytest.raises(ValueError, match="one axis only"):
        calibrate_mounting(turned, truth, parent="hand")
    with pytest.raises(ValueError, match="3 views"):
        calibrate_mounting(turned[:3], truth[:3], parent="hand")
    with pytest.raises(ValueError, match="9 hand poses but 10"):
        calibrate_mounting(turned[:9], truth, parent="hand")
    with pytest.raises(ValueError, match="2 views"):
        calibrate_lens(views[:2], height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match="0 of the board's 35 corners"):
        find_board(BOARD, np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    with pytest.raises(ValueError, match="DICT_5X5_100"):
        replace(BOARD, dictionary="DICT_OF_ODD").build()
    with pytest.raises(ValueError, match="less than square_m"):
        replace(BOARD, marker_m=0.04)


def test_the_intrinsics_of_a_cropped_and_scaled_image(truth, lens) -> None:
    small = fit(draw(truth[0]), 240, 240)
    assert small.shape == (240, 240, 3)
    known = replace(lens, focal_px=(610.0, 612.0), centre_px=(315.0, 243.0), distortion=(0.0,) * 5)
    found = board_pose(find_board(BOARD, small), known.fitted(240, 240))
    metres, radians = apart(found, truth[0])
    assert metres < 0.003
    assert radians < 0.02


def test_it_is_kept_as_json(tmp_path, lens, truth) -> None:
    hands = [pose([0, 0, 0], [0, 0, 0]) @ np.linalg.inv(T) for T in truth]
    for mounting in (None, calibrate_mounting(hands, truth, parent="hand")):
        calibration = Calibration(camera="hand", intrinsics=lens, mounting=mounting)
        path = tmp_path / "calibration" / "hand.json"
        save(calibration, path)
        assert load(path) == calibration
        assert [item.name for item in path.parent.iterdir()] == ["hand.json"]
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"hand\.json is not a calibration.*intrinsics"):
        load(path)
