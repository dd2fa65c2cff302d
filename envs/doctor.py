"""`python -m envs.doctor`: run `toto_robot.doctor` with the Franka-pick environment."""

import sys
from collections.abc import Sequence

from toto_robot import doctor

__all__ = ["main"]

ENVIRONMENT = f"{__package__}:toto/FrankaPick-v0"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of `toto_robot.doctor` for Franka-pick; return the exit status."""
    return doctor.main(argv, env=ENVIRONMENT)


if __name__ == "__main__":
    sys.exit(main())
