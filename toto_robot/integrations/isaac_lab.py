"""An entry for the model zoo of Isaac Lab's observation term `image_features`.

    ObsTerm(func=mdp.image_features, params={
        "sensor_cfg": SceneEntityCfg("tiled_camera"),
        "model_zoo_cfg": {"toto": toto_model_zoo_entry("toto-nano", stream=StreamConfig())},
        "model_name": "toto",
    })

Isaac Lab computes observations again in the same step if it records data or if
`compute_final_obs` is set. But a stream must read each camera frame only once. So an image that
equals the previous image of the same episode is not a new frame: the same embedding is returned.

The training scripts of Isaac Lab convert all functions of a configuration to the text
`module:name` and back. The functions of an entry are attributes of this module, so they survive
this conversion.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..encoders.contract import FrameEmbedder
from ..encoders.streaming import StreamConfig
from .cameras import CameraStreams

__all__ = ["TotoModel", "inference", "reset", "toto_model_zoo_entry"]

_number = itertools.count()


class TotoModel:
    """The encoder of one observation term, and the streams of its environments.

    Attributes:
        encoder: an encoder, or a name or folder for `load_encoder`.
        stream: settings of the streams; None: embeddings ignore earlier frames.
        device: device of an encoder that is given by its name; None: the device of the images.
    """

    def __init__(
        self,
        encoder: FrameEmbedder | str | Path,
        stream: StreamConfig | None,
        device: str | torch.device | None,
    ) -> None:
        self.encoder, self.stream, self.device = encoder, stream, device
        self._cameras: CameraStreams | None = None
        self._frames = self._embeddings = self._begins = torch.empty(0)

    def reset(self, env_ids: Any = None) -> None:
        """Begin new episodes: the next image of each given environment is the first of an episode.

        Args:
            env_ids: numbers of the environments, a tensor or a sequence; None: all.
        """
        if len(self._begins):
            chosen = slice(None) if env_ids is None else torch.as_tensor(env_ids)
            chosen = chosen.long() if isinstance(chosen, Tensor) else chosen
            self._begins[chosen] = True

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings float32 [n e] of images uint8 [n h w 3], or [n h w 4] (RGBA).

        Raises:
            ValueError: the images are not uint8 RGB or RGBA, or their number or size has changed.
        """
        if images.ndim != 4 or images.shape[-1] not in (3, 4) or images.dtype != torch.uint8:
            raise ValueError(
                "images must be uint8 RGB or RGBA [n h w c], data_type 'rgb' or 'rgba'; got "
                f"{images.dtype} {list(images.shape)}"
            )
        frames = images[..., :3]
        if self._cameras is None:
            device = images.device if self.device is None else self.device
            self._cameras = CameraStreams(self.encoder, self.stream, device)
        if not len(self._begins):
            self._begins = torch.ones(len(images), dtype=torch.bool, device=images.device)
            self._embeddings = torch.empty(len(images), self._cameras.dim, device=images.device)
            rows = self._begins.clone()
        elif frames.shape != self._frames.shape:
            raise ValueError(f"images were {list(self._frames.shape)}, now {list(frames.shape)}")
        else:
            rows = self._begins | (frames != self._frames).flatten(1).any(1)
        self._embeddings[rows] = self._cameras.embed("image", frames, rows, self._begins)
        self._begins.zero_()
        self._frames = frames.clone()  # Isaac Lab writes the next images into the same buffer
        return self._embeddings.clone()


def reset(model: TotoModel, env_ids: Any = None) -> None:
    """Begin new episodes with `TotoModel.reset`; called by `image_features`."""
    model.reset(env_ids)


def inference(model: TotoModel, images: Tensor) -> Tensor:
    """Return a model's embeddings [n e] of images [n h w 3]; called by `image_features`."""
    return model(images)


def toto_model_zoo_entry(
    encoder: FrameEmbedder | str | Path = "toto-nano",
    *,
    stream: StreamConfig | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Callable[..., Any]]:
    """Return an entry for `model_zoo_cfg`: the functions `model`, `reset` and `inference`.

    Each observation term builds a model of its own, so each camera has its own streams.

    Args:
        encoder: an encoder, or a name or folder for `load_encoder`.
        stream: settings of the streams; None: embeddings ignore earlier frames.
        device: device of an encoder that is given by its name; None: the device of the images.
    """

    def model() -> TotoModel:
        return TotoModel(encoder, stream, device)

    model.__name__ = f"model_{next(_number)}"
    globals()[model.__name__] = model
    return {"model": model, "reset": reset, "inference": inference}
