"""Published meshes are acted by a pyramid for each link, in the layout of the publishers."""

import importlib.metadata

import numpy as np
import pytest

import envs
from envs.arms.meshes import find_meshes
from envs.catalogue import make

PYRAMID = """v -0.1 -0.1 0
v 0.1 -0.1 0
v 0.1 0.1 0
v -0.1 0.1 0
v 0 0 0.3
f 1 2 5
f 2 3 5
f 3 4 5
f 4 1 5
f 1 3 2
f 1 4 3
"""
LINKS = "".join(f"<body name='{{prefix}}{index}'>{{geom}}" for index in range(8)) + "</body>" * 8


def model(prefix, geom, more=""):
    return (
        "<mujoco><asset><mesh name='pyramid' file='pyramid.obj'/><material name='black' "
        "rgba='0.1 0.1 0.1 1'/></asset><worldbody>"
        + LINKS.format(prefix=prefix, geom=geom)
        + more
        + "</worldbody></mujoco>"
    )


@pytest.fixture
def menagerie(tmp_path):
    """Lay out a checkout of MuJoCo Menagerie: visible meshes and ones that collide."""
    folder = tmp_path / "menagerie"
    panda = folder / "franka_emika_panda"
    panda.mkdir(parents=True)
    seen = "<geom type='mesh' mesh='pyramid' contype='0' conaffinity='0' {}/>"
    geoms = seen.format("") + seen.format("material='black'") + "<geom type='mesh' mesh='pyramid'/>"
    (panda / "panda.xml").write_text(model("link", geoms))
    (panda / "pyramid.obj").write_text(PYRAMID)
    return folder


@pytest.fixture
def robosuite(tmp_path):
    """Lay out an unpacked wheel of robosuite."""
    folder = tmp_path / "robosuite_wheel"
    iiwa = folder / "robosuite/models/assets/robots/iiwa"
    iiwa.mkdir(parents=True)
    (iiwa / "robot.xml").write_text(model("link_", "<geom type='mesh' mesh='pyramid'/>"))
    (iiwa / "pyramid.obj").write_text(PYRAMID)
    return folder


def links(env):
    """Return the visible geoms of the arm's second link."""
    mujoco_model = env.simulator._model
    body = mujoco_model.body("link1").id
    of_link = (mujoco_model.geom_bodyid == body) & (mujoco_model.geom_contype == 0)
    return mujoco_model, np.flatnonzero(of_link)


def test_meshes_take_the_place_of_light_shapes(menagerie):
    env = make(env_id="toto/FrankaPick-v0", visuals="mesh", meshes=menagerie, cameras=())
    mujoco_model, geoms = links(env)
    assert [mujoco_model.mesh(mujoco_model.geom_dataid[g]).vertnum[0] for g in geoms] == [5, 5]
    materials = [mujoco_model.mat(mujoco_model.geom_matid[g]).name for g in geoms]
    assert materials == ["arm", "trim"]  # our paints, so that colours can be varied
    env.close()


def test_meshes_are_as_large_as_the_arm(robosuite):
    env = make(env_id="toto/KukaPick-v0", visuals="mesh", meshes=robosuite, cameras=())
    mujoco_model, (geom,) = links(env)
    mesh = mujoco_model.mesh(mujoco_model.geom_dataid[geom])
    vertices = mujoco_model.mesh_vert[mesh.vertadr[0] : mesh.vertadr[0] + mesh.vertnum[0]]
    height = np.ptp(vertices, axis=0).max()
    assert height == pytest.approx(0.3 * env.arm.scale, rel=1e-5)
    env.close()


@pytest.mark.parametrize("env_id", envs.ENVIRONMENTS)
def test_physics_is_the_same_to_the_bit(env_id, menagerie, robosuite):
    folder = menagerie if "Franka" in env_id else robosuite
    light = make(env_id=env_id, cameras=("front",), image_size=48)
    mesh = make(env_id=env_id, cameras=("front",), image_size=48, visuals="mesh", meshes=folder)
    pictures = [env.reset(seed=0)[0]["image_front"].astype(int) for env in (light, mesh)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-1, 1, light.action_space.shape)
        one, other = light.step(action), mesh.step(action)
        np.testing.assert_array_equal(one[0]["proprio"], other[0]["proprio"])
        assert one[1:] == other[1:]
        np.testing.assert_array_equal(light.save().simulator, mesh.save().simulator)
    light.close()
    mesh.close()


def test_folder_may_be_any_part_of_the_tree(menagerie, robosuite):
    inner = menagerie / "franka_emika_panda"
    assert find_meshes("franka_panda", menagerie) == find_meshes("franka_panda", inner)
    for path in (robosuite, robosuite / "robosuite", robosuite / "robosuite/models/assets"):
        (file,) = find_meshes("kuka_allegro", path).files
        assert file.name == "robot.xml"


def test_installed_package_is_found(tmp_path, monkeypatch):
    panda = tmp_path / "dm_robotics/panda/assets/panda"
    panda.mkdir(parents=True)
    for name in ("panda.xml", "panda_hand.xml"):
        (panda / name).touch()
    info = tmp_path / "dm_robotics_panda-0.4.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: dm-robotics-panda\nVersion: 0.4.8\n")
    monkeypatch.syspath_prepend(tmp_path)
    meshes = find_meshes("franka_panda")
    assert [file.name for file in meshes.files] == ["panda.xml", "panda_hand.xml"]
    assert meshes.bodies["link3"] == "panda_link3"


def test_what_is_missing_is_said_with_how_to_get_it(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(ValueError, match=r"installed package.*pip install --no-deps dm-robotics"):
        make(env_id="toto/FrankaPick-v0", visuals="mesh")
    with pytest.raises(ValueError, match=r"folder.*robosuite/models.*pip install"):
        make(env_id="toto/KukaPick-v0", visuals="mesh", meshes=tmp_path)
    with pytest.raises(ValueError, match="known: franka_panda, kuka_allegro"):
        find_meshes("spot")


def test_folder_without_its_visuals_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='visuals="mesh"'):
        make(env_id="toto/FrankaPick-v0", meshes=tmp_path)
