"""The command computes intrinsics and mounting from rendered images, and lists bad images."""

import json
import re
import zlib
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest

from envs.arms.franka import FRANKA_FR3
from envs.arms.kinematics import forward_kinematics
from real_robot.calibrate import CalibrateConfig, calibrate, solve_lens, solve_mounting
from real_robot.calibration.board import find_board
from real_robot.calibration.board_images import draw_residuals, read_poses, read_shots, take_shots
from real_robot.calibration.board_page import PageConfig, draw_page, write_board
from real_robot.calibration.calibration import Calibration, load
from real_robot.calibration.solving import board_pose
from real_robot.cameras.camera import Frame
from real_robot.cameras.png import write_png
from tests.real_robot.calibration.test_calibration import (
    BOARD,
    HEIGHT,
    WIDTH,
    apart,
    camera_poses,
    draw,
    pose,
)
from tests.real_robot.fake_robot import FakeRobot

HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
T_HAND_CAMERA = pose([0.1, -0.2, 1.5], [0.05, -0.03, 0.06])
LOOSE = {"max_m": 0.005, "max_rad": 0.02}


def config_of(*words, **changes):
    from toto_robot.cli import compose
    from toto_robot.config import from_dict

    data, _ = compose("calibrate", words)
    return replace(from_dict(CalibrateConfig, data), **changes)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of ten views, each from another pose of an arm with a hand camera."""
    folder = tmp_path_factory.mktemp("images")
    T_camera_board = pose([0.2, -0.3, 0.1], [0.0, 0.0, 0.42]) @ pose([0, 0, 0], [-0.12, -0.09, 0])
    T_base_board = forward_kinematics(FRANKA_FR3, HOME) @ T_HAND_CAMERA @ T_camera_board
    rng, poses = np.random.default_rng(3), {}
    while len(poses) < 10:
        joints = HOME + rng.uniform(-1, 1, 7) * [0.06, 0.06, 0.06, 0.06, 0.2, 0.2, 0.3]
        T_base_camera = forward_kinematics(FRANKA_FR3, joints) @ T_HAND_CAMERA
        image = draw(np.linalg.inv(T_base_camera) @ T_base_board)
        try:
            seen = find_board(BOARD, image)
        except ValueError:
            continue
        if len(seen.pixels) >= 20:
            name = f"{len(poses):03d}.png"
            write_png(folder / name, image)
            poses[name] = joints.tolist()
    (folder / "poses.json").write_text(json.dumps(poses))
    return folder


@pytest.fixture(scope="module")
def shots(images):
    found, refused = read_shots(BOARD, images)
    assert refused == {}
    return found


@pytest.fixture(scope="module")
def lens(shots):
    return solve_lens(shots, {}, max_px=0.3, max_deviation=0.01)[0]


def test_the_whole_way_from_images_to_a_calibration(images, tmp_path, capsys) -> None:
    folder, out = tmp_path / "calibration", tmp_path / "out"
    steps = config_of(step="lens", board=BOARD, images=images, folder=folder)
    calibrate(steps, out)
    calibrate(replace(steps, step="mounting"), out)
    lines = capsys.readouterr().out
    found = load(folder / "hand.json")
    assert np.abs(np.array(found.intrinsics.focal_px) - [610.0, 612.0]).max() < 5.0  # px
    metres, radians = apart(found.mounting.T_parent_camera, T_HAND_CAMERA)
    assert metres < 0.003
    assert radians < 0.01
    assert f"calibration: {folder / 'hand.json'}" in lines
    assert re.search(r"residual [01]\.\d mm", lines)
    for name in ("lens_residuals", "mounting_residuals"):
        drawn = sorted((out / "hand" / name).iterdir())
        assert len(drawn) == 10
        image = cv2.cvtColor(cv2.imread(str(drawn[0])), cv2.COLOR_BGR2RGB).astype(int)
        assert ((image[..., 0] - image[..., 1] > 100) & (image[..., 0] > 180)).sum() > 100  # red
    with pytest.raises(SystemExit, match=r"calibrate: .*not a calibration"):
        calibrate(replace(steps, step="mounting", folder=tmp_path / "elsewhere"), out)


def test_images_without_the_board_are_named(images, tmp_path) -> None:
    for name in ("000.png", "001.png"):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    write_png(tmp_path / "007.png", np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    (tmp_path / "008.png").write_bytes(b"no image")
    found, refused = read_shots(BOARD, tmp_path)
    assert [shot.name for shot in found] == ["000.png", "001.png"]
    assert refused["007.png"].startswith("0 of the board's 35 corners")
    assert refused["008.png"] == "not a readable image"
    with pytest.raises(ValueError, match=r"2 views, at least 5.*\n  007\.png: 0 of the board"):
        solve_lens(found, refused, max_px=1.0, max_deviation=0.01)
    with pytest.raises(ValueError, match="in none of the images"):
        solve_lens([], refused, max_px=1.0, max_deviation=0.01)
    write_png(tmp_path / "small.png", np.zeros((100, 100, 3), np.uint8))
    with pytest.raises(ValueError, match=r"different sizes .*100 x 100: small\.png"):
        read_shots(BOARD, tmp_path)
    with pytest.raises(ValueError, match="none is not a folder"):
        read_shots(BOARD, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        read_shots(BOARD, tmp_path / "empty")


def test_a_bad_lens_is_refused_and_the_worst_image_named(shots) -> None:
    rng = np.random.default_rng(0)
    view = shots[4].view
    blurred = replace(
        shots[4], view=replace(view, pixels=view.pixels + rng.normal(0, 8, view.pixels.shape))
    )
    with pytest.raises(ValueError, match=r"residual of the corners .*worst: 004\.png"):
        solve_lens([*shots[:4], blurred, *shots[5:]], {}, max_px=0.5, max_deviation=1.0)
    with pytest.raises(ValueError, match="too alike"):
        solve_lens(shots, {}, max_px=1.0, max_deviation=1e-6)


def test_a_bad_mounting_is_refused_and_the_worst_image_named(images, shots, lens) -> None:
    poses = read_poses(images)
    known = Calibration(camera="hand", intrinsics=lens, mounting=None)
    moved = {**poses, "006.png": (np.array(poses["006.png"]) + 0.1).tolist()}
    with pytest.raises(ValueError, match=r"the board's pose differs .*worst: 006\.png"):
        solve_mounting(shots, {}, moved, known, parent="hand", **LOOSE)
    del moved["003.png"]
    with pytest.raises(ValueError, match=r"no joint positions for 003\.png"):
        solve_mounting(shots, {}, moved, known, parent="hand", **LOOSE)
    other = replace(known, intrinsics=replace(lens, height=240, width=320))
    with pytest.raises(ValueError, match=r"000\.png is 480 x 640, .* calibrated at 240 x 320"):
        solve_mounting(shots, {}, poses, other, parent="hand", **LOOSE)
    with pytest.raises(ValueError, match=r"3 views.*\n  009\.png: dark"):
        solve_mounting(shots[:3], {"009.png": "dark"}, poses, known, parent="hand", **LOOSE)


def test_a_camera_that_stands_is_found_too(shots, lens) -> None:
    # the same views, as if the hand had carried the board: joints that put it there are not known,
    # so the hands' poses are said instead of the joints
    known = Calibration(camera="front", intrinsics=lens, mounting=None)
    T_base_camera, T_hand_board = pose([2.0, 0.3, 0.1], [0.9, 0.1, 0.6]), pose([0, 0.1, 0], [0] * 3)
    boards = {shot.name: board_pose(shot.view, lens) for shot in shots}
    hands = {name: T_base_camera @ T @ np.linalg.inv(T_hand_board) for name, T in boards.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("real_robot.calibrate.forward_kinematics", lambda arm, joints: joints)
        found, errors, expected = solve_mounting(shots, {}, hands, known, parent="base", **LOOSE)
    assert apart(found.mounting.T_parent_camera, T_base_camera) == pytest.approx((0, 0), abs=1e-6)
    assert max(errors.values()) < 1e-6
    for name, T in expected.items():
        np.testing.assert_allclose(T, boards[name], atol=1e-6)
    drawn = draw_residuals(shots[0], expected[shots[0].name], lens)
    assert drawn.shape == shots[0].image.shape


class FakeCamera:
    """A camera that returns images one after the other; has the used part of `Camera`."""

    def __init__(self, images, robot=None, moves_at=None):
        self.images, self.robot, self.moves_at, self.asked = list(images), robot, moves_at, 0

    def wait(self, timeout_s, *, sequence=0):
        if sequence:
            self.asked += 1
            if self.asked == self.moves_at:
                self.robot.positions = self.robot.positions + 0.01
            return Frame(camera="hand", image=self.images.pop(0), stamp_s=1.0, sequence=sequence)
        return Frame(camera="hand", image=self.images[0], stamp_s=0.0, sequence=0)


def test_a_person_takes_images_and_bad_ones_do_not_count(tmp_path) -> None:
    good = [draw(T) for T in camera_poses(3)]
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    robot = FakeRobot(HOME, clock=lambda: 0.0)
    robot.connect()
    camera = FakeCamera([good[0], grey, good[1], good[2]], robot, moves_at=3)
    lines = []
    take_shots(
        camera, BOARD, 2, tmp_path, robot=robot, ask=lambda question: "", report=lines.append
    )
    assert [line for line in lines if line.startswith("not taken")] == [
        next(line for line in lines if "0 of the board's 35 corners" in line),
        "not taken: the arm moved by 0.0100 rad during the capture",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.png", "001.png", "poses.json"]
    assert read_poses(tmp_path)["001.png"] == pytest.approx((HOME + 0.01).tolist())
    answers = ["q"]
    take_shots(
        camera, BOARD, 3, tmp_path, robot=None, ask=lambda _: answers.pop(), report=lines.append
    )
    assert lines[-1] == f"2 of 3 images are in {tmp_path}"
    take_shots(camera, BOARD, 2, tmp_path, robot=None, ask=pytest.fail, report=lines.append)
    assert lines[-1].startswith("no image is taken; for a new calibration")
    (tmp_path / "poses.json").write_text('{"000.png": [1, 2]}')
    with pytest.raises(ValueError, match=r"000\.png needs 7 finite numbers"):
        read_poses(tmp_path)
    (tmp_path / "poses.json").write_text("[]")
    with pytest.raises(ValueError, match=r"poses\.json must have the joints"):
        read_poses(tmp_path)


def test_a_new_image_never_replaces_one_that_is_there(tmp_path) -> None:
    images = [draw(T) for T in camera_poses(4)]
    for number in (0, 2, 3):  # 001.png was bad, and a person has deleted it
        write_png(tmp_path / f"{number:03d}.png", images[0])
    before = (tmp_path / "003.png").read_bytes()
    camera = FakeCamera([images[1]], None, moves_at=None)
    take_shots(camera, BOARD, 4, tmp_path, robot=None, ask=lambda _: "", report=lambda _: None)
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [
        "000.png", "002.png", "003.png", "004.png",
    ]  # fmt: skip
    assert (tmp_path / "003.png").read_bytes() == before


def test_a_second_camera_has_images_of_its_own(monkeypatch, tmp_path) -> None:
    folders = []

    @contextmanager
    def opened(config):
        yield config.settings.name

    def take(camera, board, num, folder, *, robot):
        folders.append(folder)
        folder.mkdir(parents=True)

    monkeypatch.setattr("real_robot.calibrate.build_camera", opened)
    monkeypatch.setattr("real_robot.calibrate.take_shots", take)
    for camera in ("uvc", "realsense"):
        with pytest.raises(SystemExit, match="has no images"):
            calibrate(config_of(f"camera={camera}", step="lens", images=None), tmp_path)
    assert folders == [tmp_path / "front" / "lens", tmp_path / "hand" / "lens"]


def test_a_printed_board_has_the_size_that_it_says(tmp_path) -> None:
    page = PageConfig(width_m=0.297, height_m=0.21, dpi=150)
    path, square_m = write_board(BOARD, page, tmp_path)
    assert square_m == pytest.approx(0.03, abs=0.5 * 0.0254 / 150)
    png = (tmp_path / "board.png").read_bytes()
    assert b"pHYs" + (5906).to_bytes(4, "big") * 2 + b"\1" in png[:80]  # dots per metre
    image = cv2.imread(str(tmp_path / "board.png"))
    corners = find_board(BOARD, image)
    assert len(corners.pixels) == 35
    edges = np.diff(corners.pixels[:7], axis=0)[:, 0] / 150 * 0.0254
    assert edges == pytest.approx(square_m, abs=1e-4)  # m
    pdf = path.read_bytes()
    assert re.search(rb"/MediaBox \[0 0 (841\.\d+|842\.\d+) 595\.\d+\]", pdf)  # A4, lying, points
    width, height = (int(re.search(rb"/%s (\d+)" % name, pdf)[1]) for name in (b"Width", b"Height"))
    packed = pdf[pdf.index(b"stream\n", pdf.index(b"/FlateDecode")) + 7 :]
    pixels = np.frombuffer(zlib.decompressobj().decompress(packed), np.uint8)
    assert (pixels.reshape(height, width) == image[..., 0]).all()
    offset = int(re.search(rb"startxref\n(\d+)", pdf)[1])
    assert pdf[offset:].startswith(b"xref\n0 6\n")
    for number, entry in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), start=1):
        assert pdf[int(entry) :].startswith(b"%d 0 obj" % number)


def test_a_board_that_cannot_be_printed_is_refused() -> None:
    page = PageConfig(width_m=0.297, height_m=0.21, dpi=150)
    with pytest.raises(ValueError, match=r"do not fit on paper"):
        draw_page(replace(BOARD, square_m=0.04), page)
    with pytest.raises(ValueError, match="too small to draw"):
        draw_page(replace(BOARD, marker_m=0.002), page)
    with pytest.raises(ValueError, match="robot=<address>"):
        config_of(step="mounting")
