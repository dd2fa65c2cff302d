"""`python -m envs.expert_check`: measure the success rate of an environment's scripted expert.

With `kick_steps=2` the arm is disturbed once in each episode, at a random time in the first 25
control steps. For two control steps, a random action replaces the expert's action. Each element of
the random action is -1 or 1, so every joint target of the arm moves by 0.2 rad. With `push_m=0.03`
the cube or the cabinet is moved once by 3 cm in a random horizontal direction, at a random time in
the first second, before the hand reaches it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from toto_robot.cli import command
from toto_robot.files import write_json

from .experts import EXPERTS
from .randomisation import parse
from .success_rates import wilson_interval

_FIRST_KICK, _LAST_KICK = 3, 25
_FIRST_PUSH, _LAST_PUSH = 3, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertCheckConfig:
    """Settings of `expert_check`.

    Attributes:
        env_id: environment id, for example `toto/FrankaPick-v0`.
        episodes: number of episodes; each episode has its own seed.
        first_seed: seed of the first episode; each further episode adds 1.
        kick_steps: number of control steps of the disturbance of the arm, once per episode. During
            these steps a random action, with elements -1 or 1, replaces the expert's action. 0: no
            disturbance.
        push_m: distance by which the cube or the cabinet is moved once per episode, metres; 0: no
            disturbance.
        randomise: groups of randomisation with their ranges, as in `envs.randomisation`.
    """

    env_id: str
    episodes: int
    first_seed: int
    kick_steps: int
    push_m: float
    randomise: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.env_id not in EXPERTS:
            raise ValueError(f"no expert for {self.env_id!r}; known: {', '.join(EXPERTS)}")
        if self.episodes < 1 or self.kick_steps < 0 or self.push_m < 0:
            raise ValueError("episodes must be at least 1, kick_steps and push_m at least 0")
        parse(self.randomise)


def expert_check(config: ExpertCheckConfig, out: Path) -> None:
    """Run the episodes, print the success rate, and write `out/expert_check.json`."""
    env = gymnasium.make(
        f"{__package__}:{config.env_id}", cameras=(), privileged=True, randomise=config.randomise
    )
    expert = EXPERTS[config.env_id]()
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    num_steps = {
        seed: run_episode(env, expert.act, seed, config.kick_steps, config.push_m)
        for seed in tqdm(seeds, desc="expert", unit="episode")
    }
    env.close()
    taken = [steps for steps in num_steps.values() if steps is not None]
    low, high = wilson_interval(len(taken), config.episodes)
    result = {
        "env": config.env_id,
        "randomise": config.randomise,
        "episodes": config.episodes,
        "successes": len(taken),
        "wilson_95": [low, high],
        "median_steps_to_success": float(np.median(taken)) if taken else None,
        "failed_seeds": [seed for seed, steps in num_steps.items() if steps is None],
    }
    write_json(out / "expert_check.json", result)
    print(
        f"{len(taken)}/{config.episodes} succeeded ({low:.1%} to {high:.1%}), "
        f"median {result['median_steps_to_success']} steps, failed: {result['failed_seeds']}"
    )


def run_episode(
    env: gymnasium.Env[Any, Any],
    act: Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]],
    seed: int,
    kick_steps: int = 0,
    push_m: float = 0.0,
) -> int | None:
    """Run one episode of an expert, possibly with a disturbance.

    Args:
        env: the environment.
        act: the expert: returns the action for an observation.
        seed: seed of the reset and of the disturbance.
        kick_steps: number of control steps with a random action; 0: no disturbance of the arm.
        push_m: distance by which the object is moved once, m; 0: no disturbance of the object.

    Returns:
        The number of control steps until success, or None without success.
    """
    rng = np.random.default_rng(seed)
    kick_at = int(rng.integers(_FIRST_KICK, _LAST_KICK))
    assert env.action_space.shape is not None
    kick = np.sign(rng.uniform(-1.0, 1.0, env.action_space.shape)).astype(np.float32)
    push_at, push_towards = int(rng.integers(_FIRST_PUSH, _LAST_PUSH)), rng.uniform(0, 2 * np.pi)
    observation, _ = env.reset(seed=seed)
    step, ended = 0, False
    while not ended:
        if push_m and step == push_at:
            env.get_wrapper_attr("displace")(
                (push_m * np.cos(push_towards), push_m * np.sin(push_towards), 0.0)
            )
        kicked = kick_at <= step < kick_at + kick_steps
        action = kick if kicked else act(observation)
        observation, _, terminated, truncated, info = env.step(action)
        step += 1
        if info["success"]:
            return step
        ended = terminated or truncated
    return None


main = command("expert_check", ExpertCheckConfig)(expert_check)

if __name__ == "__main__":
    main()
