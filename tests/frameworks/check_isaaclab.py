"""Check the model-zoo entry with Isaac Lab's own `image_features` and `ObservationManager`.

No simulator runs: an object with the attributes that these two classes read takes the place of the
environment.
"""

from types import SimpleNamespace

import torch
from isaaclab.envs.mdp.observations import image_features
from isaaclab.managers import (
    ObservationGroupCfg,
    ObservationManager,
    ObservationTermCfg,
    SceneEntityCfg,
)  # fmt: skip
from isaaclab.utils.configclass import configclass
from isaaclab.utils.dict import to_dict, update_from_dict

from toto_robot import StreamConfig, load_encoder
from toto_robot.integrations.isaac_lab import toto_model_zoo_entry

ENCODER = load_encoder("toto-nano")
STREAM = StreamConfig(context=4)
N = 3


class Scene(dict):
    """A scene with one camera."""

    sensors: dict


class Env:
    """The part of `ManagerBasedEnv` that the observation manager reads."""

    num_envs, device = N, "cpu"

    def __init__(self):
        self.buffer = torch.zeros(N, 48, 64, 3, dtype=torch.uint8)
        output = {"rgb": SimpleNamespace(torch=self.buffer)}
        camera = SimpleNamespace(data=SimpleNamespace(output=output))
        self.scene = Scene(tiled_camera=camera)
        self.scene.sensors = {"tiled_camera": camera}
        self.sim = SimpleNamespace(is_playing=lambda: True)

    def render(self, seed, rows=slice(None)):
        """Write new images into the camera's buffer, as the renderer does; return all images."""
        generator = torch.Generator().manual_seed(seed)
        size = (N, 48, 64, 3)
        new = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        self.buffer[rows] = new[rows]
        return self.buffer.clone()


def manager(env, entry):
    @configclass
    class Policy(ObservationGroupCfg):
        toto = ObservationTermCfg(
            func=image_features,
            params={
                "sensor_cfg": SceneEntityCfg("tiled_camera"),
                "model_zoo_cfg": {"toto": entry},
                "model_name": "toto",
            },
        )

    @configclass
    class Observations:
        policy = Policy()

    configuration = Observations()
    # what the training scripts do with a configuration: all functions become text, and return
    update_from_dict(configuration, to_dict(configuration))
    entry = configuration.policy.toto.params["model_zoo_cfg"]["toto"]
    assert all(isinstance(function, str) for function in entry.values()), entry
    return ObservationManager(configuration, env)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


def check_single_frames():
    env = Env()
    one = manager(env, toto_model_zoo_entry("toto-nano"))
    assert one.group_obs_dim["policy"] == (ENCODER.dim,)
    one.reset(torch.arange(N, dtype=torch.int32))
    close(one.compute()["policy"], ENCODER(env.buffer))
    images = env.render(1)
    close(one.compute()["policy"], ENCODER(images))


def check_streams_and_resets():
    env = Env()
    one = manager(env, toto_model_zoo_entry("toto-nano", stream=STREAM))
    reference = STREAM.open(ENCODER, N)
    one.reset(torch.arange(N, dtype=torch.int32))
    begins = torch.ones(N, dtype=torch.bool)
    for step in range(6):
        images = env.render(step)
        found = one.compute(update_history=True)["policy"]
        close(found, reference.step(images, begins))
        begins = torch.zeros(N, dtype=torch.bool)
        if step == 3:  # two environments end; recorders and `compute_final_obs` compute again
            close(one.compute()["policy"], found)
            one.reset(torch.tensor([0, 2], dtype=torch.int32))
            begins[[0, 2]] = True
    one.reset(None)
    images = env.render(9)
    close(one.compute()["policy"], reference.step(images, torch.ones(N, dtype=torch.bool)))


def check_first_frames_after_a_reset_in_the_same_step():
    """The others have no new image when Isaac Lab computes again after a reset."""
    env = Env()
    one = manager(env, toto_model_zoo_entry(ENCODER, stream=STREAM))
    reference = STREAM.open(ENCODER, N)
    one.reset(None)
    reference.step(env.render(0), torch.ones(N, dtype=torch.bool))
    one.compute()
    last = reference.step(env.render(1))
    close(one.compute()["policy"], last)  # the final observation
    one.reset(torch.tensor([1]))
    images = env.render(2, rows=[1])
    first = reference.step(images[1:2], torch.tensor([True]), [1])
    found = one.compute(update_history=True)["policy"]
    close(found[1:2], first)
    close(found[[0, 2]], last[[0, 2]])
    images = env.render(3)
    close(one.compute()["policy"], reference.step(images))


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            print("ok", name, flush=True)
