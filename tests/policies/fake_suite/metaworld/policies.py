"""The scripted experts of the tiny `metaworld`."""

import numpy as np

print("a package that prints must not disturb the answers")


class Expert:
    def get_action(self, observation):
        away = observation[4:7] - observation[:3]
        return np.array([*(away[:2] / 0.05), 0.0, 1.0])


ENV_POLICY_MAP = {"reach-v3": Expert, "never-v3": Expert}
