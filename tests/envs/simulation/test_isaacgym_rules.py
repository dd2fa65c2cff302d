"""The worker keeps the rules of Isaac Gym: the stand-in accepts it, and refuses edited copies."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.simulation.isaacgym.plan import camera_plan, export
from envs.simulation.scene import Quality
from tests.envs.simulation.fake_worker import FAKE, python38
from tests.envs.simulation.test_simulator_contract import ARM, SCENE, START

DRIVE = Path(__file__).with_name("isaacgym_drive.py")
WORKER = Path(__file__).parents[3] / "envs/simulation/isaacgym/worker"
STEP = "        gym.{}(sim)\n"

# name: file, the text that is replaced (all of it), the text instead, and the error that it causes
EDITS = {
    # P4, B: building
    "no prepare_sim": (
        "build",
        "if not self.gym.prepare_sim(self.sim):",
        "if False:",
        "acquire dof before prepare_sim (B11)",
    ),
    "asset after prepare_sim": (
        "worlds",
        "        self._held: list",
        "        self._built._add_actor(built.envs[0], 0, plan['actors'][1],"
        " gym.create_box(sim, 1, 1, 1, gymapi.AssetOptions()))\n        self._held: list",
        "an asset after prepare_sim (B10)",
    ),
    "two simulations": (
        "build",
        "self.envs: list",
        "_create_sim(self.gym, plan); self.envs: list",
        "a process can have one simulation only (P4)",
    ),
    "GPU pipeline without GPU PhysX": (
        "build",
        "= parameters.physx.use_gpu = on_gpu",
        "= on_gpu",
        "the GPU pipeline needs GPU PhysX (B2)",
    ),
    "gravity of another up axis": (
        "build",
        "gymapi.Vec3(0.0, 0.0, -9.81)",
        "gymapi.Vec3(0, -9, 0)",
        "gravity does not point down, with z as the up axis (B2)",
    ),
    "one collision group": (
        "build",
        'actor["name"], group, 0, 0',
        'actor["name"], 0, 0, 0',
        "the collision group must be the index of the world (B7)",
    ),
    "aggregate without objects": (
        "build",
        "for asset in assets)",
        "for asset in assets[:1])",
        "the aggregate is too small for its actors (B7)",
    ),
    "misspelt field": (
        "build",
        "properties.enable_tensors",
        "properties.enable_tensor",
        "CameraProperties has no field enable_tensor",
    ),
    "misspelt function": (
        "build",
        "begin_aggregate",
        "start_aggregate",
        "'Gym' object has no attribute 'start_aggregate'",
    ),
    "missing argument": (
        "build",
        "handle, env, found, pose, follow",
        "handle, env, found, pose",
        "attach_camera_to_body() missing 1 required positional argument: 'mode'",
    ),
    "body that does not exist": (
        "build",
        "rigid_body_handle(env, self.actors[index][actor], body)",
        "rigid_body_handle(env, self.actors[index][actor], 'x')",
        "Isaac Gym did not find the body hand",
    ),
    "camera without a renderer": (
        "build",
        'plan["graphics_device"] if plan["cameras"] else -1',
        "-1",
        "a camera needs a graphics device (B3)",
    ),
    "camera without tensors": (
        "build",
        "        properties.enable_tensors = True\n",
        "",
        "a camera without enable_tensors (C)",
    ),
    "filters forgotten": (
        "build",
        "shapes[index].filter = actor",
        "_ = actor",
        "the collision filters of the arm",
    ),
    "drives forgotten": (
        "build",
        "            self.gym.set_actor_dof_properties(env, handle, properties)\n",
        "",
        "nothing moves, so nothing can be tested",
    ),
    "gravity on the arm": (
        "build",
        'options.disable_gravity = actor["disable_gravity"]',
        "pass",
        "joints left their start",
    ),
    "order of joints": (
        "build",
        "return first + names.index(name)",
        "return names.index(name)",
        "joints left their start",
    ),
    # L: the tensor API
    "int64 indices": (
        "worlds",
        "built.actor_indices(), np.int32",
        "built.actor_indices(), np.int64",
        "indices must be int32, not torch.int64 (L4)",
    ),
    "indices of the world": (
        "build",
        "gymapi.DOMAIN_SIM",
        "gymapi.DOMAIN_ENV",
        "an index appears twice (L5)",
    ),
    "indices that are freed": (
        "worlds",
        "        self._held = [*self._held, ids]  # Isaac Gym keeps only an address\n",
        "",
        "a tensor was freed before simulate used it (L4)",
    ),
    "setter twice": (
        "worlds",
        "        setter(self._sim, unwrap(state), unwrap(ids), len(ids))",
        "        for _ in range(2):\n            setter(self._sim, unwrap(state), "
        "unwrap(ids), len(ids))",
        "set dof twice between two time steps (L1)",
    ),
    "targets on the host": (
        "worlds",
        "unwrap_tensor(self._targets)",
        "unwrap_tensor(self._targets.cpu())",
        "targets on the wrong device (L4)",
    ),
    "refresh after a setter": (
        "worlds",
        "        for index in range(num_targets):\n",
        "        for index in range(num_targets):\n"
        "            self._submit()\n            self._refresh()\n",
        "refresh after ['dof', 'root'] without simulate (L2)",
    ),
    "states never submitted": (
        "worlds",
        "            self._submit()\n            for step",
        "            for step",
        "joints left their start",
    ),
    "targets of coupled joints in the wrong order": (
        "worlds",
        "targets.index_select(1, group) - _COUPLING",
        "targets[:, :2] - _COUPLING",
        "joints left their start",
    ),
    "no refresh of joints": (
        "worlds",
        "gym.refresh_dof_state_tensor",
        "gym.__class__ and (lambda sim: None)",
        "nothing moves, so nothing can be tested",
    ),
    "no refresh of roots": (
        "worlds",
        STEP.format("refresh_actor_root_state_tensor"),
        "",
        "a world is not finite",
    ),
    "no refresh of bodies": (
        "worlds",
        STEP.format("refresh_rigid_body_state_tensor"),
        "",
        "body and root differ",
    ),
    "no refresh of contacts": (
        "worlds",
        STEP.format("refresh_net_contact_force_tensor"),
        "",
        "the table does not bear the cube",
    ),
    # S, C: a step and its images
    "no fetch_results": (
        "worlds",
        "        self._gym.fetch_results(self._sim, True)\n        self._drawn = False\n",
        "        self._drawn = False\n",
        "step_graphics without fetch_results (S5)",
    ),
    "no step_graphics": (
        "worlds",
        "            self._gym.step_graphics(self._sim)\n",
        "",
        "rendering before step_graphics (C)",
    ),
    "no rendering": (
        "worlds",
        "            self._gym.render_all_camera_sensors(self._sim)\n",
        "",
        "access to images that were not rendered (C)",
    ),
    "no start of the access": (
        "worlds",
        "            self._gym.start_access_image_tensors(self._sim)\n",
        "",
        "the end of an access that did not start (C)",
    ),
    "no end of the access": (
        "worlds",
        "            self._gym.end_access_image_tensors(self._sim)\n",
        "",
        "simulate between start and end of the access to images (C)",
    ),
    "rendering inside the access": (
        "worlds",
        "            for views, images in zip(",
        "            self._gym.render_all_camera_sensors(self._sim)\n"
        "            for views, images in zip(",
        "rendering between start and end of the access can block (C)",
    ),
    "images not drawn again": (
        "worlds",
        "        self._drawn = False\n        self._refresh()",
        "        self._refresh()",
        "a colour of one world",
    ),
    "images after a reset are old": (
        "worlds",
        "        if self._staged():\n            self._show_staged()\n",
        "",
        "the image after a reset is old",
    ),
    "other worlds stay where the image left them": (
        "worlds",
        'host["stage_dof"][:] = [bool(',
        'host["stage_dof"][:] *= [bool(',
        "a reset was lost",
    ),
    "push forgotten": (
        "worlds",
        "        if host.any():",
        "        if False:",
        "a push moved nothing, or another world",
    ),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    plan = export(SCENE, ARM, folder)
    cameras = [camera_plan(one, plan["bodies"], 24, 32, Quality()) for one in SCENE.cameras]
    run = {"num_worlds": 2, "device": "cuda:0", "graphics_device": 0, "share_images": False}
    joints = dict.fromkeys((name for _, name in plan["joints"]), 0.0)
    joints |= dict(zip(ARM.joint_names, START.arm_rad, strict=True))
    joints |= dict.fromkeys(ARM.hand_joint_names, 0.02) | {"drawer": 0.05}
    return plan | run | {"cameras": cameras, "start": list(joints.values())}


def outcomes(plan, edits, folder, python=sys.executable):
    """Run edited copies of the worker in the stand-in; return the error of each, or None."""
    copies = []
    for number, (file, old, new) in enumerate(edits):
        place = folder / str(number)
        shutil.copytree(WORKER, place / "worker", ignore=shutil.ignore_patterns("__pycache__"))
        if file:
            path = place / "worker" / f"{file}.py"
            text = path.read_text()
            assert old in text, f"the edit is out of date: {old!r}"
            path.write_text(text.replace(old, new))
        copies.append((str(place), str(folder / f"{number}.json")))
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps({"plan": plan, "copies": copies}))
    environment = {**os.environ, "PYTHONPATH": str(FAKE), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, str(DRIVE), str(jobs)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(Path(result).read_text()) for _, result in copies], done.stderr


@pytest.fixture(scope="module")
def edited(plan, tmp_path_factory):
    edits = [(None, "", ""), *(edit[:3] for edit in EDITS.values())]
    errors, _ = outcomes(plan, edits, tmp_path_factory.mktemp("copies"))
    return dict(zip([None, *EDITS], errors, strict=True))


def test_worker_keeps_all_rules(edited):
    assert edited[None] is None


@pytest.mark.parametrize("name", EDITS)
def test_edited_worker_is_refused(edited, name):
    assert EDITS[name][-1] in str(edited[name])


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_worker_keeps_all_rules_under_python_38(plan, tmp_path, device):
    python = python38()
    if python is None:
        pytest.skip("no Python 3.8 with numpy, torch and mujoco (TOTO_ROBOT_PYTHON38)")
    errors, messages = outcomes(plan | {"device": device}, [(None, "", "")], tmp_path, python)
    assert errors == [None], messages


def test_worker_keeps_the_rules_of_the_cpu_pipeline(plan, tmp_path):
    errors, messages = outcomes(plan | {"device": "cpu"}, [(None, "", "")], tmp_path)
    assert errors == [None], messages


@pytest.mark.parametrize("path", sorted(WORKER.glob("*.py")), ids=lambda path: path.name)
def test_worker_is_python_38_and_imports_only_what_it_has_there(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module).partition(".")[0])
    assert imported <= {*sys.stdlib_module_names, "numpy", "torch", "isaacgym"}


def test_no_isaacgym_is_imported_after_torch(tmp_path):
    """As the compiled module does, the stand-in refuses it; the worker imports isaacgym first."""
    environment = {**os.environ, "PYTHONPATH": str(FAKE)}
    code = "import torch; from isaacgym import gymapi"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "PyTorch was imported before isaacgym" in done.stderr


def test_all_names_and_numbers_of_arguments_are_those_of_the_published_stubs():
    """The package isaacgym-stubs describes Preview 4; the worker and the stand-in agree with it."""
    try:
        files = importlib.metadata.files("isaacgym-stubs") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("isaacgym-stubs is not installed (extra dev)")
    (file,) = [one for one in files if one.name == "gymapi.pyi"]
    text = re.sub(r"def lambda\b", "def lambda_", Path(str(file.locate())).read_text())
    tree = ast.parse(text)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {
        node.name: node.args for node in classes["Gym"].body if isinstance(node, ast.FunctionDef)
    }
    constants = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    calls = 0
    for path in WORKER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gymapi":
                known = node.attr in constants | {*classes, "acquire_gym", "__fake__"}
                assert known, f"gymapi.{node.attr}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                if owner not in ("gym", "self.gym", "self._gym"):
                    continue
                arguments = functions[node.func.attr]
                most = len(arguments.args) - 1
                given = len(node.args)
                unpacked = any(isinstance(one, ast.Starred) for one in node.args)
                least = most - len(arguments.defaults)
                fits = arguments.vararg or unpacked or least <= given <= most
                assert fits, f"{ast.unparse(node)}: {least} to {most} arguments"
                assert not node.keywords, "the compiled functions have no names of arguments"
                calls += 1
    assert calls > 40
    assert_fields_are_those_of(classes)


def assert_fields_are_those_of(classes):
    """The fields of the stand-in's structures exist in the published stubs."""
    source = (FAKE / "modules" / "structures.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_strict":
            name = ast.literal_eval(node.args[0])
            fields = {one.target.id for one in classes[name].body if isinstance(one, ast.AnnAssign)}
            assert {one.arg for one in node.keywords} <= fields, name


def test_start_is_that_of_the_contract(plan):
    """The drive of this file relies on the order of the joints: the arm's come first."""
    np.testing.assert_allclose(plan["start"][:7], START.arm_rad)
