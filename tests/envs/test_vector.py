# Workers import this module, too, so torch is imported where it is needed.

import os
import pickle
import signal
import subprocess
import sys
from copy import deepcopy
from functools import partial
from multiprocessing.shared_memory import SharedMemory

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.sb3 import as_sb3
from envs.vector import WorkerVectorEnv, make_vec

NUM = 3
FATAL = 9  # an action that is none
NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
KINDS = ("sync", "async", 1, 2, 3)
PICK = "envs:toto/FrankaPick-v0"


class Walk(gymnasium.Env):
    """Add actions to a number that pictures show; end after 2 to 5 steps, as the seed has it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = spaces.Discrete(FATAL)
    observation_space = spaces.Dict(
        image_front=spaces.Box(0, 255, (4, 5, 3), np.uint8),
        rest=spaces.Tuple((spaces.Box(-9, 999, (2,), np.float32), spaces.Discrete(1000))),
    )
    label = "none"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(2, 6))
        self.where, self.now = int(self.np_random.integers(100)), 0
        self.picture = np.zeros((4, 5, 3), np.uint8)
        return self.look(), {"begun_with": (options or {}).get("say", "nothing")}

    def step(self, action):
        if action == FATAL:
            raise ZeroDivisionError("walked off")
        self.where += int(action)
        self.now += 1
        over = self.now >= self.length
        info = {"action": int(action), "terms": {"far": self.where / 7}, "now": self.now}
        return self.look(), self.where / 3, over and self.length % 2 == 0, over, info

    def look(self):
        self.picture[:] = self.where
        self.picture[0, 0] = self.np_random.integers(255, size=3)
        position = np.array([self.where, self.now], np.float32)
        return {"image_front": self.picture.copy(), "rest": (position, np.int64(self.where))}

    def render(self):
        return self.picture

    def double(self, number, plus=0):
        return 2 * number + plus + self.where

    def itself(self):
        return lambda: self


class Careless(Walk):
    """Show the same array every time."""

    def look(self):
        return {**super().look(), "image_front": self.picture}


class Crooked(Walk):
    def look(self):
        return {**super().look(), "image_front": np.zeros(3, np.uint8)}


def make(kind, mode, maker=Walk, num=NUM):
    makers = [maker] * num
    if kind == "sync":
        return SyncVectorEnv(makers, autoreset_mode=mode)
    if kind == "async":
        return AsyncVectorEnv(makers, autoreset_mode=mode, context="spawn")
    return WorkerVectorEnv(makers, autoreset_mode=mode, num_workers=kind)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind}")
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=list(AutoresetMode), ids=lambda mode: mode.value)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def envs(kind, mode):
    made = make(kind, mode)
    yield made
    made.close()


@pytest.fixture(scope="module")
def workers():
    made = make(2, SAME)
    yield made
    made.close()


def play(envs, seed, num_steps=12):
    """Return all that a session of a vector environment returns."""
    told = [envs.reset(seed=seed)]
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        actions = rng.integers(FATAL, size=envs.num_envs)
        told.append(envs.step(actions))
        ended = told[-1][2] | told[-1][3]
        if envs.metadata["autoreset_mode"] == DISABLED and ended.any():
            told.append(envs.reset(options={"reset_mask": ended, "say": "again"}))
    return told


def assert_same(one, other):
    assert len(one) == len(other)
    for index, (left, right) in enumerate(zip(one, other, strict=True)):
        assert data_equivalence(left, right, exact=True), (index, left, right)


class Mean:
    """Embed a picture by numbers that tell it from others."""

    dim = 2

    def __init__(self):
        self.sizes = []

    def __call__(self, frames):
        import torch

        self.sizes.append(len(frames))
        whole = torch.as_tensor(frames).float()
        return torch.stack([whole.mean(dim=(1, 2, 3)), whole[:, 0, 0, 0]], dim=1)


def mean(picture):
    return Mean()(picture[None]).numpy()[0]


def test_all_kinds_tell_the_same_to_the_bit(envs, mode) -> None:
    reference = make("sync", mode)
    for seed in (5, [7, 7, 1], 5):
        assert_same(play(envs, seed), play(reference, seed))
    assert envs.metadata == reference.metadata
    assert envs.observation_space == reference.observation_space
    assert envs.single_observation_space == reference.single_observation_space
    assert envs.action_space == reference.action_space
    assert envs.render_mode == reference.render_mode
    reference.close()


def test_environments_get_seeds_that_follow(envs) -> None:
    observations, _ = envs.reset(seed=5)
    for row in range(NUM):
        alone, _ = Walk().reset(seed=5 + row)
        np.testing.assert_array_equal(observations["image_front"][row], alone["image_front"])


def test_without_a_seed_environments_differ(envs) -> None:
    one, two = envs.reset()[0], envs.reset()[0]
    assert not data_equivalence(one, two, exact=True)


def test_embeddings_of_last_pictures_are_those_of_the_true_last_frames(envs, mode) -> None:
    from toto_robot.wrappers.vector import TotoVectorObservation

    alone = [Walk() for _ in range(NUM)]
    for row, env in enumerate(alone):
        env.reset(seed=5 + row)
    seeing = TotoVectorObservation(envs, Mean())
    seeing.reset(seed=5)
    ended, finals = np.zeros(NUM, bool), 0
    while not ended.all():
        observations, _, terminations, truncations, infos = seeing.step(np.full(NUM, 2))
        now = terminations | truncations
        for row, env in enumerate(alone):
            true, *_ = env.step(2)
            shown = observations["embedding_front"][row]
            if now[row] and mode == SAME:
                finals += 1
                last = infos["final_obs"][row]
                np.testing.assert_array_equal(last["embedding_front"], mean(true["image_front"]))
                assert last["rest"][1] == true["rest"][1]
                true, _ = env.reset()
            np.testing.assert_array_equal(shown, mean(true["image_front"]))
        ended |= now
        if mode != SAME and now.any():
            break
    assert (finals >= NUM) == (mode == SAME)


def test_each_way_of_starting_anew_keeps_its_promise(envs, mode, kind) -> None:
    if mode == NEXT:
        check_that_the_action_of_a_step_that_begins_an_episode_is_ignored(envs)
    elif mode == SAME:
        check_that_no_step_is_lost(envs)
    else:
        check_that_a_mask_resets_its_rows_and_leaves_the_others(envs)
        if isinstance(kind, int):  # gymnasium's move some environments, or all
            check_that_nothing_moves_while_an_environment_waits_for_its_reset(envs)


def check_that_the_action_of_a_step_that_begins_an_episode_is_ignored(envs):
    def session(ignored):
        envs.reset(seed=1)
        ended, told = np.zeros(NUM, bool), []
        for _ in range(6):
            told.append(envs.step(np.where(ended, ignored, 3)))
            assert (told[-1][1][ended] == 0).all()
            assert not (told[-1][2] | told[-1][3])[ended].any()
            ended = told[-1][2] | told[-1][3]
        return told

    assert_same(session(0), session(FATAL))


def check_that_no_step_is_lost(envs):
    envs.reset(seed=1)
    ages = np.zeros(NUM, int)
    for _ in range(6):
        _, _, terminations, truncations, infos = envs.step(np.full(NUM, 3))
        ended, ages = terminations | truncations, ages + 1
        now = np.where(ended, infos.get("final_info", {}).get("now", 0), infos.get("now", 0))
        np.testing.assert_array_equal(now, ages)
        ages[ended] = 0


def check_that_a_mask_resets_its_rows_and_leaves_the_others(envs):
    envs.reset(seed=1)
    before, *_ = envs.step(np.full(NUM, 1))
    seeds, mask = [None, 44, None], np.array([False, True, False])
    after, infos = envs.reset(seed=seeds, options={"reset_mask": mask, "say": "one"})
    alone, _ = Walk().reset(seed=44)
    np.testing.assert_array_equal(after["image_front"][1], alone["image_front"])
    for row in (0, 2):
        np.testing.assert_array_equal(after["image_front"][row], before["image_front"][row])
    assert infos["begun_with"].tolist() == [None, "one", None]
    then, *_ = envs.step(np.full(NUM, 1))
    assert (then["rest"][0][:, 1] == [2, 1, 2]).all()


def check_that_nothing_moves_while_an_environment_waits_for_its_reset(envs):
    envs.reset(seed=[0, 1, 2])
    ended = np.zeros(NUM, bool)
    while not ended.any():
        _, _, terminations, truncations, _ = envs.step(np.ones(NUM, int))
        ended = terminations | truncations
    ages = envs.get_attr("now")
    with pytest.raises(ValueError, match=rf"environments \[{np.flatnonzero(ended)[0]}.*reset_mask"):
        envs.step(np.ones(NUM, int))
    assert envs.get_attr("now") == ages
    envs.reset(options={"reset_mask": ended})
    envs.step(np.ones(NUM, int))


def test_the_callers_options_are_left_alone(workers) -> None:
    options = {"reset_mask": np.ones(NUM, bool), "say": "x"}
    workers.reset(options=options)
    assert sorted(options) == ["reset_mask", "say"]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True] * NUM, TypeError, "must be a numpy array of bools, got list"),
        (np.ones(NUM, int), TypeError, "must be a numpy array of bools, got int64"),
        (np.ones(2, bool), ValueError, r"must have shape \(3,\), got \(2,\)"),
        (np.zeros(NUM, bool), ValueError, "must be true for at least one environment"),
    ],
)
def test_unfit_masks_are_refused(workers, mask, error, message) -> None:
    workers.reset()
    with pytest.raises(error, match=message):
        workers.reset(options={"reset_mask": mask})


def test_unfit_seeds_actions_and_values_are_refused(workers) -> None:
    with pytest.raises(ValueError, match="one for each of 3, got 2"):
        workers.reset(seed=[1, 2])
    workers.reset()
    with pytest.raises(ValueError, match="3 actions are needed, got 2"):
        workers.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="one for each of 3 environments, got 1"):
        workers.set_attr("label", ["a"])
    with pytest.raises(ValueError, match=r"call reset\(\) of the vector environment itself"):
        workers.call("reset")


def test_attributes_and_methods_of_every_environment(workers) -> None:
    workers.reset(seed=5)
    where = [Walk().reset(seed=5 + row)[0]["rest"][1] for row in range(NUM)]
    assert workers.call("double", 3, plus=1) == tuple(7 + one for one in where)
    workers.set_attr("label", ["a", "b", "c"])
    assert workers.get_attr("label") == ("a", "b", "c")
    workers.set_attr("label", "all")
    assert workers.get_attr("label") == ("all",) * NUM
    frames = workers.render()
    assert [frame[-1, -1, 0] for frame in frames] == where
    assert workers.np_random_seed == (5, 6, 7)
    assert len({str(rng.bit_generator.state) for rng in workers.np_random}) == NUM


def test_an_error_comes_with_its_type_and_the_workers_traceback(workers) -> None:
    workers.reset(seed=0)
    with pytest.raises(ZeroDivisionError, match="walked off") as caught:
        workers.step(np.array([0, FATAL, FATAL]))
    (note, also) = caught.value.__notes__
    assert note.startswith("in environment 1, in a worker process:\nTraceback")
    assert "in step" in note
    assert also == "environments [2] failed too"
    with pytest.raises(ResetNeeded, match="a step failed"):
        workers.step(np.zeros(NUM, int))
    with pytest.raises(ResetNeeded, match="all environments must be reset"):
        workers.reset(options={"reset_mask": np.array([True, False, False])})
    assert_same(play(workers, 5), play(make("sync", SAME), 5))


def test_what_cannot_be_sent_or_found_is_an_error_and_no_end(workers) -> None:
    workers.reset(seed=0)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        workers.call("itself")
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        workers.get_attr("missing")
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        workers.call("double", lambda: 3)
    workers.step(np.zeros(NUM, int))


def test_an_interrupted_step_leaves_no_answers_behind(workers, monkeypatch) -> None:
    def interrupt(worker):
        raise KeyboardInterrupt

    workers.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(type(workers._workers[0]), "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            workers.step(np.zeros(NUM, int))
    with pytest.raises(ResetNeeded):
        workers.step(np.zeros(NUM, int))
    assert_same(play(workers, 5), play(make("sync", SAME), 5))


def test_observations_are_new_arrays_unless_asked_otherwise(workers) -> None:
    first, _ = workers.reset(seed=5)
    kept = deepcopy(first)
    workers.step(np.ones(NUM, int))
    assert_same([first], [kept])
    reusing = WorkerVectorEnv([Walk, Walk], num_workers=1, copy=False)
    first, _ = reusing.reset(seed=5)
    second, *_ = reusing.step(np.ones(2, int))
    assert np.shares_memory(first["image_front"], second["image_front"])
    reusing.close()
    assert second["image_front"].shape == (2, 4, 5, 3)  # theirs, not the workers'


def test_a_last_observation_outlives_the_reset_of_a_careless_environment() -> None:
    envs = make(1, SAME, Careless, num=1)
    envs.reset(seed=2)
    truth = Careless()
    truth.reset(seed=2)
    infos = {}
    while "final_obs" not in infos:
        *_, infos = envs.step([1])
        true, *_ = truth.step(1)
    np.testing.assert_array_equal(infos["final_obs"][0]["image_front"], true["image_front"])
    envs.close()


def test_a_dead_worker_is_named_and_closing_still_works() -> None:
    envs = make(2, NEXT)
    envs.reset()
    os.kill(envs._workers[1].process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"of environments \[1\] died with exit code -9"):
            envs.get_attr("now")
    with pytest.raises(RuntimeError, match="died"):
        envs.step(np.zeros(NUM, int))
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.step(np.zeros(NUM, int))


def test_the_shared_memory_has_no_name_that_could_be_left_behind(workers) -> None:
    (shared,) = workers._shared
    with pytest.raises(FileNotFoundError):
        SharedMemory(shared.name)


def broken():
    raise LookupError("no such arm")


def other_space():
    env = Walk()
    env.action_space = spaces.Discrete(3)
    return env


def unsized():
    env = Walk()
    env.observation_space = spaces.Sequence(spaces.Discrete(3))
    return env


@pytest.mark.parametrize(
    ("maker", "error", "message"),
    [
        (broken, LookupError, "no such arm"),
        (other_space, RuntimeError, r"action_space of environment 1 is Discrete\(3\)"),
    ],
)
def test_environments_that_do_not_fit_are_refused(maker, error, message) -> None:
    with pytest.raises(error, match=message):
        WorkerVectorEnv([Walk, maker], num_workers=1)


def test_observations_without_a_fixed_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Sequence.* no fixed size"):
        WorkerVectorEnv([unsized])


def test_an_observation_of_another_shape_is_no_silent_broadcast() -> None:
    envs = WorkerVectorEnv([Crooked])
    with pytest.raises(ValueError, match=r"shape \(3,\), but the space has \(4, 5, 3\)"):
        envs.reset()
    envs.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one environment"),
        (([Walk], 0), "num_workers must be at least 1, got 0; .*SyncVectorEnv"),
    ],
)
def test_senseless_numbers_are_refused(arguments, message) -> None:
    makers, *num_workers = arguments
    with pytest.raises(ValueError, match=message):
        WorkerVectorEnv(makers, num_workers=num_workers[0] if num_workers else None)


def test_a_script_that_forgets_to_close_leaves_nothing_and_says_nothing() -> None:
    script = (
        "from envs.vector import make_vec\n"
        "envs = make_vec('CartPole-v1', 2, 2)\n"
        "envs.reset(seed=0)\n"
        "envs.step(envs.action_space.sample())\n"
        "print(envs._workers[0].process.pid)\n"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.stdout), 0)


@pytest.fixture(scope="module")
def picking():
    """Three workers' and one process's Franka, with short episodes."""
    options = {"image_size": 32, "max_episode_steps": 4}
    sync = SyncVectorEnv([partial(gymnasium.make, PICK, **options)] * 2, autoreset_mode=SAME)
    made = [sync, *(make_vec(PICK, 2, n, autoreset_mode="SameStep", **options) for n in (1, 2))]
    yield made
    for envs in made:
        envs.close()


def shake(envs, num_steps):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (num_steps, *envs.action_space.shape)).astype(np.float32)
    return [envs.reset(seed=3), *(envs.step(each) for each in actions)]


def test_the_franka_does_the_same_in_any_number_of_workers(picking) -> None:
    sync, *others = (shake(envs, 9) for envs in picking)
    assert sum("final_obs" in infos for *_, infos in sync) == 2
    for other in others:
        assert_same(other, sync)


class OneByOne:
    """Embed each picture in a call of its own."""

    def __init__(self, encoder):
        self.encoder, self.dim = encoder, encoder.dim

    def __call__(self, frames):
        import torch

        return torch.cat([self.encoder(frame[None]) for frame in frames])


def test_totos_embeddings_do_not_depend_on_what_else_is_in_the_call(picking) -> None:
    """To the bit where this was written; other processors' kernels may add up in another order."""
    from toto_robot import TotoVectorObservation, load_encoder

    encoder = load_encoder("toto-nano")
    told = [
        shake(TotoVectorObservation(picking[i], eyes), 4)
        for i, eyes in ((0, encoder), (2, OneByOne(encoder)))
    ]
    for one, other in zip(*told, strict=True):
        assert data_equivalence(one, other, exact=False)
    last = [session[-1][-1]["final_obs"][1]["embedding_hand"] for session in told]
    np.testing.assert_allclose(last[0], last[1], rtol=0, atol=1e-4)


def as_list(observations):
    return [np.asarray(one).tolist() for one in observations.values()]


class Flat(Walk):
    """The same without the Tuple, which Stable-Baselines3 does not take."""

    observation_space = spaces.Dict(
        image_front=Walk.observation_space["image_front"],
        where=spaces.Box(-9, 999, (1,), np.float32),
    )

    def look(self):
        image = super().look()["image_front"]
        return {"image_front": image, "where": np.array([self.where], np.float32)}


@pytest.fixture(scope="module", params=[SAME, DISABLED], ids=lambda mode: mode.value)
def venv(request):
    made = as_sb3(make(2, request.param, Flat))
    yield made
    made.close()


def run_sb3(venv):
    venv.seed(4)
    told = [(as_list(venv.reset()), plain(venv.reset_infos))]
    rng = np.random.default_rng(0)
    for _ in range(12):
        observations, rewards, dones, infos = venv.step(rng.integers(FATAL, size=NUM))
        assert rewards.dtype == np.float32
        told.append((as_list(observations), rewards.tolist(), dones.tolist(), plain(infos)))
        told.append(plain(venv.reset_infos))
    return told


def plain(value):
    """Turn numpy's numbers and arrays into Python's."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_stable_baselines_is_told_what_its_own_vector_environment_tells(venv) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    own = run_sb3(DummyVecEnv([Flat] * NUM))
    told = run_sb3(venv)
    assert told == own
    infos = [info for step in told[1::2] for info in step[3]]
    ended = [info for info in infos if "terminal_observation" in info]
    assert {info["TimeLimit.truncated"] for info in ended} == {True, False}
    assert not any(info["TimeLimit.truncated"] for info in infos if info not in ended)


def test_last_observations_may_come_to_stable_baselines_as_a_batch() -> None:
    class Batched(gymnasium.vector.VectorEnv):
        num_envs = 2
        metadata = {"autoreset_mode": SAME}  # noqa: RUF012
        single_observation_space = Flat.observation_space
        single_action_space = Flat.action_space

        def step(self, actions):
            last = {"image_front": np.ones((2, 4, 5, 3), np.uint8), "where": np.eye(2)[:, :1]}
            return last, np.zeros(2), np.zeros(2, bool), np.array([0, 1], bool), {"final_obs": last}

    _, _, dones, infos = as_sb3(Batched()).step(np.zeros(2, int))
    assert dones.tolist() == [False, True]
    assert infos[0] == {"TimeLimit.truncated": False}
    assert infos[1]["TimeLimit.truncated"]
    assert as_list(infos[1]["terminal_observation"]) == [np.ones((4, 5, 3)).tolist(), [0]]


def test_stable_baselines_reaches_what_it_may(venv) -> None:
    venv.set_options({"say": "hello"})
    venv.reset()
    assert [info["begun_with"] for info in venv.reset_infos] == ["hello"] * NUM
    venv.set_attr("label", ["x"])
    assert venv.get_attr("label", indices=[1]) == [["x"]]
    assert venv.env_method("double", 3) == [6 + one for one in venv.get_attr("where")]
    assert venv.has_attr("where")
    assert not venv.has_attr("nowhere")
    assert venv.env_is_wrapped(gymnasium.Wrapper) == [False] * NUM
    assert venv.render().shape == (8, 10, 3)
    for refused in (
        lambda: venv.env_method("double", 3, indices=[0]),
        lambda: venv.set_attr("label", 0, indices=0),
    ):
        with pytest.raises(ValueError, match=r"all environments together, got indices=\[0\]"):
            refused()
    venv.set_options([{"say": "a"}, {}, {}])
    with pytest.raises(ValueError, match="the same for all"):
        venv.reset()
    venv.set_options()


def test_ppo_learns_from_embeddings_of_workers(venv) -> None:
    from stable_baselines3 import PPO

    from toto_robot.wrappers.vector import TotoVectorObservation

    seeing = as_sb3(TotoVectorObservation(venv.envs, Mean()))
    model = PPO("MultiInputPolicy", seeing, n_steps=4, batch_size=6, n_epochs=1, device="cpu")
    model.learn(12)
    assert model.num_timesteps == 12


def test_steps_that_ignore_their_action_are_not_for_stable_baselines() -> None:
    with pytest.raises(ValueError, match=r"SAME_STEP .* got AutoresetMode\.NEXT_STEP"):
        as_sb3(make("sync", NEXT))


def test_without_stable_baselines_the_extra_is_named(monkeypatch) -> None:
    from envs import sb3

    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env", None)
    sb3._sb3_class.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'toto-robot\[sb3\]'"):
        as_sb3(make("sync", SAME))


@pytest.mark.slow  # Frankas of each kind, and processes with torch
@pytest.mark.parametrize("kind", ["DummyVecEnv", "SubprocVecEnv"])
def test_the_franka_is_the_same_behind_stable_baselines_own_vector_environments(kind) -> None:
    from stable_baselines3.common import vec_env
    from stable_baselines3.common.env_util import make_vec_env

    from toto_robot.wrappers.sb3 import TotoVecEnv
    from toto_robot.wrappers.vector import TotoVectorObservation

    options = {"image_size": 32, "cameras": ("hand",), "max_episode_steps": 3}
    own = make_vec_env(
        PICK,
        2,
        env_kwargs=options,
        vec_env_cls=getattr(vec_env, kind),
        vec_env_kwargs={"start_method": "spawn"} if kind == "SubprocVecEnv" else {},
    )
    ours = make_vec(PICK, 2, autoreset_mode="SameStep", **options)
    told = []
    for venv in (TotoVecEnv(own, Mean()), as_sb3(TotoVectorObservation(ours, Mean()))):
        venv.seed(3)
        session = [as_list(venv.reset())]
        for _ in range(4):
            observations, rewards, dones, infos = venv.step(np.full((2, 8), 0.2, np.float32))
            last = [info.get("terminal_observation", {}) for info in infos]
            late = [info["TimeLimit.truncated"] for info in infos]
            rounded = rewards.astype(np.float32).tolist()  # SubprocVecEnv's are float64
            session += [as_list(observations), rounded, dones.tolist(), late]
            session += [as_list(one) for one in last]
        told.append(session)
        venv.close()
    assert told[0] == told[1]
    assert told[0].count([True, True]) == 2  # both ended, and both by the limit
