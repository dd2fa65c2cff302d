"""Encoders in forked processes: vector environments of Gymnasium and SB3, data loaders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the parent must have used torch's pool of threads, with several of them.
PROGRAM = """
import multiprocessing, sys
import gymnasium, numpy as np, torch
from gymnasium import spaces
from toto_robot import TotoObservation, load_encoder

torch.set_num_threads(4)

class Camera(gymnasium.Env):
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((64, 64, 3), 7, np.uint8), {}
    def step(self, action):
        return np.full((64, 64, 3), 9, np.uint8), 0.0, False, False, {}

def busy():
    a = torch.randn(800, 800)
    return float((a @ a).sum())

class Frames(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return encoder(np.full((1, 64, 64, 3), index, np.uint8))[0]

def check(found, want):
    np.testing.assert_allclose(np.asarray(found), np.asarray(want), rtol=2e-4, atol=2e-4)

if __name__ == "__main__":
    what = sys.argv[1]
    busy()
    if what != "by_name":
        encoder = load_encoder("toto-nano")
        want = encoder(np.full((1, 64, 64, 3), 7, np.uint8))[0]
    if what in ("gymnasium", "by_name"):
        look = "toto-nano" if what == "by_name" else encoder
        envs = gymnasium.vector.AsyncVectorEnv(
            [lambda: TotoObservation(Camera(), look)] * 2, context="fork"
        )
        seen = envs.reset(seed=0)[0]
        envs.step(np.zeros(2, int))
        envs.close()
        if what == "by_name":
            want = load_encoder("toto-nano")(np.full((1, 64, 64, 3), 7, np.uint8))[0]
        check(seen[0], want)
    elif what == "sb3":
        from stable_baselines3.common.vec_env import SubprocVecEnv
        venv = SubprocVecEnv([lambda: TotoObservation(Camera(), encoder)] * 2, start_method="fork")
        check(venv.reset()[1], want)
        venv.close()
    elif what == "loader":
        loader = torch.utils.data.DataLoader(
            Frames(), batch_size=2, num_workers=2, multiprocessing_context="fork"
        )
        check(torch.cat(list(loader))[3], encoder(np.full((1, 64, 64, 3), 3, np.uint8))[0])
    elif what == "process":
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        context.Process(
            target=lambda: answers.put(encoder(np.full((1, 64, 64, 3), 7, np.uint8))[0].tolist())
        ).start()
        check(answers.get(timeout=60), want)
    busy()
    assert torch.get_num_threads() == 4  # the parent keeps its own
    print("DONE")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize(
    "what",
    [
        "gymnasium",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("by_name", "sb3", "loader")),
        "process",
    ],
)
def test_an_encoder_works_in_forked_processes(what, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {name: v for name, v in os.environ.items() if "NUM_THREADS" not in name}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "program.py", what],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "DONE" in done.stdout
