"""Settings of the policy `toto`."""

from dataclasses import dataclass, field

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig


@PreTrainedConfig.register_subclass("toto")
@dataclass
class TotoConfig(PreTrainedConfig):
    """Settings of the policy: encoder, network and optimisation.

    Attributes:
        n_obs_steps: observations that the network reads: the newest and the ones before it.
        chunk_size: actions that are predicted from each observation.
        n_action_steps: actions of a chunk that are executed before the next prediction.
        encoder: a shipped name or the folder of an encoder's checkpoint.
        layer: layer to pool; None: the checkpoint's default.
        pool: how the layer's tokens are combined into one embedding; None: the checkpoint's
            default.
        encoder_fingerprint: hash of weights, layer and pool; set in training and checked
            afterwards. Empty: not yet known.
        cache: folder of the embeddings in training, so that no image is encoded twice.
        cache_gib: maximum size of the cache, GiB.
        projection: width of each input's linear projection.
        hidden: widths of the hidden layers.
        dropout: dropout probability of the projected inputs in training.
    """

    n_obs_steps: int = 1
    chunk_size: int = 8
    n_action_steps: int = 1
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,  # the encoder needs the camera's own pixels
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )
    encoder: str = "toto-nano"
    layer: int | None = None
    pool: str | None = None
    encoder_fingerprint: str = ""
    cache: str = "~/.cache/toto-robot/features"
    cache_gib: float = 2.0
    projection: int = 256
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    dropout: float = 0.0
    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-2
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 50
    # HubMixin's default is True, which needs an account at training's end
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"n_action_steps must be from 1 to chunk_size ({self.chunk_size}), "
                f"got {self.n_action_steps}"
            )
        if self.n_obs_steps < 1:
            raise ValueError(f"n_obs_steps must be at least 1, got {self.n_obs_steps}")

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return the settings of AdamW."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=(0.9, 0.95),
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        """Return the settings of the learning-rate schedule: warmup, then a cosine to 0."""
        return CosineAnnealingWithWarmupSchedulerConfig(self.scheduler_warmup_steps)

    def validate_features(self) -> None:
        """Check inputs and outputs.

        Raises:
            ValueError: there is no camera or no action, or images are normalised.
        """
        if not self.image_features or self.action_feature is None:
            raise ValueError("the policy toto needs at least one camera, and the output `action`")
        mode = self.normalization_mapping.get("VISUAL")
        if mode is not NormalizationMode.IDENTITY:
            raise ValueError(
                f"the encoder needs the camera's own pixels, but VISUAL is normalised by {mode}; "
                "set VISUAL in normalization_mapping to IDENTITY"
            )

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """Steps of the observations that the network reads; None: only the newest."""
        return None if self.n_obs_steps == 1 else list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Steps of the actions that are predicted."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """Steps of the rewards: none are used."""
        return
