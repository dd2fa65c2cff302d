"""A tiny `metaworld` for tests: a hand that must reach a cube, with MuJoCo's cameras."""

import mujoco
import numpy as np

XML = """
<mujoco>
  <visual><global offwidth="64" offheight="64"/></visual>
  <asset>
    <texture name="wood" type="2d" builtin="checker" rgb1="0.6 0.4 0.2" rgb2="0.5 0.3 0.1"
             width="16" height="16"/>
    <material name="table_wood" texture="wood"/>
  </asset>
  <worldbody>
    <light pos="0 0.6 2" dir="0 0 -1"/>
    <camera name="corner3" pos="0 0.6 0.9" xyaxes="-1 0 0 0 -1 0"/>
    <geom type="box" size="0.4 0.4 0.01" pos="0 0.6 -0.01" material="table_wood"/>
    <body name="hand" mocap="true" pos="0 0.5 0.1">
      <geom type="sphere" size="0.03" rgba="1 0 0 1"/>
      <camera name="gripperPOV" pos="0 0 0.2"/>
    </body>
    <body name="cube" mocap="true" pos="0 0.7 0.02">
      <geom type="box" size="0.05 0.05 0.02" rgba="0 0 1 1"/>
    </body>
  </worldbody>
</mujoco>
"""


class Reach:
    """Move the hand over the cube; the cube follows the hand once it was reached."""

    sawyer_observation_space = None
    max_path_length = 5

    def __init__(self):
        self.sawyer_observation_space = "cached"
        self.model = mujoco.MjModel.from_xml_string(XML)
        self.data = mujoco.MjData(self.model)
        self.fails = False

    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self):
        assert not self._partially_observable
        assert self.seeded_rand_vec
        self.hand = np.array([0.0, 0.5, 0.1])
        self.cube = np.array([self.rng.uniform(-0.2, 0.2), self.rng.uniform(0.6, 0.8), 0.02])
        self.reached, self.steps = False, 0
        return self._observation(), {}

    def step(self, action):
        assert action.shape == (4,)
        assert np.abs(action).max() <= 1
        if self.steps >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.steps += 1
        self.hand = self.hand + 0.05 * action[:3]
        near = np.abs(self.hand[:2] - self.cube[:2]).max() < 0.04
        self.reached = self.reached or near
        if self.reached:
            self.cube[:2] = self.hand[:2]
        return self._observation(), 0.0, False, False, {"success": float(near)}

    def _observation(self):
        self.data.mocap_pos[:] = self.hand, self.cube
        mujoco.mj_forward(self.model, self.data)
        seen = np.zeros(39)
        seen[:3], seen[3], seen[4:7], seen[-3:] = self.hand, 0.5, self.cube, self.cube
        return seen


class Never(Reach):
    """A task that cannot be solved."""

    def step(self, action):
        return *super().step(action)[:4], {"success": 0.0}


ALL_V3_ENVIRONMENTS = {"reach-v3": Reach, "never-v3": Never}
