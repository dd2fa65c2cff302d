"""The real arm: drivers, cameras and the safety layer between a policy and a robot.

This module imports nothing else of the package: `robot`, `limits`, `safety` and `cameras` run
without torch and without a simulator.
"""

from toto_robot.moved import keep_old_paths

keep_old_paths(
    __name__,
    {
        "cameras.board_page": "calibration.board_page",
        "cameras.board_pictures": "calibration.board_images",
        "cameras.calibration": "calibration.calibration",
        "control.blame": "control.episode_end",
        "control.resting": "control.sending",
        "motion": "safety.motion",
        "trials.pictures": "trials.images",
        "workspace": "safety.workspace",
    },
)
