import pickle

import numpy as np
import pytest

import envs
from envs.catalogue import PROTOCOLS, make
from envs.play import Episode, PlayConfig, play

ID = "toto/FrankaPick-v0"


def config(**changed):
    settings = {
        "env_id": ID,
        "protocol": "robot",
        "policy": "random",
        "cameras": ("hand",),
        "image_size": 32,
        "randomise": ("colours", "latency"),
        "episodes": 1,
        "first_seed": 3,
        "replay": None,
    }
    return PlayConfig(**{**settings, **changed})


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Record a short episode."""
    folder = tmp_path_factory.mktemp("play")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envs.play.make", lambda **options: make(num_steps=4, **options))
        play(config(), folder)
    return folder


def test_episode_is_a_video_of_all_cameras_and_a_file(played):
    import av

    with av.open(str(played / "seed3.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (480, 960, 3)
    assert np.abs(frames[-1][:, 480:].astype(int) - frames[0][:, 480:]).mean() > 1
    episode = Episode.load(played / "seed3.npz")
    assert (episode.env_id, episode.protocol, episode.seed) == (ID, "robot", 3)
    assert episode.randomise == ("colours", "latency")
    assert episode.actions.shape == (4, 8)
    assert len(episode.states) == 5


def test_recorded_episode_is_played_back_to_the_bit(played, tmp_path, capsys):
    play(config(replay=str(played / "seed3.npz"), cameras=(), randomise=()), tmp_path)
    assert "seed 3: no success, 4 steps" in (printed := capsys.readouterr().out)
    assert "all 5 states equal to the bit" in printed
    assert (tmp_path / "seed3-replay.mp4").is_file()


def test_replay_that_differs_is_an_error_that_says_where(played, tmp_path):
    episode = Episode.load(played / "seed3.npz")
    episode.actions[2] *= 0.99
    episode.save(tmp_path / "changed.npz")
    # With a latency of up to three steps the change may show later, never earlier.
    with pytest.raises(RuntimeError, match=r"from step [34] of 4"):
        play(config(replay=str(tmp_path / "changed.npz"), cameras=()), tmp_path)


def test_file_that_is_no_episode_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other.npz", "text.npz", "absent.npz"):
        with pytest.raises(ValueError, match=name):
            Episode.load(tmp_path / name)


def test_expert_is_told_by_its_step_of_success(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("envs.play._frame", lambda *_: np.zeros((16, 16, 3), np.uint8))
    play(config(policy="expert", cameras=(), randomise=(), first_seed=0), tmp_path)
    assert "seed 0: success at step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": "expert", "protocol": "pixmc"}, "protocol=robot"),
        ({"policy": "expert", "env_id": "toto/Nothing-v0"}, "known: toto/FrankaPick-v0"),
        ({"episodes": 0}, "episodes"),
    ],
)
def test_what_cannot_be_played_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        config(**changed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("env_id", envs.ENVIRONMENTS)
def test_episode_goes_on_exactly_from_a_state_saved_in_its_middle(env_id, protocol):
    options = {
        "env_id": env_id,
        "protocol": protocol,
        "cameras": (),
        "privileged": True,
        "randomise": ("object_size", "latency", "action_noise", "proprio_noise", "distractors"),
    }
    env, fresh = make(**options), make(**options)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, *env.action_space.shape))
    env.reset(seed=5)
    for action in actions[:5]:
        env.step(action)
    here = env.save()
    expected = [(env.step(action), env.save().simulator) for action in actions[5:]]
    fresh.reset(seed=6)
    for other in (env, fresh):
        other.restore(pickle.loads(pickle.dumps(here)))
        for action, ((observation, *rest), state) in zip(actions[5:], expected, strict=True):
            observation_again, *rest_again = other.step(action)
            np.testing.assert_array_equal(other.save().simulator, state)
            assert observation.keys() == observation_again.keys()
            for key, values in observation.items():
                np.testing.assert_array_equal(observation_again[key], values)
            assert rest_again == rest
    env.close()
    fresh.close()
