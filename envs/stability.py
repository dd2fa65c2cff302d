"""`python -m envs.stability`: test that the physics stays stable under arbitrary actions.

Each episode consists of random actions, each repeated for some control steps, and then two seconds
with constant servo targets. The command counts the episodes with each of four faults:

- non-finite values,
- an object that sinks into the floor or the table,
- growing energy: something still moves at the end, although the targets were constant and the
  energy stored in the servos did not decrease,
- chatter: a contact that vibrates permanently.

In a second test, the expert grasps and lifts the cube. Then a force of 1 N pushes the cube back and
forth along each axis. This test is possible only for the pick tasks with the protocol `robot`; set
`shakes=0` for the others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.files import write_json

from .catalogue import make
from .experts import EXPERTS
from .manipulation import ManipulationEnv
from .success_rates import describe_rate

FAULTS = ("not finite", "sunk", "growing energy", "chatter")

_HOLD_S = 2.0
# An arm with a target below the table presses on it, slides and may snap free at any time, driven
# by the energy stored in its servos. Motion above these speeds without a decrease of that energy is
# an artefact of the simulation.
_REST_RAD_S = 0.3
_REST_M_S = 0.1
_GIVEN_J = 0.01
_GROWTH = 1.2
_SINK_M = 0.005
_SHAKE_N = 1.0
_SHAKE_HALF_PERIOD_STEPS = 3
# The cube counts as lost if it slips by more than this.
_SLIP_M = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityConfig:
    """Settings of `stability`.

    Attributes:
        env_id: environment id, for example `toto/FrankaPick-v0`.
        protocol: `robot` or `pixmc`.
        episodes: number of episodes with random actions.
        hold_steps: maximum number of control steps for which a random action is repeated.
        first_seed: seed of the first episode; each further episode adds 1.
        shakes: number of episodes in which the expert grasps the cube and a force of 1 N pushes the
            cube (only pick tasks with the protocol `robot`); 0: none.
    """

    env_id: str
    protocol: str
    episodes: int
    hold_steps: int
    first_seed: int
    shakes: int

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.hold_steps < 1 or self.shakes < 0:
            raise ValueError("episodes and hold_steps must be at least 1, shakes at least 0")
        if self.shakes and ("Pick" not in self.env_id or self.protocol != "robot"):
            raise ValueError("shakes needs a Pick environment and protocol=robot")


def stability(config: StabilityConfig, out: Path) -> None:
    """Run the episodes, print the faults, and write `out/stability.json`."""
    env = make(env_id=config.env_id, protocol=config.protocol, cameras=(), privileged=True)
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    faults: dict[str, list[int]] = {name: [] for name in FAULTS}
    greatest = 0.0
    for seed in tqdm(seeds, desc="random actions", unit="episode"):
        found, speed = random_episode(env, seed, config.hold_steps)
        greatest = max(greatest, speed)
        for fault in found:
            faults[fault].append(seed)
    shaken = range(config.first_seed, config.first_seed + config.shakes)
    held = [shake(env, config.env_id, seed) for seed in tqdm(shaken, desc="shake", unit="grasp")]
    env.close()
    result = {
        "env_id": config.env_id,
        "protocol": config.protocol,
        "episodes": config.episodes,
        "faults": faults,
        "greatest_joint_speed_rad_s": greatest,
        "shakes": config.shakes,
        "held": sum(held),
    }
    write_json(out / "stability.json", result)
    counts = ", ".join(f"{name} {len(some)}" for name, some in faults.items())
    print(
        f"{config.env_id} {config.protocol}: {config.episodes} episodes of random actions: {counts}"
    )
    print(f"greatest joint speed {greatest:.1f} rad/s")
    if config.shakes:
        print(f"held under a shake of 1 N: {describe_rate(sum(held), config.shakes)}")
    print(f"results: {out / 'stability.json'}")


def random_episode(env: ManipulationEnv, seed: int, hold_steps: int) -> tuple[set[str], float]:
    """Run one episode of random actions, and then two seconds with constant targets.

    Returns:
        The names of the faults, and the maximum joint speed of the arm, rad/s.
    """
    rng = np.random.default_rng(seed)
    faults, greatest, ended = set[str](), 0.0, False
    env.reset(seed=seed)
    action = env.holding_action
    while not ended:
        if rng.random() < 1 / rng.integers(1, hold_steps, endpoint=True):
            action = rng.uniform(-1.0, 1.0, action.shape).astype(np.float32)
        try:
            observation, reward, terminated, truncated, _ = env.step(action)
        except RuntimeError:
            return {"not finite"}, greatest
        finite = all(np.isfinite(values).all() for values in observation.values())
        if not (finite and np.isfinite(reward)):
            faults.add("not finite")
        greatest = max(greatest, float(np.abs(_joint_speeds(env)).max()))
        if _sunk(env):
            faults.add("sunk")
        ended = terminated or truncated
    if (fault := _unrest(env)) is not None:
        faults.add(fault)
    return faults, greatest


def shake(env: ManipulationEnv, env_id: str, seed: int) -> bool:
    """Lift the cube with the expert, and push it back and forth with 1 N along each axis.

    Returns:
        Whether the hand still holds the cube: the cube moved little relative to the hand. False
        also if the expert did not lift the cube.
    """
    expert = EXPERTS[env_id]()
    observation, info = env.reset(seed=seed)
    while not info["success"]:
        observation, _, terminated, truncated, info = env.step(expert.act(observation))
        if terminated or truncated:
            return False
    before = _cube_in_hand(env)
    for axis in np.eye(3):
        for sign in (1.0, -1.0):
            env.simulator.push("cube", tuple(sign * _SHAKE_N * axis))
            for _ in range(_SHAKE_HALF_PERIOD_STEPS):
                observation, *_ = env.step(expert.act(observation))
    env.simulator.push("cube", (0.0, 0.0, 0.0))
    return bool(np.linalg.norm(_cube_in_hand(env) - before) < _SLIP_M)


def _joint_speeds(env: ManipulationEnv) -> NDArray[np.float64]:
    return env.simulator.joints(env.arm.joint_names)[1]


def _cube_in_hand(env: ManipulationEnv) -> NDArray[np.float64]:
    measured = env.task.measure(env.simulator, env.arm)
    return measured["cube_position"] - measured["tool_position"]


def _sunk(env: ManipulationEnv) -> bool:
    """Return whether a movable box has sunk into the floor or the table by more than `_SINK_M`."""
    start = env.save().variation.start
    names = list(start.box_poses)
    places = env.simulator.bodies(names)[:, :3]
    table = next((box for box in env.scene.boxes if box.name == "table"), None)
    for name, place in zip(names, places, strict=True):
        box = next(box for box in env.scene.boxes if box.name == name)
        half = min(box.size_m) / 2
        if place[2] < half - _SINK_M:
            return True
        if table is not None:
            offset = np.abs(place - table.position_m) - np.array(table.size_m) / 2
            if (offset < -_SINK_M).all():
                return True
    return False


def _unrest(env: ManipulationEnv) -> str | None:
    """Keep the targets constant for two seconds, and check that everything comes to rest.

    Returns:
        None if nothing moves at the end, or if the servos lost stored energy, which explains the
        motion. Otherwise `chatter` if only joints of the arm move and their speed did not grow in
        the last second, else `growing energy`.
    """
    second = round(env.interface.rate_hz)
    for _ in range(second):
        env.step(env.holding_action)
    stored_j, early_rad_s = _servo_energy_j(env), float(np.abs(_joint_speeds(env)).max())
    for _ in range(round((_HOLD_S - 1.2) * second)):
        env.step(env.holding_action)
    things = _places(env)
    for _ in range(round(0.2 * second)):
        env.step(env.holding_action)
    late_rad_s = float(np.abs(_joint_speeds(env)).max())
    late_m_s = np.abs(_places(env) - things).max() / 0.2
    if late_rad_s < _REST_RAD_S and late_m_s < _REST_M_S:
        return None
    if _servo_energy_j(env) < stored_j - _GIVEN_J:
        return None
    same = late_m_s < _REST_M_S and late_rad_s < _GROWTH * early_rad_s
    return "chatter" if same else "growing energy"


def _servo_energy_j(env: ManipulationEnv) -> float:
    """Return the energy stored in the arm's servos, J.

    A servo acts as a spring between joint position and target, with a limited torque.
    """
    positions, _ = env.simulator.joints(env.arm.joint_names)
    off = np.abs(positions - env.save().arm_targets)
    stiffness = np.array([servo.stiffness for servo in env.arm.servos])
    torque = np.array([servo.max_force for servo in env.arm.servos])
    spring = 0.5 * stiffness * off**2
    limited = torque * off - 0.5 * torque**2 / stiffness
    return float(np.where(off < torque / stiffness, spring, limited).sum())


def _places(env: ManipulationEnv) -> NDArray[Any]:
    bodies = [env.arm.hand_body, *env.save().variation.start.box_poses]
    return env.simulator.bodies(bodies)[:, :3]


main = command("stability", StabilityConfig)(stability)

if __name__ == "__main__":
    main()
