"""A stand-in for Isaac Gym Preview 4, for tests only; it refuses what the manual forbids.

A refusal ends with the part of the manual where the rule is, as in docs/isaac_gym.md:
P (process), B (building), L (limits of the tensor API), S (a step) and C (cameras). Physics is
MuJoCo. The joints and bodies of an asset come in another order than in our files, so that only
names can find them. What the stand-in cannot show: whether Isaac Gym loads our assets, its
contacts, its drives, the orientation and colours of its images, its memory and its speed.

Python 3.8 must run it, too. The environment variable FAKE_ISAACGYM sets faults: `crash=simulate:5`
kills the process in the fifth call of `simulate`, `hang=simulate:5` sleeps there, `nan=simulate:5`
makes the state of the first world not finite, `refuse=prepare_sim:1` makes the call fail.
"""

import os

__path__ = [os.path.join(os.path.dirname(__file__), "modules")]
