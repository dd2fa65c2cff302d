"""The processors of the policy `toto`: LeRobot's own, which leave images as they are."""

from typing import Any

from lerobot.processor import make_default_pre_post_processors
from torch import Tensor

from .configuration_toto import TotoConfig


def make_toto_pre_post_processors(
    config: TotoConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Any, Any]:
    """Return the processors before and after the policy."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
