"""Command `python -m real_robot.twin`: start a twin, print its address, and run until Ctrl-C."""

import time
from pathlib import Path
from typing import Any

from toto_robot.cli import command

from .config import CAMERA_PORT, CONTROL_PORT, GRIPPER_PORT, ROBOT_PORT, TwinConfig
from .launch import start_twin

_PRINT_EVERY_S = 5.0


def run_twin(config: TwinConfig, out: Path) -> None:
    """Run a twin until Ctrl-C, or until its process ends; write its log into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    print("starting a simulated FR3 ...", flush=True)
    with start_twin(config, log=out / "twin.log") as twin, twin.client() as client:
        address = twin.address
        print(f"""an FR3 at {address}
  robot    port {ROBOT_PORT}, gripper {GRIPPER_PORT}: libfranka clients, without real-time kernel
           franky.Robot("{address}", realtime_config=franky.RealtimeConfig.Ignore)
  scene    port {CONTROL_PORT}: real_robot.twin.TwinClient("{address}")
           .place(x_m, y_m, yaw_rad) .press_user_stop() .push("hand", (0, 0, 60), 0.5) ...
  cameras  port {CAMERA_PORT}: real_robot.twin.TwinCameraSource("{address}", "hand")
Ctrl-C ends the twin. Its log is {twin.log}.""")
        try:
            while twin.running():
                time.sleep(_PRINT_EVERY_S)
                print(_line(client.rates()), flush=True)
            print(f"the twin ended by itself: see {twin.log}")
        except KeyboardInterrupt:
            print(f"\nended; log: {twin.log}")


def _line(rates: dict[str, Any]) -> str:
    cameras = ", ".join(f"{name} {hz:.1f}" for name, hz in rates["cameras_hz"].items() if hz)
    return (
        f"{rates['physics_hz']:7.1f} Hz, period 99 % {1e3 * rates['period_p99_s']:.2f} ms, "
        f"{rates['cpu_share']:.2f} of a core ({rates['scheduling']}); "
        f"cameras {cameras or 'not in use'}"
    )


main = command("twin", TwinConfig)(run_twin)

if __name__ == "__main__":
    main()
