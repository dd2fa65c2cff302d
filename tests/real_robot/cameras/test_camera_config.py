"""A camera is built from its YAML."""

from pathlib import Path

import pytest
import yaml

from real_robot.cameras.camera import Camera
from real_robot.cameras.config import CameraConfig, build_camera
from toto_robot.config import from_dict, to_dict

FOLDER = Path(__file__).parents[3] / "configs/camera"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_yaml_says_everything(path) -> None:
    data = yaml.safe_load(path.read_text())
    config = from_dict(CameraConfig, data)
    assert to_dict(config) == data
    camera = build_camera(config)
    assert isinstance(camera, Camera)
    assert camera.name == data["settings"]["name"]


def test_there_is_one_for_each_kind_of_source() -> None:
    kinds = {yaml.safe_load(path.read_text())["source"]["kind"] for path in FOLDER.glob("*.yaml")}
    assert kinds == {"uvc", "rtsp", "file", "realsense"}


def test_sizes_that_differ_and_unknown_kinds_are_named() -> None:
    data = yaml.safe_load((FOLDER / "uvc.yaml").read_text())
    with pytest.raises(ValueError, match=r"set to 720 x 640, but .* is 480 x 640"):
        from_dict(CameraConfig, data | {"source": data["source"] | {"height": 720}})
    with pytest.raises(ValueError, match="'webcam' is not one of"):
        from_dict(CameraConfig, data | {"source": {"kind": "webcam"}})
