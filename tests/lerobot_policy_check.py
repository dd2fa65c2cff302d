"""Check the policy `toto` in LeRobot's own environment, on a data set; run by `make compat`.

python -I tests/lerobot_policy_check.py DATASET CHECKPOINT
"""

import sys
from pathlib import Path

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

STEPS = 9


def main() -> None:
    """Run all checks; an AssertionError says which failed."""
    register_third_party_plugins()
    root, checkpoint = Path(sys.argv[1]), sys.argv[2]
    data = LeRobotDataset("local/check", root=root, episodes=[0])
    config = PreTrainedConfig.from_pretrained(checkpoint, cli_overrides=["--device=cpu"])
    config.pretrained_path = checkpoint
    policy = make_policy(config, ds_meta=data.meta)
    pixels_are_the_cameras(policy, data)
    history_is_that_of_training(data, config)
    images_are_encoded_once(policy, data)
    another_encoder_is_refused(policy)
    print("policy: 4 checks passed")


def pixels_are_the_cameras(policy, data) -> None:
    """Embeddings equal those of the encoder for the images as they were recorded."""
    from toto_robot import load_encoder

    batch = {name: value[None] for name, value in data[0].items() if "images" in name}
    for key in policy.config.image_features:
        frames = (batch[key] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        assert (frames.permute(0, 3, 1, 2) / 255 - batch[key]).abs().max() == 0, "not exact"
        found = policy._backbones[0](batch[key])
        assert torch.equal(found, load_encoder(policy.config.encoder)(frames))


def history_is_that_of_training(data, config) -> None:
    """A policy with a history reads in each step what it reads of that step in training."""
    trained = PreTrainedConfig.get_choice_class("toto")(
        device="cpu", n_obs_steps=3, chunk_size=6, n_action_steps=4, cache=config.cache
    )
    policy = make_policy(trained, ds_meta=data.meta)
    pre, _ = make_pre_post_processors(trained, dataset_stats=data.meta.stats)
    past = [index / data.fps for index in trained.observation_delta_indices]
    names = [name for name in data.features if name.startswith("observation.")]
    windows = LeRobotDataset(
        "local/check", root=data.root, episodes=[0], delta_timestamps=dict.fromkeys(names, past)
    )
    policy.eval()
    for _ in range(2):  # a second episode begins without the first one's history
        policy.reset()
        for step in range(STEPS):
            policy.select_action(pre(dict(data[step])))
            expected = policy._inputs(pre(batched(windows[step])), cached=False)
            found = [torch.stack(steps, 1) for steps in zip(*policy._history, strict=True)]
            for one, other in zip(found, expected, strict=True):
                assert torch.allclose(one, other, atol=1e-4), f"step {step}"


def images_are_encoded_once(policy, data) -> None:
    """The second time, all embeddings come from the cache, and the loss is the same."""
    rows = [batched(data[index]) for index in range(4)]
    batch = {
        name: torch.cat([row[name] for row in rows])
        for name in rows[0]
        if isinstance(rows[0][name], torch.Tensor)
    }
    width = policy.config.chunk_size
    batch["action"] = batch["action"][:, None].expand(-1, width, -1)
    batch["action_is_pad"] = torch.zeros(4, width, dtype=torch.bool)
    policy.eval()
    cache = policy._backbones[1].encoder
    first, _ = policy.forward(batch)
    misses, hits = cache.misses, cache.hits
    second, _ = policy.forward(batch)
    assert (cache.misses, cache.hits) == (misses, hits + 4 * len(policy.config.image_features))
    assert torch.equal(first, second)


def another_encoder_is_refused(policy) -> None:
    """A policy does not act on the embeddings of another encoder."""
    from dataclasses import replace

    try:
        type(policy)(replace(policy.config, encoder="mae-nano"))
    except ValueError as error:
        if "was trained with another encoder" not in str(error):
            raise
    else:
        raise AssertionError("another encoder was accepted")


def batched(row: dict) -> dict:
    """Return a row of a data set as a batch of one."""
    return {
        name: value[None] if isinstance(value, torch.Tensor) else [value]
        for name, value in row.items()
    }


if __name__ == "__main__":
    main()
