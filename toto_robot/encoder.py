"""The product: a frozen Toto that turns camera frames into embeddings.

frames -> tokenizer -> tokens -> transformer, stopped at a middle layer -> features -> pool ->
embedding

    encoder = load_encoder("toto-nano")
    embedding = encoder(frames)          # uint8 [b h w 3] -> float32 [b e]
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .baselines import VitEncoder, VitEncoderConfig
from .checkpoint import load_weights, read_config, save_checkpoint, weights_hash
from .config import from_dict, to_dict
from .frozen import open_frozen
from .golden import golden_pictures, has_golden, verify_golden, write_golden
from .int8 import to_int8
from .models import CausalModel, ModelConfig
from .patch_encoder import PatchEncoder, PatchEncoderConfig
from .pooling import AttentionPool, build_pool, normalise
from .published import FORMATS, load_vit
from .tokenizers import AnyTokenizer, TokenizerConfig
from .tokenizers.tokenizer import check_frames

if TYPE_CHECKING:
    from .streaming import EncoderStream

__all__ = [
    "Encoder",
    "EncoderConfig",
    "encoder_config",
    "load_encoder",
    "load_tokenizer",
    "save_encoder",
    "shipped_baselines",
    "shipped_encoders",
]

WEIGHTS = Path(__file__).parent / "weights"
FROZEN: dict[str, tuple[Any, Any]] = {  # by the kind of a checkpoint
    "vit": (VitEncoderConfig, VitEncoder),
    "patches": (PatchEncoderConfig, PatchEncoder),
}
VERIFIED_PICTURES = 2  # when an encoder is opened: the drawn pattern, and one of its world


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """What an encoder's checkpoint says of itself.

    Attributes:
        tokenizer: layout of the tokenizer.
        transformer: kind and sizes of the causal model.
        layer: the layer to use unless the caller asks for another.
        pool: the pool to use unless the caller asks for another.
        frame_interval_s: seconds between the frames of the training videos; None where it was not
            noted or they differ much.
    """

    tokenizer: TokenizerConfig
    transformer: ModelConfig
    layer: int
    pool: str
    frame_interval_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse an interval that no video has."""
        if self.frame_interval_s is not None and not self.frame_interval_s > 0:
            raise ValueError(f"frame_interval_s must be positive, got {self.frame_interval_s}")


class Encoder(nn.Module):
    """Frozen tokenizer and first ``layer`` blocks of a Toto, and a pool.

    A frame is encoded by itself: the video start token, then its tokens. Features of layer k are
    the residual stream after block k (0: the token embedding), scaled to unit root mean square per
    token before pooling. Deeper blocks are not run. It is always in eval mode and has no gradients,
    except those of an attention pool's own parameters.

    With ``repeat_frame`` a frame is fed twice and the second copy is pooled, so that each of its
    tokens has seen the whole frame, and not only what lies above it; for twice the tokens.

    Attributes:
        dim: width e of the embedding.
        layer: layer that is pooled, counted from 0.
        pool: name of the pool.
        repeat_frame: whether a frame is fed twice.
        frame_interval_s: seconds between the frames of the training videos; None if unknown.
        num_layers: blocks of the whole transformer.
        image_size: side that frames are resized to, pixels.
        tokens_per_frame: tokens of one frame.
        weights_hash: sha256 of all weights of the checkpoint, whatever the layer and the pool.
        fingerprint: sha256 of weights, layer, pool and repeat_frame: equal for encoders whose
            embeddings are interchangeable.
    """

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        transformer: CausalModel,
        layer: int,
        pool: str,
        *,
        repeat_frame: bool = False,
        frame_interval_s: float | None = None,
    ) -> None:
        super().__init__()
        if repeat_frame and transformer.config.frames < 2:
            raise ValueError("repeat_frame needs a model trained on at least 2 frames, got 1")
        self.num_layers = transformer.config.layers
        self.layer = transformer.layer_index(layer)
        self.pool = pool
        self.repeat_frame = repeat_frame
        self.frame_interval_s = frame_interval_s
        self.image_size = tokenizer.image_size
        self.tokens_per_frame = tokenizer.tokens_per_frame
        self.weights_hash = hashlib.sha256(
            (weights_hash(tokenizer) + weights_hash(transformer)).encode()
        ).hexdigest()
        self.tokenizer = tokenizer
        self.transformer = transformer
        self._config = EncoderConfig(
            tokenizer=tokenizer.config,
            transformer=transformer.config,
            layer=self.layer,
            pool=pool,
            frame_interval_s=frame_interval_s,
        )
        self.requires_grad_(False)
        self.pooling = build_pool(pool, transformer.config.dim, tokenizer.tokens_per_frame)
        self.dim = self.pooling.dim
        self.eval()

    @property
    def fingerprint(self) -> str:
        """Hash that two encoders share if their embeddings are interchangeable."""
        parts = f"{self.weights_hash} {self.layer} {self.pool}"
        if self.repeat_frame:
            parts += " repeated"
        if isinstance(self.pooling, AttentionPool):
            parts += weights_hash(self.pooling)
        return hashlib.sha256(parts.encode()).hexdigest()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode, except for the pool: the encoder is frozen."""
        super().train(False)
        self.pooling.train(mode)
        return self

    def forward(self, frames: np.ndarray | Tensor) -> Float[Tensor, "b e"]:
        """Return the embeddings of uint8 RGB frames [b h w 3] of any size.

        Raises:
            TypeError: neither a numpy array nor a tensor.
            ValueError: wrong dtype, range, channels or number of dimensions; the message says
            which.
        """
        return self.from_tokens(self.tokenize(frames))

    @torch.no_grad()
    def tokenize(self, frames: np.ndarray | Tensor) -> Int64[Tensor, "b n"]:
        """Return the tokens of uint8 RGB frames [b h w 3] of any size."""
        frames = check_frames(frames)
        if len(frames) == 0:  # torch's pixel_unshuffle gives an empty batch the wrong shape
            device = self.transformer.embed_tokens.weight.device
            return torch.empty(0, self.tokens_per_frame, dtype=torch.int64, device=device)
        return self.tokenizer.encode(frames)

    def from_tokens(self, ids: Int64[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Return the embeddings of tokenised frames.

        Raises:
            ValueError: ids that the tokenizer cannot have made.
        """
        (features,) = self.token_features(ids, (self.layer,))
        return self.pooling(features).float()

    def features(
        self, frames: np.ndarray | Tensor, layers: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the token features of ``layers`` (default: the encoder's own), before pooling."""
        return self.token_features(
            self.tokenize(frames), (self.layer,) if layers is None else layers
        )

    @torch.no_grad()
    def token_features(
        self, ids: Int64[Tensor, "b n"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b n d"], ...]:
        """Return the features of tokenised frames, as `features` does.

        Raises:
            ValueError: ids that the tokenizer cannot have made.
        """
        ids = self.check_tokens(ids)
        start = ids.new_full((len(ids), 1), self.transformer.config.start_video)
        frames = [ids, ids] if self.repeat_frame else [ids]
        outputs = self.transformer.features(torch.cat([start, *frames], dim=1), layers)
        return tuple(normalise(output[:, -self.tokens_per_frame :]) for output in outputs)

    def encode_clip(self, clips: np.ndarray | Tensor) -> Float[Tensor, "b t e"]:
        """Return an embedding of every frame of clips, each of it and of all before it.

        One pass over up to a training sequence of frames: what `stream` gives frame by frame.

        Args:
            clips: uint8 RGB [b t h w 3] of any size.

        Raises:
            TypeError: neither a numpy array nor a tensor.
            ValueError: wrong clips, or longer than a training sequence; the message says which.
        """
        if self.repeat_frame:
            raise ValueError("repeat_frame is of single frames, not of clips")
        if len(shape := tuple(getattr(clips, "shape", ()))) != 5:
            raise ValueError(f"clips must be uint8 RGB [b t h w 3], got shape {shape}")
        ids = self.tokenize(clips.reshape(-1, *shape[2:]))
        (features,) = self.clip_features(ids.unflatten(0, shape[:2]), (self.layer,))
        return self.pooling(features.flatten(0, 1)).float().unflatten(0, shape[:2])

    @torch.no_grad()
    def clip_features(
        self, ids: Int64[Tensor, "b t n"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b t n d"], ...]:
        """Return the features of tokenised clips, each frame's of it and of all before it.

        Raises:
            ValueError: ids that the tokenizer cannot have made, an empty clip, or one longer than
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
        """Return tokens [b n] of any integer type as int64 on the encoder's device.

        Raises:
            TypeError: neither a tensor nor a numpy array.
            ValueError: ids that the tokenizer cannot have made.
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
        """Return a stream that remembers past frames; see `toto_robot.streaming`.

        Args:
            num_envs: environments that are encoded together.
            context: frames of the window; those of a training sequence when None.
            mode: `rolling` or `staggered`: what happens when the window is full.
            frame_skip: every how many camera frames one is remembered.
            layers: whose features `token_features` gives; the encoder's own when None.
            surprise: whether the stream also says how unexpected each frame was.
            camera_hz: frames a second that will come; with it, a `frame_skip` that does not fit
                the training videos is warned of.
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

    def untrained(self, seed: int = 0) -> "Encoder":
        """Return the same architecture with fresh random weights: the control of every claim."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Encoder(
                self._config.tokenizer.build(),
                self._config.transformer.build(),
                self.layer,
                self.pool,
                repeat_frame=self.repeat_frame,
                frame_interval_s=self.frame_interval_s,
            )


def save_encoder(
    folder: Path,
    tokenizer: AnyTokenizer,
    transformer: CausalModel,
    layer: int,
    pool: str,
    golden_frames: Sequence[np.ndarray] = (),
    frame_interval_s: float | None = None,
    pooling: AttentionPool | None = None,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write an encoder's checkpoint with its golden vectors: what `load_encoder` opens.

    Args:
        folder: the checkpoint's folder.
        tokenizer: trained tokenizer.
        transformer: trained transformer.
        layer: layer to use by default.
        pool: pool to use by default.
        golden_frames: a few small uint8 frames [h w 3] of the encoder's world; see `write_golden`.
        frame_interval_s: seconds between the frames of the training videos; None: not known.
        pooling: a trained attention pool, where `pool` is one; it comes back with the encoder.
        training: plain data that says how it was trained: ``training`` in ``config.json``.

    Raises:
        ValueError: an attention pool beside a `pool` of another kind.
    """
    if pooling is not None and pool != "attention":
        raise ValueError(f"an attention pool's weights belong to pool 'attention', not to {pool!r}")
    config = EncoderConfig(
        tokenizer=tokenizer.config,
        transformer=transformer.config,
        layer=transformer.layer_index(layer),
        pool=pool,
        frame_interval_s=frame_interval_s,
    )
    weights = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    weights |= {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    if pooling is not None:
        weights |= {f"pooling.{name}": tensor for name, tensor in pooling.state_dict().items()}
    notes = {} if training is None else {"training": dict(training)}
    save_checkpoint(folder, "encoder", to_dict(config), weights, **notes)
    write_golden(folder, golden_frames)


def encoder_config(data: Mapping[str, Any]) -> EncoderConfig:
    """Read what an encoder's checkpoint says of itself.

    Checkpoints of before there were several kinds of models do not say theirs: it is ``llama``.

    Raises:
        ValueError: what is wrong and where.
    """
    transformer = data.get("transformer")
    if isinstance(transformer, Mapping):
        data = {**data, "transformer": {"kind": "llama", **transformer}}
    return from_dict(EncoderConfig, data)


@overload
def load_encoder(
    name_or_path: Literal["mae-nano"],
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> VitEncoder: ...
@overload
def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
) -> Encoder: ...
@overload
def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    format: str,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
) -> VitEncoder: ...
def load_encoder(
    name_or_path: str | Path,
    layer: int | None = None,
    pool: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    repeat_frame: bool = False,
    verify: bool = True,
    format: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
) -> Encoder | VitEncoder | PatchEncoder:
    """Open an encoder. Never touches the network.

    Args:
        name_or_path: a shipped name (``"toto-nano"``) or a checkpoint folder; with ``format``, a
            file of a vision transformer's weights. The folder of a vision transformer that
            ``python -m toto_robot.training.mae`` trained opens as a `VitEncoder`, that of
            ``python -m toto_robot.training.patches`` as a `PatchEncoder`.
        layer: 0 (token embedding) to the model's depth, or -1; default: the checkpoint's choice.
        pool: ``"mean"``, ``"last"``, ``"attention"`` or ``"grid<k>"``; default: the checkpoint's
            choice. A vision transformer also has ``"cls"`` and ``"cls_before_norm"``, not
            ``"last"``.
        device: where to run; default: the CPU.
        dtype: of the weights and the computation; default float32. Embeddings are float32 always.
            torch.int8, on the CPU: the blocks alone, compared with float32 (`toto_robot.int8`).
        repeat_frame: feed each frame twice and pool the second copy; see `Encoder`.
        verify: compare with the checkpoint's golden vectors, if it carries some, on this device and
            in this dtype; costs the encoding of two frames. Published files carry none.
        format: ``"mae"``, ``"mvp"``, ``"dinov2"``, ``"dinov3"`` or ``"timm"``: opens a published
            file by `toto_robot.published.load_vit`, to which it hands the arguments below.
        heads: of that file's model.
        image_size: of that file's model.
        statistics: of that file's model.

    Raises:
        ValueError: unknown name (the message lists the known ones), layer or pool, a damaged
        checkpoint, or one that gives other features here than where it was saved: the message names
        the stage (see `toto_robot.golden`).
        FileNotFoundError: the folder lacks a file; the message names it.
    """
    if format is not None:
        if repeat_frame:
            raise ValueError("repeat_frame is for a Toto: a vision transformer sees all at once")
        return load_vit(
            name_or_path,
            format,
            layer=layer,
            pool=pool,
            heads=heads,
            image_size=image_size,
            statistics=statistics,
            device=device,
            dtype=dtype,
        )
    if heads is not None or image_size is not None or statistics is not None:
        raise ValueError("heads, image_size and statistics belong to a file with format=")
    folder = _find(name_or_path)
    data = read_config(folder, "encoder", "vit", "patches")
    if data["kind"] != "encoder":
        if repeat_frame or dtype == torch.int8:
            raise ValueError(
                f"{folder} holds a {data['kind']!r} checkpoint: repeat_frame and int8 are for "
                "Totos over discrete tokens"
            )
        config_class, kind = FROZEN[data["kind"]]
        frozen = from_dict(config_class, data["config"])
        opened = open_frozen(folder, data, frozen, kind, layer, pool)
        return opened.to(device=device, dtype=dtype)
    config = encoder_config(data["config"])
    weights = load_weights(folder, data["sha256"])
    tokenizer, transformer = config.tokenizer.build(), config.transformer.build()
    tokenizer.load_state_dict(_part(weights, "tokenizer."))
    transformer.load_state_dict(_part(weights, "transformer."))
    encoder = Encoder(
        tokenizer,
        transformer,
        config.layer if layer is None else layer,
        config.pool if pool is None else pool,
        repeat_frame=repeat_frame,
        frame_interval_s=config.frame_interval_s,
    )
    trained = _part(weights, "pooling.")
    if trained and isinstance(encoder.pooling, AttentionPool):
        encoder.pooling.load_state_dict(trained)
    encoder = encoder.to(device=device, dtype=None if dtype == torch.int8 else dtype)
    if verify and has_golden(folder):
        verify_golden(encoder, folder, pictures=VERIFIED_PICTURES)
    return to_int8(encoder, golden_pictures(folder)) if dtype == torch.int8 else encoder


def load_tokenizer(name_or_path: str | Path, image_size: int | None = None) -> AnyTokenizer:
    """Open a tokenizer's checkpoint, or take the tokenizer out of an encoder's.

    Args:
        name_or_path: the folder of either, or the name of a shipped encoder.
        image_size: side that frames are resized to, pixels; None: the checkpoint's. Convolutional
            tokenizers make more tokens of larger frames, with the same weights.

    Raises:
        FileNotFoundError: it lacks a file.
        ValueError: it is damaged, of another kind, or not made for that size.
    """
    folder = _find(name_or_path)
    data = read_config(folder, "tokenizer", "encoder")
    weights = load_weights(folder, data["sha256"])
    fields = data["config"]
    if data["kind"] == "encoder":
        fields, weights = fields["tokenizer"], _part(weights, "tokenizer.")
    if image_size is not None:
        fields = fields | {"image_size": image_size}
    tokenizer = from_dict(TokenizerConfig, fields).build()
    tokenizer.load_state_dict(weights)
    return tokenizer.requires_grad_(False).eval()


def shipped_encoders() -> list[str]:
    """Return the names of the Totos that come with the package."""
    return _shipped("encoder")


def shipped_baselines() -> list[str]:
    """Return the names of the vision transformers that come with it, to compare Totos with."""
    return _shipped("vit")


def _shipped(kind: str) -> list[str]:
    folders = sorted(path.parent for path in WEIGHTS.glob("*/config.json"))
    return [
        folder.name for folder in folders if read_config(folder, "encoder", "vit")["kind"] == kind
    ]


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in shipped_encoders() + shipped_baselines():
        return WEIGHTS / str(name_or_path)
    folder = Path(name_or_path)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: say its format=, one of {', '.join(FORMATS)}")
    if not folder.is_dir():
        known = ", ".join(shipped_encoders() + shipped_baselines()) or "none"
        raise ValueError(
            f"unknown encoder {str(name_or_path)!r}: neither a shipped name ({known}) "
            "nor a checkpoint folder"
        )
    return folder


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
