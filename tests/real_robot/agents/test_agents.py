"""Agents on an arm: the student sees what it sees in simulation, the expert reads what it reads."""

import re
import threading
import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from envs.catalogue import variant
from envs.experts import EXPERTS
from envs.geometry import quaternion_of
from policies.rollouts.job import RolloutJob
from policies.rollouts.rollout import RolloutSpec, RolloutWorker
from policies.student import StudentPolicy, load_student
from policies.vision import NoVision
from real_robot.agents.expert import PrivilegedState, ScriptedAgent
from real_robot.agents.fitting import fit_interface
from real_robot.agents.opening import PolicyConfig, find_policy
from real_robot.agents.serving import PolicyServer
from real_robot.agents.student import StudentAgent
from real_robot.cameras.camera import Frame
from real_robot.episode import Agent, Observation
from real_robot.limits import PANDA
from real_robot.policy_server import ServerConfig, policy_server
from real_robot.robot import Target
from real_robot.translator import Translator
from tests.policies.fake_world import ENV, ReachEnv, metadata, save_tiny_encoder, toto
from tests.real_robot.control.loop_cases import INTERFACE
from tests.real_robot.safety.safety_cases import HOME, state_at
from toto_robot import StreamConfig, load_encoder

ENV_ID = "toto/FrankaPick-v0"


def seen(observation, interface, stamp_s=1.0):
    """Return what an environment shows as what a robot shows."""
    frames = {
        name: Frame(camera=name, image=observation[f"image_{name}"], stamp_s=stamp_s, sequence=0)
        for name in interface.camera_names
    }
    return Observation(
        stamp_s=stamp_s, frames=frames, state=state_at(HOME, 0.0), proprio=observation["proprio"]
    )


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def save_student(folder, encoder_folder, *, stream=None, blind=False, chunk=1):
    vision = NoVision() if blind else replace(toto(encoder_folder), stream=stream)
    encoder = vision.build(torch.device("cpu"))
    torch.manual_seed(1)
    plain = metadata(encoder, vision)
    student = StudentPolicy(replace(plain, student=replace(plain.student, chunk=chunk)))
    student.save(folder)
    return vision, student.metadata.interface


def agent_of(folder, interface, **options):
    return StudentAgent(folder, interface, device="cpu", **options)


@pytest.mark.parametrize("stream", [None, StreamConfig(context=3)], ids=["stills", "stream"])
def test_embeddings_and_actions_are_those_of_simulation_to_the_bit(
    tmp_path, encoder_folder, stream
) -> None:
    vision, interface = save_student(tmp_path, encoder_folder, stream=stream)
    stage = RolloutWorker(RolloutSpec(env=ENV, vision=vision, privileged=True, device="cpu"))
    job = RolloutJob(
        seeds=(3,),
        policy=tmp_path,
        beta=0.0,
        mixing="step",
        mixing_seeds=((0,),),
        recorded=True,
        steps_after_success=0,
        round=0,
    )
    ((rollout,), _) = stage.run(job)
    stage.close()
    assert rollout.features is not None
    agent = agent_of(tmp_path, interface)
    assert isinstance(agent, Agent)
    env = ReachEnv()
    observation, _ = env.reset(seed=3)
    agent.reset(seen(observation, interface))
    for step, executed in enumerate(rollout.episode.executed):
        proposal = agent.act(seen(observation, interface, stamp_s=0.1 * step))
        np.testing.assert_array_equal(agent.embeddings, rollout.features[step])
        np.testing.assert_array_equal(proposal.actions, executed[None])
        assert proposal.observed_s == pytest.approx(0.1 * step)
        assert {"tokenizer", "encoder", "policy"} <= set(proposal.timings_s)
        observation, *_ = env.step(executed)


def test_a_student_of_chunks_proposes_all_of_its_actions(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path, encoder_folder, chunk=4)
    agent = agent_of(tmp_path, interface)
    observation, _ = ReachEnv().reset(seed=0)
    agent.reset(seen(observation, interface))
    proposal = agent.act(seen(observation, interface))
    assert proposal.actions.shape == (4, 2)
    seen_there = {
        "embedding_eye": agent.embeddings[0].astype(np.float32),
        "proprio": observation["proprio"],
    }
    student = load_student(tmp_path, load_encoder(encoder_folder), interface)
    np.testing.assert_array_equal(proposal.actions, student.act_chunk(seen_there))
    np.testing.assert_array_equal(proposal.actions[0], student.act(seen_there))


def test_a_picture_from_a_file_has_the_same_embedding(tmp_path, encoder_folder) -> None:
    import cv2

    _, interface = save_student(tmp_path / "policy", encoder_folder)
    agent = agent_of(tmp_path / "policy", interface)
    observation, _ = ReachEnv().reset(seed=0)
    agent.reset(seen(observation, interface))
    agent.act(seen(observation, interface))
    first = agent.embeddings
    path = str(tmp_path / "eye.png")
    cv2.imwrite(path, observation["image_eye"][..., ::-1])
    again = np.ascontiguousarray(cv2.imread(path)[..., ::-1])
    agent.act(seen({**observation, "image_eye": again}, interface))
    np.testing.assert_array_equal(agent.embeddings, first)


def test_a_picture_is_looked_at_once(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path, encoder_folder)
    agent = agent_of(tmp_path, interface)
    observation, _ = ReachEnv().reset(seed=0)
    frame = seen(observation, interface)
    agent.reset(frame)
    first, again = agent.act(frame), agent.act(frame)
    assert "encoder" in first.timings_s
    assert "encoder" not in again.timings_s
    np.testing.assert_array_equal(first.actions, again.actions)
    copied = agent.act(
        seen({**observation, "image_eye": observation["image_eye"].copy()}, interface)
    )
    assert "encoder" in copied.timings_s
    np.testing.assert_array_equal(first.actions, copied.actions)


def test_surprise_is_told_when_asked_for(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path / "a", encoder_folder)
    observation, _ = ReachEnv().reset(seed=0)
    plain = agent_of(tmp_path / "a", interface)
    watching = agent_of(tmp_path / "a", interface, surprise=True)
    for agent in (plain, watching):
        agent.reset(seen(observation, interface))
    assert plain.act(seen(observation, interface)).surprise is None
    first = watching.act(seen(observation, interface))
    assert np.isfinite(first.surprise)
    assert "surprise" in first.timings_s
    np.testing.assert_array_equal(first.actions, plain.act(seen(observation, interface)).actions)
    watching.reset(seen(observation, interface))  # nothing is left of the episode before
    assert watching.act(seen(observation, interface)).surprise == first.surprise
    save_student(tmp_path / "b", encoder_folder, stream=StreamConfig(context=3))
    with pytest.raises(ValueError, match="surprise needs a Toto encoder"):
        agent_of(tmp_path / "b", interface, surprise=True)


def test_a_run_s_folder_stands_for_its_policy(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path / "run" / "policy", encoder_folder)
    (tmp_path / "run" / "config.json").write_text("{}")
    inside = agent_of(tmp_path / "run" / "policy", interface)
    assert agent_of(tmp_path / "run", interface).weights_hash == inside.weights_hash
    assert agent_of(tmp_path / "run", interface).name == inside.name
    with pytest.raises(FileNotFoundError, match=r"no policy in .*config\.json is missing"):
        agent_of(tmp_path, interface)


def test_a_blind_student_takes_no_encoder(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path, encoder_folder, blind=True)
    agent = agent_of(tmp_path, interface)
    observation, _ = ReachEnv(cameras=()).reset(seed=0)
    agent.reset(seen(observation, interface))
    assert agent.act(seen(observation, interface)).actions.shape == (1, 2)
    with pytest.raises(ValueError, match="remove encoder="):
        agent_of(tmp_path, interface, encoder=str(encoder_folder))


def test_the_hash_names_student_and_eyes_together(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path / "a", encoder_folder)
    other = save_tiny_encoder(tmp_path / "other", seed=5)
    save_student(tmp_path / "b", other)
    hashes = [agent_of(tmp_path / name, interface).weights_hash for name in "ab"]
    assert hashes[0] != hashes[1]
    assert agent_of(tmp_path / "a", interface).weights_hash == hashes[0]


def test_a_policy_for_another_robot_is_refused(tmp_path, encoder_folder) -> None:
    save_student(tmp_path, encoder_folder)
    with pytest.raises(ValueError, match="differs from that of this robot"):
        agent_of(tmp_path, INTERFACE)
    with pytest.raises(ValueError, match="do not apply to a policy server"):
        find_policy(
            "server:127.0.0.1:1",
            PolicyConfig(
                device="cpu",
                num_threads=1,
                encoder=None,
                surprise=True,
                key_file=tmp_path / "key",
                timeout_s=1.0,
            ),
        )


def test_only_the_panda_s_policy_fits_the_fr3() -> None:
    fr3 = replace(INTERFACE, arm="franka_fr3")
    fitted, note = fit_interface(INTERFACE, fr3, "it")
    assert fitted == INTERFACE
    assert note == "it was trained for franka_panda and acts on franka_fr3: same kinematics"
    assert fit_interface(fr3, fr3, "it") == (fr3, None)
    with pytest.raises(ValueError, match="arm"):
        fit_interface(fr3, INTERFACE, "it")
    with pytest.raises(ValueError, match="rate_hz"):
        fit_interface(INTERFACE, replace(fr3, rate_hz=30.0), "it")


def test_a_policy_finds_what_it_looks_at_among_what_a_robot_tells(tmp_path, encoder_folder) -> None:
    _, interface = save_student(tmp_path, encoder_folder)
    more = replace(interface, proprio=("beside", *reversed(interface.proprio)))
    observation, _ = ReachEnv().reset(seed=0)
    agents = agent_of(tmp_path, interface), agent_of(tmp_path, more)
    told = np.append(np.float32(9.0), observation["proprio"][::-1])
    seens = seen(observation, interface), seen({**observation, "proprio": told}, more)
    actions = []
    for agent, what in zip(agents, seens, strict=True):
        agent.reset(what)
        actions.append(agent.act(what).actions)
    np.testing.assert_array_equal(*actions)
    with pytest.raises(ValueError, match="proprio"):
        agent_of(tmp_path, replace(interface, proprio=interface.proprio[1:]))


# the expert


class FixedScene:
    def __init__(self, pose):
        self.pose = pose

    def place(self, x_m, y_m, yaw_rad):
        pass

    def object_pose(self):
        return self.pose

    def succeeded(self):
        return None


@pytest.fixture(scope="module")
def world():
    env = gymnasium.make(f"envs:{ENV_ID}", cameras=(), privileged=True).unwrapped
    yield env
    env.close()


def arm_and_scene(env):
    """Return robot, scene and translator in the environment's situation."""
    positions, velocities = env.simulator.joints(env.arm.joint_names)
    width_m = float(env.simulator.joints(env.arm.hand_joint_names)[0].sum())
    state = state_at(positions, 0.0, joint_velocities_rad_s=velocities)
    state = replace(state, gripper=replace(state.gripper, width_m=width_m))
    # half a turn about z and 1 m: from the world to the arm's base, written out
    x, y, z, qw, qx, qy, qz = env.simulator.bodies(("cube",))[0]
    scene = FixedScene((1 - x, -y, z, qz, -qy, qx, -qw))
    translator = Translator(env.interface, env.arm, PANDA)
    translator.begin(state)
    controller = env._controller
    commanded_m = 0.08 * (float(controller.hand_command[0]) + 1) / 2
    translator.sent(Target(joint_positions_rad=controller.arm_targets, gripper_width_m=commanded_m))
    return state, scene, translator


def test_the_expert_reads_what_it_reads_in_simulation(world) -> None:
    expert = EXPERTS[ENV_ID]()
    for seed in range(3):
        observation, _ = world.reset(seed=seed)
        for step in range(25):
            if step % 8 == 0:
                state, scene, translator = arm_and_scene(world)
                read = PrivilegedState(ENV_ID, scene, translator).read(state)
                differs = np.abs(read - observation["state"])
                # a quaternion and its negative are the same turn
                same = np.minimum(differs, np.abs(read + observation["state"]))
                assert np.minimum(differs, same).max() < 2e-6
                np.testing.assert_allclose(
                    expert.act({"state": read}), expert.act(observation), atol=2e-5
                )
            observation, *_ = world.step(expert.act(observation).clip(-1, 1))


def test_noise_is_in_the_action_and_not_in_the_label(world) -> None:
    world.reset(seed=0)
    state, scene, translator = arm_and_scene(world)
    observation = Observation(
        stamp_s=1.0, frames={}, state=state, proprio=translator.proprio(state)
    )

    def proposals(noise, seed):
        agent = ScriptedAgent(ENV_ID, scene, translator, noise=noise, seed=seed)
        assert isinstance(agent, Agent)
        agent.reset(observation)
        return [agent.act(observation) for _ in range(200)]

    (plain, *_), noisy, again = proposals(0.0, 0), proposals(0.3, 1), proposals(0.3, 1)
    np.testing.assert_array_equal(plain.actions[0], plain.label)
    for one, other in zip(noisy, again, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.label, plain.label)
        assert one.actions[0, 7] == plain.label[7]  # the hand is not disturbed
        assert np.abs(one.actions).max() <= 1
    free = np.array([one.actions[0, 2] - plain.label[2] for one in noisy])
    disturbed = free != 0
    assert 0.15 < disturbed.mean() < 0.45  # it comes and goes: 0.1 / (0.1 + 0.25) of the time
    assert np.abs(np.diff(disturbed.astype(int))).sum() < 0.5 * 200
    assert abs(free[disturbed].std() - 0.3) < 0.1
    others = proposals(0.3, 2)
    assert any((a.actions != b.actions).any() for a, b in zip(others, noisy, strict=True))


def test_what_an_expert_cannot_know_is_said() -> None:
    translator = Translator(INTERFACE, variant(ENV_ID).arm, PANDA)
    with pytest.raises(ValueError, match="handle_position, opening"):
        PrivilegedState("toto/FrankaCabinet-v0", FixedScene(None), translator)
    with pytest.raises(ValueError, match="needs the pose of the object"):
        PrivilegedState(ENV_ID, FixedScene(None), translator).read(state_at(HOME, 0.0))
    with pytest.raises(ValueError, match="no expert for 'x'"):
        ScriptedAgent("x", FixedScene(None), translator, noise=0.0, seed=0)
    with pytest.raises(ValueError, match="noise"):
        ScriptedAgent(ENV_ID, FixedScene(None), translator, noise=-1.0, seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_quaternions_of_rotations(seed) -> None:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=4) if seed else np.array([0.0, 0.0, 0.0, 1.0])
    w, x, y, z = q = q / np.linalg.norm(q)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    assert abs(quaternion_of(rotation) @ q) == pytest.approx(1.0)


def test_a_policy_that_hangs_in_an_episode_does_not_answer_into_the_next(
    tmp_path, encoder_folder
) -> None:
    _, interface = save_student(tmp_path, encoder_folder)
    agent = agent_of(tmp_path, interface)
    env = ReachEnv()
    old, _ = env.reset(seed=0)
    new, _ = env.reset(seed=1)
    agent.reset(seen(new, interface))
    expected = agent.act(seen(new, interface)).actions
    agent.reset(seen(old, interface))
    release, act, log = threading.Event(), agent._student.act, []

    def hangs(observation):
        log.append("begun")
        if len(log) == 1:
            release.wait(10.0)
        log.append("through")
        return act(observation)

    agent._student.act = hangs
    hung = threading.Thread(target=agent.act, args=(seen(old, interface),))
    hung.start()
    while not log:
        time.sleep(0.005)
    threading.Timer(0.2, release.set).start()
    agent.reset(seen(new, interface))
    assert log[:3] == ["begun", "through", "begun"]
    hung.join(10.0)
    np.testing.assert_array_equal(agent.act(seen(new, interface)).actions, expected)


def test_the_policy_server_serves_the_policy_of_a_run(
    tmp_path, encoder_folder, monkeypatch, capsys
) -> None:
    save_student(tmp_path / "run" / "policy", encoder_folder)
    (tmp_path / "run" / "config.json").write_text('{"method": "bc"}')
    acting = PolicyConfig(
        device="cpu",
        num_threads=1,
        encoder=None,
        surprise=False,
        key_file=tmp_path / "key",
        timeout_s=1.0,
    )
    monkeypatch.setattr(PolicyServer, "serve", lambda self: print("serving"))
    config = ServerConfig(
        policy=str(tmp_path / "run"), host="127.0.0.1", port=0, idle_timeout_s=1.0, acting=acting
    )
    policy_server(config, tmp_path)
    assert re.search(r"policy=server:127\.0\.0\.1:\d+\nserving", capsys.readouterr().out)
