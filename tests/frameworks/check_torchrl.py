"""Check TotoTransform in the environment of TorchRL: streams, batches, partial resets, buffers."""

import functools
import re
import warnings

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import (
    GymWrapper,
    ParallelEnv,
    SerialEnv,
    ToTensorImage,
    TransformedEnv,
    check_env_specs,
)  # fmt: skip

from toto_robot import StreamConfig, load_encoder
from toto_robot.integrations.torchrl import TotoTransform

ENCODER = load_encoder("toto-nano")
STREAM = StreamConfig(context=4)


class Clock(gymnasium.Env):
    """An environment whose images depend on its number, the episode and the step."""

    observation_space = gymnasium.spaces.Dict(
        pixels=gymnasium.spaces.Box(0, 255, (32, 48, 3), np.uint8),
        state=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, number=0, length=5):
        self.number, self.length, self.episode, self.time = number, length, -1, 0

    def _observation(self):
        random = np.random.default_rng((self.number, self.episode, self.time))
        image = random.integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        return {"pixels": image, "state": np.zeros(2, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        return self._observation(), 0.0, self.time >= self.length, False, {}


def clock(number=0, length=5):
    return GymWrapper(Clock(number, length))


def frames(number, episode, times):
    one = Clock(number)
    one.episode = episode
    made = []
    for one.time in times:
        made.append(one._observation()["pixels"])
    return np.stack(made)


def expected(number, episode, times, stream):
    images = frames(number, episode, times)
    if stream is None:
        return ENCODER(images)
    opened = stream.open(ENCODER, 1)
    return torch.cat([opened.step(image[None]) for image in images])


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


def check_single():
    for stream in (None, STREAM):
        env = TransformedEnv(clock(), TotoTransform(ENCODER, stream=stream))
        check_env_specs(env)
        env.reset()  # a new episode
        episode = env.base_env._env.unwrapped.episode + 1
        rollout = env.rollout(4)
        assert "pixels" not in rollout.keys()  # noqa: SIM118
        assert rollout["embedding_pixels"].shape == (4, ENCODER.dim)
        close(rollout["embedding_pixels"], expected(0, episode, range(4), stream))
        close(rollout["next", "embedding_pixels"], expected(0, episode, range(5), stream)[1:])


def check_batches():
    """Transforms above and below a batch of environments; they end their episodes apart."""
    lengths = (2, 3)
    makers = [functools.partial(clock, i, n) for i, n in enumerate(lengths)]
    for kind, stream in ((SerialEnv, None), (SerialEnv, STREAM), (ParallelEnv, STREAM)):
        above = TransformedEnv(kind(2, makers), TotoTransform(ENCODER, stream=stream))
        below = kind(2, [functools.partial(wrapped, make, stream) for make in makers])
        for env in (above, below):
            rollout = env.rollout(5, break_when_any_done=False)
            for row, length in enumerate(lengths):
                for episode in range(2):
                    wanted = expected(row, episode, range(length + 1), stream)
                    some = rollout[row, episode * length :][:length]
                    count = len(some)
                    close(some["embedding_pixels"], wanted[:count])
                    close(some["next", "embedding_pixels"], wanted[1 : count + 1])
            env.close()


def wrapped(make, stream):
    return TransformedEnv(make(), TotoTransform(ENCODER, stream=stream))


def check_partial_reset():
    env = TransformedEnv(
        SerialEnv(2, [functools.partial(clock, i, 99) for i in range(2)]),
        TotoTransform(ENCODER, stream=STREAM),
    )
    now = env.reset()
    for _ in range(2):
        now = env.step(env.rand_action(now))["next"]
    before = now["embedding_pixels"].clone()
    now["_reset"] = torch.tensor([[True], [False]])
    now = env.reset(now)
    close(now["embedding_pixels"][0], expected(0, 1, [0], STREAM)[0])
    close(now["embedding_pixels"][1], before[1])
    now = env.step(env.rand_action(now))["next"]
    close(now["embedding_pixels"][0], expected(0, 1, range(2), STREAM)[1])
    close(now["embedding_pixels"][1], expected(1, 0, range(4), STREAM)[3])


def check_options():
    env = TransformedEnv(clock(), TotoTransform(ENCODER, ["pixels"], ["seen"], del_keys=False))
    first = env.reset()
    check_env_specs(env)
    assert first["pixels"].dtype == torch.uint8
    float_env = TransformedEnv(clock(), ToTensorImage(in_keys=["pixels"]))
    float_env.append_transform(TotoTransform(ENCODER, out_keys=["seen"], channels="first"))
    close(first["seen"], float_env.reset()["seen"])
    transform = TotoTransform(ENCODER, stream=STREAM)
    one = TransformedEnv(clock(), transform)
    two = TransformedEnv(clock(1), transform.clone())
    one.reset(), two.reset()
    close(two.rollout(3)["embedding_pixels"], expected(1, 1, range(3), STREAM))


def check_buffer():
    images = torch.from_numpy(frames(0, 0, range(8)))
    keys = ["pixels", ("next", "pixels")]
    data = TensorDict({"pixels": images[:-1], "next": {"pixels": images[1:]}}, [7])
    buffer = ReplayBuffer(storage=LazyTensorStorage(7), batch_size=4)
    buffer.append_transform(TotoTransform(ENCODER, keys))
    buffer.extend(data)
    sample = buffer.sample()
    assert sample["embedding_pixels"].shape == sample["next", "embedding_pixels"].shape
    assert "pixels" not in sample.keys()  # noqa: SIM118
    close(buffer[:]["next", "embedding_pixels"], ENCODER(images[1:]))
    sequences = ReplayBuffer(storage=LazyTensorStorage(2), batch_size=2)
    sequences.append_transform(TotoTransform(ENCODER))
    sequences.extend(
        TensorDict({"pixels": images[:6].unflatten(0, (2, 3))}, [2, 3]).auto_batch_size_(1)
    )
    assert sequences.sample()["embedding_pixels"].shape == (2, 3, ENCODER.dim)
    refused(lambda: TotoTransform(ENCODER, stream=STREAM)(data), "not a sequence")


def check_vector_env():
    """Check a vector environment of Gymnasium.

    With `AutoresetMode.SAME_STEP`, TorchRL 0.14.1 itself fails at the end of an episode if
    observations are a Dict.
    """
    makers = [functools.partial(Clock, i, 2 + i) for i in range(2)]
    vector = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    env = TransformedEnv(GymWrapper(vector), TotoTransform(ENCODER, stream=STREAM))
    rollout = env.rollout(5, break_when_any_done=False)
    for row in range(2):
        for episode in range(2):
            some = rollout[row]["embedding_pixels"][episode * (2 + row) :][: 2 + row]
            close(some, expected(row, episode, range(2 + row), STREAM)[: len(some)])


def check_collector():
    env = TransformedEnv(clock(length=3), TotoTransform(ENCODER, stream=STREAM))
    collector = Collector(env, frames_per_batch=6, total_frames=12)
    for number, batch in enumerate(collector):
        for episode in range(2):
            some = batch[3 * episode : 3 * episode + 3]["embedding_pixels"]
            close(some, expected(0, 2 * number + episode, range(3), STREAM))
    collector.shutdown()


def check_errors():
    refused(lambda: TotoTransform(ENCODER, ["a", "b"], ["c"]), "out_keys")
    refused(lambda: TotoTransform("mae-nano", stream=STREAM), "stream= needs")
    wrong = TransformedEnv(clock(), TotoTransform(ENCODER, channels="first"))
    refused(wrong.reset, r"\[b 3 h w\]")
    env = TransformedEnv(clock(), TotoTransform(ENCODER, stream=STREAM))
    agents = TensorDict({"agents": {"_reset": torch.ones(1, dtype=torch.bool)}})
    refused(lambda: env.transform._reset(agents, env.reset()), "at the root")
    refused(lambda: env._reset_on_native_autoreset(env.reset(), env.reset()), "native_autoreset")


def refused(call, message):
    try:
        call()
    except ValueError as error:
        assert re.search(message, str(error)), error  # noqa: PT017
    else:
        raise AssertionError(f"no error with {message!r}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, check in list(globals().items()):
        if name.startswith("check_") and name != "check_env_specs":
            check()
            print("ok", name, flush=True)
