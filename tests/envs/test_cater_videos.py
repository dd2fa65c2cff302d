"""`toto-robot cater_videos`: plans of hidden objects, and the command as a user types it."""

import json

import numpy as np
import pytest

from envs.cater_actions import FITS, cell_of, plan_video
from tests.command_lines import run
from toto_robot.data.video import read_frames

MODULE = "envs.cater_videos"


def plans(count=40, moving_camera=False):
    return [plan_video(np.random.default_rng(seed), moving_camera) for seed in range(count)]


@pytest.mark.parametrize(
    ("position", "cell"),
    [((-3, -3), 0), ((2.9, -3), 5), ((-2.5, -1.5), 6), ((0, 0), 21), ((-0.01, 2.99), 32)],
)
def test_cells_are_numbered_as_in_caters_lists(position, cell):
    assert cell_of(position) == cell


def test_a_hidden_object_is_where_its_cone_is_and_fits_into_it():
    cases = 0
    for plan in plans():
        numbers = {item.name: i for i, item in enumerate(plan.items)}
        for movement in plan.movements:
            if movement.action != "contain":
                continue
            cone, inside = numbers[movement.item], numbers[movement.covered]
            assert plan.items[inside].size <= FITS[plan.items[inside].shape] * plan.items[cone].size
            lifted = [one.first for one in plan.movements
                      if one.item == movement.item and one.first > movement.last
                      and one.action in ("pick_place", "contain")]  # fmt: skip
            hidden = slice(movement.last, min(lifted, default=300))
            assert plan.covered[hidden, inside].all()
            np.testing.assert_allclose(
                plan.positions[hidden, inside], plan.positions[hidden, cone], atol=1e-12
            )
            cases += 1
    assert cases > 40


def test_covered_objects_are_carried_along_also_in_two_cones():
    carried = nested = 0
    for plan in plans():
        moved = np.abs(np.diff(plan.positions[:, 0], axis=0)).sum(1) > 0
        carried += bool((moved & plan.covered[1:, 0]).any())
        both = plan.covered[:, 0, None] & plan.covered[:, 1:]
        nested += bool((both & (plan.positions[:, :1] == plan.positions[:, 1:]).all(-1)).any())
    assert carried >= 10
    assert nested >= 3


def test_objects_on_the_table_stay_apart_and_on_it():
    for plan in plans(15):
        assert np.abs(plan.positions[..., :2]).max() <= 2.6
        still = np.ptp(plan.positions[295:], axis=0).max(-1) == 0
        seen = np.flatnonzero(still & ~plan.covered[-1])
        for i in seen:
            for j in seen[seen > i]:
                distance = np.linalg.norm(plan.positions[-1, i] - plan.positions[-1, j])
                assert distance >= plan.items[i].radius + plan.items[j].radius


def test_the_camera_moves_on_request():
    still, moving = plans(1)[0], plans(1, moving_camera=True)[0]
    assert np.ptp(still.camera, axis=0).max() == 0
    assert np.ptp(moving.camera, axis=0).max() > 1
    np.testing.assert_array_equal(still.camera[0], moving.camera[0])
    np.testing.assert_allclose(np.linalg.norm(moving.camera, axis=1), 10.5)


def test_the_command_writes_videos_lists_and_labels_of_the_simulation(tmp_path):
    out = tmp_path / "cater"
    line = f"out={out} num_videos=10 frame_step=75 image_size=64 first_seed=40"
    done = run(MODULE, line)
    assert done.code == 0, done.err
    lists = out / "lists/localize"
    train, val = ((lists / f"{part}.txt").read_text().split("\n")[:-1] for part in ("train", "val"))
    assert (len(train), len(val)) == (7, 3)
    hidden = (lists / "hidden.txt").read_text().split("\n")[:-1]
    assert set(hidden) <= set(val)
    for line_of_list in train + val:
        name, cell = line_of_list.split()
        seed = int(name.removeprefix("CATER_new_").removesuffix(".mp4"))
        plan = plan_video(np.random.default_rng(seed), False)
        assert int(cell) == cell_of(plan.positions[-1, 0])
        assert read_frames(out / "videos" / name).shape == (4, 64, 64, 3)
        if line_of_list in val:
            assert (line_of_list in hidden) == plan.covered[-1, 0]


def test_the_snitch_is_seen_exactly_when_no_cone_covers_it(tmp_path):
    out = tmp_path / "cater"
    assert run(MODULE, f"out={out} num_videos=6 frame_step=50 image_size=128").code == 0
    seen = []
    for path in sorted((out / "scenes").iterdir()):
        covered = set(json.loads(path.read_text())["snitch_covered"])
        frames = read_frames(out / "videos" / f"{path.stem}.mp4").astype(int)
        red, green, blue = np.moveaxis(frames, -1, 0)
        golden = ((red - blue > 90) & (green - blue > 50)).sum((1, 2))
        for number, pixels in zip(range(49, 300, 50), golden, strict=True):
            if number in covered:
                assert pixels == 0
            else:
                seen.append(pixels)
    assert np.mean(np.array(seen) > 0) > 0.7  # otherwise, another object occludes the snitch


def test_the_command_resumes_adds_videos_and_is_deterministic(tmp_path):
    line = "frame_step=100 image_size=32 "
    assert run(MODULE, f"{line} out={tmp_path}/a num_videos=2").code == 0
    path = tmp_path / "a/videos/CATER_new_000001.mp4"
    before, time_ns = path.read_bytes(), path.stat().st_mtime_ns
    (tmp_path / "a/scenes/CATER_new_000000.json").unlink()  # as if it had been stopped there
    assert run(MODULE, f"{line} out={tmp_path}/a num_videos=4").code == 0
    assert path.stat().st_mtime_ns == time_ns
    assert len(list((tmp_path / "a/videos").iterdir())) == 4
    assert run(MODULE, f"{line} out={tmp_path}/b num_videos=2 num_workers=2").code == 0
    assert (tmp_path / "b/videos/CATER_new_000001.mp4").read_bytes() == before


def test_wrong_settings_are_named(tmp_path):
    done = run(MODULE, f"out={tmp_path}/a frame_step=7")
    assert done.code == 1
    assert "frame_step must divide 300, got 7" in done.err
    assert run(MODULE, f"out={tmp_path}/a num_videos=1 frame_step=300 image_size=32").code == 0
    done = run(MODULE, f"out={tmp_path}/a num_videos=1 frame_step=150 image_size=32")
    assert done.code == 1
    assert "frame_step" in done.err
