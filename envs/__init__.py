"""Gymnasium environments: a simulator, an arm, a controller and a task.

Importing this package registers the environments and nothing else:

    gymnasium.make("envs:toto/FrankaPick-v0", cameras=("hand", "front"), image_size=128)
"""

import gymnasium

# id: entry point. Eight seconds at 10 Hz.
ENVIRONMENTS = {"toto/FrankaPick-v0": "envs.catalogue:franka_pick"}
NUM_EPISODE_STEPS = 80

for _id, _entry_point in ENVIRONMENTS.items():
    gymnasium.register(id=_id, entry_point=_entry_point, max_episode_steps=NUM_EPISODE_STEPS)
