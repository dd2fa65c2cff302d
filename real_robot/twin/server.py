"""Main program of the twin's process, which `real_robot.twin.start_twin` starts and ends.

The process reads its config as one JSON line from standard input, and writes one line when it is
ready. It runs until its standard input is closed. It therefore ends when the process that started
it has ended.
"""

import ctypes
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any

# Import this module before the fork, because both processes need it and the import is slow. MuJoCo
# must not be imported before the fork: it starts threads, which do not exist in the child process.
import envs.randomisation  # noqa: F401

from ..scheduling import ask_for_priority
from .config import CAMERA_PORT, TwinConfig
from .shared import Shared

_MAX_CAMERAS = 8
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CAMERA_NICENESS = 5
_READY_STEPS = 50


def serve(config: TwinConfig, address: str) -> None:
    """Run a twin at an address until standard input is closed."""
    shared = Shared(_MAX_CAMERAS)
    cameras = os.fork()
    if cameras == 0:
        _serve_cameras(config, address, shared)
    threading.Thread(target=_end_with_input, args=(cameras,), daemon=True).start()
    _serve_robot(config, address, shared, cameras)


def _serve_cameras(config: TwinConfig, address: str, shared: Shared) -> None:
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(_CAMERA_NICENESS)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        from .cameras import serve_cameras

        serve_cameras(
            address, CAMERA_PORT, config.env_id, config.image_size, config.camera_rate_hz, shared
        )
    except BaseException:
        logging.exception("the cameras ended")
    finally:
        os._exit(1)  # skip the clean-up, which belongs to the parent process


def _end_with_parent(robot: int) -> None:
    """Kill the robot's process when the process that started it has ended.

    The process of the cameras does this, because the robot's process may be suspended.

    Args:
        robot: id of the robot's process.
    """
    hang_up = select.poll()
    hang_up.register(0, select.POLLHUP)
    hang_up.poll()
    os.kill(robot, signal.SIGKILL)


def _serve_robot(config: TwinConfig, address: str, shared: Shared, cameras: int) -> None:
    import numpy as np

    from envs.catalogue import variant
    from envs.simulation.mujoco_backend import MujocoSimulator
    from envs.simulation.scene import Appearance, Start
    from envs.tasks.pick import PickTask

    from .control import Control
    from .robot import RobotServer
    from .world import World

    chosen = variant(config.env_id)
    arm, task = chosen.arm, chosen.task
    if not isinstance(task, PickTask) or not arm.name.startswith("franka"):
        raise ValueError(f"a twin needs an env_id where a Franka picks a cube, got {config.env_id}")
    scene = task.scene(arm)
    simulator = MujocoSimulator()
    simulator.build(scene, arm)
    home = np.array(task.start_arm_rad)
    simulator.reset(Start(arm_rad=home, hand=np.array(task.start_hand)), Appearance())
    scheduling = _set_scheduling(config, address)
    world = World(scene, arm, home, shared)
    server = RobotServer(config, address, world)
    control = Control(
        server=server,
        world=world,
        task=task,
        simulator=simulator,
        cameras=tuple(camera.name for camera in scene.cameras),
        shared=shared,
        scheduling=scheduling,
    )

    def report_ready() -> None:
        while not (world.num_steps > _READY_STEPS and shared.cameras_ready):
            if os.waitpid(cameras, os.WNOHANG)[0]:
                logging.error("the twin's cameras could not be started")
                os._exit(1)
            time.sleep(0.02)
        control.serve(address)
        ready: dict[str, Any] = {"ready": address, "pid": os.getpid(), "cameras_pid": cameras}
        print(json.dumps(ready), flush=True)

    threading.Thread(target=report_ready, daemon=True).start()
    gc.collect()
    gc.freeze()  # exclude imported modules: a full collection takes longer than a control cycle
    server.start()


def _set_scheduling(config: TwinConfig, address: str) -> str:
    """Set the CPU and the real-time priority of this process; return a text about the result."""
    sys.setswitchinterval(config.switch_interval_s)
    cpu = config.cpu(address)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    if config.priority == 0:
        return "normal"
    if not ask_for_priority(config.priority):
        return f"normal: the system does not allow real-time priority {config.priority}"
    return f"real-time, priority {config.priority}"


def _end_with_input(cameras: int) -> None:
    while os.read(0, 1024):
        pass
    os.kill(cameras, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Read the config from standard input, and run a twin."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the starting process handles Ctrl-C
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    data = json.loads(line)
    config = TwinConfig(**data)
    assert config.address is not None
    serve(config, config.address)


if __name__ == "__main__":
    main()
