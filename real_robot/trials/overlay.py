"""Draw where an object must be placed: its outline, in the image of a camera.

The object is a cube on the table. The edges of its base are drawn in full colour, the edges of its
top with thinner lines. A cross marks the centre, and an arrow shows the x axis of the cube. Poses
are in the frame of the arm's base. The calibration of the camera projects them into the image.
"""

import math

import numpy as np

from envs.geometry import Floats
from envs.simulation.scene import Camera as SceneCamera

from ..calibration.calibration import Calibration, Intrinsics, Mounting, project
from ..cameras.camera import Image
from ..cameras.opencv import opencv
from .poses import Pose

_FOOT, _TOP, _ARROW = (255, 60, 60), (255, 190, 60), (60, 220, 255)
_LEAST_WIDTH_PX = 640


def draw_overlay(
    image: Image,
    pose: Pose,
    calibration: Calibration,
    *,
    size_m: float,
    table_m: float,
    T_base_hand: Floats | None = None,
    text: str = "",
) -> Image:
    """Return a copy of the image with the outline of the object; a small image is enlarged.

    Args:
        image: image [h w 3] of the camera, uint8 RGB; it may be cropped and scaled.
        pose: pose of the object.
        calibration: calibration of the camera, with its mounting.
        size_m: length of the cube's edge, m.
        table_m: height of the table in the frame of the arm's base, m.
        T_base_hand: pose [4 4] of the hand in the frame of the base; None is allowed for a camera
            that is not on the hand.
        text: text that is written into the corner of the image.

    Raises:
        ValueError: the calibration has no mounting, the camera is on the hand and `T_base_hand` is
            None, or the base of the object is completely outside the image.
    """
    cv2 = opencv("overlays")
    scale = max(1, round(_LEAST_WIDTH_PX / image.shape[1]))
    height, width = image.shape[0] * scale, image.shape[1] * scale
    T_camera_base: Floats = np.linalg.inv(T_base_camera(calibration, T_base_hand)).astype(float)
    lens = calibration.intrinsics.fitted(height, width)
    pixels = project(_points(pose, size_m, table_m), T_camera_base, lens)
    across, down = pixels[:4].T  # a point with NaN counts as outside
    inside = (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)
    if not inside.any():
        raise ValueError(
            f"an object at {pose} is not in the image of camera {calibration.camera!r}: use "
            "another camera, or check the calibration"
        )
    drawn = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    drawn = np.ascontiguousarray(drawn, dtype=np.uint8)
    _draw_lines(drawn, pixels)
    if text:
        cv2.rectangle(drawn, (0, height - 26), (width, height), (0, 0, 0), cv2.FILLED)
        place, white = (10, height - 8), (255, 255, 255)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1, cv2.LINE_AA)
    return drawn


def _points(pose: Pose, size_m: float, table_m: float) -> Floats:
    """Return the 14 points of the drawing [14 3] in the frame of the arm's base, m.

    They are the corners of the base, the corners of the top, the ends of the cross, and the ends of
    the arrow.
    """
    middle = np.array([pose.x_m, pose.y_m, table_m])
    cross = 0.15 * size_m * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    ahead = np.array([math.cos(pose.yaw_rad), math.sin(pose.yaw_rad), 0.0])
    arrow = np.array([middle, middle + size_m * ahead])
    return np.concatenate([*outline(pose, size_m, table_m), middle + cross, arrow])


def _draw_lines(drawn: Image, pixels: Floats) -> None:
    """Draw the outline into an image, in place.

    Args:
        drawn: the image [h w 3].
        pixels: positions [14 2] of the points of `_points` in the image, pixels.
    """
    cv2 = opencv("overlays")
    # coordinates in sixteenths of a pixel; points behind the camera are NaN and are not drawn
    corners = np.round(np.clip(np.nan_to_num(pixels), -1e6, 1e6) * 16).astype(np.int32)
    visible = np.isfinite(pixels[:, 0])
    sides = [(index, (index + 1) % 4) for index in range(4)]
    lines = [
        line
        for first, last in sides
        for line in (
            (4 + first, 4 + last, _TOP, 1),
            (first, 4 + first, _TOP, 1),
            (first, last, _FOOT, 2),
        )
    ]
    for first, last, colour, thickness in (
        *lines,
        (8, 9, _FOOT, 1),
        (10, 11, _FOOT, 1),
        (12, 13, _ARROW, 2),
    ):
        if visible[first] and visible[last]:
            ends = (tuple(corners[first].tolist()), tuple(corners[last].tolist()))
            cv2.line(drawn, *ends, colour, thickness, cv2.LINE_AA, 4)


def outline(pose: Pose, size_m: float, table_m: float) -> tuple[Floats, Floats]:
    """Return the corners of the cube's base [4 3] and top [4 3], m, in the frame of the arm's base.

    Args:
        pose: pose of the cube.
        size_m: length of the cube's edge, m.
        table_m: height of the table, m.
    """
    cosine, sine = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    corners = size_m / 2 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
    turned = np.array([pose.x_m, pose.y_m]) + corners @ np.array([[cosine, sine], [-sine, cosine]])
    foot = np.column_stack([turned, np.full(4, table_m)])
    return foot, foot + np.array([0.0, 0.0, size_m])


def T_base_camera(calibration: Calibration, T_base_hand: Floats | None) -> Floats:
    """Return the pose [4 4] of the camera in the frame of the arm's base.

    Raises:
        ValueError: the calibration does not contain the camera's pose (`mounting`), or the camera
            is on the hand and `T_base_hand` is None.
    """
    mounting = calibration.mounting
    if mounting is None:
        raise ValueError(
            f"the calibration of camera {calibration.camera!r} has no mounting: run "
            "python -m real_robot.calibrate step=mounting"
        )
    T_parent_camera = np.array(mounting.T_parent_camera)
    if mounting.parent == "base":
        return T_parent_camera
    if T_base_hand is None:
        raise ValueError(f"camera {calibration.camera!r} is on the hand: T_base_hand is needed")
    return T_base_hand @ T_parent_camera


def calibration_of_scene(
    camera: SceneCamera,
    height: int,
    width: int,
    *,
    base_position_m: tuple[float, float, float],
    base_yaw_rad: float,
) -> Calibration:
    """Return the exact calibration of a simulated camera.

    Args:
        camera: the camera of the simulated scene, on the hand or fixed.
        height: height of the camera's images, pixels.
        width: width of the camera's images, pixels.
        base_position_m: position x, y, z of the arm's base in the world, m.
        base_yaw_rad: rotation of the arm's base about the vertical axis of the world, rad.
    """
    ahead = np.subtract(camera.target_m, camera.position_m)
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, camera.up)
    right = right / np.linalg.norm(right)
    T_carrier_camera = np.eye(4)
    T_carrier_camera[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    T_carrier_camera[:3, 3] = camera.position_m
    if camera.body is None:
        cosine, sine = math.cos(base_yaw_rad), math.sin(base_yaw_rad)
        T_world_base = np.eye(4)
        T_world_base[:2, :2] = [[cosine, -sine], [sine, cosine]]
        T_world_base[:3, 3] = base_position_m
        T_carrier_camera = np.linalg.inv(T_world_base) @ T_carrier_camera
    focal_px = height / 2 / math.tan(math.radians(camera.fov_y_deg) / 2)
    return Calibration(
        camera=camera.name,
        intrinsics=Intrinsics(
            height=height,
            width=width,
            focal_px=(focal_px, focal_px),
            centre_px=((width - 1) / 2, (height - 1) / 2),
            distortion=(0.0,) * 5,
            residual_px=0.0,
            focal_deviation_px=0.0,
            num_views=0,
        ),
        mounting=Mounting(
            parent="base" if camera.body is None else "hand",
            T_parent_camera=tuple(tuple(float(x) for x in row) for row in T_carrier_camera),
            residual_m=0.0,
            residual_rad=0.0,
            num_views=0,
        ),
    )
