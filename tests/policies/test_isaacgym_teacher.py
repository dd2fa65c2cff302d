"""PPO on the privileged state, with the worlds in Isaac Gym's stand-in: the command as typed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.simulation.fake_worker import fake_python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_teacher_trains_in_isaac_gym(tmp_path):
    words = [
        *("env=franka_pick", "env.backend=isaacgym", "env.num_envs=4", "ppo=pixmc"),
        f"env.backend_options.worker_python={fake_python(tmp_path)}",
        *("env.options.protocol=pixmc", "env.options.num_steps=12", "env_steps=64"),
        *("ppo.num_envs=4", "ppo.num_steps=4", "ppo.minibatches=1", "ppo.epochs=1"),
        *("validation_episodes=2", "evaluation_episodes=2", "video_episodes=0"),
        *("checkpoint_every=2", f"out={tmp_path / 'teacher'}"),
    ]
    command = [sys.executable, "-m", "policies.teacher", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "success: " in done.stdout
    assert (tmp_path / "teacher" / "policy" / "weights.safetensors").is_file()
