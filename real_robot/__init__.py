"""Control a Franka arm, or its digital twin: driver, cameras, safety layer, recording, evaluation.

This module imports no other module of the package. The modules `robot`, `limits`, `safety` and
`cameras` need neither torch nor a simulator.
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
