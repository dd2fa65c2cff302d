"""Demonstrations with images, small: in the fake world, or of noise."""

import numpy as np

from envs.interface import CameraSpec, Interface
from policies.demonstrations.lerobot.demonstration import Demonstration
from tests.policies.fake_world import ReachEnv, ReachExpert

FACTS = {"complete": True, "success": True}


def noise_interface(cameras=("eye", "side"), height=12, width=16, rate_hz=10.0):
    return Interface(
        arm="point",
        cameras=tuple(CameraSpec(name=name, height=height, width=width) for name in cameras),
        proprio=("x", "y", "z"),
        action_kind="joint_increment",
        action=("dx", "dy"),
        action_scale=(0.3, 0.3),
        rate_hz=rate_hz,
    )


def noise(steps=4, seed=0, interface=None, **changes):
    """Return a demonstration of noise: any image must come back to the bit."""
    rng = np.random.default_rng(seed)
    interface = interface or noise_interface()
    values = {
        "interface": interface,
        "images": {
            camera.name: rng.integers(
                0, 256, (steps, camera.height, camera.width, 3), dtype=np.uint8
            )
            for camera in interface.cameras
        },
        "proprio": rng.normal(size=(steps, len(interface.proprio))).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, len(interface.action))).astype(np.float32),
        "labelled": np.ones(steps, np.bool_),
        "task": "reach",
        "facts": {**FACTS, "seed": seed},
    }
    return Demonstration(**(values | changes))


def reach(seed, steps=8):
    """Return a demonstration of the fake world's expert; its last frame has no label."""
    env, expert = ReachEnv(privileged=True), ReachExpert()
    observation, _ = env.reset(seed=seed)
    seen, actions = [observation], []
    for _ in range(steps):
        actions.append(expert.act(observation).clip(-1, 1))
        observation, *_ = env.step(actions[-1])
        seen.append(observation)
    return Demonstration(
        interface=env.interface,
        images={"eye": np.stack([one["image_eye"] for one in seen])},
        proprio=np.stack([one["proprio"] for one in seen]),
        actions=np.stack([*actions, np.zeros(2, np.float32)]),
        labelled=np.array([True] * steps + [False]),
        task="reach",
        facts={**FACTS, "seed": seed},
    )
