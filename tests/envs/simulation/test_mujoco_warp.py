"""MuJoCo Warp against MuJoCo, on Warp's CPU device: motion, contacts, and what cameras see.

The contract of all engines is in test_simulator_contract.py. The first run compiles kernels for
minutes, so these tests are slow; Warp keeps the kernels in its cache.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks import worlds
from envs.backend_check import compare_images, structural_similarity
from envs.catalogue import variant
from envs.experts import EXPERTS
from envs.geometry import points_on
from envs.randomisation import parse
from envs.simulation.backends import make_backend
from envs.simulation.scene import Appearance, Quality
from envs.variation import draw, populate
from toto_robot import load_encoder

pytest.importorskip("mujoco_warp", reason="the extra `warp` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_WORLDS, SIZE_PX = 4, 128
LOOKS = ("colours", "lights", "camera", "textures", "object_size", "distractors")
GRAVITY = 9.81


def variations(env_id, groups=(), first_seed=0):
    """Return arm, scene, and the drawn starts and looks of `NUM_WORLDS` episodes."""
    chosen, randomisation = variant(env_id), parse(groups)
    scene = populate(chosen.task.scene(chosen.arm), randomisation)
    drawn = []
    for seed in range(first_seed, first_seed + NUM_WORLDS):
        rng = np.random.default_rng(seed)
        start = chosen.task.sample_start(chosen.arm, rng)
        drawn.append(draw(scene, chosen.task, start, randomisation, rng))
    return chosen, scene, drawn


def both(env_id, groups=()):
    """Return the same episodes in MuJoCo and in MuJoCo Warp."""
    chosen, scene, drawn = variations(env_id, groups)
    engines = [make_backend(name, NUM_WORLDS) for name in ("mujoco", "mujoco_warp")]
    for engine in engines:
        engine.build(scene, chosen.arm)
        engine.reset(None, [one.start for one in drawn], [one.appearance for one in drawn])
    return chosen, drawn, engines


@pytest.fixture(scope="module")
def pick():
    chosen, drawn, engines = both("toto/FrankaPick-v0")
    yield chosen, drawn, engines
    for engine in engines:
        engine.close()


@pytest.fixture
def fresh(pick):
    chosen, drawn, engines = pick
    for engine in engines:
        engine.reset(None, [one.start for one in drawn], [Appearance()] * NUM_WORLDS)
    return chosen, drawn, engines


def sent(drawn, change=0.0):
    return np.stack([np.concatenate([one.start.arm_rad + change, one.start.hand]) for one in drawn])


# Motion


def test_free_motion_is_that_of_mujoco(fresh):
    chosen, drawn, engines = fresh
    ramp = np.stack([sent(drawn, 0.01 * index) for index in range(1, 11)])
    for engine in engines:
        engine.follow(ramp, 5)
    one, other = (engine.joints(chosen.arm.joint_names) for engine in engines)
    moved = np.abs(one[0] - [list(each.start.arm_rad) for each in drawn]).max()
    assert moved > 0.03
    np.testing.assert_allclose(other[0], one[0], atol=2e-6)
    np.testing.assert_allclose(other[1], one[1], atol=2e-4)
    np.testing.assert_allclose(*(each.bodies(("cube", "hand")) for each in engines), atol=1e-4)


def test_every_field_of_the_model_that_an_episode_changes_is_copied():
    from envs.simulation.mujoco_warp_batch import PHYSICS_FIELDS, _HostWorld
    from envs.simulation.mujoco_warp_look import LOOK_FIELDS

    # Of cameras and lights that track a body, and of sleeping bodies: our scenes have neither. The
    # rest is only in MuJoCo's model.
    unused = {"cam_mat0", "cam_pos0", "cam_poscom0", "light_pos0", "light_dir0", "light_poscom0"}
    unused |= {"dof_length", "dof_M0", "bvh_aabb"}
    for env_id in (
        name for name in EXPERTS if name.startswith("toto/")
    ):  # not those of other tests
        chosen, scene, drawn = variations(env_id, (*LOOKS, "object_pose"))
        host = _HostWorld()
        host.build(scene, chosen.arm)
        names = [
            name for name in dir(host.model) if isinstance(getattr(host.model, name), np.ndarray)
        ]
        before = {name: getattr(host.model, name).copy() for name in names}
        changed = set()
        for one in drawn:
            host.reset(one.start, one.appearance)
            changed |= {
                name
                for name in names
                if not np.array_equal(getattr(host.model, name), before[name])
            }
        assert changed <= {*PHYSICS_FIELDS, *LOOK_FIELDS, *unused}
        assert {"body_mass", "mat_rgba", "cam_fovy", "light_dir"} <= changed


def test_too_little_memory_for_contacts_is_an_error_that_names_the_option():
    chosen, scene, drawn = variations("toto/FrankaPick-v0")
    engine = make_backend("mujoco_warp", NUM_WORLDS, max_contacts=2)
    engine.build(scene, chosen.arm)
    engine.reset(None, [one.start for one in drawn], [Appearance()] * NUM_WORLDS)
    with pytest.raises(RuntimeError, match="max_contacts=2"):
        engine.step(20)


def test_diverged_world_is_an_error_that_names_the_world(fresh):
    _, drawn, (_, engine) = fresh
    engine.push("cube", (1e15, 0.0, 0.0), rows=[2])
    with pytest.raises(RuntimeError, match=r"worlds \[2\] diverged"):
        engine.step(5)
    engine.reset([2], [drawn[2].start], [Appearance()])
    engine.step(5)


# Contacts


def test_resting_cube_sinks_less_than_a_tenth_of_a_millimetre_more_than_in_mujoco(fresh):
    chosen, _, engines = fresh
    heights = []
    for engine in engines:
        engine.step(500)
        heights.append(engine.bodies(("cube",))[:, 0, 2])
        np.testing.assert_allclose(
            engine.contact_forces(("cube",))[:, 0], chosen.task.cube_mass_kg * GRAVITY, rtol=0.01
        )
    rest = chosen.task.cube_rest_height_m
    assert ((rest - heights[0] > -1e-4) & (rest - heights[0] < 5e-4)).all()
    np.testing.assert_allclose(heights[1], heights[0], atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_pushed_cube_slides_as_in_mujoco(fresh, share):
    chosen, _, engines = fresh
    push_n = share * chosen.task.cube_mass_kg * GRAVITY  # the coefficient of friction is 1
    moved = []
    for engine in engines:
        engine.step(100)
        before = engine.bodies(("cube",))[:, 0, :3]
        engine.push("cube", (push_n, 0.0, 0.0))
        engine.step(50)
        moved.append((engine.bodies(("cube",))[:, 0, :3] - before)[:, 0])
    if share < 1:
        assert np.abs(moved).max() < 5e-4
    else:
        ideal_m = 0.5 * (share - 1) * GRAVITY * 0.1**2
        np.testing.assert_allclose(moved[1], ideal_m, rtol=0.25)  # the cube also tips
        np.testing.assert_allclose(moved[1], moved[0], rtol=0.1)


def test_grip_force_is_that_of_mujoco(fresh):
    """The gripper closes on a cube between its fingers; both engines hold it with equal force."""
    chosen, drawn, engines = fresh
    hands = engines[0].bodies((chosen.arm.hand_body,))
    tools = points_on(hands, np.array([chosen.arm.tool_offset_m]))
    held = np.concatenate([tools, hands[..., 3:]], axis=-1)[:, 0]
    starts = [
        dataclasses.replace(one.start, box_poses={"cube": pose})
        for one, pose in zip(drawn, held, strict=True)
    ]
    forces, heights = [], []
    closed = sent(drawn)
    closed[:, -1] = 0.0
    for engine in engines:
        engine.reset(None, starts, [Appearance()] * NUM_WORLDS)
        engine.set_joint_targets(closed)
        engine.step(300)
        forces.append(engine.contact_forces([tip.body for tip in chosen.arm.fingertips]))
        heights.append(engine.bodies(("cube",))[:, 0, 2])
    assert (forces[0] > 5).all()
    np.testing.assert_allclose(forces[1], forces[0], rtol=0.05)
    assert (heights[1] > chosen.task.cube_rest_height_m + 0.02).all()
    np.testing.assert_allclose(heights[1], heights[0], atol=2e-3)


# Images


def images_of(engines, camera):
    return [torch.as_tensor(engine.render(camera, SIZE_PX, SIZE_PX)) for engine in engines]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("toto-nano")


@pytest.mark.parametrize(
    ("groups", "least"),
    # The shipped tokenizer uses its codes evenly, so small differences change many tokens to
    # similar ones: the embeddings are closer than with the weights of 0.1, and fewer tokens equal.
    [((), (0.97, 0.6, 0.997)), (LOOKS, (0.88, 0.45, 0.996))],
    ids=["own", "drawn"],
)
@pytest.mark.parametrize("env_id", ["toto/FrankaPick-v0", "toto/FrankaCabinet-v0"])
def test_encoder_sees_what_it_sees_in_opengl(encoder, env_id, groups, least):
    chosen, _, engines = both(env_id, groups)
    for camera in chosen.protocol.cameras:
        found = compare_images(*images_of(engines, camera), encoder)
        seen = (found["ssim"], found["equal_tokens"], found["cosine"])
        assert all(number > bound for number, bound in zip(seen, least, strict=True)), seen
    for engine in engines:
        engine.close()


def test_moved_cabinet_is_seen_and_felt_where_it_is():
    _, _, engines = both("toto/FrankaCabinet-v0")
    before = images_of(engines, "front")[1]
    for engine in engines:
        engine.displace("cabinet", (0.1, 0.05, 0.0))
    one, other = images_of(engines, "front")
    assert structural_similarity(before, other).mean() < 0.9
    assert structural_similarity(one, other).mean() > 0.97
    for engine in engines:
        engine.close()


def test_images_are_tensors_that_a_later_step_does_not_change(fresh):
    _, drawn, (_, engine) = fresh
    images = engine.render("hand", 64, 64)
    assert isinstance(images, torch.Tensor)
    assert images.dtype == torch.uint8
    assert images.device == engine.device
    before = images.clone()
    engine.set_joint_targets(sent(drawn, 0.3))
    engine.step(200)
    assert (engine.render("hand", 64, 64) != before).float().mean() > 0.1
    assert torch.equal(images, before)


def test_samples_are_averaged(fresh):
    engine = fresh[2][1]
    fine = engine.render("front", 128, 128).float()
    coarse = engine.render("front", 64, 64, Quality(samples=4)).float()
    averaged = fine.reshape(NUM_WORLDS, 64, 2, 64, 2, 3).mean(dim=(2, 4))
    assert (coarse - averaged).abs().max() <= 0.5


def test_benchmark_measures_every_case_once(tmp_path, capsys):
    arguments = ["--device", "cpu", "--worlds", "2", "--seconds", "0", "--image-size", "32"]
    worlds.main([*arguments, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "worlds.json").read_text())
    assert len(found) == 1 + 2 * len(worlds.KINDS)
    assert not [values for values in found.values() if "error" in values]
    assert "2 worlds, images and embeddings" in capsys.readouterr().out
    worlds.main([*arguments, "--out", str(tmp_path)])
    assert "measuring" not in capsys.readouterr().out
