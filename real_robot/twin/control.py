"""Server of the twin that executes requests to the scene, and injects faults.

Requests and answers are JSON objects, one per line. A request is, for example,
`{"do": "place", "x_m": 0.5, ...}`. An answer contains `"ok"`, and `"error"` if `"ok"` is false.
"""

import json
import os
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.simulation.mujoco_backend import MujocoSimulator
from envs.tasks.pick import CUBE, PickTask
from envs.tasks.task import state_names

from .config import CONTROL_PORT
from .robot import RobotServer
from .shared import CAMERA_MODES, Shared
from .world import World

_LEAST_S = 0.05
_AT_REST, _NUM_AT_REST, _SETTLE_S = 0.01, 20, 3.0  # m/s and rad/s; checks in a row; timeout


class Control:
    """Server of the requests, with one thread per client.

    These threads do not change the simulation themselves: the physics thread makes the changes.
    """

    def __init__(
        self,
        *,
        server: RobotServer,
        world: World,
        task: PickTask,
        simulator: MujocoSimulator,
        cameras: tuple[str, ...],
        shared: Shared,
        scheduling: str,
    ) -> None:
        self._server, self._world, self._task, self._shared = server, world, task, shared
        self._simulator, self._cameras, self._scheduling = simulator, cameras, scheduling
        self._lock = threading.Lock()  # lock of the simulator that computes the task's state
        self._verbs: dict[str, Callable[..., dict[str, Any]]] = {
            "place": self._place,
            "pose": self._pose,
            "status": self._status,
            "state": self._state,
            "user_stop": self._user_stop,
            "disconnect": self._disconnect,
            "drop_commands": self._drop_commands,
            "fail": self._fail,
            "push": self._push,
            "lead": self._lead,
            "camera": self._camera,
            "reset": self._reset,
            "rates": self._rates,
        }
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def serve(self, address: str) -> None:
        """Start to accept clients in a separate thread, and return."""
        answer = self.answer

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(answer(line).encode() + b"\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

        listener = Server((address, CONTROL_PORT), Handler)
        threading.Thread(target=listener.serve_forever, name="control", daemon=True).start()

    def answer(self, line: bytes) -> str:
        """Execute a request, and return its answer; an error is returned in the answer."""
        try:
            request = json.loads(line)
            name = request.pop("do")
            if name not in self._verbs:
                raise ValueError(f"unknown verb {name!r}; known: {', '.join(self._verbs)}")
            return json.dumps({"ok": True, **self._verbs[name](**request)})
        except Exception as error:  # raised again by the client
            return json.dumps({"ok": False, "error": f"{error}", "kind": type(error).__name__})

    def _place(self, x_m: float, y_m: float, yaw_rad: float) -> dict[str, Any]:
        point = np.array([x_m, y_m, self._task.cube_rest_height_m])
        self._world.jobs.call(lambda: self._world.put_box(CUBE, point, yaw_rad))
        end_s, rest = time.monotonic() + _SETTLE_S, 0
        while rest < _NUM_AT_REST:
            if time.monotonic() > end_s:
                raise ValueError(f"the cube does not come to rest on the table at {x_m}, {y_m}")
            time.sleep(0.002)
            rest = rest + 1 if self._world.box_speed(CUBE) < _AT_REST else 0
        if self._task.failed(self._measure()):
            raise ValueError(f"the cube does not come to rest on the table at {x_m}, {y_m}")
        return self._pose()

    def _pose(self) -> dict[str, Any]:
        measured = self._measure()
        R_base_world = self._world.R_world_base.T
        position = R_base_world @ (measured["cube_position"] - self._world.base_position_m)
        w, x, y, z = measured["cube_quaternion"]
        half = -self._world.base_yaw_rad / 2  # from the world's frame to the base's
        cos, sin = np.cos(half), np.sin(half)
        turned = [cos * w - sin * z, cos * x - sin * y, cos * y + sin * x, cos * z + sin * w]
        return {"pose": [*map(float, position), *map(float, turned)]}

    def _status(self) -> dict[str, Any]:
        measured = self._measure()
        return {
            "mode": self._server.mode,
            "leading": self._world.leading,
            "at_goal": bool(self._task.at_goal(measured)),
            "failed": bool(self._task.failed(measured)),
            "cameras": {name: self._shared.mode(index) for index, name in enumerate(self._cameras)},
        }

    def _state(self) -> dict[str, Any]:
        measured = self._measure()
        values = np.concatenate([np.atleast_1d(measured[name]) for name in self._task.state])
        names = state_names(self._task, self._world.arm)
        snapshot = self._world.get_robot_state()
        return {
            "state": dict(zip(names, map(float, values), strict=True)),
            "positions": self._positions().tolist(),
            "joints_rad": snapshot["q"],
            "external_torques_nm": snapshot["tau_ext_hat_filtered"],
        }

    def _user_stop(self, pressed: bool) -> dict[str, Any]:
        self._server.user_stop(pressed)
        return {}

    def _disconnect(self) -> dict[str, Any]:
        self._server.disconnect()
        return {}

    def _drop_commands(self, seconds: float) -> dict[str, Any]:
        self._server.drop_commands(seconds)
        return {}

    def _fail(self, error: str) -> dict[str, Any]:
        self._server.fail(error)
        return {}

    def _push(self, body: str, force_n: list[float], seconds: float) -> dict[str, Any]:
        force = np.array(force_n, dtype=np.float64)
        self._world.jobs.call(lambda: self._world.push(body, force, seconds))
        return {}

    def _lead(self, path_rad: list[list[float]], seconds: float) -> dict[str, Any]:
        path = np.array(path_rad, dtype=np.float64)
        if path.ndim != 2 or path.shape[1] != len(self._world.home_rad) or not len(path):
            raise ValueError(f"path_rad must have the shape (n, 7), n at least 1, got {path.shape}")
        if not (np.isfinite(path).all() and seconds > 0):
            raise ValueError(
                f"path_rad must be finite and seconds positive, got {path} in {seconds} s"
            )
        self._server.lead(path, seconds)
        return {}

    def _camera(self, name: str, mode: str) -> dict[str, Any]:
        if name not in self._cameras:
            raise ValueError(f"no camera {name!r}; known: {', '.join(self._cameras)}")
        if mode not in CAMERA_MODES:
            raise ValueError(f"unknown mode {mode!r}; known: {', '.join(CAMERA_MODES)}")
        self._shared.set_mode(self._cameras.index(name), mode)
        return {}

    def _reset(self) -> dict[str, Any]:
        self._server.go_home()
        x_m, y_m = self._task.cube_center_m
        place = self._world.R_world_base.T @ (
            np.array([x_m, y_m, 0.0]) - self._world.base_position_m
        )
        return self._place(float(place[0]), float(place[1]), 0.0)

    def _rates(self) -> dict[str, Any]:
        time.sleep(_LEAST_S)  # wait, so that each call measures at least some steps
        periods = self._world.periods_s()
        cpu_s, wall_s = time.process_time(), time.monotonic()
        share = (cpu_s - self._cpu_s) / max(wall_s - self._wall_s, 1e-9)
        self._cpu_s, self._wall_s = cpu_s, wall_s
        return {
            "physics_hz": float(1 / periods.mean()),
            "period_p50_s": float(np.percentile(periods, 50)),
            "period_p99_s": float(np.percentile(periods, 99)),
            "period_max_s": float(periods.max()),
            "cpu_share": share,
            "cameras_hz": {
                name: self._shared.rate_hz(index) for index, name in enumerate(self._cameras)
            },
            "scheduling": self._scheduling,
            "pid": os.getpid(),
        }

    def _positions(self) -> np.ndarray:
        return self._shared.read(len(self._simulator.positions()))

    def _measure(self) -> dict[str, Any]:
        with self._lock:
            self._simulator.place(self._positions())
            return dict(self._task.measure(self._simulator, self._world.arm))
