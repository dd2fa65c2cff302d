"""The worker process with Isaac Gym: it needs Python 3.8, numpy, torch and isaacgym only.

The client starts it as `python -m worker` in the parent folder of this package, with the Python in
which Isaac Gym is installed. Nothing here may import another part of the project.
"""
