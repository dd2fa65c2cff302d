"""Drive the worker's `Worlds` directly, once for each of many edited copies of the worker.

    python isaacgym_drive.py JOBS.json      # with the stand-in on PYTHONPATH

The imports take seconds, so they are made once, and each copy runs in a fork. For each job, the
results file gets null, or the error that the copy caused.
"""

import json
import os
import sys
import traceback
from importlib import import_module

import isaacgym  # noqa: F401
from isaacgym import gymapi, gymtorch, physics  # noqa: F401

import numpy as np
import torch  # noqa: F401


def drive(plan):
    """Simulate, reset some worlds twice, push, paint and render; check what comes back."""
    worlds = import_module("worker.worlds").Worlds(plan)
    n, joints = plan["num_worlds"], len(plan["joints"])
    bodies, actors = len(plan["bodies"]), plan["actors"]
    host = {
        "targets": np.zeros((4, n, joints), np.float32),
        "forces": np.zeros((n, bodies, 3), np.float32),
        "state_dof": np.zeros((n, joints, 2), np.float32),
        "state_root": np.zeros((n, len(actors), 13), np.float32),
        "stage_dof": np.zeros((n, len(actors)), np.uint8),
        "stage_root": np.zeros((n, len(actors)), np.uint8),
        "dof": np.zeros((n, joints, 2), np.float32),
        "root": np.zeros((n, len(actors), 13), np.float32),
        "bodies": np.zeros((n, bodies, 7), np.float32),
        "contacts": np.zeros((n, bodies, 3), np.float32),
    }
    for camera in plan["cameras"]:
        shape = (n, camera["height"], camera["width"], 3)
        host["image_" + camera["name"]] = np.full(shape, 77, np.uint8)
    worlds.attach(host)
    start = np.array(plan["start"], np.float32)
    names = [name for _, name in plan["bodies"]]
    cube, cube_actor = names.index("cube"), [one["name"] for one in actors].index("cube")
    jointed = [bool(one["dofs"]) for one in actors]
    movable = [one["movable"] for one in actors]

    def stage(row, offset):
        host["state_dof"][row, :, 0], host["state_dof"][row, :, 1] = start + offset, 0
        host["targets"][:, row] = start + offset
        for index, one in enumerate(actors):
            x, y, z, qw, qx, qy, qz = one["pose"]
            host["state_root"][row, index] = [x, y, z, qx, qy, qz, qw, *[0] * 6]
        host["stage_dof"][row], host["stage_root"][row] = jointed, movable

    for row in range(n):
        stage(row, 0.0)
    assert worlds.follow(2, 20) == [], "a world is not finite"
    assert np.allclose(host["dof"][..., 0], start, atol=1e-3), "joints left their start"
    built = worlds._built
    shapes = built.gym.get_actor_rigid_shape_properties(built.envs[0], built.actors[0][0])
    filters = {shape.filter for shape in shapes}
    assert filters == set(actors[0]["filters"].values()), "the collision filters of the arm"
    worlds.draw()
    images = {key: value.copy() for key, value in host.items() if key.startswith("image_")}
    for image in images.values():
        assert (image != 255).any(), "an image that was read too late"
        assert (image != 77).any(), "an image that was not copied"
    host["targets"][:, 0, 3] = start[3] - 0.2
    worlds.follow(1, 10)
    before = host["dof"].copy()
    stage(1, 0.1)
    worlds.draw()
    moved = host["image_wrist"].astype(int) - images["image_wrist"]
    assert np.abs(moved[1]).mean() > 1, "the image after a reset is old"
    assert np.abs(moved[0]).mean() < 1, "the image of another world changed much"
    assert worlds.follow(1, 1) == [], "a world is not finite"
    assert np.allclose(host["dof"][1, :, 0], start + 0.1, atol=1e-3), "a reset was lost"
    moved = host["dof"][0, 3, 0] - before[0, 3, 0]
    expected = before[0, 3, 1] * plan["timestep_s"]
    assert abs(expected) > 1e-4, "nothing moves, so nothing can be tested"
    assert 0.5 < moved / expected < 1.5, "an image after a reset moved another world"
    host["targets"][:, :, 3] = start[3] + 0.2
    assert worlds.follow(1, 400) == [], "a world is not finite"
    assert np.allclose(host["dof"][:, 3, 0], start[3] + 0.2, atol=5e-3), "no joint follows targets"
    weight = host["contacts"][:, cube, 2]
    assert np.allclose(weight, 0.2 * 9.81, rtol=0.05), "the table does not bear the cube"
    host["forces"][0, cube, 0] = 4.0
    worlds.follow(1, 50)
    worlds.follow(1, 1)
    host["forces"][:] = 0.0
    slid = host["root"][:, cube_actor, 0] - actors[cube_actor]["pose"][0]
    assert slid[0] > 0.02 > abs(slid[1]), "a push moved nothing, or another world"
    place = host["bodies"][0, cube, :3]
    assert np.allclose(place, host["root"][0, cube_actor, :3], atol=1e-5), "body and root differ"
    worlds.draw()
    plain = host["image_eye"].copy()
    worlds.paint([0], [{"cube": [1.0, 1.0, 0.0]}])
    worlds.draw()
    changed = (host["image_eye"] != plain).any(axis=(1, 2, 3))
    assert changed.tolist() == [True, False], "a colour of one world"


def main():
    """Run all jobs, and write one line of JSON for each into the file of results."""
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    for folder, result in jobs["copies"]:
        pid = os.fork()
        if pid == 0:
            error = None
            try:
                sys.path.insert(0, folder)
                drive(jobs["plan"])
            except BaseException as caught:
                error = f"{type(caught).__name__}: {caught}"
                traceback.print_exc()
            with open(result, "w") as file:
                json.dump(error, file)
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
