"""The twin's scene and cameras."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from envs.catalogue import make
from real_robot.cameras.camera import SourceError, StaleFrameError
from real_robot.cameras.threaded import CameraSettings, ThreadedCamera
from real_robot.episode import Scene
from real_robot.twin import STANDARD, TwinError, start_twin
from tests.real_robot.twin_fixture import require_twin, twin  # noqa: F401

SIZE = STANDARD.image_size


@pytest.fixture
def client(twin):  # noqa: F811
    with twin.client() as client:
        for name in ("hand", "front"):
            client.set_camera(name, "live")
        client.reset()
        yield client


def look(twin, name):  # noqa: F811
    settings = CameraSettings(
        name=name,
        capture_height=SIZE,
        capture_width=SIZE,
        height=SIZE,
        width=SIZE,
        frozen_after_s=None,
        first_retry_s=0.1,
        max_retry_s=0.2,
    )
    return ThreadedCamera(settings, twin.camera_source(name))


def drain(source):
    for _ in range(100):
        source.read()


def yaw_of(pose):
    w, _, _, z = pose[3:]
    return 2 * math.atan2(z, w)


@pytest.mark.parametrize(
    ("x_m", "y_m", "yaw_rad"), [(0.5, 0.0, 0.0), (0.42, -0.18, 0.7), (0.58, 0.19, -1.3)]
)
def test_the_cube_lies_where_it_is_put(client, x_m, y_m, yaw_rad):
    assert isinstance(client, Scene)
    client.place(x_m, y_m, yaw_rad)
    pose = client.object_pose()
    assert pose[:2] == pytest.approx((x_m, y_m), abs=1e-4)  # m
    assert pose[2] == pytest.approx(0.4 + 0.0225, abs=1e-3)  # m: on the table
    turn = (yaw_of(pose) - yaw_rad + math.pi) % (2 * math.pi) - math.pi
    assert turn == pytest.approx(0.0, abs=1e-3)  # rad
    assert not client.succeeded()


def test_a_cube_that_falls_off_the_table_is_reported(client):
    with pytest.raises(ValueError, match="does not come to rest on the table"):
        client.place(0.9, 0.0, 0.0)
    assert client.status()["failed"]


def test_state_is_named_as_the_environment_names_it(client):
    environment = make(env_id=STANDARD.env_id, cameras=(), image_size=SIZE, privileged=True)
    state = client.state()["state"]
    assert set(state) <= set(environment.state_names)
    assert "cube_position_x" in state


@pytest.mark.parametrize("name", ["hand", "front"])
def test_images_equal_the_environments_to_the_bit(twin, client, name):  # noqa: F811
    client.place(0.45, 0.12, 0.5)
    environment = make(env_id=STANDARD.env_id, cameras=(name,), image_size=SIZE)
    first = environment.reset(seed=0)[0][f"image_{name}"]
    with look(twin, name) as camera:
        frame = camera.wait(10.0)
        # one that was begun after the cube lay still
        image = camera.wait(10.0, sequence=frame.sequence + 3).image
    environment.simulator.place(np.array(client.state()["positions"]))
    expected = environment.simulator.render(name, SIZE, SIZE)
    environment.close()
    assert np.array_equal(image, expected)
    assert not np.array_equal(image, first)


def test_cameras_keep_their_rate(twin, client):  # noqa: F811
    with look(twin, "hand") as hand, look(twin, "front") as front:
        first = hand.wait(10.0).sequence, front.wait(10.0).sequence
        hand.wait(30.0, sequence=first[0] + 30)
        front.wait(30.0, sequence=first[1] + 30)
        rates = client.rates()["cameras_hz"]
    assert 1.0 < rates["hand"] < 1.3 * STANDARD.camera_rate_hz
    assert 1.0 < rates["front"] < 1.3 * STANDARD.camera_rate_hz


def test_frozen_stalled_unplugged_and_back(twin, client):  # noqa: F811
    with look(twin, "hand") as camera:
        frame = camera.wait(10.0)
        client.set_camera("hand", "frozen")
        frozen = camera.wait(10.0, sequence=frame.sequence + 5)
        client.place(0.5, 0.15, 0.3)
        later = camera.wait(10.0, sequence=frozen.sequence + 5)
        assert np.array_equal(frozen.image, later.image)
        client.set_camera("hand", "stalled")
        time.sleep(0.4)
        with pytest.raises(StaleFrameError):
            camera.read(max_age_s=0.2)
        client.set_camera("hand", "unplugged")
        time.sleep(0.5)
        with pytest.raises(StaleFrameError, match="unplugged"):
            camera.read(max_age_s=0.2)
        client.set_camera("hand", "live")
        back = camera.wait(10.0, sequence=later.sequence + 5)
        assert not np.array_equal(back.image, frozen.image)


def test_what_is_not_there_is_named(twin, client):  # noqa: F811
    source = twin.camera_source("ceiling")
    with pytest.raises(SourceError, match="no camera 'ceiling'; known: hand, front"):
        source.open()
    with pytest.raises(SourceError, match="is not open"):
        source.read()
    with pytest.raises(ValueError, match="no camera 'ceiling'; known: hand, front"):
        client.set_camera("ceiling", "live")
    with pytest.raises(ValueError, match="unknown mode 'broken'; known: live, frozen"):
        client.set_camera("hand", "broken")


@pytest.mark.slow  # two twins more
def test_two_twins_at_once(client):
    require_twin()
    with start_twin(replace(STANDARD, image_size=64)) as other, other.client() as second:
        client.place(0.45, 0.1, 0.0)
        second.place(0.55, -0.1, 0.0)
        assert client.object_pose()[0] == pytest.approx(0.45, abs=1e-3)
        assert second.object_pose()[0] == pytest.approx(0.55, abs=1e-3)
        source = other.camera_source("front")
        source.open()
        assert source.read().shape == (64, 64, 3)
        other.kill()
        # images that were sent before may still arrive
        with pytest.raises(SourceError):
            drain(source)
        source.close()
        with pytest.raises(TwinError, match=r"has ended|does not answer"):
            second.status()
    assert client.status()["mode"] == "kIdle"
