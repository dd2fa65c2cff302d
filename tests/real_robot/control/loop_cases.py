"""A clock that jumps, cameras without a lens and agents of a few lines, for the control loop."""

from dataclasses import replace

import numpy as np

from envs.arms.franka import FRANKA_PANDA
from envs.catalogue import variant
from envs.interface import CameraSpec, Interface
from real_robot.cameras.camera import Frame, StaleFrameError
from real_robot.control.config import LoopConfig
from real_robot.control.loop import run_episode
from real_robot.episode import Proposal
from real_robot.safety.layer import SafetyLayer
from real_robot.translator import Translator
from tests.real_robot.fake_robot import FakeRobot
from tests.real_robot.safety.safety_cases import CONFIG, HOME

PERIOD_S = 0.1
JOINTS = FRANKA_PANDA.joint_names
INTERFACE = Interface(
    arm="franka_panda",
    cameras=(CameraSpec(name="hand", height=8, width=8),),
    proprio=(*(f"{joint}_position" for joint in JOINTS), "gripper_width"),
    action_kind="joint_increment",
    action=(*(f"{joint}_increment" for joint in JOINTS), "gripper_opening"),
    action_scale=(*(0.1,) * 7, 1.0),
    rate_hz=10.0,
)
LOOP = LoopConfig(
    max_steps=5,
    send_share=0.8,
    num_targets=1,
    ensemble_decay=None,
    success_steps=2,
    steps_after_success=0,
    rehearsal=False,
    start_timeout_s=5.0,
    rest_timeout_s=2.0,
)
START = variant("toto/FrankaPick-v0").task.start_arm_rad


class JumpingClock:
    """Time passes only where somebody waits for it; news have a moment of real time to come."""

    def __init__(self, patience_s=0.2):
        self.time_s, self.patience_s = 100.0, patience_s

    def now_s(self):
        return self.time_s

    def wait(self, news, until_s):
        if news is not None and news.wait(self.patience_s):
            return True
        self.time_s = max(self.time_s, until_s)
        return False


class FakeCamera:
    """A new picture at each look; `lost_s` is since when none comes any more."""

    def __init__(self, clock, name="hand", error=None):
        self.clock, self.name, self.error, self.lost_s = clock, name, error, None
        self.looks = 0

    def open(self):
        pass

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self, timeout_s, *, sequence=0):
        return self.read(timeout_s)

    def read(self, max_age_s):
        if self.error is not None:
            raise self.error
        if self.age_s() > max_age_s:
            raise StaleFrameError(f"camera {self.name!r} is stale: the cable is out")
        self.looks += 1
        image = np.full((8, 8, 3), self.looks % 256, np.uint8)
        stamp_s = self.clock() if self.lost_s is None else self.lost_s
        return Frame(camera=self.name, image=image, stamp_s=stamp_s, sequence=self.looks)

    def age_s(self):
        return 0.0 if self.lost_s is None else self.clock() - self.lost_s


class FakeAgent:
    """Wish `action`, or what `function(observation, how often)` gives."""

    name, weights_hash = "a fake", "abc"

    def __init__(self, function=None, action=None):
        self.function, self.calls, self.resets = function, 0, 0
        self.action = np.zeros(8, np.float32) if action is None else np.float32(action)

    def reset(self, observation):
        self.resets += 1

    def act(self, observation):
        self.calls += 1
        if self.function is not None:
            return self.function(observation, self.calls)
        return one(self.action, observation)

    def close(self):
        pass


def one(action, observation, **more):
    """Propose one action."""
    rows = np.atleast_2d(np.asarray(action, np.float32))
    return Proposal(actions=rows, observed_s=observation.stamp_s, **more)


def turn(joint=1, amount=0.5):
    """Turn one joint, hand open."""
    action = np.zeros(8, np.float32)
    action[joint - 1], action[7] = amount, 1.0
    return action


class Bench:
    """All that an episode needs, with levers."""

    def __init__(self, *, patience_s=0.2, **changes):
        self.clock = JumpingClock(patience_s)
        self.robot = FakeRobot(HOME, self.clock.now_s)
        self.robot.connect()
        self.camera = FakeCamera(self.clock.now_s)
        self.layer = SafetyLayer(CONFIG, self.robot.limits, FRANKA_PANDA)
        self.translator = Translator(INTERFACE, FRANKA_PANDA, self.robot.limits)
        self.config = replace(LOOP, **changes)

    def run(self, agent, **arguments):
        given = {"task": "turn", "start": HOME, "clock": self.clock, **arguments}
        return run_episode(
            self.robot, [self.camera], self.layer, self.translator, agent, self.config, **given
        )
