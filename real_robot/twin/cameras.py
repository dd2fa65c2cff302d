"""Process of the twin that renders the images of the cameras and sends them to clients.

The joint and object positions come from the process of the robot, through shared memory. A client
connects and sends the line `{"camera": "hand"}`. The answer is the line `{}` or `{"error": ...}`.
After `{}`, images follow, each with a header. Only the images of cameras that have a client are
rendered.
"""

import json
import socket
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import HEADER, MAGIC
from .shared import Shared

_SEND_TIMEOUT_S = 0.5
_NEWEST_SHARE = 0.1  # weight of the newest interval between two images in the running mean
_IDLE_S = 1.0


class _Clients:
    """Server that accepts clients, and stores which clients are connected to each camera."""

    def __init__(self, address: str, port: int, names: tuple[str, ...], shared: Shared) -> None:
        self._names, self._shared = names, shared
        self._lock = threading.Lock()
        self._sockets: list[list[socket.socket]] = [[] for _ in names]
        self._server = socket.create_server((address, port))
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def of(self, camera: int) -> list[socket.socket]:
        with self._lock:
            return list(self._sockets[camera])

    def send(self, camera: int, data: bytes) -> None:
        for client in self.of(camera):
            try:
                client.sendall(data)
            except OSError:
                self._drop(camera, client)

    def unplug(self, camera: int) -> None:
        for client in self.of(camera):
            self._drop(camera, client)

    def _drop(self, camera: int, client: socket.socket) -> None:
        with self._lock:
            self._sockets[camera].remove(client)
        client.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            threading.Thread(target=self._greet, args=(client,), daemon=True).start()

    def _greet(self, client: socket.socket) -> None:
        client.settimeout(5.0)
        try:
            name = json.loads(client.makefile("rb").readline())["camera"]
            if name not in self._names:
                answer: dict[str, Any] = {
                    "error": f"no camera {name!r}; known: {', '.join(self._names)}"
                }
            elif self._shared.mode(self._names.index(name)) == "unplugged":
                answer = {"error": f"camera {name!r} is unplugged"}
            else:
                answer = {}
            client.sendall(json.dumps(answer).encode() + b"\n")
        except (OSError, ValueError, KeyError, TypeError):
            client.close()
            return
        if answer:
            client.close()
            return
        client.settimeout(_SEND_TIMEOUT_S)
        with self._lock:
            self._sockets[self._names.index(name)].append(client)


def serve_cameras(
    address: str, port: int, env_id: str, image_size: int, rate_hz: float, shared: Shared
) -> None:
    """Render the images of the cameras and send them until the process ends.

    Args:
        address: address at which the server listens.
        port: TCP port at which the server listens.
        env_id: id of the environment that defines the scene and the cameras.
        image_size: height and width of the images, pixels.
        rate_hz: highest frame rate of each camera.
        shared: memory with the positions and the camera modes.
    """
    from envs.catalogue import variant
    from envs.simulation.mujoco_backend import MujocoSimulator
    from envs.simulation.scene import Appearance, Start

    chosen = variant(env_id)
    scene = chosen.task.scene(chosen.arm)
    names = tuple(camera.name for camera in scene.cameras)
    simulator = MujocoSimulator()
    simulator.build(scene, chosen.arm)
    start = Start(
        arm_rad=np.array(chosen.task.start_arm_rad), hand=np.array(chosen.task.start_hand)
    )
    simulator.reset(start, Appearance())
    num_positions = len(simulator.positions())
    for name in names:  # render once before clients connect, because the first image is slow
        simulator.render(name, image_size, image_size)
    clients = _Clients(address, port, names, shared)
    shared.set_cameras_ready()
    last: list[NDArray[np.uint8] | None] = [None] * len(names)
    rendered_s = [0.0] * len(names)
    number, next_s = 0, time.monotonic()
    while True:
        number += 1
        placed = False
        for camera, name in enumerate(names):
            mode = shared.mode(camera)
            if mode == "unplugged":
                clients.unplug(camera)
            if not clients.of(camera) or mode == "stalled":
                if time.monotonic() - rendered_s[camera] > _IDLE_S:
                    shared.set_rate(camera, 0.0)
                continue
            image = last[camera]
            if mode != "frozen" or image is None:
                if not placed:
                    simulator.place(shared.read(num_positions))
                    placed = True
                image = last[camera] = simulator.render(name, image_size, image_size)
            now_s = time.monotonic()
            header = HEADER.pack(MAGIC, image_size, image_size, now_s, number)
            clients.send(camera, header + image.tobytes())
            period_s = max(now_s - rendered_s[camera], 1e-6)
            rendered_s[camera] = now_s
            if period_s < _IDLE_S:
                # Average the intervals, because an average of rates overweights short intervals.
                mean_s = 1 / (shared.rate_hz(camera) or 1 / period_s)
                shared.set_rate(camera, 1 / (mean_s + _NEWEST_SHARE * (period_s - mean_s)))
        next_s = max(next_s + 1 / rate_hz, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))
