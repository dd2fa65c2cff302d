"""Isaac Gym's simulator of many worlds: its worker process, its errors, and what it cannot do."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.catalogue import make_vec
from envs.simulation.backends import make_backend
from envs.simulation.isaacgym.batch import IsaacGymBatch
from envs.simulation.isaacgym.process import WorkerError, WorkerProcess, worker_environment
from envs.simulation.isaacgym.worker.slots import PREFIX
from envs.simulation.scene import Appearance, CameraShift, Paint
from tests.envs.simulation.fake_worker import fake_python, python38
from tests.envs.simulation.test_simulator_contract import (
    ARM,
    HEIGHT_PX,
    OTHER_START,
    SCENE,
    START,
    WIDTH_PX,
)

# 30 calls of Isaac Gym, in their order, in which the worker is killed.
MOMENTS = """
    acquire_gym:0 create_sim:1 load_asset:1 load_asset:2 create_box:1 create_box:4 create_env:1
    create_actor:1 create_actor:6 create_actor:9 set_actor_dof_properties:2 create_env:2
    create_camera_sensor:1 attach_camera_to_body:2 prepare_sim:1 acquire_dof_state_tensor:1
    get_camera_image_gpu_tensor:4 set_dof_position_target_tensor:1 set_dof_state_tensor_indexed:1
    set_actor_root_state_tensor_indexed:1 simulate:1 simulate:7 simulate:20 fetch_results:2
    refresh_dof_state_tensor:1 refresh_net_contact_force_tensor:2 step_graphics:1
    render_all_camera_sensors:1 start_access_image_tensors:1 end_access_image_tensors:2
""".split()  # noqa: SIM905


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a simulator with the stand-in; all are closed at the end."""
    made = []

    def make(num_worlds=2, *, faults="", python=sys.executable, **options):
        program = fake_python(tmp_path, python, faults)
        simulator = IsaacGymBatch(num_worlds, worker_python=program, **options)
        made.append(simulator)
        simulator.build(SCENE, ARM)
        simulator.reset(None, [START] * num_worlds, [Appearance()] * num_worlds)
        return simulator

    yield make
    for simulator in made:
        simulator.close()


def run(simulator, steps=10):
    """Render, and move the arm for some steps."""
    simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    targets = np.tile(np.concatenate([START.arm_rad + 0.1, START.hand]), (2, 1))
    for _ in range(steps):
        simulator.follow(targets[None], 2)
    simulator.render("wrist", HEIGHT_PX, WIDTH_PX)


def is_gone(pid, within_s=5.0):
    """Return whether a process ends within a time; a zombie of another parent counts as ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def shared_memory():
    return {one.name for one in Path("/dev/shm").glob(f"{PREFIX}*")}


def assert_nothing_is_left(simulator, pid, before):
    """No process, thread, shared memory (other tests may be running) or folder is left."""
    assert is_gone(pid)
    thread = simulator._process._thread
    simulator.close()
    assert not thread.is_alive()
    assert not simulator._folder.exists()
    end = time.monotonic() + 5.0
    while left := shared_memory() - before:
        assert time.monotonic() < end, left
        time.sleep(0.05)


# Faults


def assert_killed_worker_is_one_clear_error(make, moment):
    before = shared_memory()
    simulator = make(faults=f"crash={moment}")
    pid = simulator.worker_pid
    with pytest.raises(WorkerError, match=r"worker ended by SIGKILL during '\w+'") as first:
        run(simulator)
    with pytest.raises(WorkerError) as second:
        simulator.step(1)
    assert str(second.value) == str(first.value)
    assert_nothing_is_left(simulator, pid, before)


@pytest.mark.parametrize("moment", ["prepare_sim:1", "simulate:7", "start_access_image_tensors:1"])
def test_killed_worker_is_one_clear_error(make, moment):
    assert_killed_worker_is_one_clear_error(make, moment)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_worker_killed_at_any_of_30_moments_is_one_clear_error(make, moment):
    if moment.startswith("acquire_gym"):
        before, simulator = shared_memory(), make()
        os.kill(simulator.worker_pid, signal.SIGKILL)  # before any call
        with pytest.raises(WorkerError, match="worker ended by SIGKILL"):
            run(simulator)
        assert_nothing_is_left(simulator, simulator.worker_pid, before)
        return
    assert_killed_worker_is_one_clear_error(make, moment)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_worker_killed_at_a_random_time_is_one_clear_error(make, seed):
    before, simulator = shared_memory(), make()
    pid = simulator.worker_pid
    delay_s = float(np.random.default_rng(seed).uniform(0.0, 0.6))
    killer = threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(WorkerError, match="worker ended by SIGKILL"):
        run(simulator, steps=100_000)
    killer.join()
    assert_nothing_is_left(simulator, pid, before)


@pytest.mark.parametrize("moment", ["create_env:2", "simulate:5"])
def test_worker_that_hangs_is_told_within_its_time_out(make, moment, monkeypatch):
    monkeypatch.setattr("envs.simulation.isaacgym.batch._START_TIMEOUT_S", 20.0)
    limit_s, before = 1.5, shared_memory()
    simulator = make(faults=f"hang={moment}", timeout_s=limit_s)
    pid = simulator.worker_pid
    if moment.startswith("create"):
        monkeypatch.setattr("envs.simulation.isaacgym.batch._START_TIMEOUT_S", limit_s)
    simulator.reset([0], [START], [Appearance()])
    start = time.monotonic()
    with pytest.raises(WorkerError, match=rf"did not answer '\w+' within {limit_s:g} s"):
        run(simulator)
    assert time.monotonic() - start < limit_s + 10
    assert_nothing_is_left(simulator, pid, before)


def test_worker_ends_with_its_client_even_if_it_hangs(tmp_path):
    """The client is killed, so it cannot tell the worker; the kernel does."""
    program = fake_python(tmp_path, faults="hang=simulate:1")
    code = textwrap.dedent(f"""
        import numpy as np
        from envs.simulation.isaacgym.batch import IsaacGymBatch
        from envs.simulation.scene import Appearance
        from tests.envs.simulation.test_simulator_contract import ARM, SCENE, START
        simulator = IsaacGymBatch(1, worker_python={str(program)!r})
        simulator.build(SCENE, ARM)
        print(simulator.worker_pid, flush=True)
        simulator.reset(None, [START], [Appearance()])
        simulator.step(1)
    """)
    # A killed client cannot remove its folder of small files, so it is in the test's own folder.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    with client:
        pid = int(client.stdout.readline())
        time.sleep(1.0)  # until it hangs, or before: it ends in both cases
        client.kill()
    assert is_gone(pid)


def test_interrupted_command_ends_the_worker(make, monkeypatch):
    before, simulator = shared_memory(), make()
    pid = simulator.worker_pid

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkerProcess, "_read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulator.step(1)
    with pytest.raises(WorkerError, match="interrupted"):
        simulator.step(1)
    assert_nothing_is_left(simulator, pid, before)


def test_forgotten_simulator_ends_its_worker(make, tmp_path):
    simulator = IsaacGymBatch(1, worker_python=fake_python(tmp_path))
    simulator.build(SCENE, ARM)
    pid, folder = simulator.worker_pid, simulator._folder
    del simulator
    gc.collect()
    assert is_gone(pid)
    assert not folder.exists()


def test_what_the_worker_prints_is_in_the_error(tmp_path):
    """Isaac Gym prints its reasons; stdout of the worker carries only answers."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint('no GPU found', file=sys.stderr)\nos._exit(3)\n"
    )
    program.chmod(0o755)
    simulator = IsaacGymBatch(1, worker_python=program)
    with pytest.raises(
        WorkerError, match=r"ended with exit code 3 during 'hello'(.|\n)*no GPU fou"
    ):
        simulator.build(SCENE, ARM)
    simulator.close()


def test_python_without_isaacgym_is_an_error_that_says_so():
    simulator = IsaacGymBatch(1, worker_python=sys.executable)
    with pytest.raises(WorkerError, match=f"No module named 'isaacgym'.*{sys.executable}"):
        simulator.build(SCENE, ARM)
    simulator.close()


def test_worker_python_is_relative_to_the_folder_of_the_client(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = fake_python(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    process = WorkerProcess(f"bin/{program.name}", timeout_s=60.0)
    assert process.ask("hello")["fake"]
    process.close()


def test_worker_that_does_not_read_a_long_command_is_told_within_the_time_out(tmp_path):
    process = WorkerProcess(fake_python(tmp_path), timeout_s=60.0)
    process.ask("hello")
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"did not answer 'paint' within 0.5 s"):
        process.ask("paint", timeout_s=0.5, rows=[0] * 1_000_000, colors=[])
    assert is_gone(process.pid)
    process.close()


def test_long_command_reaches_the_worker_whole(tmp_path):
    process = WorkerProcess(fake_python(tmp_path), timeout_s=60.0)
    with pytest.raises(WorkerError, match="'Commands' object has no attribute 'do_x'"):
        process.ask("x", rows=[0] * 1_000_000)
    assert process.ask("hello")["fake"]
    process.close()


def test_environment_that_cannot_be_built_leaves_no_worker(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(IsaacGymBatch, "_start", lambda self: made.append(self) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_vec(env_id="toto/FrankaPick-v0", num_envs=1, backend="isaacgym", worker_python="x")
    (simulator,) = made
    assert not simulator._folder.exists()


def test_refused_preparation_is_an_error_that_says_so(make):
    simulator = make(faults="refuse=prepare_sim:1")
    with pytest.raises(WorkerError, match="prepare_sim"):
        simulator.step(1)


def test_diverged_physics_is_an_error_that_names_the_worlds(make):
    simulator = make(faults="nan=simulate:3")
    with pytest.raises(RuntimeError, match=r"diverged in the worlds \[0\]"):
        simulator.step(3)
    targets = np.tile(np.concatenate([START.arm_rad, START.hand]), (1, 2, 1))
    simulator.follow(targets, 1, rows=[1])  # the other world is well


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"worker_python": "/nowhere/python"}, r"worker_python='/nowhere/python' does not start"),
        ({"worker_python": "/tmp"}, r"worker_python='/tmp' does not start"),
        ({}, "needs worker_python"),
        (
            {"worker_python": sys.executable, "device": "cpu", "device_images": True},
            "device_images=True needs device='cuda:",
        ),
        ({"worker_python": sys.executable, "meshes": object()}, "leave out visuals='mesh'"),
        ({"worker_python": sys.executable, "device": "gpu"}, "device must be"),
    ],
)
def test_bad_settings_are_errors_that_say_what_is_valid(options, match):
    with pytest.raises(ValueError, match=match):
        make_backend("isaacgym", 1, **options).build(SCENE, ARM)


# Environment of the worker


def test_variables_of_this_python_do_not_reach_the_worker(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/a")
    monkeypatch.setenv("PYTHONHOME", "/b")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/c")
    program = tmp_path / "conda" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.touch()
    variables = worker_environment(str(program))
    assert "PYTHONPATH" not in variables
    assert "PYTHONHOME" not in variables
    assert variables["LD_LIBRARY_PATH"] == f"{tmp_path}/conda/lib:/c"


# What Isaac Gym can and cannot change


def test_colours_of_boxes_are_those_of_the_appearance(make):
    simulator = make()
    red = Appearance(paints={"cube": Paint(rgb=(1.0, 0.0, 0.0))})
    plain = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    simulator.reset([1], [START], [red])
    images = simulator.render("eye", HEIGHT_PX, WIDTH_PX)
    np.testing.assert_array_equal(images[0], plain[0])
    assert ((images[1] != plain[1]).any(axis=-1)).sum() > 5
    simulator.render("eye", 2 * HEIGHT_PX, WIDTH_PX)  # a new size: the worker starts again
    np.testing.assert_array_equal(simulator.render("eye", HEIGHT_PX, WIDTH_PX), images)
    simulator.reset([1], [START], [Appearance()])
    np.testing.assert_array_equal(simulator.render("eye", HEIGHT_PX, WIDTH_PX), plain)


@pytest.mark.parametrize(
    ("start", "appearance", "match"),
    [
        (replace(START, box_sizes_m={"cube": (0.1,) * 3}), Appearance(), "the size of cube"),
        (START, Appearance(lighting=SCENE.lighting), "the lights"),
        (START, Appearance(paints={"wood": Paint(rgb=(1, 1, 1))}), "the colour of wood"),
        (
            START,
            Appearance(paints={"table": Paint(rgb=(1, 1, 1), pattern="planks")}),
            "the pattern of table",
        ),
        (
            START,
            Appearance(
                camera_shifts={
                    "eye": CameraShift(
                        translation_m=(0, 0, 0), rotation_rad=(0, 0, 0), fov_y_deg=1.0
                    )
                }
            ),
            "the camera eye",
        ),
    ],
    ids=["size", "lights", "colour", "pattern", "camera"],
)
def test_what_isaac_gym_cannot_change_is_an_error(make, start, appearance, match):
    simulator = make()
    with pytest.raises(ValueError, match=f"Isaac Gym cannot change {match}"):
        simulator.reset(None, [start] * 2, [appearance] * 2)


def test_restored_state_goes_on_closely(make):
    simulator = make()
    targets = np.tile(np.concatenate([START.arm_rad + 0.2, START.hand]), (1, 2, 1))
    simulator.follow(targets, 40)
    saved, here = simulator.save(), simulator.bodies(("cube", "hand"))
    simulator.step(40)
    there = simulator.bodies(("cube", "hand"))
    simulator.reset(None, [OTHER_START] * 2, [Appearance()] * 2)
    simulator.step(10)
    simulator.restore(saved)
    np.testing.assert_array_equal(simulator.bodies(("cube", "hand")), here)
    simulator.step(40)
    np.testing.assert_allclose(simulator.bodies(("cube", "hand")), there, atol=2e-3)


def test_more_targets_than_fit_in_one_command_are_followed_in_order(make):
    simulator = make()
    ramp = np.linspace(0.0, 0.2, 40)[:, None, None]
    servos = np.tile(np.concatenate([START.arm_rad, START.hand]), (40, 2, 1)) + ramp
    simulator.follow(servos, 2)
    at_once = simulator.joints(ARM.joint_names)[0]
    simulator.reset(None, [START] * 2, [Appearance()] * 2)
    for one in servos:
        simulator.set_joint_targets(one)
        simulator.step(2)
    np.testing.assert_allclose(simulator.joints(ARM.joint_names)[0], at_once, atol=1e-6)


def test_real_python_38_gives_the_same(make):
    python = python38()
    if python is None:
        pytest.skip("no Python 3.8 with numpy, torch and mujoco (TOTO_ROBOT_PYTHON38)")
    one, other = make(), make(python=python)
    assert other.versions["python"].startswith("3.8.")
    for simulator in (one, other):
        run(simulator, steps=30)
        simulator.reset([1], [OTHER_START], [Appearance()])
        run(simulator, steps=30)
    for names in (ARM.joint_names, ("drawer",)):
        # The stand-in has MuJoCo 3.2 there, whose integrator differs slightly.
        np.testing.assert_allclose(one.joints(names)[0], other.joints(names)[0], atol=5e-3)
    bodies = ("cube", "hand")
    np.testing.assert_allclose(one.bodies(bodies), other.bodies(bodies), atol=5e-3)
    images = [each.render("eye", HEIGHT_PX, WIDTH_PX) for each in (one, other)]
    assert (images[0] == images[1]).all(axis=-1).mean() > 0.98
