"""A visual backbone for robomimic; import this module before the configuration is used.

import toto_robot.integrations.robomimic
config.observation.encoder.rgb.core_kwargs.backbone_class = "TotoConv"
config.observation.encoder.rgb.core_kwargs.backbone_kwargs = dict(encoder="toto-nano")
config.observation.encoder.rgb.core_kwargs.pool_class = None
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..encoders.loading import load_encoder
from ..wrappers.backbone import TotoBackbone

try:
    from robomimic.models import obs_core
    from robomimic.models.base_nets import ConvBase
    from robomimic.utils import obs_utils
except ImportError as error:
    raise ImportError("TotoConv needs robomimic: pip install robomimic") from error

__all__ = ["TotoConv"]


class TotoConv(ConvBase):
    """A Toto as the backbone of robomimic's `VisualCore`: images [b 3 h w] to features [b e].

    The features are already pooled, so the configuration needs `pool_class=None`. The encoder's
    weights are saved with the policy.

    Args:
        input_channel: number of channels, 3; robomimic sets it.
        encoder: a name or folder for `load_encoder`.
        layer: layer to pool, or several layers; None: the checkpoint's default.
        pool: name of the pool; None: the checkpoint's default.
        trainable: true to fine-tune the transformer.

    Raises:
        ValueError: the images are not RGB.
    """

    def __init__(
        self,
        input_channel: int = 3,
        encoder: str = "toto-nano",
        layer: int | Sequence[int] | None = None,
        pool: str | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if input_channel != 3:
            raise ValueError(f"TotoConv needs RGB images, got {input_channel} channels")
        self.nets = TotoBackbone(load_encoder(encoder, layer, pool), trainable=trainable)

    def output_shape(self, input_shape: Any) -> list[int]:
        """Return the shape of the features, [e]."""
        del input_shape
        return [self.nets.dim]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features [b e] of images [b 3 h w], floats in [0, 1]."""
        return self.nets(inputs)


# VisualCore evaluates the name of the class in its own module; 0.5 also has a table of backbones.
obs_core.TotoConv = TotoConv
getattr(obs_utils, "OBS_ENCODER_BACKBONES", {})["TotoConv"] = TotoConv
