"""Drive a digital twin as a LeRobot robot, in LeRobot's own environment; run by `make compat`.

PYTHONPATH=. python tests/lerobot_robot_check.py     # from the checkout, where LeRobot is installed
"""

import time

import numpy as np
from lerobot.robots import RobotConfig
from lerobot.robots.utils import make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins

PERIOD_S = 0.1


def main() -> None:
    register_third_party_plugins()
    config = RobotConfig.get_choice_class("toto_fr3")(id="check", address="twin", station="twin")
    robot = make_robot_from_config(config)
    names = [*(f"joint{index}.pos" for index in range(1, 8)), "gripper.pos"]
    assert list(robot.action_features) == names
    assert robot.observation_features["hand"] == (128, 128, 3)
    with robot:
        first = robot.get_observation()
        assert set(first) == set(robot.observation_features)
        assert first["front"].dtype == np.uint8
        assert first["front"].std() > 5
        measured = move(robot, {"joint1.pos": 0.02}, steps=20)
        print(f"joint 1 moved by {measured['joint1.pos'] - first['joint1.pos']:.3f} of 0.4 rad")
        assert 0.35 < measured["joint1.pos"] - first["joint1.pos"] < 0.45
        sent = robot.send_action({**positions(measured), "joint1.pos": 2.0})
        assert sent["joint1.pos"] - measured["joint1.pos"] < 0.25, "a jump was not limited"
        measured = move(robot, {}, steps=15, gripper=0.0)
        print(f"gripper: {measured['gripper.pos']:.3f} m after the command to close")
        assert measured["gripper.pos"] < 0.02
        time.sleep(2.0)  # a pause, after which the safety layer starts again
        move(robot, {"joint1.pos": -0.02}, steps=5)
        goal = positions(robot.get_observation())
        for _ in range(15):  # as `lerobot-replay`: actions without observations, for 1.5 s
            robot.send_action(goal)
            time.sleep(PERIOD_S)
        robot._station.twin.press_user_stop()
        for _ in range(2):  # the second time, the safety layer does not let the arm start
            try:
                move(robot, {}, steps=10)
            except RuntimeError as error:
                print(f"user stop: {error}")
            else:
                raise AssertionError("the user stop did not end the motion")
    assert not robot.is_connected
    print("robot: passed")


def positions(observation: dict) -> dict:
    return {name: value for name, value in observation.items() if name.endswith(".pos")}


def move(robot, step: dict, steps: int, gripper: float | None = None) -> dict:
    """Move by so much in each of the steps, and return the last observation."""
    goal = positions(robot.get_observation())
    for _ in range(steps):
        began_s = time.monotonic()
        robot.get_observation()
        goal = {name: value + step.get(name, 0.0) for name, value in goal.items()}
        if gripper is not None:
            goal["gripper.pos"] = gripper
        robot.send_action(goal)
        time.sleep(max(0.0, PERIOD_S - (time.monotonic() - began_s)))
    time.sleep(PERIOD_S)
    return robot.get_observation()


if __name__ == "__main__":
    main()
