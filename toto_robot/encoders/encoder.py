"""The Toto encoder: a frozen model that converts camera frames to embeddings.

The steps are: frames -> tokenizer -> tokens -> first blocks of the transformer -> token features ->
pool -> embedding.

    encoder = load_encoder("toto-nano")
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import weights_hash
from ..device import float32_default, own_precision, seeded
from ..models import CausalModel, ModelConfig
from ..tokenizers import AnyTokenizer, TokenizerConfig
from ..tokenizers.tokenizer import check_frames
from .contract import (
    NO_PAST,
    CodeFormat,
    Codes,
    HashedWeights,
    IndependentFrames,
    StreamableEncoder,
    refuse_gradients,
)
from .forks import survive_forks
from .pca import PrincipalComponents, all_features, build_pools, identity_of_pool
from .pooling import (
    join_layers,
    layer_numbers,
    layer_setting,
    needs_components,
    normalise,
)

if TYPE_CHECKING:
    from .streaming import EncoderStream

__all__ = [
    "Encoder",
    "EncoderConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The settings of an encoder, which its checkpoint contains.

    Attributes:
        tokenizer: settings of the tokenizer.
        transformer: kind and sizes of the causal model.
        layer: default layer whose features are pooled, or several layers; 0 is the token embedding.
        pool: name of the default pool, such as `grid4`.
        frame_interval_s: time between two frames of the training videos, seconds; None: it was not
            recorded, or it varies much.
    """

    tokenizer: TokenizerConfig
    transformer: ModelConfig
    layer: int | tuple[int, ...]
    pool: str
    frame_interval_s: float | None = None

    def __post_init__(self) -> None:
        """Check the frame interval.

        Raises:
            ValueError: the frame interval is not positive.
        """
        if self.frame_interval_s is not None and not self.frame_interval_s > 0:
            raise ValueError(f"frame_interval_s must be positive, got {self.frame_interval_s}")


class Encoder(HashedWeights):
    """A frozen tokenizer, the first ``layer`` blocks of a Toto transformer, and a pool.

    An embedding depends on one frame only. The input of the transformer is a start token and the
    frame's tokens. The features of layer k are the output of block k; those of layer 0 are the
    token embeddings. Before pooling, the features of each token are scaled to a root mean square
    of 1. Blocks after the layer are not computed. The encoder is always in eval mode. It has no
    gradients, except for the parameters of an attention pool. It computes in the precision of its
    weights, also inside `torch.autocast`.

    In a causal transformer, the features of a token depend only on this token and earlier tokens.
    With ``repeat_frame`` the transformer therefore reads the frame twice, and the second copy is
    pooled. Each pooled token then depends on the whole frame, for twice the number of tokens.

    Attributes:
        dim: number e of values in an embedding.
        layer: number of the layer whose features are pooled, or of several layers, whose embeddings
            are concatenated; 0 is the embedding of the input.
        layers: the same numbers, always as a tuple.
        pool: name of the pool.
        pca: principal components of the features, for the pools `pca<k>`; None: it has none.
        repeat_frame: true if the transformer reads each frame twice.
        frame_interval_s: time between two frames of the training videos, seconds; None: unknown.
        past: always `NO_PAST`, because an embedding depends on one frame only.
        num_layers: number of blocks of the whole transformer.
        image_size: side of the square to which frames are resized, pixels.
        tokens_per_frame: number of tokens of a frame.
        variant: settings that differ from those of the training, such as ` image_size 512`; empty:
            none (see `encoders.resized`).
        weights_hash: sha256 of all weights of the tokenizer and the transformer, of the variant,
            and of the type of attention if it is not causal; independent of layer and pool. It
            follows `load_state_dict`, but no other change of the weights in place: save and load a
            trained model before it is used as an encoder.
        fingerprint: sha256 of weights, layer, pool and repeat_frame. If it is equal for two
            encoders, their embeddings are interchangeable.
    """

    past = NO_PAST

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        transformer: CausalModel,
        layer: int | Sequence[int],
        pool: str,
        *,
        repeat_frame: bool = False,
        frame_interval_s: float | None = None,
        pca: PrincipalComponents | None = None,
        variant: str = "",
    ) -> None:
        super().__init__()
        survive_forks()
        if repeat_frame and transformer.config.frames < 2:
            raise ValueError("repeat_frame needs a model trained on at least 2 frames, got 1")
        self.num_layers = transformer.config.layers
        self.layers = layer_numbers(layer, transformer.layer_index)
        self.layer = layer_setting(self.layers)
        self.pool, self.pca = pool, pca
        self.repeat_frame = repeat_frame
        self.frame_interval_s = frame_interval_s
        self.image_size = tokenizer.image_size
        self.tokens_per_frame = tokenizer.tokens_per_frame
        attention = getattr(transformer.config, "attention", "causal")
        self._attention = "" if attention == "causal" else attention  # it changes the features
        self.variant = variant
        self.tokenizer = tokenizer
        self.transformer = transformer
        self._hash_weights()
        self._config = EncoderConfig(
            tokenizer=tokenizer.config,
            transformer=transformer.config,
            layer=self.layer,
            pool=pool,
            frame_interval_s=frame_interval_s,
        )
        self.requires_grad_(False)
        self.pooling = build_pools(
            pool, transformer.config.dim, tokenizer.tokens_per_frame, self.layers, pca
        )
        self.dim = self.pooling.dim
        self.eval()

    def _hash_weights(self) -> None:
        hashed = weights_hash(self.tokenizer) + weights_hash(self.transformer)
        hashed += self._attention + self.variant
        self.weights_hash = hashlib.sha256(hashed.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """A hash; if it is equal for two encoders, their embeddings are interchangeable."""
        parts = f"{self.weights_hash} {self.layer} {self.pool}"
        if self.repeat_frame:
            parts += " repeated"
        parts += identity_of_pool(self.pool, self.pooling, self.pca)
        return hashlib.sha256(parts.encode()).hexdigest()

    def train(self, mode: bool = True) -> "Encoder":
        """Set only the pool to training mode, or to eval mode if `mode` is false."""
        super().train(False)
        self.pooling.train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Encoder":
        """Raise an error if gradients are requested, because the encoder is frozen.

        Raises:
            ValueError: gradients are requested. Only parameters of `pooling` can have gradients.
        """
        refuse_gradients(requires_grad)
        super().requires_grad_(False)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Encoder":
        """Refuse another device or precision for int8 weights, before any weight is converted."""
        if any(one.dtype == torch.int8 for one in self.transformer.buffers()):
            wanted = fn(torch.empty(0))
            if wanted.dtype != torch.float32 or wanted.device.type != "cpu":
                raise ValueError(
                    f"an int8 encoder cannot be converted to {wanted.dtype} on {wanted.device}: it "
                    "computes in int8 and float32 on the CPU; load the encoder in another dtype"
                )
        return super()._apply(fn, recurse)

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: dtype, range, channels or number of dimensions are wrong; the message says
                which.
        """
        return self.from_tokens(self.tokenize(frames))

    @own_precision()
    @torch.no_grad()
    def tokenize(self, frames: np.ndarray | Tensor) -> Int64[Tensor, "b n"]:
        """Return the tokens of uint8 RGB frames [b h w 3] of any size."""
        frames = check_frames(frames)
        if len(frames) == 0:  # torch's pixel_unshuffle returns a wrong shape for an empty batch
            device = self.transformer.embed_tokens.weight.device
            return torch.empty(0, self.tokens_per_frame, dtype=torch.int64, device=device)
        return self.tokenizer.encode(frames)

    @own_precision()
    def from_tokens(self, ids: Int64[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Return the embeddings of frames that are already tokenised.

        Raises:
            ValueError: the ids cannot be output of the tokenizer.
        """
        return self.pooling(join_layers(self.token_features(ids, self.layers))).float()

    @property
    def codes(self) -> CodeFormat:
        """The format of the codes that `compress` returns, which are token ids."""
        return CodeFormat(size=self.tokens_per_frame, fingerprint=weights_hash(self.tokenizer))

    def compress(self, frames: np.ndarray | Tensor) -> Codes:
        """Return the token ids uint16 [b n] of b uint8 RGB frames [b h w 3], to save them.

        Raises:
            TypeError: `frames` is neither a numpy array nor a tensor.
            ValueError: the frames are invalid, or a token id needs more than 16 bits.
        """
        ids = self.tokenize(frames).cpu().numpy()
        if ids.size and ids.max() > np.iinfo(np.uint16).max:
            raise ValueError("stored tokens have 16 bits, but this tokenizer has more codes")
        return ids.astype(np.uint16)

    @torch.no_grad()
    def embed(self, codes: Codes) -> NDArray[np.float32]:
        """Return the embeddings [b e] of frames from their token ids [b n].

        Raises:
            ValueError: the ids cannot be output of the tokenizer.
        """
        return self.from_tokens(torch.from_numpy(codes.astype(np.int64))).cpu().numpy()

    def open_streams(self, num_streams: int) -> IndependentFrames:
        """Return streams that ignore earlier frames.

        `stream` and `StreamedEncoder` return embeddings that depend on earlier frames.
        """
        del num_streams
        return IndependentFrames(self)

    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the token features of each of the ``layers``, before pooling.

        ``layers`` is None for the encoder's layers. A frame has n tokens of d features.
        """
        return self.token_features(self.tokenize(frames), self.layers if layers is None else layers)

    @own_precision()
    @torch.no_grad()
    def token_features(
        self, ids: Int64[Tensor, "b n"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return what `features` returns, for frames that are already tokenised.

        Raises:
            ValueError: the ids cannot be output of the tokenizer.
        """
        return self.frame_features(self.transformer, self.check_tokens(ids), layers)

    def frame_features(
        self, transformer: CausalModel, ids: Int64[Tensor, "b n"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the features of single frames, computed with a given transformer.

        Args:
            transformer: transformer of the encoder, or a copy of it that is being trained; then the
                features have gradients.
            ids: tokens of the frames, on the transformer's device.
            layers: numbers of the layers whose features are returned.
        """
        start = ids.new_full((len(ids), 1), transformer.config.start_video)
        frames = [ids, ids] if self.repeat_frame else [ids]
        outputs = transformer.features(torch.cat([start, *frames], dim=1), layers)
        return tuple(normalise(output[:, -self.tokens_per_frame :]) for output in outputs)

    @own_precision()
    def encode_clip(self, clips: np.ndarray | Tensor) -> Float[Tensor, "b t e"]:
        """Return the embeddings of the frames of clips, which also depend on earlier frames.

        All frames of a clip are computed in one pass. The results equal those of a new stream with
        default settings.

        Args:
            clips: uint8 RGB [b t h w 3]: b clips of t frames with h x w pixels.

        Raises:
            TypeError: `clips` is neither a numpy array nor a tensor.
            ValueError: the clips are invalid or longer than a training sequence (the message says
                which), or `repeat_frame` is set.
        """
        if self.repeat_frame:
            raise ValueError("repeat_frame works on single frames, not on clips")
        if len(shape := tuple(getattr(clips, "shape", ()))) != 5:
            raise ValueError(f"clips must be uint8 RGB [b t h w 3], got shape {shape}")
        ids = self.tokenize(clips.reshape(-1, *shape[2:]))
        features = join_layers(self.clip_features(ids.unflatten(0, shape[:2]), self.layers))
        return self.pooling(features.flatten(0, 1)).float().unflatten(0, shape[:2])

    @own_precision()
    @torch.no_grad()
    def clip_features(
        self, ids: Int64[Tensor, "b t n"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t n d"], ...]:
        """Return the token features of clips, which also depend on earlier frames of the clip.

        Raises:
            ValueError: the ids cannot be output of the tokenizer, or a clip is empty or longer than
                a training sequence.
        """
        if ids.ndim != 3 or not 1 <= ids.shape[1] <= self.transformer.config.frames:
            raise ValueError(
                f"ids must have shape [b t {self.tokens_per_frame}] with t in "
                f"[1, {self.transformer.config.frames}], the length that the model was trained "
                f"on, got {tuple(ids.shape)}"
            )
        flat = self.check_tokens(ids.flatten(0, 1)).unflatten(0, ids.shape[:2]).flatten(1)
        start = flat.new_full((len(flat), 1), self.transformer.config.start_video)
        outputs = self.transformer.features(torch.cat([start, flat], dim=1), layers)
        return tuple(
            normalise(output[:, 1:]).unflatten(1, tuple(ids.shape[1:])) for output in outputs
        )

    def check_tokens(self, ids: object) -> Int64[Tensor, "b n"]:
        """Check tokens [b n] of any integer type; return them as int64 on the encoder's device.

        Raises:
            TypeError: `ids` is neither a tensor nor a numpy array.
            ValueError: the ids cannot be output of the tokenizer.
        """
        codes = self.transformer.config.codes
        if isinstance(ids, np.ndarray):
            if ids.dtype.kind not in "iu":
                raise ValueError(f"ids must be integers, got {ids.dtype}")
            ids = torch.from_numpy(ids.astype(np.int64))
        if not isinstance(ids, Tensor):
            raise TypeError(f"ids must be a tensor or a numpy array, got {type(ids).__name__}")
        if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
            raise ValueError(f"ids must be integers, got {ids.dtype}")
        if ids.ndim != 2 or ids.shape[1] != self.tokens_per_frame:
            raise ValueError(
                f"ids must have shape [b {self.tokens_per_frame}], got {tuple(ids.shape)}"
            )
        ids = ids.to(self.transformer.embed_tokens.weight.device, torch.int64)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < codes:
            raise ValueError(
                f"ids must be in [0, {codes}), got [{int(ids.min())}, {int(ids.max())}]"
            )
        return ids

    def stream(
        self,
        num_envs: int,
        context: int | None = None,
        *,
        mode: str = "rolling",
        frame_skip: int = 1,
        layers: Sequence[int] | None = None,
        surprise: bool = False,
        camera_hz: float | None = None,
    ) -> "EncoderStream":
        """Return a stream, which encodes frames one by one and uses the earlier frames.

        `toto_robot.encoders.streaming` describes streams.

        Args:
            num_envs: number of environments that are encoded together.
            context: number of frames on which an embedding depends (the window), including the
                newest frame; None: as many as in a training sequence.
            mode: what happens when the window is full, `rolling` or `staggered`.
            frame_skip: number k; only every k-th camera frame is kept in the window.
            layers: layers whose features `token_features` returns; None: the encoder's layer.
            surprise: true to compute also the surprisal of each token, its negative log-probability
                in nats.
            camera_hz: frame rate of the camera, Hz. If it is given, a warning is issued if
                `frame_skip` does not match the frame rate of the training videos. None: no warning.
        """
        from .streaming import EncoderStream

        return EncoderStream(
            self,
            num_envs,
            context,
            mode=mode,
            frame_skip=frame_skip,
            layers=layers,
            surprise=surprise,
            camera_hz=camera_hz,
        )

    @float32_default()
    def untrained(self, seed: int = 0) -> "Encoder":
        """Return an encoder of the same architecture with random weights, for comparison.

        The principal components of a pool `pca<k>` are fitted to the copy's own features, on the
        frames that the checkpoint stores. So only the weights differ, not the way they are read.
        """
        with seeded(seed):
            tokenizer, transformer = (
                self._config.tokenizer.build(),
                self._config.transformer.build(),
            )
        pca = None
        if self.pca is not None and needs_components(self.pool):
            pca = self.pca.refit(all_features(Encoder(tokenizer, transformer, 0, "mean")))
        return self.rebuilt(tokenizer, transformer, pca=pca)

    def rebuilt(
        self, tokenizer: AnyTokenizer, transformer: CausalModel, **changes: Any
    ) -> "Encoder":
        """Return an encoder of other models with the settings of this one, except for `changes`."""
        settings: dict[str, Any] = {
            "layer": self.layer,
            "pool": self.pool,
            "repeat_frame": self.repeat_frame,
            "frame_interval_s": self.frame_interval_s,
            "pca": self.pca,
            "variant": self.variant,
        }
        return Encoder(tokenizer, transformer, **settings | changes)


# From Python 3.12 on, isinstance does not find submodules, so Encoder is registered explicitly.
StreamableEncoder.register(Encoder)
