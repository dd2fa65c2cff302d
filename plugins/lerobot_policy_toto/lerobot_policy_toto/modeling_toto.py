"""The policy `toto`: an MLP from frozen Toto embeddings and the robot's state to action chunks.

In training, embeddings come from a cache on disk: an image is encoded once, in the first epoch of
the first run. A policy that acts encodes each camera image as it comes.
"""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn

from toto_robot import load_encoder
from toto_robot.encoders.cache import FeatureCache
from toto_robot.wrappers.backbone import TotoBackbone

from .configuration_toto import TotoConfig

_SMALLEST_STD = 0.02  # elements of an embedding have magnitudes of about 1
_CLIP = 5.0  # an input that hardly varied in training could become huge


class TotoPolicy(PreTrainedPolicy):
    """A policy on the embedding of each camera and the robot's state.

    The checkpoint contains the network without the encoder, whose fingerprint is in the config.
    """

    config_class = TotoConfig
    name = "toto"

    def __init__(self, config: TotoConfig, **_: Any) -> None:
        super().__init__(config)
        config.validate_features()
        encoder = load_encoder(config.encoder, config.layer, config.pool, config.device)
        if config.encoder_fingerprint not in ("", encoder.fingerprint):
            raise ValueError(
                f"this policy was trained with another encoder than {config.encoder!r}: "
                f"fingerprint {config.encoder_fingerprint[:12]} != {encoder.fingerprint[:12]}; "
                "set --policy.encoder to the folder of the encoder of the training"
            )
        config.encoder_fingerprint = encoder.fingerprint
        cache = FeatureCache(
            Path(config.cache).expanduser(), encoder, int(config.cache_gib * 2**30)
        )
        # a tuple, so that the encoder is no submodule: it is neither trained nor saved
        self._backbones = (TotoBackbone(encoder), TotoBackbone(cache))
        state = config.robot_state_feature
        widths = [encoder.dim] * len(config.image_features)
        widths += [] if state is None else [state.shape[0]]
        self.network = _Network(widths, config)
        self.reset()

    def get_optim_params(self) -> Any:
        """Return the parameters to train."""
        return self.parameters()

    def reset(self) -> None:
        """Clear the history and the planned actions, at the start of an episode."""
        self._history: deque[list[Tensor]] = deque(maxlen=self.config.n_obs_steps)
        self._planned: deque[Tensor] = deque()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the next action [b a]; to be called once in every control step."""
        if not self._planned:
            chunk = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            self._planned.extend(chunk.transpose(0, 1))
        elif self.config.n_obs_steps > 1:
            self._append(batch)
        return self._planned.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the next actions [b chunk a], given the newest observation."""
        self.eval()
        self._append(batch)
        return self.network([torch.stack(steps, 1) for steps in zip(*self._history, strict=True)])

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict]:
        """Return the mean squared error of the actions, without those after an episode's end.

        Args:
            batch: observations of `n_obs_steps` steps, and `chunk_size` actions [b chunk a].
            reduction: `mean`, or `none` for one loss per row of the batch.
        """
        inputs = self._inputs(batch, cached=True)
        if self.config.n_obs_steps == 1:
            inputs = [one.unsqueeze(1) for one in inputs]
        squares = (self.network(inputs) - batch[ACTION]).square().mean(2)
        counts = (~batch["action_is_pad"]).to(squares)
        losses = (squares * counts).sum(1) / counts.sum(1).clamp(min=1)
        mean = (squares * counts).sum() / counts.sum().clamp(min=1)
        return (mean if reduction == "mean" else losses), {"mse": mean.item()}

    def _inputs(self, batch: dict[str, Tensor], *, cached: bool) -> list[Tensor]:
        """Return the embedding [*b e] of each camera, and the state [*b s] if there is one."""
        backbone = self._backbones[cached]
        found: list[Tensor] = []
        for key in self.config.image_features:
            images = batch[key]
            embeddings = backbone(images.flatten(0, -4)).to(images.device)
            found.append(embeddings.unflatten(0, images.shape[:-3]))
        if self.config.robot_state_feature is not None:
            found.append(batch[OBS_STATE])
        return found

    def _append(self, batch: dict[str, Tensor]) -> None:
        """Add an observation; before the first one, LeRobot's data sets repeat it."""
        inputs = self._inputs(batch, cached=False)
        missing = self.config.n_obs_steps - len(self._history)
        self._history.extend([inputs] * max(missing, 1) if not self._history else [inputs])


class _Network(nn.Module):
    """Standardised inputs, a linear projection of each, and an MLP."""

    def __init__(self, widths: list[int], config: TotoConfig) -> None:
        super().__init__()
        widths = [config.n_obs_steps * width for width in widths]
        self.standardise = nn.ModuleList(_Standardise(width) for width in widths)
        self.project = nn.ModuleList(nn.Linear(width, config.projection) for width in widths)
        width = config.projection * len(widths)
        layers: list[nn.Module] = [nn.LayerNorm(width), nn.SiLU(), nn.Dropout(config.dropout)]
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.SiLU()]
            width = hidden
        outputs = config.chunk_size * config.action_feature.shape[0]
        self.mlp = nn.Sequential(*layers, nn.Linear(width, outputs))
        self.chunk = config.chunk_size

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return actions [b chunk a] for inputs [b t w] of the last t steps."""
        parts = [
            project(standardise(one.flatten(1).float()))
            for one, standardise, project in zip(
                inputs, self.standardise, self.project, strict=True
            )
        ]
        return self.mlp(torch.cat(parts, 1)).unflatten(1, (self.chunk, -1))


class _Standardise(nn.Module):
    """Subtract the mean and divide by the standard deviation of all rows seen in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Return standardised rows [b w]; in training mode, update the statistics first."""
        if self.training:
            self._update(rows.detach())
        std = self.variance.sqrt().clamp(min=_SMALLEST_STD)
        return ((rows - self.mean) / std).clamp(-_CLIP, _CLIP)

    def _update(self, rows: Tensor) -> None:
        """Merge the statistics of these rows into those of the earlier rows."""
        before, total = self.count, self.count + len(rows)
        here = len(rows) / total
        apart = rows.mean(0) - self.mean
        self.variance = (
            (1 - here) * self.variance
            + here * rows.var(0, unbiased=False)
            + apart.square() * here * before / total
        )
        self.mean = self.mean + apart * here
        self.count = total
