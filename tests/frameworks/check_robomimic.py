"""Check TotoConv in the environment of robomimic 0.3: features, training, checkpoints, 0.5's table.

Version 0.5 is not on the package index. It finds a backbone in the table `OBS_ENCODER_BACKBONES` of
its `obs_utils` and by its name in `obs_core`; the check adds this table.
"""

import importlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic.utils import obs_utils

from toto_robot import load_encoder
from toto_robot.integrations import robomimic as integration

SHAPES = {"agentview_image": [3, 84, 84], "robot0_eef_pos": [3]}


def policy(pool_class=None, **backbone):
    config = config_factory("bc")
    with config.values_unlocked():
        core = config.observation.encoder.rgb.core_kwargs
        core.backbone_class, core.pool_class = "TotoConv", pool_class
        core.backbone_kwargs = backbone
        config.observation.modalities.obs.rgb = ["agentview_image"]
        config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
    obs_utils.initialize_obs_utils_with_config(config)
    return algo_factory("bc", config, SHAPES, ac_dim=7, device=torch.device("cpu"))


def batch():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 10, 84, 84, 3), dtype=np.uint8)
    obs = {"agentview_image": torch.from_numpy(images), "robot0_eef_pos": torch.zeros(4, 10, 3)}
    return images, {"obs": obs, "actions": torch.from_numpy(random.uniform(-1, 1, (4, 10, 7)))}


def backbone(one):
    return one.nets["policy"].nets["encoder"].nets["obs"].obs_nets["agentview_image"].backbone


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    return {name for name, tensor in module.state_dict().items() if not tensor.equal(before[name])}


def check_features_and_training():
    one = policy(encoder="toto-nano")
    images, data = batch()
    data = one.postprocess_batch_for_training(one.process_batch_for_training(data), None)
    seen = backbone(one)(data["obs"]["agentview_image"])
    torch.testing.assert_close(seen, load_encoder("toto-nano")(images[:, 0]), atol=1e-4, rtol=0)
    before = weights(one.nets)
    one.set_train()
    losses = [float(one.train_on_batch(data, epoch=0)["losses"]["action_loss"]) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0], losses
    moved = changed(before, one.nets)
    assert moved
    assert not any("backbone" in name for name in moved), moved
    one.set_eval()
    action = one.get_action({key: value[:1] for key, value in data["obs"].items()})
    with tempfile.TemporaryDirectory() as folder:
        torch.save(one.serialize(), Path(folder) / "model.pth")
        again = policy(encoder="toto-nano")
        again.deserialize(torch.load(Path(folder) / "model.pth"))
    again.set_eval()
    assert torch.equal(action, again.get_action({k: v[:1] for k, v in data["obs"].items()}))


def check_fine_tuning():
    one = policy(encoder="toto-nano", layer=2, pool="mean", trainable=True)
    _, data = batch()
    data = one.postprocess_batch_for_training(one.process_batch_for_training(data), None)
    before = weights(one.nets)
    one.set_train()
    one.train_on_batch(data, epoch=0)
    assert any("transformer.layers.1" in name for name in changed(before, one.nets))


def check_refusals():
    try:
        policy(pool_class="SpatialSoftmax", encoder="toto-nano")
    except AssertionError:
        pass
    else:
        raise AssertionError("SpatialSoftmax of pooled features would be constant")
    try:
        integration.TotoConv(input_channel=1)
    except ValueError as error:
        assert "RGB" in str(error)  # noqa: PT017
    else:
        raise AssertionError("depth images were accepted")


def check_the_table_of_newer_versions():
    obs_utils.OBS_ENCODER_BACKBONES = {}
    importlib.reload(integration)
    assert {"TotoConv": integration.TotoConv} == obs_utils.OBS_ENCODER_BACKBONES


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            print("ok", name, flush=True)
