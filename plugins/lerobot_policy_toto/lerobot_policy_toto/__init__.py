"""A LeRobot policy on frozen Toto embeddings: `lerobot-train --policy.type=toto`."""

from .configuration_toto import TotoConfig as TotoConfig
