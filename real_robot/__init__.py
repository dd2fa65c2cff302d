"""The real arm: drivers, cameras and the safety layer between a policy and a robot.

Nothing is imported here, so that each part costs only what it needs: `robot`, `limits`,
`workspace`, `safety` and `cameras` run where neither torch nor a simulator is installed.
"""
