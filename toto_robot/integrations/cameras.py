"""Embed the camera images of many environments, as tensors: the common code of integrations."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ..encoders.contract import (
    FrameEmbedder,
    StreamableEncoder,
    check_embeddings,
    require_embedder,
    require_no_past,
)
from ..encoders.loading import load_encoder
from ..encoders.streaming import EncoderStream, StreamConfig

__all__ = ["CameraStreams"]


class CameraStreams:
    """An encoder for several cameras; each camera of each environment has its own stream.

    Embeddings are on the device of the frames. The encoder stays on its own device.

    Attributes:
        encoder: the encoder.
        dim: width e of an embedding.
        stream: settings of the streams; None: embeddings ignore earlier frames.
    """

    def __init__(
        self,
        encoder: FrameEmbedder | str | Path,
        stream: StreamConfig | None,
        device: str | torch.device | None = None,
    ) -> None:
        """Load the encoder.

        Args:
            encoder: an encoder, or a name or folder for `load_encoder`.
            stream: settings of the streams; None: embeddings ignore earlier frames.
            device: device of an encoder that is given by its name; None: the CPU.

        Raises:
            ValueError: `stream` is given, but the encoder is not a Toto; or the encoder is a
                `StreamedEncoder`.
            TypeError: the encoder has no `dim`, or cannot be called.
        """
        by_name = isinstance(encoder, str | Path)
        self.encoder = load_encoder(encoder, device=device) if by_name else encoder
        require_embedder(self.encoder)
        self.dim, self.stream = self.encoder.dim, stream
        self._opened: dict[str, EncoderStream] = {}
        require_no_past(self.encoder, "the encoder itself and stream=StreamConfig(...)")
        if stream is not None and not isinstance(self.encoder, StreamableEncoder):
            raise ValueError(
                f"stream= needs a Toto's Encoder, got {type(self.encoder).__name__}, which encodes "
                "each frame by itself"
            )

    def embed(
        self,
        camera: str,
        frames: UInt8[Tensor, "b h w 3"],
        rows: Bool[Tensor, "b"],
        begins: Bool[Tensor, "b"],
    ) -> Float[Tensor, "k e"]:
        """Return the embeddings of the k selected frames, and advance their streams.

        Args:
            camera: name of the camera.
            frames: one frame of each environment.
            rows: true for the environments whose frames are embedded.
            begins: true for the environments whose frames are the first of an episode.

        Raises:
            ValueError: the number of environments has changed since the streams were opened, or
                the encoder does not return embeddings [b dim].
        """
        chosen = rows.nonzero()[:, 0]
        if not len(chosen):
            return torch.empty(0, self.dim, device=frames.device)
        if self.stream is None:
            found = self.encoder(frames[chosen])
            check_embeddings(found, self.encoder, len(chosen))
            embeddings = torch.as_tensor(found)
        else:
            if camera not in self._opened:
                assert isinstance(self.encoder, StreamableEncoder)
                self._opened[camera] = self.stream.open(self.encoder, len(frames))
            opened = self._opened[camera]
            if opened.num_envs != len(frames):
                raise ValueError(
                    f"camera {camera!r} has streams for {opened.num_envs} environments, got frames "
                    f"of {len(frames)}"
                )
            embeddings = opened.step(frames[chosen], begins[chosen], chosen.tolist())
        return embeddings.detach().to(frames.device, torch.float32)

    def fresh(self) -> "CameraStreams":
        """Return a new object with the same encoder and settings, without earlier frames."""
        return CameraStreams(self.encoder, self.stream)
