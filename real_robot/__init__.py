"""The real arm: drivers, cameras and the safety layer between a policy and a robot.

Nothing is imported here, so that each part costs only what it needs: `robot`, `limits`,
`workspace`, `safety` and `cameras` run where neither torch nor a simulator is installed.
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
