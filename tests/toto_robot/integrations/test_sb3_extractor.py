"""Toto as a features extractor of Stable-Baselines3: what it computes, saves and refuses."""

import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from toto_robot import TotoFeaturesExtractor, load_encoder

ENCODER = load_encoder("toto-nano")


def extractor_policy(space, **changes):
    from stable_baselines3 import PPO

    kwargs = {
        "features_extractor_class": TotoFeaturesExtractor,
        "features_extractor_kwargs": {"encoder": "toto-nano"},
        "normalize_images": False,
    }
    env = Cameras(space)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy"
    return PPO(
        policy, env, n_steps=4, batch_size=4, n_epochs=1, device="cpu",
        policy_kwargs=kwargs | changes,
    )  # fmt: skip


class Cameras(gymnasium.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(action), False, False, {}


IMAGE = spaces.Box(0, 255, (40, 48, 3), np.uint8)
STATE = spaces.Box(-1, 1, (5,), np.float32)


@pytest.mark.parametrize(
    ("space", "width"),
    [(IMAGE, ENCODER.dim), (spaces.Dict(pixels=IMAGE, state=STATE), ENCODER.dim + 5)],
)
def test_stable_baselines_policies_learn_on_its_features(space, width, tmp_path):
    model = extractor_policy(space)
    model.learn(4)
    extractor = model.policy.features_extractor
    assert extractor.features_dim == width
    observation = space.sample()
    tensors, _ = model.policy.obs_to_tensor(
        {k: v if k == "state" else v.transpose(2, 0, 1) for k, v in observation.items()}
        if isinstance(space, spaces.Dict)
        else observation.transpose(2, 0, 1)
    )
    features = model.policy.extract_features(tensors, extractor)
    image = observation["pixels"] if isinstance(space, spaces.Dict) else observation
    assert torch.allclose(features[:, : ENCODER.dim], ENCODER(image[None]), atol=1e-4)
    assert not any("encoder" in name for name in model.policy.state_dict())
    model.save(tmp_path / "policy")
    loaded = type(model).load(tmp_path / "policy", device="cpu")
    again = loaded.policy.extract_features(tensors, loaded.policy.features_extractor)
    assert torch.equal(again, features)


@pytest.mark.parametrize(
    ("space", "arguments"),
    [
        (spaces.Box(0, 255, (40, 48, 4), np.uint8), {"layout": "hwc"}),
        (spaces.Dict(rgba=spaces.Box(0, 255, (40, 48, 4), np.uint8), state=STATE), {}),
        (spaces.Box(0, 255, (4, 40, 48), np.uint8), {"layout": "chw"}),
        (spaces.Box(0, 255, (40, 48, 1), np.uint8), {"cameras": ["image"]}),
        (spaces.Dict(grey=spaces.Box(0, 255, (40, 48, 1), np.uint8)), {"cameras": ["grey"]}),
    ],
)
def test_alpha_is_dropped_and_grey_images_are_embedded(space, arguments):
    observation = space.sample()
    batch = {
        key: torch.from_numpy(one[None]).float()
        for key, one in (
            observation if isinstance(space, spaces.Dict) else {"": observation}
        ).items()
    }
    extractor = TotoFeaturesExtractor(space, ENCODER, **arguments)
    features = extractor(batch if isinstance(space, spaces.Dict) else batch[""])
    image = next(one for one in batch.values() if one.ndim == 4)[0].numpy().astype(np.uint8)
    image = image.transpose(1, 2, 0) if image.shape[0] == 4 else image
    rgb = image[..., :3] if image.shape[-1] == 4 else image[..., [0, 0, 0]]
    assert torch.allclose(features[:, : ENCODER.dim], ENCODER(rgb[None]), atol=1e-4)


def test_stacks_are_refused_before_the_training():
    with pytest.raises(ValueError, match=r"stack of 2 frames.*encodes single frames"):
        TotoFeaturesExtractor(spaces.Box(0, 255, (2, 64, 64, 3), np.uint8), ENCODER)


def test_images_that_are_divided_already_are_refused():
    model = extractor_policy(IMAGE, normalize_images=True)
    with pytest.raises(ValueError, match="add normalize_images=False to policy_kwargs"):
        model.learn(4)


def test_the_recipes_of_the_page_run():
    page = (Path(__file__).parents[3] / "docs" / "frameworks.md").read_text()
    for title in ("Stable-Baselines3", "PyTorch"):
        section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert len(code.splitlines()) <= 20
        names = {"make_env": lambda: Cameras(spaces.Dict(pixels=IMAGE, state=STATE))}
        exec(code, names)
    assert names["actions"].shape == (2, 7)


def test_the_package_alone_does_not_import_stable_baselines():
    code = "import sys, toto_robot; assert 'stable_baselines3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_error_without_stable_baselines_names_the_package_to_install():
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from toto_robot import TotoFeaturesExtractor"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].endswith("pip install 'toto-robot[sb3]'")
