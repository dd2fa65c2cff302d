"""A transform for TorchRL that replaces images by embeddings.

    env = TransformedEnv(GymEnv(..., from_pixels=True), TotoTransform("toto-nano"))

It runs in TransformedEnv, inside or around SerialEnv and ParallelEnv, and in a replay buffer. It
does not need torchvision.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..encoders.contract import FrameEmbedder
from ..encoders.streaming import StreamConfig
from ..wrappers.backbone import rgb_frames
from ..wrappers.images import camera_of
from .cameras import CameraStreams

try:
    from torchrl.data import Unbounded
    from torchrl.envs import Transform
except ImportError as error:
    raise ImportError("TotoTransform needs TorchRL: pip install torchrl") from error

__all__ = ["TotoTransform"]


class TotoTransform(Transform):
    """A transform from images to embeddings.

    With a stream, each image key of each environment has its own cache of earlier frames. The
    reset of an environment clears its caches. A call encodes only the images of the environments
    that are reset or stepped in this call.

    Args:
        encoder: an encoder, or a name or folder for `load_encoder`.
        in_keys: keys of the images [*batch h w 3].
        out_keys: keys of the embeddings [*batch e]; None: `embedding_<camera>` beside each image.
        stream: settings of the streams; None: embeddings ignore earlier frames. All agents of an
            environment must be reset together.
        channels: `last` for images [*batch h w 3], uint8 or floats in [0, 1], as `GymEnv` returns
            them; `first` for [*batch 3 h w], as after `ToTensorImage`.
        del_keys: true to remove the images from the observations.

    Raises:
        ValueError: there is not one out_key for each in_key, or the encoder does not support
            `stream`.
    """

    def __init__(
        self,
        encoder: FrameEmbedder | str | Path = "toto-nano",
        in_keys: Sequence[Any] = ("pixels",),
        out_keys: Sequence[Any] | None = None,
        *,
        stream: StreamConfig | None = None,
        channels: Literal["first", "last"] = "last",
        del_keys: bool = True,
    ) -> None:
        keys = [in_keys] if isinstance(in_keys, str) else list(in_keys)
        if out_keys is None:
            out_keys = [_embedding_key(key) for key in keys]
        super().__init__(in_keys=keys, out_keys=out_keys)
        if len(self.in_keys) != len(self.out_keys):
            raise ValueError(f"{len(self.in_keys)} in_keys need as many out_keys, got {out_keys}")
        self.channels, self.del_keys = channels, del_keys
        self._cameras = CameraStreams(encoder, stream)
        self._latest: dict[str, Tensor] = {}

    def clone(self) -> "TotoTransform":
        """Return a copy of the transform for another environment, without earlier frames."""
        copy = super().clone()
        copy._cameras, copy._latest = self._cameras.fresh(), {}
        return copy

    def forward(self, tensordict: Any) -> Any:
        """Return a batch of a replay buffer, with embeddings of its images.

        Raises:
            ValueError: the transform has a stream.
        """
        if self._cameras.stream is not None:
            raise ValueError(
                "a batch of a replay buffer is not a sequence of one environment, so stream= has "
                "no meaning there: put TotoTransform(stream=...) into the environment and store "
                "embeddings"
            )
        return self._embed(tensordict, None, begins=False)

    def _call(self, next_tensordict: Any) -> Any:
        return self._embed(next_tensordict, None, begins=False)

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        return self._embed(next_tensordict, tensordict.get("_step", None), begins=False)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        nested = [key for key in tensordict.keys(True, True) if key[-1] == "_reset"]
        if nested and self._cameras.stream is not None:
            raise ValueError(f"stream= needs the reset key '_reset' at the root, got {nested}")
        return self._embed(tensordict_reset, tensordict.get("_reset", None), begins=True)

    def _reset_on_native_autoreset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        if self._cameras.stream is not None:
            raise ValueError("stream= does not support native_autoreset=True")
        return tensordict_reset

    def transform_observation_spec(self, observation_spec: Any) -> Any:
        """Return the specification of the observations with embeddings."""
        observation_spec = observation_spec.clone()
        for in_key, out_key in zip(self.in_keys, self.out_keys, strict=True):
            image = observation_spec[in_key]
            shape = (*image.shape[:-3], self._cameras.dim)
            observation_spec[out_key] = Unbounded(shape, device=image.device, dtype=torch.float32)
            if self.del_keys:
                del observation_spec[in_key]
        return observation_spec

    def _embed(self, tensordict: Any, mask: Tensor | None, *, begins: bool) -> Any:
        """Write the embeddings; `mask` is true for environments with a new frame (None: all)."""
        for in_key, out_key in zip(self.in_keys, self.out_keys, strict=True):
            images = tensordict.get(in_key)
            batch = images.shape[:-3]
            frames = rgb_frames(images.reshape(-1, *images.shape[-3:]), self.channels)
            rows = torch.ones(batch, dtype=torch.bool, device=images.device)
            if mask is not None:
                reset = mask.reshape(*tensordict.batch_size, -1).any(-1)
                rows &= reset.reshape(reset.shape + (1,) * (len(batch) - reset.ndim))
            rows = rows.flatten()
            found = self._cameras.embed(str(in_key), frames, rows, torch.full_like(rows, begins))
            if not rows.all():  # the other environments keep their embeddings
                latest = self._latest.get(str(in_key))
                whole = found.new_zeros(len(rows), self._cameras.dim) if latest is None else latest
                found = whole.to(found.device).index_put((rows.nonzero()[:, 0],), found)
            self._latest[str(in_key)] = found
            tensordict.set(out_key, found.reshape(*batch, -1))
        if self.del_keys:
            tensordict.exclude(*self.in_keys, inplace=True)
        return tensordict


def _embedding_key(key: Any) -> Any:
    """Return the key of an image's embedding, with the same parent as the key of the image."""
    path = (key,) if isinstance(key, str) else tuple(key)
    made = (*path[:-1], f"embedding_{camera_of(path)}")
    return made if len(made) > 1 else made[0]
